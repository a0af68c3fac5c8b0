//! Nodes, namespaces, configuration, events, leases, and other small kinds.

use jiff::Timestamp;
use serde_json::Value;

use super::field::{age, condition, is_true, list, map, name, number, or, size, text as get, text_or};
use super::{AGE, Column, NAME, Printer, duration, integer, text, wide};

const EVENT_COLUMNS: &[Column] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    Column { name: "Name", kind: "string", format: "name", priority: 1 },
];

pub(super) static PRINTERS: &[Printer] = &[
    Printer::new(
        "",
        "Node",
        &[
            NAME,
            text("Status"),
            text("Roles"),
            AGE,
            text("Version"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ],
        node,
    ),
    Printer::new("", "Namespace", &[NAME, text("Status"), AGE], |o, now| {
        vec![name(o), get(o, "/status/phase").into(), age(o, now)]
    }),
    Printer::new("", "ConfigMap", &[NAME, text("Data"), AGE], |o, now| {
        vec![name(o), (size(o, "/data") + size(o, "/binaryData")).into(), age(o, now)]
    }),
    Printer::new("", "Secret", &[NAME, text("Type"), text("Data"), AGE], |o, now| {
        vec![name(o), get(o, "/type").into(), size(o, "/data").into(), age(o, now)]
    }),
    Printer::new("", "ServiceAccount", &[NAME, text("Secrets"), AGE], |o, now| {
        vec![name(o), list(o, "/secrets").len().into(), age(o, now)]
    }),
    Printer::new("", "Event", EVENT_COLUMNS, event),
    Printer::new("events.k8s.io", "Event", EVENT_COLUMNS, event),
    Printer::new(
        "",
        "ComponentStatus",
        &[NAME, text("Status"), text("Message"), text("Error")],
        component_status,
    ),
    Printer::new("", "ResourceQuota", &[NAME, text("Request"), text("Limit"), AGE], |o, now| {
        let (request, limit) = quota(o);
        vec![name(o), request.into(), limit.into(), age(o, now)]
    }),
    Printer::new("coordination.k8s.io", "Lease", &[NAME, text("Holder"), AGE], |o, now| {
        vec![name(o), get(o, "/spec/holderIdentity").into(), age(o, now)]
    }),
    Printer::new("node.k8s.io", "RuntimeClass", &[NAME, text("Handler"), AGE], |o, now| {
        vec![name(o), get(o, "/handler").into(), age(o, now)]
    }),
    Printer::new(
        "apiregistration.k8s.io",
        "APIService",
        &[NAME, text("Service"), text("Available"), AGE],
        |o, now| vec![name(o), api_service_backend(o).into(), api_service_available(o).into(), age(o, now)],
    ),
    Printer::new(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        &[NAME, AGE, text("SignerName"), text("Requestor"), text("RequestedDuration"), text("Condition")],
        signing_request,
    ),
    Printer::new(
        "flowcontrol.apiserver.k8s.io",
        "FlowSchema",
        &[
            NAME,
            text("PriorityLevel"),
            integer("MatchingPrecedence"),
            text("DistinguisherMethod"),
            AGE,
            text("MissingPL"),
        ],
        |o, now| {
            vec![
                name(o),
                get(o, "/spec/priorityLevelConfiguration/name").into(),
                number(o, "/spec/matchingPrecedence").into(),
                text_or(o, "/spec/distinguisherMethod/type", "<none>").into(),
                age(o, now),
                condition(o, "Dangling").map_or("?", |c| get(c, "/status")).into(),
            ]
        },
    ),
    Printer::new(
        "flowcontrol.apiserver.k8s.io",
        "PriorityLevelConfiguration",
        &[
            NAME,
            text("Type"),
            text("NominalConcurrencyShares"),
            text("Queues"),
            text("HandSize"),
            text("QueueLengthLimit"),
            AGE,
        ],
        priority_level,
    ),
];

fn node(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = match condition(o, "Ready") {
        Some(condition) if get(condition, "/status") == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = o.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false);
    let status = if cordoned { format!("{ready},SchedulingDisabled") } else { ready.to_owned() };
    let address = |kind: &str| {
        let addresses = list(o, "/status/addresses");
        let found = addresses.iter().find(|a| get(a, "/type") == kind);
        Value::from(found.map_or("<none>", |a| get(a, "/address")))
    };
    let info = |field: &str| Value::from(text_or(o, &format!("/status/nodeInfo/{field}"), "<unknown>"));
    vec![
        name(o),
        status.into(),
        or(roles(o).join(","), "<none>").into(),
        age(o, now),
        get(o, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

/// Roles are labels: `node-role.kubernetes.io/ROLE` or `kubernetes.io/role=ROLE`.
fn roles(o: &Value) -> Vec<String> {
    let mut roles: Vec<String> = map(o, "/metadata/labels")
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role.to_owned()),
            None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort();
    roles.dedup();
    roles
}

/// An event in either of its two forms: core/v1 and events.k8s.io/v1 name the same fields differently.
fn event(o: &Value, now: Timestamp) -> Vec<Value> {
    let get2 = |core: &str, events: &str| text_or(o, core, get(o, events));
    let first = get2("/firstTimestamp", "/deprecatedFirstTimestamp");
    let first = duration::since(if first.is_empty() { get(o, "/eventTime") } else { first }, now);
    let last = match (get(o, "/series/lastObservedTime"), get2("/lastTimestamp", "/deprecatedLastTimestamp"))
    {
        ("", "") => first.clone(),
        ("", last) => duration::since(last, now),
        (observed, _) => duration::since(observed, now),
    };
    let count = [number(o, "/series/count"), number(o, "/count"), number(o, "/deprecatedCount")];
    let kind = get2("/involvedObject/kind", "/regarding/kind").to_lowercase();
    let target = match get2("/involvedObject/name", "/regarding/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        get(o, "/type").into(),
        get(o, "/reason").into(),
        target.into(),
        get2("/involvedObject/fieldPath", "/regarding/fieldPath").into(),
        event_source(o).into(),
        get2("/message", "/note").trim().into(),
        first.into(),
        count.into_iter().find(|count| *count != 0).unwrap_or(1).to_string().into(),
        name(o),
    ]
}

fn event_source(o: &Value) -> String {
    let either = |a: &str, b: &str| text_or(o, a, get(o, b)).to_owned();
    let component =
        or(either("/source/component", "/deprecatedSource/component"), get(o, "/reportingComponent"));
    let component = or(component, get(o, "/reportingController"));
    let host = or(either("/source/host", "/deprecatedSource/host"), get(o, "/reportingInstance"));
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

fn component_status(o: &Value, _now: Timestamp) -> Vec<Value> {
    let healthy = list(o, "/conditions").iter().find(|c| get(c, "/type") == "Healthy");
    let (status, message, error) = match healthy {
        Some(c) if get(c, "/status") == "True" => ("Healthy", get(c, "/message"), get(c, "/error")),
        Some(c) => ("Unhealthy", get(c, "/message"), get(c, "/error")),
        None => ("Unknown", "", ""),
    };
    vec![name(o), status.into(), message.into(), error.into()]
}

/// `pods: 1/10, requests.cpu: 1/2`, requests and limits apart.
fn quota(o: &Value) -> (String, String) {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in map(o, "/status/hard").into_iter().flatten() {
        let used = map(o, "/status/used").and_then(|used| used.get(resource)).and_then(Value::as_str);
        let text = format!("{resource}: {}/{}", used.unwrap_or("0"), hard.as_str().unwrap_or(""));
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    (requests.join(", "), limits.join(", "))
}

fn api_service_backend(o: &Value) -> String {
    match get(o, "/spec/service/name") {
        "" => "Local".to_owned(),
        name => format!("{}/{name}", get(o, "/spec/service/namespace")),
    }
}

fn api_service_available(o: &Value) -> String {
    match condition(o, "Available") {
        None => "Unknown".to_owned(),
        Some(c) if get(c, "/status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", get(c, "/status"), get(c, "/reason")),
    }
}

fn signing_request(o: &Value, now: Timestamp) -> Vec<Value> {
    let requested = o.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
    let mut state = if is_true(o, "Denied") {
        "Denied".to_owned()
    } else if is_true(o, "Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if is_true(o, "Failed") {
        state.push_str(",Failed");
    }
    if !get(o, "/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    vec![
        name(o),
        age(o, now),
        text_or(o, "/spec/signerName", "<none>").into(),
        get(o, "/spec/username").into(),
        requested.map_or_else(|| "<none>".to_owned(), duration::human_duration).into(),
        state.into(),
    ]
}

fn priority_level(o: &Value, now: Timestamp) -> Vec<Value> {
    let queuing = |field: &str| {
        let pointer = format!("/spec/limited/limitResponse/queuing/{field}");
        Value::from(super::field::scalar(o, &pointer, "<none>"))
    };
    let shares = ["/spec/limited/nominalConcurrencyShares", "/spec/exempt/nominalConcurrencyShares"];
    let shares = shares.into_iter().find_map(|pointer| o.pointer(pointer)).and_then(Value::as_i64);
    vec![
        name(o),
        get(o, "/spec/type").into(),
        shares.map_or_else(|| "<none>".to_owned(), |n| n.to_string()).into(),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(o, now),
    ]
}
