//! Who may do what, what is admitted, how many, and in which order.

use jiff::Timestamp;
use serde_json::Value;

use super::field::{age, flag, list, name, number, scalar, text as get, text_or};
use super::{AGE, Column, NAME, Printer, boolean, integer, text, wide};

const BINDING_COLUMNS: &[Column] =
    &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")];
const POLICY_BINDING_COLUMNS: &[Column] = &[NAME, text("PolicyName"), text("ParamRef"), AGE];
const WEBHOOK_COLUMNS: &[Column] = &[NAME, integer("Webhooks"), AGE];
const ADMISSION: &str = "admissionregistration.k8s.io";

pub(super) static PRINTERS: &[Printer] = &[
    Printer::new("rbac.authorization.k8s.io", "RoleBinding", BINDING_COLUMNS, binding),
    Printer::new("rbac.authorization.k8s.io", "ClusterRoleBinding", BINDING_COLUMNS, binding),
    Printer::new(ADMISSION, "MutatingWebhookConfiguration", WEBHOOK_COLUMNS, webhooks),
    Printer::new(ADMISSION, "ValidatingWebhookConfiguration", WEBHOOK_COLUMNS, webhooks),
    Printer::new(
        ADMISSION,
        "ValidatingAdmissionPolicy",
        &[NAME, integer("Validations"), text("ParamKind"), AGE],
        |o, now| admission_policy(o, "/spec/validations", now),
    ),
    Printer::new(
        ADMISSION,
        "MutatingAdmissionPolicy",
        &[NAME, integer("Mutations"), text("ParamKind"), AGE],
        |o, now| admission_policy(o, "/spec/mutations", now),
    ),
    Printer::new(ADMISSION, "ValidatingAdmissionPolicyBinding", POLICY_BINDING_COLUMNS, policy_binding),
    Printer::new(ADMISSION, "MutatingAdmissionPolicyBinding", POLICY_BINDING_COLUMNS, policy_binding),
    Printer::new(
        "policy",
        "PodDisruptionBudget",
        &[NAME, text("Min Available"), text("Max Unavailable"), integer("Allowed Disruptions"), AGE],
        |o, now| {
            vec![
                name(o),
                scalar(o, "/spec/minAvailable", "N/A").into(),
                scalar(o, "/spec/maxUnavailable", "N/A").into(),
                number(o, "/status/disruptionsAllowed").into(),
                age(o, now),
            ]
        },
    ),
    Printer::new(
        "scheduling.k8s.io",
        "PriorityClass",
        &[NAME, integer("Value"), boolean("Global-Default"), AGE, text("PreemptionPolicy")],
        |o, now| {
            vec![
                name(o),
                number(o, "/value").into(),
                flag(o, "/globalDefault").into(),
                age(o, now),
                get(o, "/preemptionPolicy").into(),
            ]
        },
    ),
    Printer::new(
        "autoscaling",
        "HorizontalPodAutoscaler",
        &[
            NAME,
            text("Reference"),
            text("Targets"),
            text("MinPods"),
            integer("MaxPods"),
            integer("Replicas"),
            AGE,
        ],
        autoscaler,
    ),
];

fn binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| {
        let names = list(o, "/subjects").iter().filter(|s| get(s, "/kind") == kind).map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", get(s, "/namespace"), get(s, "/name")),
            _ => get(s, "/name").to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        name(o),
        format!("{}/{}", get(o, "/roleRef/kind"), get(o, "/roleRef/name")).into(),
        age(o, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn webhooks(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), list(o, "/webhooks").len().into(), age(o, now)]
}

fn admission_policy(o: &Value, rules: &str, now: Timestamp) -> Vec<Value> {
    let kind = match get(o, "/spec/paramKind/kind") {
        "" => "<unset>".to_owned(),
        kind => format!("{}/{kind}", get(o, "/spec/paramKind/apiVersion")),
    };
    vec![name(o), list(o, rules).len().into(), kind.into(), age(o, now)]
}

fn policy_binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match (get(o, "/spec/paramRef/namespace"), get(o, "/spec/paramRef/name")) {
        (_, "") => "<unset>".to_owned(),
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![name(o), get(o, "/spec/policyName").into(), parameters.into(), age(o, now)]
}

fn autoscaler(o: &Value, now: Timestamp) -> Vec<Value> {
    let target = format!("{}/{}", get(o, "/spec/scaleTargetRef/kind"), get(o, "/spec/scaleTargetRef/name"));
    vec![
        name(o),
        target.into(),
        metrics(o).into(),
        scalar(o, "/spec/minReplicas", "<unset>").into(),
        number(o, "/spec/maxReplicas").into(),
        number(o, "/status/currentReplicas").into(),
        age(o, now),
    ]
}

/// The current and the wanted value of the first two metrics. The v1 form has one, CPU.
fn metrics(o: &Value) -> String {
    if let Some(percent) = o.pointer("/spec/targetCPUUtilizationPercentage") {
        let current = percentage(o, "/status/currentCPUUtilizationPercentage", "<unknown>");
        return format!("cpu: {current}/{percent}%");
    }
    let current = list(o, "/status/currentMetrics");
    let texts: Vec<String> = list(o, "/spec/metrics")
        .iter()
        .enumerate()
        .map(|(index, spec)| metric(spec, current.get(index).unwrap_or(&Value::Null)))
        .collect();
    match texts.as_slice() {
        [] => "<none>".to_owned(),
        [first, second, more @ ..] if !more.is_empty() => {
            format!("{first}, {second} + {} more...", more.len())
        }
        all => all.join(", "),
    }
}

fn metric(spec: &Value, status: &Value) -> String {
    let (source, named) = match get(spec, "/type") {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "External" => ("external", false),
        _ => return "<unknown type>".to_owned(),
    };
    let target = |field: &str| spec.pointer(&format!("/{source}/target/{field}"));
    let current = |field: &str| format!("/{source}/current/{field}");
    let pair = if let Some(value) = target("averageValue").and_then(Value::as_str) {
        let average = if matches!(source, "external" | "object") { " (avg)" } else { "" };
        format!("{}/{value}{average}", text_or(status, &current("averageValue"), "<unknown>"))
    } else if named {
        let wanted = spec.pointer(&format!("/{source}/target/averageUtilization"));
        let wanted = wanted.map_or_else(|| "<auto>".to_owned(), |percent| format!("{percent}%"));
        format!("{}/{wanted}", percentage(status, &current("averageUtilization"), "<unknown>"))
    } else {
        let wanted = target("value").and_then(Value::as_str).unwrap_or("<unknown>");
        format!("{}/{wanted}", text_or(status, &current("value"), "<unknown>"))
    };
    if named { format!("{}: {pair}", get(spec, &format!("/{source}/name"))) } else { pair }
}

fn percentage(o: &Value, pointer: &str, absent: &str) -> String {
    o.pointer(pointer).and_then(Value::as_i64).map_or_else(|| absent.to_owned(), |n| format!("{n}%"))
}
