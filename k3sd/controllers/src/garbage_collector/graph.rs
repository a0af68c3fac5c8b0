//! Who owns whom, by uid. No I/O.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use client::ObjectKey;
use kube::api::ObjectMeta;

use super::{FOREGROUND, ORPHAN};
use crate::discovery::ApiResource;

/// Where an object is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) resource: Arc<ApiResource>,
    pub(super) key: ObjectKey,
}

/// What the graph keeps of an object.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) identity: Identity,
    /// Uids, and whether the owner's foreground deletion must wait for this object.
    pub(super) owners: Vec<(String, bool)>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    /// Dependents by owner, whether the owner is in the graph or not.
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Identity {
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.resource.path(self.key.namespace.as_deref()), self.key.name)
    }
}

impl Node {
    pub(super) fn new(identity: Identity, meta: &ObjectMeta) -> Self {
        let owners = meta.owner_references.iter().flatten();
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|one| one == finalizer);
        Self {
            identity,
            owners: owners.map(|one| (one.uid.clone(), one.block_owner_deletion == Some(true))).collect(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    fn waits(&self) -> bool {
        self.deleting && (self.foreground || self.orphan)
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|(uid, blocks)| *blocks && uid == owner)
    }
}

impl Graph {
    /// Takes in an object; returns the uids that something may have to be done about.
    pub(super) fn upsert(&mut self, uid: String, node: Node) -> BTreeSet<String> {
        let mut affected = BTreeSet::new();
        let old = self.nodes.get(&uid).map(|old| old.owners.clone()).unwrap_or_default();
        for (owner, _) in &old {
            if !node.owners.iter().any(|(uid, _)| uid == owner) {
                self.unlink(owner, &uid);
            }
        }
        for (owner, _) in &node.owners {
            self.dependents.entry(owner.clone()).or_default().insert(uid.clone());
            // An owner that is not known, or is on its way out, concerns the dependent.
            if self.nodes.get(owner).is_none_or(Node::waits) {
                affected.insert(uid.clone());
            }
        }
        // An owner that waits may be waiting for this very change.
        let owners = old.iter().chain(&node.owners).map(|(owner, _)| owner);
        affected.extend(owners.filter(|owner| self.waits(owner)).cloned());
        if node.waits() {
            affected.insert(uid.clone());
        }
        self.nodes.insert(uid, node);
        affected
    }

    /// Takes out an object that is gone; returns the uids that something may have to be done about.
    pub(super) fn remove(&mut self, uid: &str) -> BTreeSet<String> {
        let mut affected = self.dependents.get(uid).cloned().unwrap_or_default();
        if let Some(node) = self.nodes.remove(uid) {
            for (owner, _) in node.owners {
                self.unlink(&owner, uid);
                if self.waits(&owner) {
                    affected.insert(owner);
                }
            }
        }
        affected
    }

    pub(super) fn get(&self, uid: &str) -> Option<Node> {
        self.nodes.get(uid).cloned()
    }

    pub(super) fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.contains_key(uid)
    }

    pub(super) fn has_blocking_dependents(&self, uid: &str) -> bool {
        self.dependents_of(uid).any(|(_, node)| node.blocks(uid))
    }

    /// Dependents that are not being deleted yet.
    pub(super) fn idle_dependents(&self, uid: &str) -> Vec<String> {
        self.dependents_of(uid).filter(|(_, node)| !node.deleting).map(|(uid, _)| uid.clone()).collect()
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Node> {
        self.dependents_of(uid).map(|(_, node)| node.clone()).collect()
    }

    fn dependents_of<'a>(&'a self, uid: &str) -> impl Iterator<Item = (&'a String, &'a Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid, self.nodes.get(uid)?)))
    }

    fn waits(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(Node::waits)
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

    use super::*;

    fn node(owners: &[(&str, bool)], finalizer: Option<&str>) -> Node {
        let resource = Arc::new(ApiResource {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            plural: "pods".to_owned(),
            namespaced: true,
            verbs: Vec::new(),
        });
        let reference = |(uid, blocks): &(&str, bool)| OwnerReference {
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(*blocks),
            ..OwnerReference::default()
        };
        let meta = ObjectMeta {
            owner_references: Some(owners.iter().map(reference).collect()),
            finalizers: finalizer.map(|one| vec![one.to_owned()]),
            deletion_timestamp: finalizer.map(|_| Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        };
        Node::new(Identity { resource, key: ObjectKey::namespaced("n", "x") }, &meta)
    }

    fn set(uids: &[&str]) -> BTreeSet<String> {
        uids.iter().map(|uid| (*uid).to_owned()).collect()
    }

    #[test]
    fn dependents_are_looked_at_when_their_owner_is_unknown_or_goes() {
        let mut graph = Graph::default();
        assert_eq!(graph.upsert("pod".to_owned(), node(&[("set", true)], None)), set(&["pod"]));
        assert_eq!(graph.upsert("set".to_owned(), node(&[], None)), set(&[]));
        assert_eq!(graph.upsert("pod".to_owned(), node(&[("set", true)], None)), set(&[]));
        assert_eq!(graph.remove("set"), set(&["pod"]));
        assert_eq!(graph.remove("pod"), set(&[]));
        assert!(!graph.has_dependents("set") && graph.nodes.is_empty());
    }

    #[test]
    fn an_owner_that_waits_is_looked_at_when_the_last_blocking_dependent_changes() {
        let mut graph = Graph::default();
        graph.upsert("owner".to_owned(), node(&[], None));
        graph.upsert("a".to_owned(), node(&[("owner", true)], None));
        graph.upsert("b".to_owned(), node(&[("owner", false)], None));
        assert_eq!(graph.upsert("owner".to_owned(), node(&[], Some(FOREGROUND))), set(&["owner"]));
        assert!(graph.has_blocking_dependents("owner"));
        assert_eq!(graph.idle_dependents("owner"), ["a", "b"]);
        assert_eq!(graph.remove("a"), set(&["owner"]));
        assert!(!graph.has_blocking_dependents("owner"));
        // Given up by its owner reference instead of being deleted.
        assert_eq!(graph.upsert("b".to_owned(), node(&[], None)), set(&["owner"]));
        assert!(graph.dependents("owner").is_empty());
    }
}
