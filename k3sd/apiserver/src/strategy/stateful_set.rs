//! Stateful sets.

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::walk::{Faults, Node, default, default_zero, object_at, objects_in};
use super::workload::{default_template, fresh_status, validate_running_template};
use super::{Context, Strategy};
use crate::names;

/// Fields of the spec that an update may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// Stateful sets: pods with names, order and volumes of their own.
#[derive(Debug)]
pub(crate) struct StatefulSet;

impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        default_template(object, &["spec", "template"]);
        let Some(spec) = object_at(object, &["spec"]) else { return };
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default_zero(spec, "podManagementPolicy", "OrderedReady");
        let strategy = meta::child_mut(spec, "updateStrategy");
        default_zero(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            default(meta::child_mut(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = meta::child_mut(spec, "persistentVolumeClaimRetentionPolicy");
        default_zero(retention, "whenDeleted", "Retain");
        default_zero(retention, "whenScaled", "Retain");
        for claim in objects_in(spec, "volumeClaimTemplates") {
            default_zero(claim, "apiVersion", "v1");
            default_zero(claim, "kind", "PersistentVolumeClaim");
            default(meta::child_mut(claim, "spec"), "volumeMode", "Filesystem");
            default_zero(meta::child_mut(claim, "status"), "phase", "Pending");
        }
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        fresh_status(object, "api.apps.v1.StatefulSet");
        default(meta::child_mut(meta::object_mut(object), "status"), "availableReplicas", 0);
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate(&Node::root(object).get("spec"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource == "status" {
            let status = Node::root(object).get("status");
            status.entries().for_each(|(field, _)| faults.non_negative(&status.get(field)));
        } else {
            validate(&Node::root(object).get("spec"), &mut faults);
            validate_change(object, old, &mut faults);
        }
        faults.0
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_label(name, prefix)
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate(spec: &Node<'_>, faults: &mut Faults) {
    faults.one_of(&spec.get("podManagementPolicy"), &["OrderedReady", "Parallel"]);
    let strategy = spec.get("updateStrategy");
    faults.one_of(&strategy.get("type"), &["RollingUpdate", "OnDelete"]);
    let rolling = strategy.get("rollingUpdate");
    if strategy.get("type").str() == "OnDelete" && rolling.is_set() {
        faults.invalid(&rolling, "only allowed for updateStrategy 'RollingUpdate'");
    }
    faults.non_negative(&rolling.get("partition"));
    faults.int_or_percent(&rolling.get("maxUnavailable"));
    for field in ["whenDeleted", "whenScaled"] {
        faults.one_of(&spec.get("persistentVolumeClaimRetentionPolicy").get(field), &["Retain", "Delete"]);
    }
    faults.non_negative(&spec.get("replicas"));
    faults.non_negative(&spec.get("minReadySeconds"));
    faults.non_negative(&spec.get("revisionHistoryLimit"));
    faults.non_negative(&spec.at("ordinals.start"));
    let service = spec.get("serviceName");
    if !service.str().is_empty() {
        faults.name(&service, names::dns1123_subdomain);
    }
    faults.workload_selector(spec, "empty selector is invalid for statefulset");
    validate_template_with_claims(spec, faults);
}

/// Volumes that come from claim templates are known to the containers, too.
fn validate_template_with_claims(spec: &Node<'_>, faults: &mut Faults) {
    let mut with_claims = json!({"spec": {"template": spec.get("template").value()}});
    if let Some(pod) = object_at(&mut with_claims, &["spec", "template", "spec"]) {
        let volumes = pod.entry("volumes").or_insert_with(|| json!([]));
        let volumes = volumes.as_array_mut().map(std::mem::take).unwrap_or_default();
        let claims = spec.get("volumeClaimTemplates");
        let names: Vec<String> =
            claims.items().map(|claim| claim.at("metadata.name").str().to_owned()).collect();
        // A claim takes the place of a volume of its name.
        let mut all: Vec<Value> =
            volumes.into_iter().filter(|v| !names.iter().any(|name| v["name"] == name.as_str())).collect();
        all.extend(
            names.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})),
        );
        pod.insert("volumes".to_owned(), all.into());
    }
    validate_running_template(&Node::root(&with_claims).get("spec"), "StatefulSet", faults);
}

fn validate_change(object: &Value, old: &Value, faults: &mut Faults) {
    let frozen = |object: &Value| {
        let mut spec = object.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
        spec.retain(|field, _| !MUTABLE.contains(&field.as_str()));
        spec
    };
    if frozen(object) != frozen(old) {
        faults.forbidden(
            &Node::root(object).get("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Value {
        let mut object = json!({"spec": {"serviceName": "db", "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}]}});
        machinery::schema::apply_static_defaults(
            machinery::schema::builtin(),
            "api.apps.v1.StatefulSet",
            &mut object,
        );
        StatefulSet.default(&mut object);
        object
    }

    #[test]
    fn claims_are_volumes_of_the_template() {
        let mut faults = Faults::default();
        validate(&Node::root(&set()).get("spec"), &mut faults);
        assert_eq!(faults.0, []);
        assert_eq!(set()["spec"]["volumeClaimTemplates"][0]["status"], json!({"phase": "Pending"}));
    }

    #[test]
    fn only_some_fields_may_change() {
        let old = set();
        let mut new = old.clone();
        new["spec"]["replicas"] = 3.into();
        new["spec"]["template"]["spec"]["containers"][0]["image"] = "y".into();
        let mut faults = Faults::default();
        validate_change(&new, &old, &mut faults);
        assert_eq!(faults.0, []);
        new["spec"]["serviceName"] = "other".into();
        validate_change(&new, &old, &mut faults);
        assert_eq!(faults.0.len(), 1);
    }
}
