//! Every kind that discovery offers goes through every verb it offers, with the smallest object that is valid.

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::harness::{Server, admin};

const NAMESPACE: &str = "walk";

/// The smallest valid object, without what the walk itself fills in. Kinds that need nothing are not listed.
fn minimal(group: &str, plural: &str) -> Value {
    let template = json!({
        "metadata": { "labels": { "app": "x" } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
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
        ("networking.k8s.io", "ipaddresses") => json!({ "metadata": { "name": "10.43.9.9" }, "spec": {
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
        ("apiregistration.k8s.io", _) => json!({ "metadata": { "name": "v1.walk.example.com" }, "spec": {
            "group": "walk.example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
        } }),
        ("resource.k8s.io", "resourceslices") => json!({ "spec": {
            "driver": "example.com", "nodeName": "n", "pool": { "name": "p", "generation": 1, "resourceSliceCount": 1 },
        } }),
        ("resource.k8s.io", "resourceclaimtemplates") => json!({ "spec": { "spec": {} } }),
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

struct Walk<'a> {
    server: &'a Server,
    faults: Vec<String>,
}

impl Walk<'_> {
    async fn step(
        &mut self,
        what: &str,
        method: Method,
        target: &str,
        media_type: &str,
        body: &Value,
        wanted: &[u16],
    ) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let verb = method.clone();
        let (status, answer) = self.server.call_as(admin(), method, target, media_type, &body).await;
        if !wanted.contains(&status.as_u16()) {
            self.faults.push(format!("{what}: {verb} {target}: {status} {}", answer["message"]));
        }
        answer
    }

    async fn resource(&mut self, root: &str, group: &str, resource: &Value) {
        let plural = resource["name"].as_str().unwrap();
        let verbs: Vec<&str> =
            resource["verbs"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let list = if resource["namespaced"] == true {
            format!("{root}/namespaces/{NAMESPACE}/{plural}")
        } else {
            format!("{root}/{plural}")
        };
        let mut object = minimal(group, plural);
        if object.pointer("/metadata/name").is_none() {
            object["metadata"]["name"] = json!("example.com");
        }
        if matches!((group, plural), ("", "services" | "namespaces") | ("apps", "statefulsets")) {
            object["metadata"]["name"] = json!("example");
        }
        if plural == "events" {
            object["metadata"]["namespace"] = json!(NAMESPACE);
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let one = format!("{list}/{name}");
        let what = format!("{group}/{plural}");
        let strict = format!("{list}?fieldValidation=Strict");
        let created = self.step(&what, Method::POST, &strict, "application/json", &object, &[201]).await;
        if created["metadata"]["uid"].is_null() {
            return;
        }
        let got = self.step(&what, Method::GET, &one, "", &Value::Null, &[200]).await;
        if got != created {
            self.faults.push(format!("{what}: get differs from create"));
        }
        let listed = self
            .step(
                &what,
                Method::GET,
                &format!("{list}?fieldSelector=metadata.name={name}"),
                "",
                &Value::Null,
                &[200],
            )
            .await;
        if listed["items"] != json!([got])
            || listed["kind"].as_str() != Some(&format!("{}List", resource["kind"].as_str().unwrap()))
        {
            self.faults.push(format!("{what}: list shows {} of kind {}", listed["items"], listed["kind"]));
        }
        self.step(&what, Method::POST, &list, "application/json", &object, &[409]).await;
        let patches = [
            ("application/merge-patch+json", json!({ "metadata": { "labels": { "merge": "1" } } })),
            (
                "application/strategic-merge-patch+json",
                json!({ "metadata": { "labels": { "strategic": "2" } } }),
            ),
            (
                "application/json-patch+json",
                json!([{ "op": "add", "path": "/metadata/labels/json", "value": "3" }]),
            ),
        ];
        let mut newest = Value::Null;
        for (media_type, patch) in patches {
            newest = self.step(&what, Method::PATCH, &one, media_type, &patch, &[200]).await;
        }
        for (label, value) in [("merge", "1"), ("strategic", "2"), ("json", "3")] {
            if newest["metadata"]["labels"][label] != value {
                self.faults.push(format!("{what}: patch {label} did nothing: {}", newest["metadata"]));
            }
        }
        let mut stale = newest.clone();
        newest["metadata"]["labels"]["put"] = json!("4");
        self.step(&what, Method::PUT, &one, "application/json", &newest, &[200]).await;
        stale["metadata"]["labels"]["put"] = json!("5");
        self.step(&what, Method::PUT, &one, "application/json", &stale, &[409]).await;
        if verbs.contains(&"watch") {
            self.watch(&what, &list, &created).await;
        }
        let mut gone = self
            .step(
                &what,
                Method::DELETE,
                &one,
                "application/json",
                &json!({ "gracePeriodSeconds": 0 }),
                &[200],
            )
            .await;
        if !gone["metadata"]["finalizers"].is_null() {
            // Protected kinds wait for their controller: it is played here.
            gone["metadata"]["finalizers"] = json!([]);
            self.step(&what, Method::PUT, &one, "application/json", &gone, &[200]).await;
        }
        if (group, plural) == ("", "namespaces") {
            gone["spec"]["finalizers"] = json!([]);
            self.step(&what, Method::PUT, &format!("{one}/finalize"), "application/json", &gone, &[200])
                .await;
        }
        self.step(&what, Method::GET, &one, "", &Value::Null, &[404]).await;
    }

    /// Everything since the creation is replayed.
    async fn watch(&mut self, what: &str, list: &str, created: &Value) {
        let version = created["metadata"]["resourceVersion"].as_str().unwrap();
        let target = format!("{list}?watch=1&resourceVersion={version}&timeoutSeconds=1");
        let response = self.server.open(admin(), Method::GET, &target, "", "").await;
        let mut body = response.into_body();
        let mut text = String::new();
        while text.matches("MODIFIED").count() < 4 {
            match body.frame().await {
                Some(frame) => text.push_str(&String::from_utf8_lossy(frame.unwrap().data_ref().unwrap())),
                None => {
                    self.faults.push(format!("{what}: watch shows only {text}"));
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn every_kind_goes_through_every_verb() {
    let server = Server::start().await;
    let namespace = json!({ "metadata": { "name": NAMESPACE } });
    let (status, _) = server.call(Method::POST, "/api/v1/namespaces", namespace).await;
    assert_eq!(status, StatusCode::CREATED);
    let account = json!({ "metadata": { "name": "default" } });
    server.call(Method::POST, &format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), account).await;
    let (_, groups) = server.call(Method::GET, "/apis", Value::Null).await;
    let mut roots = vec![(String::new(), "/api/v1".to_owned())];
    for group in groups["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            let root = format!("/apis/{}", version["groupVersion"].as_str().unwrap());
            roots.push((group["name"].as_str().unwrap().to_owned(), root));
        }
    }
    let mut walk = Walk { server: &server, faults: Vec::new() };
    let mut walked = 0;
    for (group, root) in roots {
        let (_, resources) = server.call(Method::GET, &root, Value::Null).await;
        for resource in resources["resources"].as_array().unwrap() {
            let verbs = resource["verbs"].as_array().unwrap();
            if verbs.contains(&json!("create")) && verbs.contains(&json!("list")) {
                walk.resource(&root, &group, resource).await;
                walked += 1;
            }
        }
    }
    assert!(walked > 50, "only {walked} kinds");
    assert!(walk.faults.is_empty(), "{} faults:\n{}", walk.faults.len(), walk.faults.join("\n"));
    server.stop().await;
}
