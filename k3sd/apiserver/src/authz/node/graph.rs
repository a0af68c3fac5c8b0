//! Which nodes have to do with which objects, through the pods bound to them:
//!
//! ```text
//! node <- pod <- secret, config map, service account, resource claim
//! node <- pod <- claim <- volume <- secret
//! ```
//!
//! The graph follows the watch caches of pods and volumes: each question first takes in what has changed since the last one, so an
//! answer is as fresh as what the node itself has been sent, and nothing runs while nobody asks. Other relations (a volume to its
//! claim, an attachment to its node) are fields of the object that is asked for and are read from it.

use std::collections::HashMap;
use std::sync::Arc;

use machinery::meta;
use serde_json::Value;

use super::references::{self, MIRROR, PodReferences};
use crate::cache::{Cache, ChangeKind, Cursor, Object};
use crate::registry::Registry;

/// Changes taken from a cache at a time.
const BATCH: usize = 1000;

/// What pods lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

/// Kind and `namespace/name`.
type Vertex = (Kind, Box<str>);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pods: Followed<Pod>,
    volumes: Followed<Volume>,
    /// For each object the nodes it leads to, each with the number of pods on the way.
    nodes: HashMap<Vertex, HashMap<Arc<str>, usize>>,
    /// For each secret (`namespace/name`) the claims whose volumes need it.
    volume_secrets: HashMap<Box<str>, Vec<Arc<str>>>,
}

/// One cache, as far as it has been taken in.
#[derive(Debug)]
struct Followed<T> {
    cursor: Option<Cursor>,
    /// By the key in the cache.
    seen: HashMap<Arc<str>, T>,
}

impl<T> Default for Followed<T> {
    fn default() -> Self {
        Self { cursor: None, seen: HashMap::new() }
    }
}

/// A bound pod.
#[derive(Debug)]
struct Pod {
    node: Arc<str>,
    leads_from: Vec<Vertex>,
}

/// A volume that needs secrets and is bound to a claim.
#[derive(Debug)]
struct Volume {
    claim: Arc<str>,
    secrets: Vec<Box<str>>,
}

/// What is new in a cache: whole, or by changes.
enum News {
    All(Vec<(Arc<str>, Arc<Object>)>),
    Changes(Vec<(Arc<str>, Option<Arc<Object>>)>),
}

impl Graph {
    /// Take in what has changed.
    pub(super) fn catch_up(&mut self, objects: &Registry) {
        let tables = objects.tables();
        let cache = |plural| tables.find_any("", plural).and_then(|entry| entry.cache.clone());
        if let Some(cache) = cache("pods") {
            self.follow_pods(&cache);
        }
        if let Some(cache) = cache("persistentvolumes") {
            self.follow_volumes(&cache);
        }
    }

    /// True if the object leads to the node.
    pub(super) fn leads(&self, kind: Kind, namespace: &str, name: &str, node: &str) -> bool {
        let key = format!("{namespace}/{name}");
        if kind == Kind::Secret
            && let Some(claims) = self.volume_secrets.get(key.as_str())
            && claims.iter().any(|claim| self.has(Kind::Claim, claim, node))
        {
            return true;
        }
        self.has(kind, &key, node)
    }

