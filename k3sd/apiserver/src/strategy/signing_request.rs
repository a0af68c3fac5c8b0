//! Certificate signing requests: who asks is what the server says, not what the request says
//! (upstream's `pkg/registry/certificates`).

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
        } else {
            keep_old(object, old, "status");
        }
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
