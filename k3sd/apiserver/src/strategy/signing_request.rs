//! Certificate signing requests: who asks is what the server says, not what the request says
//! (upstream's `pkg/registry/certificates`).

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Map, Value, json};

use super::check::{child, keep_old};
use super::walk::{Faults, Node};
use super::{Context, SelectableField, Strategy};

pub(super) struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn prepare_create(&self, cx: &Context<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        spec.insert("username".to_owned(), cx.user.name.as_str().into());
        if !cx.user.uid.is_empty() {
            spec.insert("uid".to_owned(), cx.user.uid.as_str().into());
        }
        if !cx.user.groups.is_empty() {
            spec.insert("groups".to_owned(), json!(cx.user.groups));
        }
        if !cx.user.extra.is_empty() {
            let extra: Map<String, Value> =
                cx.user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
            spec.insert("extra".to_owned(), extra.into());
        }
    }

    fn prepare_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) {
        // What was asked for stays; `approval` changes conditions, and nothing else does here.
        keep_old(object, old, "spec");
        if cx.subresource == "approval" {
            let conditions = object.pointer("/status/conditions").cloned();
            keep_old(object, old, "status");
            if let Some(conditions) = conditions {
                child(object, "status").insert("conditions".to_owned(), conditions);
            }
            date_conditions(object, old);
        } else {
            keep_old(object, old, "status");
        }
    }

    /// Whether a request is approved is not the signer's to say.
    fn prepare_status_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        let decided = |condition: &&Value| condition["type"] == "Approved" || condition["type"] == "Denied";
        let kept: Vec<Value> = conditions(old)
            .filter(decided)
            .chain(conditions(object).filter(|condition| !decided(condition)))
            .cloned()
            .collect();
        if !kept.is_empty() || object.pointer("/status/conditions").is_some() {
            child(object, "status").insert("conditions".to_owned(), kept.into());
        }
        date_conditions(object, old);
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let status = Node::root(object).get("status");
        let has = |object: &Value, kind: &str| conditions(object).any(|condition| condition["type"] == kind);
        if has(object, "Approved") && has(object, "Denied") {
            faults
                .invalid(&status.get("conditions"), "Approved and Denied conditions are mutually exclusive");
        }
        for kind in ["Approved", "Denied", "Failed"] {
            if has(old, kind) && !has(object, kind) {
                let detail = format!("updates may not remove a condition of type \"{kind}\"");
                faults.forbidden(&status.get("conditions"), &detail);
            }
        }
        for condition in status.get("conditions").items() {
            let fixed = matches!(condition.get("type").str(), "Approved" | "Denied" | "Failed");
            if fixed && condition.get("status").str() != "True" {
                let status = condition.get("status");
                faults.0.push(FieldError::not_supported(status.path(), status.str(), &["True"]));
            }
        }
        let before = old.pointer("/status/certificate");
        if cx.subresource == "status" && before.is_some() && before != object.pointer("/status/certificate") {
            faults.forbidden(
                &status.get("certificate"),
                "updates may not change the certificate once it is issued",
            );
        }
        faults.0
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        if spec.get("request").str().is_empty() {
            faults.required(&spec.get("request"), "");
        }
        if spec.get("usages").len() == 0 {
            faults.required(&spec.get("usages"), "usages must be specified");
        }
        let signer = spec.get("signerName");
        if signer.str().is_empty() {
            faults.required(&signer, "");
        } else if !signer.str().contains('/') {
            faults.invalid(
                &signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            );
        }
        let expiry = spec.get("expirationSeconds");
        if expiry.int().is_some_and(|seconds| seconds < 600) {
            faults.invalid(&expiry, "may not specify a duration less than 600 seconds (10 minutes)");
        }
        faults.0
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 1] =
            [SelectableField::text("spec.signerName", &["spec", "signerName"])];
        &FIELDS
    }
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

/// Conditions say when they were last looked at, and since when they are so (upstream's `populateConditionTimestamps`).
fn date_conditions(object: &mut Value, old: &Value) {
    let now = meta::now();
    let new = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in new.into_iter().flatten().filter_map(Value::as_object_mut) {
        let unset = |value: Option<&Value>| value.is_none_or(Value::is_null);
        if unset(condition.get("lastUpdateTime")) {
            condition.insert("lastUpdateTime".to_owned(), now.as_str().into());
        }
        if unset(condition.get("lastTransitionTime")) {
            let same = conditions(old).find(|old| {
                old.get("type") == condition.get("type") && old.get("status") == condition.get("status")
            });
            let since = same.and_then(|old| old.get("lastTransitionTime")).cloned();
            condition.insert("lastTransitionTime".to_owned(), since.unwrap_or_else(|| now.as_str().into()));
        }
    }
}
