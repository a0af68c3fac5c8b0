//! Claims and ingresses that name no class get the cluster's default one (upstream's
//! `plugin/pkg/admission/storage/storageclass/setdefault` and `plugin/pkg/admission/network/defaultingressclass`).
//!
//! Should several classes be marked as default, the newest counts, and of equally old ones the first by name.

use std::cmp::Reverse;

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};

/// One kind of object that names a class.
pub(super) struct DefaultClass {
    /// Group and plural of what names a class.
    user: (&'static str, &'static str),
    /// Field of its spec with the name.
    field: &'static str,
    /// Annotations that named the class before there was a field.
    annotation: &'static str,
    /// Group and plural of the class.
    class: (&'static str, &'static str),
    /// Annotations that mark the default.
    marks: &'static [&'static str],
}

impl DefaultClass {
    /// `storageClassName` of claims.
    pub(super) const STORAGE: Self = Self {
        user: ("", "persistentvolumeclaims"),
        field: "storageClassName",
        annotation: "volume.beta.kubernetes.io/storage-class",
        class: ("storage.k8s.io", "storageclasses"),
        marks: &[
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ],
    };
    /// `ingressClassName` of ingresses.
    pub(super) const INGRESS: Self = Self {
        user: ("networking.k8s.io", "ingresses"),
        field: "ingressClassName",
        annotation: "kubernetes.io/ingress.class",
        class: ("networking.k8s.io", "ingressclasses"),
        marks: &["ingressclass.kubernetes.io/is-default-class"],
    };

    fn default(&self, review: &Review<'_>) -> Option<String> {
        let mut candidates = Vec::new();
        review.cx.objects.for_each(self.class.0, self.class.1, "", |class| {
            if self.marks.iter().any(|mark| meta::annotation(&class, mark) == Some("true")) {
                candidates.push((Reverse(meta::creation_timestamp(&class)), meta::name(&class).to_owned()));
            }
        });
        candidates.into_iter().min().map(|(_, name)| name)
    }
}

#[async_trait]
impl Plugin for DefaultClass {
    async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        if review.operation != Operation::Create || !review.is(self.user.0, self.user.1, "") {
            return Ok(());
        }
        // An empty name is a choice: no class.
        let named =
            object.pointer("/spec").and_then(|spec| spec.get(self.field)).is_some_and(|v| !v.is_null());
        if named || meta::annotation(object, self.annotation).is_some() {
            return Ok(());
        }
        if let Some(name) = self.default(review) {
            meta::child_mut(meta::object_mut(object), "spec").insert(self.field.to_owned(), name.into());
        }
        Ok(())
    }
}
