//! Leases (upstream's `ValidateLeaseSpec`).

use machinery::status::FieldError;
use serde_json::Value;

use super::walk::{Faults, Node};
use super::{Context, Strategy};
use crate::names;

/// The one way of choosing a leader that upstream defines.
const OLDEST: &str = "OldestEmulationVersion";

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
        let strategy = spec.get("strategy");
        // The path is upstream's.
        let field = format!("{}.strategy", strategy.path());
        if strategy.str().contains('/') {
            for detail in names::qualified_name(strategy.str()) {
                faults.push(FieldError::invalid(field.as_str(), strategy.str(), detail));
            }
        } else if strategy.is_set() && strategy.str() != OLDEST {
            faults.push(FieldError::not_supported(field, strategy.str(), &[OLDEST]));
        }
        let preferred = spec.get("preferredHolder");
        if !preferred.str().is_empty() && strategy.str().is_empty() {
            faults.forbidden(&preferred, "may only be specified if `strategy` is defined");
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
