//! Whose object is whose: controller references, adoption of orphans, release of what no longer matches
//! (`pkg/controller/controller_ref_manager.go`, v1.36).

use std::collections::BTreeMap;

use client::{Change, DecodeError, Informer, ObjectKey, Stored, request, request::Patch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::{Context, path};

/// A compiled `metav1.LabelSelector`.
#[derive(Clone, Debug)]
pub(crate) struct Selector(machinery::selector::LabelSelector);

impl Selector {
    /// # Errors
    /// If the selector is not one; the API server admits none such.
    pub(crate) fn new(selector: &LabelSelector) -> anyhow::Result<Self> {
        let value = serde_json::to_value(selector)?;
        Ok(Self(machinery::selector::LabelSelector::from_value(Some(&value))?))
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.0.is_everything()
    }

    pub(crate) fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.0.matches_by(|key| labels?.get(key).map(String::as_str))
    }
}

/// The reference by which `owner` controls what it makes.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The controlling owner among an object's references.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The keys of the owners of kind `K` that a dependent's change concerns: the one it has now and the one it had. For
/// one that has no owner, `orphaned` names who might want it.
pub(crate) fn owners_of_change<K, D>(
    change: &Change<D>,
    orphaned: impl FnOnce(&Stored<D>) -> Vec<ObjectKey>,
) -> Vec<ObjectKey>
where
    K: Resource<DynamicType = ()>,
{
    let owner = |stored: &Option<Stored<D>>| stored.as_ref().and_then(Stored::controller);
    let (old, new) = (owner(&change.old), owner(&change.new));
    let orphan = if new.is_none() { change.new.as_ref() } else { None };
    let mut keys: Vec<ObjectKey> = [old, new]
        .into_iter()
        .flatten()
        .filter(|owner| owner.kind == K::kind(&()) && owner.api_version == K::api_version(&()))
        .map(|owner| ObjectKey { namespace: change.key.namespace.clone(), name: owner.name })
        .collect();
    keys.dedup();
    if let Some(orphan) = orphan {
        keys.extend(orphaned(orphan));
    }
    keys
}

/// The dependents of `owner`: those it controls, and orphans that match its selector, which are adopted. What it
/// controls and no longer matches is released. An owner that is being deleted adopts nothing. `decode` reads as much of a
/// dependent as the controller needs: there may be thousands.
pub(crate) async fn claim<O, D>(
    context: &Context,
    owner: &O,
    selector: &Selector,
    dependents: &Informer<D>,
    decode: impl Fn(&Stored<D>) -> Result<D, DecodeError>,
) -> anyhow::Result<Vec<D>>
where
    O: Resource<DynamicType = ()>,
    D: Resource<DynamicType = ()> + DeserializeOwned,
{
    let meta = owner.meta();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let mut claimed = Vec::new();
    for stored in dependents.controlled_by(uid) {
        let labels = stored.metadata()?.labels;
        if selector.matches(labels.as_ref()) || meta.deletion_timestamp.is_some() {
            claimed.push(decode(&stored)?);
        } else {
            release::<D>(context, &stored, uid).await?;
        }
    }
    if meta.deletion_timestamp.is_none() {
        for stored in dependents.controlled_by("") {
            if stored.key().namespace() != namespace {
                continue;
            }
            let orphan = stored.metadata()?;
            if orphan.deletion_timestamp.is_none() && selector.matches(orphan.labels.as_ref()) {
                claimed.extend(adopt::<O, D>(context, owner, &stored).await?);
            }
        }
    }
    Ok(claimed)
}

/// Writes the owner into an orphan; `None` if the orphan is gone.
async fn adopt<O, D>(context: &Context, owner: &O, orphan: &Stored<D>) -> anyhow::Result<Option<D>>
where
    O: Resource<DynamicType = ()>,
    D: Resource<DynamicType = ()> + DeserializeOwned,
{
    let change = json!({"metadata": {
        "uid": orphan.uid(), "resourceVersion": orphan.resource_version(),
        "ownerReferences": [controller_reference(owner)],
    }});
    match request::patch(&context.client, &path::<D>(orphan.key()), Patch::Strategic, &change).await {
        Ok(adopted) => Ok(Some(adopted)),
        Err(error) if request::is_not_found(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Takes the owner out of a dependent that no longer matches.
async fn release<D>(context: &Context, dependent: &Stored<D>, owner_uid: &str) -> anyhow::Result<()>
where
    D: Resource<DynamicType = ()>,
{
    let change = json!({"metadata": {
        "uid": dependent.uid(), "ownerReferences": [{"$patch": "delete", "uid": owner_uid}],
    }});
    match request::patch::<Value>(&context.client, &path::<D>(dependent.key()), Patch::Strategic, &change)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if request::is_not_found(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
