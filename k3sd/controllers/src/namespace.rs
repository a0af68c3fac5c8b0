//! Empties a namespace that is being deleted, and then lets it go.
//!
//! Reads: namespaces, and by discovery every kind of object in them. Owns: the `kubernetes` finalizer of namespaces and
//! the conditions that say what holds a deletion up. Follows `pkg/controller/namespace/deletion` of v1.36.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use client::{Informer, ObjectKey, WorkQueue, request, run_workers};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde::Deserialize;
use serde_json::json;
use tracing::{debug, info};

use crate::{
    context::{Context, feed, own_key, path},
    discovery::{self, ApiResource},
};

const FINALIZER: &str = "kubernetes";
const WORKERS: usize = 4;
/// While objects end gracefully, how soon to look again.
const POLL_FIRST: Duration = Duration::from_millis(250);
const POLL_MAX: Duration = Duration::from_secs(5);

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
}

/// What one pass over a namespace found.
#[derive(Debug, Default)]
struct Content {
    /// Kinds that could not be discovered, deleted or counted, with the error.
    discovery_failures: Vec<String>,
    delete_failures: Vec<String>,
    /// Objects left, by kind.
    remaining: BTreeMap<String, usize>,
    /// Objects left that wait for a finalizer, by finalizer.
    finalizers: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Items {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Meta,
}

#[derive(Deserialize)]
struct Meta {
    name: String,
    #[serde(default)]
    finalizers: Vec<String>,
}

pub(crate) async fn run(context: Context) {
    let namespaces = context.informers.shared::<Namespace>();
    namespaces.synced().await;
    let queue = WorkQueue::<ObjectKey>::new();
    let controller = Arc::new(Controller { context: context.clone(), namespaces: namespaces.clone() });
    let reconcile = move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    };
    tokio::join!(
        feed(&namespaces, &queue, own_key),
        run_workers("namespace", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.namespaces.get(&key) else { return Ok(None) };
        let namespace = stored.decode()?;
        let Some(deleted) = namespace.metadata.deletion_timestamp.clone() else { return Ok(None) };
        let held = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        if !held.into_iter().flatten().any(|finalizer| finalizer == FINALIZER) {
            return Ok(None);
        }
        let content = self.empty(&key.name).await?;
        if content.is_gone() {
            self.finalize(namespace).await?;
            info!(namespace = %key.name, "namespace emptied");
            return Ok(None);
        }
        debug!(namespace = %key.name, remaining = ?content.remaining, "namespace not empty yet");
        self.write_conditions(namespace, &content).await?;
        let age = Duration::try_from(Timestamp::now().duration_since(deleted.0)).unwrap_or_default();
        Ok(Some((age / 2).clamp(POLL_FIRST, POLL_MAX)))
    }

    /// Deletes everything in the namespace, and counts what is left. Pods go first (KEP-5080): as long as one of them runs,
    /// what protects it and others, such as network policies, stays.
    async fn empty(&self, namespace: &str) -> anyhow::Result<Content> {
        let (resources, failed) = discovery::resources(&self.context.client).await?;
        let mut content = Content { discovery_failures: failed, ..Content::default() };
        let deletable = resources.iter().filter(|resource| resource.namespaced && resource.can("delete"));
        let (pods, others): (Vec<_>, Vec<_>) =
            deletable.partition(|resource| resource.api_version == "v1" && resource.plural == "pods");
        for kinds in [pods, others] {
            for resource in kinds {
                if let Err(error) = self.empty_kind(namespace, resource, &mut content).await {
                    content.delete_failures.push(format!("{}: {error}", resource.qualified()));
                }
            }
            if !content.remaining.is_empty() || !content.delete_failures.is_empty() {
                break;
            }
        }
        Ok(content)
    }

    async fn empty_kind(
        &self,
        namespace: &str,
        resource: &ApiResource,
        content: &mut Content,
    ) -> Result<(), kube::Error> {
        let client = &self.context.client;
        let collection = resource.path(Some(namespace));
        if !resource.can("list") {
            return Ok(());
        }
        let present: Items = request::read(client, &collection).await?;
        if present.items.is_empty() {
            return Ok(());
        }
        let options = json!({"propagationPolicy": "Background"});
        if resource.can("deletecollection") {
            request::delete(client, &collection, &options).await?;
        } else {
            for item in &present.items {
                request::delete(client, &format!("{collection}/{}", item.metadata.name), &options).await?;
            }
        }
        let left: Items = request::read(client, &collection).await?;
        if !left.items.is_empty() {
            content.remaining.insert(resource.qualified(), left.items.len());
        }
        for finalizer in left.items.into_iter().flat_map(|item| item.metadata.finalizers) {
            *content.finalizers.entry(finalizer).or_default() += 1;
        }
        Ok(())
    }

    /// Takes our finalizer away, which ends the namespace unless there are others.
    async fn finalize(&self, mut namespace: Namespace) -> anyhow::Result<()> {
        let path = format!("{}/finalize", path::<Namespace>(&ObjectKey::of(&namespace)));
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        match request::replace::<Namespace>(&self.context.client, &path, &namespace).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn write_conditions(&self, namespace: Namespace, content: &Content) -> anyhow::Result<()> {
        let old = namespace.status.clone().unwrap_or_default();
        let conditions = conditions(old.conditions.clone().unwrap_or_default(), content, Timestamp::now());
        if old.conditions.as_ref() == Some(&conditions) {
            return Ok(());
        }
        let path = format!("{}/status", path::<Namespace>(&ObjectKey::of(&namespace)));
        let status = NamespaceStatus { conditions: Some(conditions), phase: Some("Terminating".to_owned()) };
        let changed = Namespace { status: Some(status), ..namespace };
        match request::replace::<Namespace>(&self.context.client, &path, &changed).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Content {
    fn is_gone(&self) -> bool {
        self.discovery_failures.is_empty() && self.delete_failures.is_empty() && self.remaining.is_empty()
    }
}

/// Upstream's conditions: each says what holds the deletion up, or that this does not
/// (`status_condition_utils.go`).
fn conditions(old: Vec<NamespaceCondition>, content: &Content, now: Timestamp) -> Vec<NamespaceCondition> {
    let list = |counts: &BTreeMap<String, usize>, format: fn((&String, &usize)) -> String| {
        counts.iter().map(format).collect::<Vec<_>>().join(", ")
    };
    let remaining =
        list(&content.remaining, |(kind, count)| format!("{kind} has {count} resource instances"));
    let finalizers =
        list(&content.finalizers, |(name, count)| format!("{name} in {count} resource instances"));
    let failures = content.delete_failures.join(", ");
    let discovery = content.discovery_failures.join(", ");
    let facts = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (!discovery.is_empty())
                .then(|| ("DiscoveryFailed", format!("Discovery failed for some groups, {discovery}"))),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        // Every group version is asked in JSON, so none of them can be unreadable.
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!failures.is_empty()).then(|| {
                ("ContentDeletionFailed", format!("Failed to delete all resource types: {failures}"))
            }),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            (!remaining.is_empty())
                .then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {remaining}"))),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty()).then(|| {
                (
                    "SomeFinalizersRemain",
                    format!("Some content in the namespace has finalizers remaining: {finalizers}"),
                )
            }),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let mut conditions = old;
    for (kind, trouble, fine) in facts {
        let (status, reason, message) = match trouble {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", fine.0, fine.1.to_owned()),
        };
        let mut new = NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            None => conditions.push(new),
            Some(current) => {
                if current.status == new.status {
                    new.last_transition_time = current.last_transition_time.clone();
                }
                *current = new;
            }
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_is_left_and_keep_their_times() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut content = Content::default();
        content.remaining.insert("pods.".to_owned(), 2);
        content.finalizers.insert("example.com/hold".to_owned(), 1);
        let first = conditions(Vec::new(), &content, at(1));
        let said = |conditions: &[NamespaceCondition], kind: &str| {
            let found = conditions.iter().find(|condition| condition.type_ == kind).unwrap().clone();
            (found.status, found.message.unwrap(), found.last_transition_time.unwrap().0)
        };
        let message = "Some resources are remaining: pods. has 2 resource instances";
        assert_eq!(said(&first, "NamespaceContentRemaining"), ("True".to_owned(), message.to_owned(), at(1)));
        content.remaining.clear();
        let second = conditions(first, &content, at(5));
        assert_eq!(said(&second, "NamespaceContentRemaining").2, at(5));
        let message = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
        assert_eq!(
            said(&second, "NamespaceFinalizersRemaining"),
            ("True".to_owned(), message.to_owned(), at(1))
        );
        assert_eq!(second.len(), 5);
    }
}
