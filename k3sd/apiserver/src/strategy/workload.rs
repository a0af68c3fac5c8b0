//! What all kinds with a pod template share: its defaults, its rules, the first status.

use machinery::meta;
use serde_json::Value;

use super::pod_spec::{default_pod_spec, validate_template};
use super::walk::{Faults, Node, fill, object_at};

/// Defaults of the pod template at `path`.
pub(super) fn default_template(object: &mut Value, path: &[&str]) {
    let path: Vec<&str> = path.iter().copied().chain(["spec"]).collect();
    if let Some(spec) = object_at(object, &path) {
        default_pod_spec(spec);
    }
}

/// An empty status, with the counts that upstream always writes.
pub(super) fn fresh_status(object: &mut Value, type_name: &str) {
    meta::object_mut(object).remove("status");
    fill(type_name, object);
}

/// The template of something that keeps pods running.
pub(super) fn validate_running_template(spec: &Node<'_>, owner: &str, faults: &mut Faults) {
    let template = spec.get("template");
    validate_template(&template, faults);
    let policy = template.at("spec.restartPolicy");
    if !policy.str().is_empty() && policy.str() != "Always" {
        faults.one_of(&policy, &["Always"]);
    }
    let deadline = template.at("spec.activeDeadlineSeconds");
    if deadline.is_set() {
        faults.forbidden(&deadline, format!("activeDeadlineSeconds in {owner} is not Supported"));
    }
}

/// An update whose only effect on the spec is nothing: whether two objects want the same.
pub(super) fn same_annotations(a: &Value, b: &Value) -> bool {
    let of = |object: &Value| meta::annotations(object).cloned().unwrap_or_default();
    of(a) == of(b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::World;
    use super::*;

    fn template() -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}]}})
    }

    /// A template with the defaults of all templates.
    fn full_template() -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {
            "containers": [{"name": "a", "image": "nginx:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30}})
    }

    /// What a new object of each kind with a selector and a template looks like, without the two.
    #[test]
    fn workloads_are_what_kubectl_users_see() {
        let cases = [
            (
                "deployments",
                json!({"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}}),
                json!({}),
            ),
            ("replicasets", json!({"replicas": 1}), json!({"replicas": 0})),
            (
                "daemonsets",
                json!({"revisionHistoryLimit": 10, "updateStrategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}),
                json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}),
            ),
            (
                "statefulsets",
                json!({"replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady", "serviceName": "",
                    "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
                    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}),
                json!({"replicas": 0, "availableReplicas": 0}),
            ),
        ];
        for (plural, spec, status) in cases {
            let object = json!({"metadata": {"name": "web"}, "spec": {
                "selector": {"matchLabels": {"app": "web"}}, "template": template()}});
            let created = World::new()
                .create("apps", plural, object)
                .unwrap_or_else(|r| panic!("{plural}: {:?}", r.texts()));
            let mut expected = spec;
            expected["selector"] = json!({"matchLabels": {"app": "web"}});
            expected["template"] = full_template();
            assert_eq!(created["spec"], expected, "{plural}");
            assert_eq!(created["status"], status, "{plural}");
        }
    }

    #[test]
    fn selectors_never_change() {
        let world = World::new();
        for plural in ["deployments", "replicasets", "daemonsets"] {
            let object = json!({"metadata": {"name": "web"}, "spec": {
                "selector": {"matchLabels": {"app": "web"}}, "template": template()}});
            let old = world.create("apps", plural, object).expect("valid");
            let refused = world.update("apps", plural, &old, |object| {
                object["spec"]["selector"]["matchLabels"]["more"] = "x".into();
                object["spec"]["template"]["metadata"]["labels"]["more"] = "x".into();
            });
            let texts = refused.expect_err(plural).texts();
            assert_eq!(texts.len(), 1, "{plural}: {texts:?}");
            assert!(
                texts[0].starts_with("spec.selector: Invalid value:")
                    && texts[0].ends_with("field is immutable")
            );
        }
    }
}
