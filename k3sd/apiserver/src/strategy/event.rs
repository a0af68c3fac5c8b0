//! Events, in both of their forms: they vanish after an hour (upstream's `--event-ttl`).

use std::time::Duration;

use machinery::status::FieldError;
use serde_json::Value;

use super::check::text;
use super::{Context, SelectableField, Strategy};

const TTL: Duration = Duration::from_secs(3600);

pub(super) struct Event;

impl Strategy for Event {
    fn validate_create(&self, cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        // The same rule under the names of each form.
        let about = if cx.resource.group.is_empty() { "involvedObject" } else { "regarding" };
        let namespace = text(object, &format!("/{about}/namespace"));
        let home = if namespace.is_empty() { "default" } else { namespace };
        // Events about nodes and other cluster-wide things live in `default`, or wherever the reporter works.
        let is_system = namespace.is_empty() && cx.namespace == "kube-system";
        if home == cx.namespace || is_system {
            return Vec::new();
        }
        vec![FieldError::invalid(format!("{about}.namespace"), namespace, "does not match event.namespace")]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn ttl(&self, _object: &Value) -> Option<Duration> {
        Some(TTL)
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 12] = [
            SelectableField::text("involvedObject.kind", &["involvedObject", "kind"]),
            SelectableField::text("involvedObject.namespace", &["involvedObject", "namespace"]),
            SelectableField::text("involvedObject.name", &["involvedObject", "name"]),
            SelectableField::text("involvedObject.uid", &["involvedObject", "uid"]),
            SelectableField::text("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
            SelectableField::text("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
            SelectableField::text("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
            SelectableField::text("reason", &["reason"]),
            SelectableField::text("reportingComponent", &["reportingComponent"]),
            SelectableField::text("source", &["source", "component"]),
            SelectableField::text("type", &["type"]),
            SelectableField::text("message", &["message"]),
        ];
        &FIELDS
    }
}