    /// The same for a claim by its key.
    pub(super) fn has(&self, kind: Kind, key: &str, node: &str) -> bool {
        self.nodes.get(&(kind, key.into())).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// The node a pod is bound to.
    pub(super) fn node_of_pod(&self, namespace: &str, name: &str) -> Option<&str> {
        self.pods.seen.get(format!("{namespace}/{name}").as_str()).map(|pod| &*pod.node)
    }

    fn follow_pods(&mut self, cache: &Cache) {
        let at = cache.fields().iter().position(|field| field.name == "spec.nodeName");
        let bound = |object: &Object| {
            at.and_then(|at| object.selectable.field(at)).is_some_and(|node| !node.is_empty())
        };
        let changes: Vec<_> = match self.pods.news(cache, bound) {
            News::All(all) => {
                self.nodes.clear();
                self.pods.seen.clear();
                all.into_iter().map(|(key, object)| (key, Some(object))).collect()
            }
            News::Changes(changes) => changes,
        };
        for (key, object) in changes {
            if let Some(pod) = self.pods.seen.remove(&key) {
                self.disconnect(&pod);
            }
            if let Some(pod) = object.and_then(|object| object.decode().ok()).map(|pod| Pod::of(&pod)) {
                self.connect(&pod);
                self.pods.seen.insert(key, pod);
            }
        }
    }

    fn connect(&mut self, pod: &Pod) {
        for vertex in &pod.leads_from {
            *self.nodes.entry(vertex.clone()).or_default().entry(pod.node.clone()).or_default() += 1;
        }
    }

    fn disconnect(&mut self, pod: &Pod) {
        for vertex in &pod.leads_from {
            let Some(nodes) = self.nodes.get_mut(vertex) else { continue };
            if let Some(count) = nodes.get_mut(&pod.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&pod.node);
                }
            }
            if nodes.is_empty() {
                self.nodes.remove(vertex);
            }
        }
    }

    fn follow_volumes(&mut self, cache: &Cache) {
        let changes: Vec<_> = match self.volumes.news(cache, |_| true) {
            News::All(all) => {
                self.volumes.seen.clear();
                all.into_iter().map(|(key, object)| (key, Some(object))).collect()
            }
            News::Changes(changes) if changes.is_empty() => return,
            News::Changes(changes) => changes,
        };
        for (key, object) in changes {
            self.volumes.seen.remove(&key);
            let volume = object.and_then(|object| object.decode().ok());
            if let Some(volume) = volume.as_ref().and_then(Volume::of) {
                self.volumes.seen.insert(key, volume);
            }
        }
        self.volume_secrets.clear();
        for volume in self.volumes.seen.values() {
            for secret in &volume.secrets {
                self.volume_secrets.entry(secret.clone()).or_default().push(volume.claim.clone());
            }
        }
    }
}

impl<T> Followed<T> {
    /// What has happened since the last call to objects that `keep` keeps; an object that it no longer keeps counts as gone.
    fn news(&mut self, cache: &Cache, keep: impl Fn(&Object) -> bool) -> News {
        if let Some(cursor) = self.cursor.as_mut() {
            let mut changes = Vec::new();
            while let Ok(batch) = cache.changes(cursor, BATCH) {
                if batch.is_empty() {
                    return News::Changes(changes);
                }
                changes.extend(batch.into_iter().map(|change| {
                    let there = change.kind != ChangeKind::Deleted && keep(&change.object);
                    (change.key.clone(), there.then(|| change.object.clone()))
                }));
            }
        }
        let page = cache.page("", None, 0, |_, object| keep(object));
        self.cursor = Some(page.cursor);
        News::All(page.items)
    }
}

impl Pod {
    fn of(pod: &Value) -> Self {
        let namespace = meta::namespace(pod).unwrap_or_default();
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().into();
        let mut leads_from: Vec<Vertex> = Vec::new();
        // What a node says of itself must not give it rights.
        if meta::annotation(pod, MIRROR).is_none() {
            let found = PodReferences::of(pod);
            let account = Some(found.service_account).filter(|name| !name.is_empty()).into_iter().collect();
            for (kind, names) in [
                (Kind::Secret, found.secrets),
                (Kind::ConfigMap, found.config_maps),
                (Kind::Claim, found.claims),
                (Kind::ResourceClaim, found.resource_claims),
                (Kind::ServiceAccount, account),
            ] {
                leads_from.extend(names.iter().map(|name| (kind, format!("{namespace}/{name}").into())));
            }
        }
        Self { node, leads_from }
    }
}

impl Volume {
    fn of(volume: &Value) -> Option<Self> {
        let secrets = references::secrets_of_volume(volume);
        if secrets.is_empty() {
            return None;
        }
        let claim = references::claim_of(volume)?.into();
        Some(Self { claim, secrets: secrets.into_iter().map(Into::into).collect() })
    }
}
