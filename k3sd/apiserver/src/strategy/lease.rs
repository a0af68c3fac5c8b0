//! Leases (upstream's `ValidateLeaseSpec`).

use machinery::status::FieldError;
use serde_json::Value;

use super::walk::{Faults, Node};
use super::{Context, Strategy};

pub(super) struct Lease;

impl Strategy for Lease {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        let duration = spec.get("leaseDurationSeconds");
        if duration.int().is_some_and(|seconds| seconds <= 0) {
            faults.invalid(&duration, "must be greater than 0");
        }
        faults.non_negative(&spec.get("leaseTransitions"));
        if spec.get("holderIdentity").value().as_str() == Some("") {
            faults.invalid(&spec.get("holderIdentity"), "must not be empty");
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_create(cx, object)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}
