//! Deletes what belongs to owners that are gone, and carries out foreground deletion and orphaning.
//!
//! Reads: the metadata of every kind of object, custom ones too. Owns: the finalizers `foregroundDeletion` and `orphan`,
//! and the deletion of dependents. Follows `pkg/controller/garbagecollector` of v1.36: a graph of who owns whom, kept by
//! informers, says what *may* have to go; before anything is deleted the API is asked.

mod graph;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use client::{
    Informer, ObjectKey, PartialObject, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use self::graph::{Graph, Identity, Node};
use crate::{
    context::Context,
    discovery::{self, ApiResource},
};

const WORKERS: usize = 10;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Kinds nobody owns things by and which come and go by themselves.
const IGNORED: [&str; 1] = ["events"];
/// How long discovery may keep failing at the start before it is tried again.
const DISCOVERY_RETRY: Duration = Duration::from_secs(2);
const CUSTOM_RESOURCES: &str = "customresourcedefinitions";

struct Collector {
    context: Context,
    graph: Mutex<Graph>,
    resources: Mutex<HashMap<(String, String), Arc<ApiResource>>>,
    queue: WorkQueue<String>,
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Present,
    Absent,
    /// It is being deleted, after its dependents.
    Waiting,
}

pub(crate) async fn run(context: Context) {
    let collector = Arc::new(Collector {
        context: context.clone(),
        graph: Mutex::default(),
        resources: Mutex::default(),
        queue: WorkQueue::new(),
    });
    let mut feeds = JoinSet::new();
    let Some(definitions) = collector.clone().discover_until_done(&mut feeds).await else { return };
    let worker = collector.clone();
    let reconcile = move |uid: String| {
        let worker = worker.clone();
        async move { worker.process(&uid).await.map(|()| None) }
    };
    tokio::join!(
        collector.clone().follow_definitions(definitions, &mut feeds),
        run_workers("garbage_collector", collector.queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
    while feeds.join_next().await.is_some() {}
}

impl Collector {
    /// Starts watching every kind, and waits until all are known: an owner not seen yet must not count as absent.
    async fn discover_until_done(
        self: Arc<Self>,
        feeds: &mut JoinSet<()>,
    ) -> Option<Option<Informer<PartialObject>>> {
        loop {
            match self.clone().discover(feeds).await {
                Ok(()) => break,
                Err(error) => warn!(error = %error, "discovery failed"),
            }
            let cancel = &self.context.cancel;
            cancel.run_until_cancelled(tokio::time::sleep(DISCOVERY_RETRY)).await?;
        }
        let definitions =
            self.resources().values().find(|resource| resource.plural == CUSTOM_RESOURCES).cloned();
        Some(definitions.map(|resource| self.context.informers.at_path(&resource.path(None))))
    }

    /// Watches the kinds that are not watched yet.
    async fn discover(self: Arc<Self>, feeds: &mut JoinSet<()>) -> Result<(), kube::Error> {
        let (found, failed) = discovery::resources(&self.context.client).await?;
        for failure in failed {
            warn!(error = failure, "a group cannot be discovered");
        }
        let mut added = Vec::new();
        for resource in found {
            let key = (group_of(&resource.api_version).to_owned(), resource.kind.clone());
            let watched = ["delete", "get", "list", "watch"].iter().all(|verb| resource.can(verb));
            if !watched || IGNORED.contains(&resource.plural.as_str()) || self.resources().contains_key(&key)
            {
                continue;
            }
            let resource = Arc::new(resource);
            self.resources().insert(key, resource.clone());
            let informer = self.context.informers.at_path::<PartialObject>(&resource.path(None));
            added.push(informer.clone());
            feeds.spawn(self.clone().feed(resource, informer));
        }
        join_all(added.iter().map(Informer::synced)).await;
        info!(kinds = added.len(), "garbage collector watches");
        Ok(())
    }

    /// New custom kinds are watched as they come.
    async fn follow_definitions(
        self: Arc<Self>,
        definitions: Option<Informer<PartialObject>>,
        feeds: &mut JoinSet<()>,
    ) {
        let Some(definitions) = definitions else { return };
        let mut changes = definitions.subscribe();
        while changes.next().await.is_some() {
            if let Err(error) = self.clone().discover(feeds).await {
                warn!(error = %error, "discovery failed");
            }
        }
    }

    async fn feed(self: Arc<Self>, resource: Arc<ApiResource>, informer: Informer<PartialObject>) {
        let mut changes = informer.subscribe();
        while let Some(change) = changes.next_change().await {
            let old = change.old.map(|stored| stored.uid());
            let new = match change.new.map(|stored| stored.metadata()).transpose() {
                Ok(new) => new,
                Err(error) => {
                    warn!(error = %error, "object not readable");
                    continue;
                }
            };
            let uid = new.as_ref().and_then(|meta| meta.uid.clone());
            let mut affected = BTreeSet::new();
            let mut graph = self.graph();
            if let Some(old) = old.filter(|old| Some(old) != uid.as_ref()) {
                affected.extend(graph.remove(&old));
            }
            if let (Some(meta), Some(uid)) = (&new, uid) {
                let identity = Identity { resource: resource.clone(), key: change.key };
                affected.extend(graph.upsert(uid, Node::new(identity, meta)));
            }
            drop(graph);
            affected.into_iter().for_each(|uid| self.queue.add(uid));
        }
    }

    /// Does what has to be done about one object.
    async fn process(&self, uid: &str) -> anyhow::Result<()> {
        let Some(node) = self.graph().get(uid) else { return Ok(()) };
        if !node.deleting {
            return self.collect(uid, &node).await;
        }
        if node.orphan {
            return self.orphan_dependents(uid, &node).await;
        }
        if node.foreground {
            return self.delete_dependents(uid, &node).await;
        }
        Ok(())
    }

    /// Deletes the object if all its owners are gone or wait for that.
    async fn collect(&self, uid: &str, node: &Node) -> anyhow::Result<()> {
        if node.owners.is_empty() {
            return Ok(());
        }
        let Some(current) = self.read(&node.identity).await? else { return Ok(()) };
        if current.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        let owners = current.metadata.owner_references.clone().unwrap_or_default();
        let (mut present, mut waiting) = (Vec::new(), false);
        for owner in &owners {
            match self.state_of(owner, &node.identity.key).await? {
                Owner::Present => present.push(owner),
                Owner::Absent => {}
                Owner::Waiting => waiting = true,
            }
        }
        if present.len() == owners.len() {
            return Ok(());
        }
        if !present.is_empty() {
            return self.set_owners(&node.identity, &current, &json!(present)).await;
        }
        let finalizers = current.metadata.finalizers.clone().unwrap_or_default();
        let has = |finalizer: &str| finalizers.iter().any(|one| one == finalizer);
        let policy = if has(ORPHAN) {
            "Orphan"
        } else if has(FOREGROUND) || (waiting && self.graph().has_dependents(uid)) {
            "Foreground"
        } else {
            "Background"
        };
        debug!(kind = %node.identity.resource.kind, name = %node.identity.key, policy, "collecting");
        let options = json!({"propagationPolicy": policy, "preconditions": {
            "uid": uid, "resourceVersion": current.metadata.resource_version,
        }});
        request::delete(&self.context.client, &node.identity.path(), &options).await?;
        Ok(())
    }

    /// An owner whose deletion waits: its dependents are deleted, and once none blocks it, it may go.
    async fn delete_dependents(&self, uid: &str, node: &Node) -> anyhow::Result<()> {
        let (blocking, idle) = {
            let graph = self.graph();
            (graph.has_blocking_dependents(uid), graph.idle_dependents(uid))
        };
        idle.into_iter().for_each(|dependent| self.queue.add(dependent));
        if blocking { Ok(()) } else { self.remove_finalizer(uid, &node.identity, FOREGROUND).await }
    }

    /// An owner that leaves its dependents behind: they are freed, and then it may go.
    async fn orphan_dependents(&self, uid: &str, node: &Node) -> anyhow::Result<()> {
        let dependents = self.graph().dependents(uid);
        for dependent in dependents {
            let Some(current) = self.read(&dependent.identity).await? else { continue };
            let owners = current.metadata.owner_references.clone().unwrap_or_default();
            let others: Vec<_> = owners.iter().filter(|owner| owner.uid != uid).collect();
            if others.len() != owners.len() {
                self.set_owners(&dependent.identity, &current, &json!(others)).await?;
            }
        }
        self.remove_finalizer(uid, &node.identity, ORPHAN).await
    }

    async fn remove_finalizer(&self, uid: &str, identity: &Identity, finalizer: &str) -> anyhow::Result<()> {
        let Some(current) = self.read(identity).await? else { return Ok(()) };
        let present = current.metadata.finalizers.clone().unwrap_or_default();
        if current.metadata.uid.as_deref() != Some(uid) || !present.iter().any(|one| one == finalizer) {
            return Ok(());
        }
        let others: Vec<_> = present.iter().filter(|one| *one != finalizer).collect();
        let change = json!({"metadata": {
            "resourceVersion": current.metadata.resource_version, "finalizers": others,
        }});
        self.patch(identity, &change).await
    }

    async fn set_owners(&self, of: &Identity, current: &PartialObject, owners: &Value) -> anyhow::Result<()> {
        let change = json!({"metadata": {
            "resourceVersion": current.metadata.resource_version, "ownerReferences": owners,
        }});
        self.patch(of, &change).await
    }

    async fn patch(&self, identity: &Identity, change: &Value) -> anyhow::Result<()> {
        let path = identity.path();
        match request::patch::<Value>(&self.context.client, &path, Patch::Merge, change).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn read(&self, identity: &Identity) -> Result<Option<PartialObject>, kube::Error> {
        match request::read(&self.context.client, &identity.path()).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if request::is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An owner in the graph is there; about one that is not, the API is asked, since its own event may be on the way.
    async fn state_of(&self, owner: &OwnerReference, dependent: &ObjectKey) -> anyhow::Result<Owner> {
        if let Some(node) = self.graph().get(&owner.uid) {
            return Ok(if node.deleting && node.foreground { Owner::Waiting } else { Owner::Present });
        }
        let key = (group_of(&owner.api_version).to_owned(), owner.kind.clone());
        let resource = self.resources().get(&key).cloned();
        let Some(resource) = resource else {
            anyhow::bail!("the kind of owner {} {} is not known", owner.api_version, owner.kind);
        };
        if resource.namespaced && dependent.namespace.is_none() {
            // Not a valid reference: the owner cannot be looked up, so it is not for us to say that it is gone.
            return Ok(Owner::Present);
        }
        let namespace = dependent.namespace.clone().filter(|_| resource.namespaced);
        let identity = Identity { resource, key: ObjectKey { namespace, name: owner.name.clone() } };
        let current = self.read(&identity).await?;
        let Some(meta) = current.map(|current| current.metadata) else { return Ok(Owner::Absent) };
        if meta.uid.as_deref() != Some(&owner.uid) {
            return Ok(Owner::Absent);
        }
        let foreground = meta.finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND);
        Ok(if foreground && meta.deletion_timestamp.is_some() { Owner::Waiting } else { Owner::Present })
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resources(&self) -> MutexGuard<'_, HashMap<(String, String), Arc<ApiResource>>> {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map(|(group, _)| group).unwrap_or_default()
}
