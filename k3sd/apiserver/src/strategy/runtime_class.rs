//! Runtime classes (upstream's `pkg/apis/node/validation`).

use machinery::status::FieldError;
use serde_json::Value;

use super::pod_spec::{validate_limits, validate_tolerations};
use super::walk::{Faults, Node};
use super::{Context, Strategy};
use crate::names;

pub(super) struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let class = Node::root(object);
        let handler = class.get("handler");
        for detail in names::dns1123_label(handler.str(), false) {
            faults.push(FieldError::invalid(handler.path(), handler.str(), detail));
        }
        let fixed = class.at("overhead.podFixed");
        validate_limits(&fixed, "overhead.limits", &mut faults);
        faults.labels(&class.at("scheduling.nodeSelector"));
        validate_tolerations(&class.at("scheduling.tolerations"), &mut faults);
        faults.0
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        faults.immutable(&Node::root(object).get("handler"), &Node::root(old).get("handler"));
        faults.0
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::World;

    #[test]
    fn a_handler_is_a_label_and_stays() {
        let world = World::new();
        let class = |handler: &str| {
            json!({ "metadata": { "name": "x" }, "handler": handler,
            "overhead": { "podFixed": { "cpu": "-1" } }, "scheduling": { "tolerations": [{ "operator": "Never", "key": "a" }] } })
        };
        let refused =
            world.create("node.k8s.io", "runtimeclasses", class("a.b")).expect_err("refused").texts();
        assert_eq!(
            refused,
            [
                "handler: Invalid value: \"a.b\": must not contain dots",
                "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "scheduling.tolerations[0].operator: Unsupported value: \"Never\": supported values: \"Equal\", \"Exists\"",
            ]
        );
        let old = json!({ "metadata": { "name": "x" }, "handler": "a" });
        let refused =
            world.update("node.k8s.io", "runtimeclasses", &old, |class| class["handler"] = "b".into());
        assert_eq!(
            refused.expect_err("fixed").texts(),
            ["handler: Invalid value: \"b\": field is immutable"]
        );
    }
}
