//! The objects of the walk: of each kind the smallest that is valid, what its status may say, and questions to ask.

use serde_json::{Value, json};

use super::NAMESPACE;

/// Name of the first or the second object of a kind.
pub(super) fn name(group: &str, plural: &str, second: bool) -> &'static str {
    let names = match (group, plural) {
        ("", "services" | "namespaces") | ("apps", "statefulsets") => ["first", "second"],
        ("networking.k8s.io", "ipaddresses") => ["10.43.9.9", "10.43.9.10"],
        ("apiextensions.k8s.io", _) => ["firsts.example.com", "seconds.example.com"],
        ("apiregistration.k8s.io", _) => ["v1.first.example.com", "v1.second.example.com"],
        _ => ["first.example.com", "second.example.com"],
    };
    names[usize::from(second)]
}

/// A valid object, but for `kind` and `apiVersion`.
pub(super) fn object(group: &str, plural: &str, second: bool) -> Value {
    let mut object = minimal(group, plural);
    object["metadata"]["name"] = name(group, plural, second).into();
    if plural == "events" {
        object["metadata"]["namespace"] = NAMESPACE.into();
    }
    match (group, second) {
        ("apiextensions.k8s.io", true) => {
            object["spec"]["names"] = json!({ "plural": "seconds", "kind": "Second" });
        }
        ("apiregistration.k8s.io", true) => object["spec"]["group"] = "second.example.com".into(),
        _ => {}
    }
    object
}

/// The smallest valid object, without what the walk itself fills in. Kinds that need nothing are not listed.
pub(super) fn minimal(group: &str, plural: &str) -> Value {
    let template = json!({
        "metadata": { "labels": { "app": "x" } },
        // With a request it may be resized: what it asks for then stays in its class of service.
        "spec": { "containers": [{ "name": "c", "image": "i", "resources": { "requests": { "cpu": "10m" } } }] },
    });
    let once = {
        let mut template = template.clone();
        template["spec"]["restartPolicy"] = json!("Never");
        template
    };
    let selector = json!({ "matchLabels": { "app": "x" } });
    let role_ref = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "r" });
    let rules = json!([{ "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"] }]);
    let webhooks = json!([{
        "name": "a.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": rules,
        "failurePolicy": "Ignore", "namespaceSelector": { "matchLabels": { "nothing": "here" } },
        "clientConfig": { "url": "https://localhost:1/x" },
    }]);
    match (group, plural) {
        ("", "pods") => json!({ "spec": template["spec"] }),
        ("", "podtemplates") => json!({ "template": template }),
        ("", "replicationcontrollers") => {
            json!({ "spec": { "replicas": 0, "selector": { "app": "x" }, "template": template } })
        }
        ("", "services") => json!({ "spec": { "ports": [{ "port": 80 }] } }),
        ("", "events") => json!({
            "involvedObject": { "kind": "Pod", "namespace": NAMESPACE, "name": "p" }, "reason": "Why", "type": "Normal",
        }),
        ("", "limitranges") => json!({ "spec": { "limits": [{ "type": "Pod" }] } }),
        ("", "persistentvolumes") => json!({ "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/x" },
        } }),
        ("", "persistentvolumeclaims") => json!({ "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } },
        } }),
        ("apps", "controllerrevisions") => json!({ "revision": 1, "data": { "a": 1 } }),
        ("apps", "deployments" | "replicasets") => {
            json!({ "spec": { "replicas": 0, "selector": selector, "template": template } })
        }
        ("apps", "daemonsets") => json!({ "spec": { "selector": selector, "template": template } }),
        ("apps", "statefulsets") => {
            json!({ "spec": { "replicas": 0, "selector": selector, "serviceName": "s", "template": template } })
        }
        ("batch", "jobs") => json!({ "spec": { "template": once } }),
        ("batch", "cronjobs") => {
            json!({ "spec": { "schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": { "spec": { "template": once } } } })
        }
        ("autoscaling", _) => json!({ "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" }, "maxReplicas": 2,
        } }),
        ("policy", _) => json!({ "spec": { "minAvailable": 1, "selector": selector } }),
        ("networking.k8s.io", "ingresses") => {
            json!({ "spec": { "defaultBackend": { "service": { "name": "s", "port": { "number": 80 } } } } })
        }
        ("networking.k8s.io", "ingressclasses") => json!({ "spec": { "controller": "example.com/c" } }),
        ("networking.k8s.io", "networkpolicies") => json!({ "spec": { "podSelector": {} } }),
        ("networking.k8s.io", "ipaddresses") => json!({ "spec": {
            "parentRef": { "resource": "services", "namespace": NAMESPACE, "name": "s" },
        } }),
        ("networking.k8s.io", "servicecidrs") => json!({ "spec": { "cidrs": ["10.99.0.0/24"] } }),
        ("rbac.authorization.k8s.io", "clusterrolebindings") => json!({ "roleRef": role_ref("ClusterRole") }),
        ("rbac.authorization.k8s.io", "rolebindings") => json!({ "roleRef": role_ref("Role") }),
        ("scheduling.k8s.io", _) => json!({ "value": 7 }),
        ("storage.k8s.io", "storageclasses") => json!({ "provisioner": "example.com/p" }),
        ("storage.k8s.io", "csinodes") => json!({ "spec": { "drivers": [] } }),
        ("storage.k8s.io", "csistoragecapacities") => json!({ "storageClassName": "s" }),
        ("storage.k8s.io", "volumeattachments") => json!({ "spec": {
            "attacher": "example.com", "nodeName": "n", "source": { "persistentVolumeName": "v" },
        } }),
        ("storage.k8s.io", "volumeattributesclasses") => {
            json!({ "driverName": "example.com", "parameters": { "a": "b" } })
        }
        ("discovery.k8s.io", _) => json!({ "addressType": "IPv4", "endpoints": [] }),
        ("node.k8s.io", _) => json!({ "handler": "crun" }),
        ("events.k8s.io", _) => json!({
            "regarding": { "kind": "Pod", "namespace": NAMESPACE, "name": "p" }, "reason": "Why", "type": "Normal", "action": "Do",
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "i",
        }),
        ("certificates.k8s.io", _) => json!({ "spec": {
            "request": signing_request(), "signerName": "example.com/s", "usages": ["client auth"],
        } }),
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => {
            json!({ "webhooks": webhooks })
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => json!({ "spec": {
            "matchConstraints": { "resourceRules": rules }, "validations": [{ "expression": "true" }],
        } }),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => json!({ "spec": {
            "reinvocationPolicy": "Never", "matchConstraints": { "resourceRules": rules },
            "mutations": [{ "patchType": "JSONPatch", "jsonPatch": { "expression": "[]" } }],
        } }),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            json!({ "spec": { "policyName": "p", "validationActions": ["Deny"] } })
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => {
            json!({ "spec": { "policyName": "p" } })
        }
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => {
            json!({ "spec": { "priorityLevelConfiguration": { "name": "p" } } })
        }
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => {
            json!({ "spec": { "type": "Limited", "limited": { "limitResponse": { "type": "Reject" } } } })
        }
        ("resource.k8s.io", "resourceslices") => json!({ "spec": {
            "driver": "example.com", "nodeName": "n", "pool": { "name": "p", "generation": 1, "resourceSliceCount": 1 },
        } }),
        ("resource.k8s.io", "resourceclaimtemplates") => json!({ "spec": { "spec": {} } }),
        ("apiextensions.k8s.io", _) => json!({ "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "firsts", "kind": "First" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object" } } }],
        } }),
        ("apiregistration.k8s.io", _) => json!({ "spec": {
            "group": "first.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
            "service": { "namespace": NAMESPACE, "name": "s" }, "insecureSkipTLSVerify": true,
        } }),
        ("storage.k8s.io", "csidrivers") | ("resource.k8s.io", "deviceclasses" | "resourceclaims") => {
            json!({ "spec": {} })
        }
        _ => json!({}),
    }
}

