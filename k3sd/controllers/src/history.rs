//! The templates that a daemon set or stateful set has had, kept as controller revisions
//! (`pkg/controller/history/controller_history.go`).

use client::{Informer, ObjectKey, Stored, request};
use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{apis::meta::v1::OwnerReference, runtime::RawExtension},
};
use kube::{
    Resource,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use serde_json::{Value, json};

use crate::{
    context::{Context, path},
    ownership::{Selector, claim, controller_reference},
    template_hash,
};

/// The label of pods and revisions that tells one template from another.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
/// Old revisions that are kept if the owner does not say how many.
const DEFAULT_LIMIT: i32 = 10;

/// The revisions of an owner, oldest first, the current one apart.
pub(crate) struct History {
    pub(crate) current: ControllerRevision,
    pub(crate) old: Vec<ControllerRevision>,
}

impl History {
    /// Makes sure that the owner's present template has a revision, and that it is the newest.
    pub(crate) async fn sync<K: Resource<DynamicType = ()>>(
        context: &Context,
        owner: &K,
        selector: &Selector,
        template: &PodTemplateSpec,
        collisions: Option<i32>,
        revisions: &Informer<ControllerRevision>,
    ) -> anyhow::Result<Self> {
        let mut old: Vec<ControllerRevision> =
            claim(context, owner, selector, revisions, Stored::decode).await?;
        old.sort_by_key(|revision| revision.revision);
        let data = data(template)?;
        let next = old.last().map_or(0, |newest| newest.revision) + 1;
        let present = old.iter().rposition(|revision| revision.data.as_ref().is_some_and(|d| d.0 == data));
        let current = match present.map(|at| old.remove(at)) {
            Some(newest) if newest.revision + 1 == next => newest,
            Some(earlier) => {
                let path = path::<ControllerRevision>(&ObjectKey::of(&earlier));
                let raised = ControllerRevision { revision: next, ..earlier };
                request::replace(&context.client, &path, &raised).await?
            }
            None => create(context, owner, template, data, next, collisions).await?,
        };
        Ok(Self { current, old })
    }

    /// The hash by which the current template's pods are labelled.
    pub(crate) fn hash(&self) -> &str {
        hash_of(&self.current)
    }

    /// Deletes the oldest revisions beyond the limit that no pod has.
    pub(crate) async fn trim(
        &self,
        context: &Context,
        limit: Option<i32>,
        live: &[&str],
    ) -> anyhow::Result<()> {
        let limit = usize::try_from(limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(0);
        let unused: Vec<_> = self.old.iter().filter(|revision| !live.contains(&hash_of(revision))).collect();
        for revision in unused.iter().take(unused.len().saturating_sub(limit)) {
            let key = ObjectKey::of(*revision);
            let api = context.api::<ControllerRevision>(key.namespace());
            match api.delete(&key.name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(error) if request::is_not_found(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The hash label of a revision.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(HASH_LABEL)).map(String::as_str).unwrap_or_default()
}

/// The template of a revision.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = &revision.data.as_ref()?.0;
    serde_json::from_value(data.get("spec")?.get("template")?.clone()).ok()
}

/// A patch that puts the template back: this is what `kubectl rollout undo` applies.
fn data(template: &PodTemplateSpec) -> Result<Value, serde_json::Error> {
    let mut template = serde_json::to_value(template)?;
    template["$patch"] = json!("replace");
    Ok(json!({"spec": {"template": template}}))
}

async fn create<K: Resource<DynamicType = ()>>(
    context: &Context,
    owner: &K,
    template: &PodTemplateSpec,
    data: Value,
    number: i64,
    collisions: Option<i32>,
) -> anyhow::Result<ControllerRevision> {
    let key = ObjectKey::of(owner);
    let hash = template_hash::hash(template, collisions)?;
    let mut labels = template.metadata.clone().and_then(|meta| meta.labels).unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let reference: OwnerReference = controller_reference(owner);
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", key.name)),
            namespace: key.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    };
    let api = context.api::<ControllerRevision>(key.namespace());
    match api.create(&PostParams::default(), &revision).await {
        Ok(created) => Ok(created),
        // Made by a run just before, which the cache does not show yet.
        Err(error) if request::is_already_exists(&error) => {
            let present = api.get(revision.metadata.name.as_deref().unwrap_or_default()).await?;
            anyhow::ensure!(present.data == revision.data, "the name of revision {hash} is taken");
            Ok(present)
        }
        Err(error) => Err(error.into()),
    }
}
