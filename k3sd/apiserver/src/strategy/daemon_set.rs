//! Daemon sets.

use machinery::meta;
use machinery::status::FieldError;
use serde_json::Value;

use super::deployment::{is_zero, not_above_hundred};
use super::walk::{Faults, Node, default, default_zero, object_at};
use super::workload::{default_template, fresh_status, validate_running_template};
use super::{Context, Strategy};

/// Counts changes of the template. The field behind it is gone from the API; upstream still keeps it here.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Daemon sets: one pod on every node.
#[derive(Debug)]
pub(crate) struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        default_template(object, &["spec", "template"]);
        let Some(spec) = object_at(object, &["spec"]) else { return };
        default(spec, "revisionHistoryLimit", 10);
        let strategy = meta::child_mut(spec, "updateStrategy");
        default_zero(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = meta::child_mut(strategy, "rollingUpdate");
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        fresh_status(object, "api.apps.v1.DaemonSet");
        meta::set_annotation(object, TEMPLATE_GENERATION, "1");
    }

    fn prepare_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        let before: i64 =
            meta::annotation(old, TEMPLATE_GENERATION).and_then(|n| n.parse().ok()).unwrap_or(0);
        let changed = object.pointer("/spec/template") != old.pointer("/spec/template");
        meta::set_annotation(object, TEMPLATE_GENERATION, &(before + i64::from(changed)).to_string());
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
            faults.immutable(&Node::root(object).at("spec.selector"), &Node::root(old).at("spec.selector"));
        }
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate(spec: &Node<'_>, faults: &mut Faults) {
    faults.workload_selector(spec, "empty selector is invalid for daemonset");
    validate_running_template(spec, "DaemonSet", faults);
    faults.non_negative(&spec.get("minReadySeconds"));
    faults.non_negative(&spec.get("revisionHistoryLimit"));
    let strategy = spec.get("updateStrategy");
    faults.one_of(&strategy.get("type"), &["RollingUpdate", "OnDelete"]);
    if strategy.get("type").str() != "RollingUpdate" {
        return;
    }
    let (unavailable, surge) =
        (strategy.at("rollingUpdate.maxUnavailable"), strategy.at("rollingUpdate.maxSurge"));
    faults.int_or_percent(&unavailable);
    faults.int_or_percent(&surge);
    match (is_zero(unavailable.value()), is_zero(surge.value())) {
        (true, true) => faults.invalid(&unavailable, "may not be 0 when `maxSurge` is 0"),
        (false, false) => faults.invalid(&surge, "may not be set when maxUnavailable is non-zero"),
        _ => {}
    }
    not_above_hundred(&unavailable, faults);
    not_above_hundred(&surge, faults);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_daemon_set_either_surges_or_takes_away() {
        let mut object = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        machinery::schema::apply_static_defaults(
            machinery::schema::builtin(),
            "api.apps.v1.DaemonSet",
            &mut object,
        );
        DaemonSet.default(&mut object);
        let check = |object: &Value| {
            let mut faults = Faults::default();
            validate(&Node::root(object).get("spec"), &mut faults);
            faults.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(check(&object), Vec::<String>::new());
        assert_eq!(
            object["spec"]["updateStrategy"]["rollingUpdate"],
            json!({"maxUnavailable": 1, "maxSurge": 0})
        );
        object["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = json!("10%");
        assert_eq!(
            check(&object),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"10%\": may not be set when maxUnavailable is non-zero"
            ]
        );
    }
}
