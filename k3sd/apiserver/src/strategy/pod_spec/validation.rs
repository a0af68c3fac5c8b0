//! Rules for a whole pod spec, and for templates that hold one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use machinery::status::FieldError;
use serde_json::Value;

use super::containers::validate_seccomp;
use super::{containers, volumes};
use crate::names;
use crate::strategy::walk::{Faults, Node};

/// Everything that is wrong with a pod spec.
pub(in crate::strategy) fn validate_pod_spec(spec: &Node<'_>, faults: &mut Faults) {
    let known = volumes::validate(&spec.get("volumes"), faults);
    containers::validate_all(spec, &known, faults);
    faults.one_of(&spec.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    validate_dns(spec, faults);
    faults.labels(&spec.get("nodeSelector"));
    validate_pod_security(spec, faults);
    for reference in spec.get("imagePullSecrets").items() {
        if reference.get("name").str().is_empty() {
            faults.required(&reference.get("name"), "");
        }
    }
    validate_affinity(&spec.get("affinity"), faults);
    for (field, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str, bool) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        let node = spec.get(field);
        if !node.str().is_empty() {
            faults.name(&node, rule);
        }
    }
    faults.in_range(&spec.get("activeDeadlineSeconds"), 1, i64::from(i32::MAX));
    validate_tolerations(&spec.get("tolerations"), faults);
    for alias in spec.get("hostAliases").items() {
        let ip = alias.get("ip");
        if ip.str().parse::<IpAddr>().is_err() {
            faults.invalid(&ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
        alias.get("hostnames").items().for_each(|name| faults.name(&name, names::dns1123_subdomain));
    }
    faults.one_of_if_set(&spec.get("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
    validate_spread(&spec.get("topologySpreadConstraints"), faults);
    validate_gates(&spec.get("schedulingGates"), faults);
}

/// A template's metadata and spec.
pub(in crate::strategy) fn validate_template(template: &Node<'_>, faults: &mut Faults) {
    faults.template_metadata(template);
    validate_pod_spec(&template.get("spec"), faults);
    let debug = template.at("spec.ephemeralContainers");
    if debug.len() > 0 {
        faults.forbidden(&debug, "ephemeral containers not allowed in pod template");
    }
}

fn validate_dns(spec: &Node<'_>, faults: &mut Faults) {
    let policy = spec.get("dnsPolicy");
    faults.one_of(&policy, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    let servers = spec.at("dnsConfig.nameservers");
    if policy.str() == "None" {
        if !spec.get("dnsConfig").is_set() {
            faults.required(&spec.get("dnsConfig"), "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if servers.len() == 0 {
            faults.required(&servers, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > 3 {
        faults.push(FieldError::invalid(
            servers.path(),
            servers.value().clone(),
            "must not have more than 3 nameservers",
        ));
    }
    for server in servers.items() {
        if server.str().parse::<IpAddr>().is_err() {
            faults.invalid(&server, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
}

fn validate_pod_security(spec: &Node<'_>, faults: &mut Faults) {
    let context = spec.get("securityContext");
    let highest = i64::from(i32::MAX);
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        faults.in_range(&context.get(field), 0, highest);
    }
    context.get("supplementalGroups").items().for_each(|group| faults.in_range(&group, 0, highest));
    faults.one_of_if_set(&context.get("fsGroupChangePolicy"), &["OnRootMismatch", "Always"]);
    validate_seccomp(&context.get("seccompProfile"), faults);
    if spec.get("shareProcessNamespace").bool() && spec.get("hostPID").bool() {
        let node = context.get("shareProcessNamespace");
        faults.push(FieldError::invalid(
            node.path(),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    if spec.get("hostUsers").is_set() && !spec.get("hostUsers").bool() {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.get(field).bool() {
                faults.forbidden(&spec.get("hostUsers"), format!("when `{field}` is true"));
            }
        }
    }
}

/// Tolerations, of pods and of runtime classes.
pub(in crate::strategy) fn validate_tolerations(tolerations: &Node<'_>, faults: &mut Faults) {
    for toleration in tolerations.items() {
        let (key, operator) = (toleration.get("key"), toleration.get("operator"));
        let (value, effect) = (toleration.get("value"), toleration.get("effect"));
        if !key.str().is_empty() {
            for detail in names::qualified_name(key.str()) {
                faults.invalid(&key, detail);
            }
        } else if operator.str() != "Exists" {
            faults.invalid(
                &operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").is_set() && effect.str() != "NoExecute" {
            faults.invalid(&effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.str() {
            "" | "Equal" => {
                for detail in names::label_value(value.str()) {
                    faults.push(FieldError::invalid(operator.path(), value.str(), detail));
                }
            }
            "Exists" if !value.str().is_empty() => {
                faults.push(FieldError::invalid(
                    operator.path(),
                    toleration.value().clone(),
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            "Exists" => {}
            _ => faults.one_of(&operator, &["Equal", "Exists"]),
        }
        faults.one_of_if_set(&effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

fn validate_affinity(affinity: &Node<'_>, faults: &mut Faults) {
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        validate_node_selector(&required, faults);
    }
    for preferred in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        validate_weight(&preferred.get("weight"), faults);
        validate_node_term(&preferred.get("preference"), faults);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.get(kind);
        for term in pods.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            validate_pod_term(&term, faults);
        }
        for preferred in pods.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            validate_weight(&preferred.get("weight"), faults);
            validate_pod_term(&preferred.get("podAffinityTerm"), faults);
        }
    }
}

/// Terms that nodes are chosen by, of pods and of volumes.
pub(in crate::strategy) fn validate_node_selector(selector: &Node<'_>, faults: &mut Faults) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.len() == 0 {
        faults.required(&terms, "must have at least one node selector term");
    }
    terms.items().for_each(|term| validate_node_term(&term, faults));
}

fn validate_weight(weight: &Node<'_>, faults: &mut Faults) {
    if !weight.int().is_some_and(|n| (1..=100).contains(&n)) {
        faults.invalid(weight, "must be in the range 1-100");
    }
}

fn validate_node_term(term: &Node<'_>, faults: &mut Faults) {
    for expression in term.get("matchExpressions").items() {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.str() {
            "In" | "NotIn" if values.len() == 0 => {
                faults.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if values.len() > 0 => {
                faults
                    .forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.len() != 1 => {
                faults.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => faults.invalid(&operator, "not a valid selector operator"),
        }
        let key = expression.get("key");
        for detail in names::qualified_name(key.str()) {
            faults.invalid(&key, detail);
        }
    }
}

fn validate_pod_term(term: &Node<'_>, faults: &mut Faults) {
    faults.label_selector(&term.get("labelSelector"));
    faults.label_selector(&term.get("namespaceSelector"));
    let key = term.get("topologyKey");
    if key.str().is_empty() {
        faults.required(&key, "can not be empty");
    } else {
        for detail in names::qualified_name(key.str()) {
            faults.invalid(&key, detail);
        }
    }
}

fn validate_spread(constraints: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for constraint in constraints.items() {
        let skew = constraint.get("maxSkew");
        if skew.int().unwrap_or(0) <= 0 {
            faults.invalid(&skew, "must be greater than zero");
        }
        let (key, when) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if key.str().is_empty() {
            faults.required(&key, "can not be empty");
        }
        faults.one_of(&when, &["DoNotSchedule", "ScheduleAnyway"]);
        if !seen.insert((key.str(), when.str())) {
            faults.push(FieldError::duplicate(
                format!("{}.{{topologyKey, whenUnsatisfiable}}", constraint.path()),
                format!("{{{}, {}}}", key.str(), when.str()),
            ));
        }
        let domains = constraint.get("minDomains");
        if domains.int().is_some_and(|n| n <= 0) {
            faults.invalid(&domains, "must be greater than zero");
        }
        if domains.is_set() && when.str() == "ScheduleAnyway" {
            faults.invalid(
                &domains,
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
            );
        }
        faults.label_selector(&constraint.get("labelSelector"));
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            faults.one_of_if_set(&constraint.get(field), &["Honor", "Ignore"]);
        }
    }
}

fn validate_gates(gates: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.get("name");
        for detail in names::qualified_name(name.str()) {
            faults.push(FieldError::invalid(gate.path(), Value::from(name.str()), detail));
        }
        if !seen.insert(name.str()) {
            faults.push(FieldError::duplicate(gate.path(), name.str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::default_pod_spec;
    use super::*;

    /// Faults of a spec after defaults.
    fn faults(mut spec: Value) -> Vec<String> {
        machinery::schema::apply_static_defaults(
            machinery::schema::builtin(),
            "api.core.v1.PodSpec",
            &mut spec,
        );
        default_pod_spec(spec.as_object_mut().expect("object"));
        let mut faults = Faults::default();
        validate_pod_spec(&Node::root(&json!({"spec": spec})).get("spec"), &mut faults);
        faults.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_pod_is_fine() {
        let spec = json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80, "name": "http"}],
            "env": [{"name": "A", "value": "1"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v"}], "tolerations": [{"operator": "Exists"}]});
        assert_eq!(faults(spec), Vec::<String>::new());
    }

    #[test]
    fn missing_and_wrong_fields_are_named_as_upstream_does() {
        let cases = [
            (json!({}), "spec.containers: Required value"),
            (json!({"containers": [{"name": "a"}]}), "spec.containers[0].image: Required value"),
            (json!({"containers": [{"image": "x"}]}), "spec.containers[0].name: Required value"),
            (
                json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]}),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}], "restartPolicy": "Sometimes"}),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}],
                    "volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]}),
                "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "livenessProbe": {"periodSeconds": 3}}]}),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "A=B"}]}]}),
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only \
                 of printable ASCII characters other than '='",
            ),
        ];
        for (spec, fault) in cases {
            assert_eq!(faults(spec.clone()), [fault], "{spec}");
        }
    }
}
