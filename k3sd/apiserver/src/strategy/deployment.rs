//! Deployments.

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::walk::{Faults, Node, default, default_zero, object_at, percent};
use super::workload::{default_template, fresh_status, same_annotations, validate_running_template};
use super::{Context, Strategy};

/// Deployments: replica sets that follow one another.
#[derive(Debug)]
pub(crate) struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        default_template(object, &["spec", "template"]);
        let Some(spec) = object_at(object, &["spec"]) else { return };
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
        let strategy = meta::child_mut(spec, "strategy");
        default_zero(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = meta::child_mut(strategy, "rollingUpdate");
            default(rolling, "maxUnavailable", "25%");
            default(rolling, "maxSurge", "25%");
        }
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        fresh_status(object, "api.apps.v1.Deployment");
    }

    fn prepare_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        // The controller copies annotations to replica sets, so a change of them is a change of what is wanted.
        if !same_annotations(object, old) {
            meta::set_generation(object, meta::generation(old) + 1);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate(&Node::root(object).get("spec"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource != "status" {
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
    faults.non_negative(&spec.get("replicas"));
    faults.workload_selector(spec, "empty selector is invalid for deployment");
    validate_running_template(spec, "ReplicaSet", faults);
    validate_strategy(&spec.get("strategy"), faults);
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        faults.non_negative(&spec.get(field));
    }
    let deadline = spec.get("progressDeadlineSeconds");
    if deadline.int().is_some_and(|n| n <= spec.get("minReadySeconds").int().unwrap_or(0)) {
        faults.invalid(&deadline, "must be greater than minReadySeconds");
    }
}

fn validate_strategy(strategy: &Node<'_>, faults: &mut Faults) {
    let rolling = strategy.get("rollingUpdate");
    faults.one_of(&strategy.get("type"), &["Recreate", "RollingUpdate"]);
    if strategy.get("type").str() == "Recreate" && rolling.is_set() {
        faults.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
    } else if strategy.get("type").str() == "RollingUpdate" {
        validate_rolling(&rolling, faults);
    }
}

fn validate_rolling(rolling: &Node<'_>, faults: &mut Faults) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    faults.int_or_percent(&unavailable);
    faults.int_or_percent(&surge);
    if is_zero(unavailable.value()) && is_zero(surge.value()) {
        faults.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
    }
    not_above_hundred(&unavailable, faults);
}

/// A percentage above 100 makes no sense for what may be missing.
pub(super) fn not_above_hundred(node: &Node<'_>, faults: &mut Faults) {
    if percent(node.value()).is_some_and(|n| n > 100) {
        faults.invalid(node, "must not be greater than 100%");
    }
}

/// `0`, `0%`, or absent.
pub(super) fn is_zero(value: &Value) -> bool {
    value.is_null() || *value == json!(0) || percent(value) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "web"}, "spec": spec});
        machinery::schema::apply_static_defaults(
            machinery::schema::builtin(),
            "api.apps.v1.Deployment",
            &mut object,
        );
        Deployment.default(&mut object);
        object
    }

    fn faults(object: &Value) -> Vec<String> {
        let mut faults = Faults::default();
        validate(&Node::root(object).get("spec"), &mut faults);
        faults.0.iter().map(ToString::to_string).collect()
    }

    fn template() -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}})
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = deployment(json!({"selector": {"matchLabels": {"app": "web"}}, "template": template()}));
        let spec = &object["spec"];
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!((&spec["replicas"], &spec["progressDeadlineSeconds"]), (&json!(1), &json!(600)));
        assert_eq!(spec["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(faults(&object), Vec::<String>::new());
    }

    #[test]
    fn selector_and_template_must_agree() {
        let object =
            deployment(json!({"selector": {"matchLabels": {"app": "other"}}, "template": template()}));
        assert_eq!(
            faults(&object),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
            ]
        );
        let object = deployment(json!({"template": template()}));
        assert_eq!(faults(&object), ["spec.selector: Required value"]);
        let object = deployment(json!({"selector": {}, "template": template()}));
        assert_eq!(
            faults(&object),
            ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]
        );
    }

    #[test]
    fn strategies_must_make_progress() {
        let spec = |strategy: Value| json!({"selector": {"matchLabels": {"app": "web"}}, "template": template(), "strategy": strategy});
        let object = deployment(spec(json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}})));
        assert_eq!(
            faults(&object),
            [
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"
            ]
        );
        let object = deployment(spec(json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}})));
        assert_eq!(
            faults(&object),
            [
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"
            ]
        );
    }

    #[test]
    fn templates_must_keep_running() {
        let mut object =
            deployment(json!({"selector": {"matchLabels": {"app": "web"}}, "template": template()}));
        object["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
        assert_eq!(
            faults(&object),
            ["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""]
        );
    }
}
