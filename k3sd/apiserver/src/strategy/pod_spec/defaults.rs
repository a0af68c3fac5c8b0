//! Defaults of a pod spec that depend on other fields or that upstream's schema does not mark.

use serde_json::{Map, Value, json};

use crate::strategy::walk::{default, default_zero, object_at, objects_in};

type Object = Map<String, Value>;

/// `rw-r--r--`, the mode of files in volumes that are made from objects.
const FILE_MODE: i64 = 0o644;

/// Lists of containers in a pod spec.
pub(super) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Fills in what both pods and templates get.
pub(in crate::strategy) fn default_pod_spec(spec: &mut Object) {
    default_zero(spec, "dnsPolicy", "ClusterFirst");
    default_zero(spec, "restartPolicy", "Always");
    default(spec, "securityContext", json!({}));
    default(spec, "terminationGracePeriodSeconds", 30);
    default_zero(spec, "schedulerName", "default-scheduler");
    unify_service_account(spec);
    for list in CONTAINER_LISTS {
        objects_in(spec, list).for_each(default_container);
    }
    objects_in(spec, "volumes").for_each(default_volume);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both always say the same, and the new one wins.
pub(in crate::strategy) fn unify_service_account(spec: &mut Object) {
    let name = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|field| spec.get(*field).and_then(Value::as_str).filter(|name| !name.is_empty()))
        .map(str::to_owned);
    if let Some(name) = name {
        spec.insert("serviceAccountName".to_owned(), name.clone().into());
        spec.insert("serviceAccount".to_owned(), name.into());
    }
}

fn default_container(container: &mut Object) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    default_zero(container, "imagePullPolicy", policy);
    default_zero(container, "terminationMessagePath", "/dev/termination-log");
    default_zero(container, "terminationMessagePolicy", "File");
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = object_at(lifecycle, &[hook, "httpGet"]) {
                default_http_get(get);
            }
        }
    }
    for variable in objects_in(container, "env") {
        if let Some(field) = variable.get_mut("valueFrom").and_then(|from| object_at(from, &["fieldRef"])) {
            default_zero(field, "apiVersion", "v1");
        }
    }
}

fn default_probe(probe: &mut Object) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        default_zero(probe, field, value);
    }
    if let Some(get) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
        default_http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
        default(grpc, "service", "");
    }
}

fn default_http_get(get: &mut Object) {
    default_zero(get, "path", "/");
    default_zero(get, "scheme", "HTTP");
}

fn default_volume(volume: &mut Object) {
    if volume.keys().all(|name| name == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        default(path, "type", "");
    }
    if let Some(image) = volume.get_mut("image").and_then(Value::as_object_mut) {
        let policy = pull_policy(image.get("reference").and_then(Value::as_str).unwrap_or_default());
        default_zero(image, "pullPolicy", policy);
    }
    if let Some(claim) =
        volume.get_mut("ephemeral").and_then(|v| object_at(v, &["volumeClaimTemplate", "spec"]))
    {
        default(claim, "volumeMode", "Filesystem");
    }
    if let Some(api) = volume.get_mut("downwardAPI").and_then(Value::as_object_mut) {
        default_field_refs(api);
    }
    for source in volume
        .get_mut("projected")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|p| objects_in(p, "sources"))
    {
        if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
            default(token, "expirationSeconds", 3600);
        }
        if let Some(api) = source.get_mut("downwardAPI").and_then(Value::as_object_mut) {
            default_field_refs(api);
        }
    }
}

fn default_field_refs(api: &mut Object) {
    for item in objects_in(api, "items") {
        if let Some(field) = item.get_mut("fieldRef").and_then(Value::as_object_mut) {
            default_zero(field, "apiVersion", "v1");
        }
    }
}

/// An image without a tag, or with `latest`, is looked for each time; a digest alone never changes.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    // A colon before the last slash belongs to the registry's port.
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
        None if digest => "IfNotPresent",
        None => "Always",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        let cases = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
            ("nginx:latest@sha256:0123", "Always"),
        ];
        for (image, policy) in cases {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_spec_gets_what_upstream_fills_in() {
        let mut spec = json!({
            "serviceAccount": "robot",
            "containers": [{
                "name": "a", "image": "x:1",
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
                "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
            }],
            "volumes": [
                {"name": "plain"},
                {"name": "config", "configMap": {"name": "c"}},
                {"name": "host", "hostPath": {"path": "/x"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            ],
        });
        default_pod_spec(spec.as_object_mut().expect("object"));
        assert_eq!(
            spec,
            json!({
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
                "serviceAccount": "robot", "serviceAccountName": "robot",
                "containers": [{
                    "name": "a", "image": "x:1", "imagePullPolicy": "IfNotPresent",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "env": [{"name": "IP",
                        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                    "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 5,
                        "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
                    "lifecycle": {"preStop": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}}},
                }],
                "volumes": [
                    {"name": "plain", "emptyDir": {}},
                    {"name": "config", "configMap": {"name": "c", "defaultMode": 420}},
                    {"name": "host", "hostPath": {"path": "/x", "type": ""}},
                    {"name": "token", "projected": {"defaultMode": 420,
                        "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}},
                ],
            })
        );
    }
}
