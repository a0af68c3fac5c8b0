//! Pod templates as objects, and the revisions that controllers keep of theirs.

use machinery::status::FieldError;
use serde_json::Value;

use super::pod_spec::validate_template;
use super::walk::{Faults, Node};
use super::workload::default_template;
use super::{Context, Strategy};

/// Pod templates.
#[derive(Debug)]
pub(crate) struct PodTemplate;

/// Controller revisions: snapshots that never change.
#[derive(Debug)]
pub(crate) struct ControllerRevision;

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        default_template(object, &["template"]);
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate_template(&Node::root(object).get("template"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_create(cx, object)
    }

    fn has_generation(&self) -> bool {
        true
    }
}

impl Strategy for ControllerRevision {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        faults.non_negative(&Node::root(object).get("revision"));
        if !Node::root(object).get("data").is_set() {
            faults.required(&Node::root(object).get("data"), "data is mandatory");
        }
        faults.0
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        faults.non_negative(&Node::root(object).get("revision"));
        faults.immutable(&Node::root(object).get("data"), &Node::root(old).get("data"));
        faults.0
    }
}
