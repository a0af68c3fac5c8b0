//! Pod specs, wherever they are: in pods and in the templates of everything that makes pods.
//!
//! Defaults are those of upstream's `pkg/apis/core/v1/defaults.go`, rules and messages those of
//! `pkg/apis/core/validation/validation.go`.

mod containers;
mod defaults;
mod probes;
mod resources;
mod security;
mod validation;
mod volumes;

pub(super) use defaults::{default_pod_spec, unify_service_account};
pub(super) use resources::{default_requests, qos_class, validate_limits};
pub(super) use validation::{
    validate_node_selector, validate_pod_spec, validate_template, validate_tolerations,
};
