//! Namespaces: their phase, their own finalizers, their name as a label (upstream's `pkg/registry/core/namespace`).
//!
//! `spec.finalizers` holds a deleted namespace until the namespace controller has emptied it; only the `finalize`
//! subresource changes it.

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::check::{self, Faults, child, keep_old, list, text};
use super::{Context, SelectableField, Strategy};
use crate::names;

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) struct Namespace;

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        let name = meta::name(object).to_owned();
        if !name.is_empty() {
            meta::set_label(object, NAME_LABEL, &name);
        }
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        // Once more: the name may have been generated again.
        self.default(object);
        object["status"] = json!({ "phase": "Active" });
        let finalizers = child(object, "spec").entry("finalizers").or_insert_with(|| json!([]));
        if let Some(finalizers) = finalizers.as_array_mut()
            && !finalizers.iter().any(|finalizer| finalizer == FINALIZER)
        {
            finalizers.push(FINALIZER.into());
        }
    }

    fn prepare_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) {
        if cx.subresource != "finalize" {
            keep_old(object, old, "spec");
        }
        keep_old(object, old, "status");
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        finalizers(object)
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        let mut faults = finalizers(object);
        if cx.subresource == "status" {
            let (wanted, detail) = match meta::deletion_timestamp(object) {
                None => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
                Some(_) => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
            };
            let phase = text(object, "/status/phase");
            if phase != wanted {
                faults.push(FieldError::invalid("status.Phase", phase, detail));
            }
        }
        faults
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_label(name, prefix)
    }

    fn mark_deleted(&self, object: &mut Value) {
        child(object, "status").insert("phase".to_owned(), "Terminating".into());
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        !list(object, "/spec/finalizers").is_empty()
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 1] = [SelectableField::text("status.phase", &["status", "phase"])];
        &FIELDS
    }
}

fn finalizers(object: &Value) -> Faults {
    let mut faults = Faults::new();
    for (index, finalizer) in list(object, "/spec/finalizers").iter().filter_map(Value::as_str).enumerate() {
        let field = format!("spec.finalizers[{index}]");
        check::named(finalizer, &field, |name, _| names::qualified_name(name), &mut faults);
        if !finalizer.contains('/') && finalizer != FINALIZER {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            faults.push(FieldError::invalid(field, finalizer, detail));
        }
    }
    faults
}
