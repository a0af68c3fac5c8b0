//! Kinds that are served in more than one version and stored in one.
//!
//! | kind | stored as | served as well as |
//! | --- | --- | --- |
//! | Event | core v1 | events.k8s.io/v1 |
//! | HorizontalPodAutoscaler | autoscaling/v2 | autoscaling/v1 |
//!
//! Every other kind has one version, and passes through untouched.

mod autoscaler;
mod event;

use serde_json::{Map, Value};

use crate::kinds::Resource;

/// Turns an object as it is served by `resource` into the form that is stored.
pub fn to_storage(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str()) {
        ("events.k8s.io", "v1", "Event") => event::to_core(object),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => autoscaler::to_v2(object),
        _ => {}
    }
}

/// Turns a stored object into the form that `resource` serves.
pub fn from_storage(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str()) {
        ("events.k8s.io", "v1", "Event") => event::from_core(object),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => autoscaler::from_v2(object),
        _ => {}
    }
}

/// Whether objects of this resource are stored in another form than they are served in.
pub fn is_converted(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str()),
        ("events.k8s.io", "v1", "Event") | ("autoscaling", "v1", "HorizontalPodAutoscaler")
    )
}

/// Renames members of an object, `(from, to)`.
fn rename(object: &mut Map<String, Value>, names: &[(&str, &str)]) {
    for (from, to) in names {
        if let Some(value) = object.remove(*from) {
            object.insert((*to).to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests;
