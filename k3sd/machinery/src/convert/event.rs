//! Events: the same fields under two sets of names (upstream's `pkg/apis/events/v1/conversion.go`).

use serde_json::{Value, json};

use super::rename;

/// `(core v1, events.k8s.io/v1)`.
const NAMES: [(&str, &str); 8] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
    // The same in both; listed so that the table is whole.
    ("reportingInstance", "reportingInstance"),
];

pub(super) fn to_core(object: &mut Value) {
    let Some(event) = object.as_object_mut() else { return };
    event.insert("apiVersion".to_owned(), json!("v1"));
    for (core, new) in NAMES {
        rename(event, &[(new, core)]);
    }
    // Required in core/v1.
    event.entry("involvedObject").or_insert_with(|| json!({}));
}

pub(super) fn from_core(object: &mut Value) {
    let Some(event) = object.as_object_mut() else { return };
    event.insert("apiVersion".to_owned(), json!("events.k8s.io/v1"));
    rename(event, &NAMES);
    // Required in events.k8s.io/v1, hence written even when there is none.
    event.entry("eventTime").or_insert(Value::Null);
}