fn signing_request() -> String {
    use base64::Engine;
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
    base64::engine::general_purpose::STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap())
}

/// The part of the status that the walk changes, as a pointer and its `n`th value, and what must be there beside it.
pub(super) fn status(group: &str, plural: &str, version: &str, n: usize) -> (&'static str, Value, Value) {
    let beside = match (group, plural) {
        ("resource.k8s.io", _) => json!({ "allocation": { "devices": {} } }),
        ("storage.k8s.io", _) => json!({ "attached": true }),
        _ => json!({}),
    };
    let (pointer, value) = match (group, plural, version) {
        ("", "resourcequotas", _) => ("/status/used", json!({ "pods": n.to_string() })),
        ("", "persistentvolumes", _) => ("/status/message", json!(format!("the {n}th"))),
        ("autoscaling", _, "v1") => ("/status/currentReplicas", json!(n)),
        ("batch", "jobs", _) => ("/status/active", json!(n)),
        ("batch", "cronjobs", _) => ("/status/lastScheduleTime", json!(format!("2026-01-01T00:00:{n:02}Z"))),
        ("networking.k8s.io", "ingresses", _) => {
            ("/status/loadBalancer", json!({ "ingress": [{ "ip": format!("192.0.2.{n}") }] }))
        }
        ("resource.k8s.io", ..) => {
            let user = json!({ "resource": "pods", "name": "p", "uid": format!("u{n}") });
            ("/status/reservedFor", json!([user]))
        }
        ("storage.k8s.io", ..) => ("/status/attachmentMetadata", json!({ "n": n.to_string() })),
        _ => ("/status/conditions", json!([condition("Walked", n)])),
    };
    (pointer, value, beside)
}

pub(super) fn condition(kind: &str, n: usize) -> Value {
    json!({ "type": kind, "status": "True", "reason": "Walk", "message": format!("the {n}th"),
        "lastTransitionTime": "2026-01-01T00:00:00Z" })
}

/// A question of a kind that is only asked, never kept.
pub(super) fn question(plural: &str) -> Value {
    let attributes = json!({ "namespace": NAMESPACE, "verb": "get", "resource": "pods" });
    match plural {
        "bindings" => json!({ "metadata": { "name": name("", "pods", true) },
            "target": { "apiVersion": "v1", "kind": "Node", "name": "n" } }),
        "tokenreviews" => json!({ "spec": { "token": "nobody's" } }),
        "selfsubjectreviews" => json!({}),
        "selfsubjectrulesreviews" => json!({ "spec": { "namespace": NAMESPACE } }),
        "selfsubjectaccessreviews" => json!({ "spec": { "resourceAttributes": attributes } }),
        "localsubjectaccessreviews" => json!({ "metadata": { "namespace": NAMESPACE },
            "spec": { "user": "jane", "resourceAttributes": attributes } }),
        "subjectaccessreviews" => json!({ "spec": { "user": "jane", "resourceAttributes": attributes } }),
        other => panic!("nobody knows what to ask with {other}"),
    }
}
