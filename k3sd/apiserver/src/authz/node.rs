//! What nodes may do: run the pods that are bound to them, and nothing else (upstream's `plugin/pkg/auth/authorizer/node`).
//!
//! A node reads the objects its pods name, its own Node, Lease and CSINode, and the slices of devices it has. Where the request does
//! not say what it is about (a create), admission's `NodeRestriction` decides. Everything else goes by the rules of the cluster role
//! `system:node`, which is bound to nobody.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use self::graph::{Graph, Kind};
use super::Attributes;
use super::rbac::Rule;
use crate::registry::Registry;
use crate::user::UserInfo;

mod graph;
mod references;

pub(crate) use references::{MIRROR, PodReferences};

/// Group of all nodes.
pub(crate) const NODES: &str = "system:nodes";
const USER_PREFIX: &str = "system:node:";
const LEASES: &str = "kube-node-lease";

/// The authorizer.
#[derive(Debug)]
pub(crate) struct Nodes {
    graph: Mutex<Graph>,
    rules: Vec<Rule>,
}

/// `Err` says why there is no leave; another authorizer may still give it.
type Answer = Result<(), String>;

/// The node that the user is, if it is one.
pub(crate) fn node_of(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix(USER_PREFIX).filter(|_| user.in_group(NODES))
}

impl Nodes {
    /// With these rules (in the API's form) for what is not decided object by object.
    pub(crate) fn new(rules: &[Value]) -> Self {
        Self { graph: Mutex::default(), rules: rules.iter().map(Rule::from_value).collect() }
    }

    /// May the user, being a node? `None` if it is not.
    pub(super) fn decide(&self, objects: &Registry, user: &UserInfo, wanted: &Attributes) -> Option<Answer> {
        let node = node_of(user)?;
        if node.is_empty() {
            return Some(Err(format!("unknown node for user \"{}\"", user.name)));
        }
        Some(Question { nodes: self, objects, node, wanted }.answer())
    }
}

/// One request of a node.
struct Question<'a> {
    nodes: &'a Nodes,
    objects: &'a Registry,
    node: &'a str,
    wanted: &'a Attributes,
}

impl Question<'_> {
    fn answer(&self) -> Answer {
        let wanted = self.wanted;
        if !wanted.is_resource {
            return self.by_rules();
        }
        match (wanted.group.as_str(), wanted.resource.as_str(), wanted.subresource.as_str()) {
            ("", "secrets", _) => self.read(Kind::Secret),
            ("", "configmaps", _) => self.read(Kind::ConfigMap),
            ("", "persistentvolumeclaims", "status") => match self.verb() {
                "update" | "patch" => self.related(Kind::Claim),
                _ => no("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims", _) => self.get(|| self.leads(Kind::Claim)),
            ("", "persistentvolumes", _) => self.get(|| self.is_mounted()),
            ("resource.k8s.io", "resourceclaims", _) => self.get(|| self.leads(Kind::ResourceClaim)),
            ("storage.k8s.io", "volumeattachments", _) => self.get(|| self.names_node("/spec/nodeName")),
            ("", "serviceaccounts", _) => self.token(),
            ("coordination.k8s.io", "leases", _) => self.lease(),
            ("storage.k8s.io", "csinodes", _) => self.csi_node(),
            ("resource.k8s.io", "resourceslices", _) => self.slice(),
            ("", "nodes", subresource) => self.own_node(subresource),
            ("", "pods", subresource) => self.pod(subresource),
            _ => self.by_rules(),
        }
    }

    fn verb(&self) -> &str {
        self.wanted.verb.as_str()
    }

    fn by_rules(&self) -> Answer {
        let allowed = self.nodes.rules.iter().any(|rule| rule.allows(self.wanted));
        if allowed { Ok(()) } else { no("") }
    }

    fn unrelated(&self) -> Answer {
        no(&format!("no relationship found between node '{}' and this object", self.node))
    }

    /// One object, if `related` finds a way from it to the node.
    fn one(&self, related: impl Fn() -> bool) -> Answer {
        if self.wanted.name.is_empty() {
            return no("No Object name found");
        }
        if related() { Ok(()) } else { self.unrelated() }
    }

    fn related(&self, kind: Kind) -> Answer {
        self.one(|| self.leads(kind))
    }

    /// get, list and watch of one named object.
    fn read(&self, kind: Kind) -> Answer {
        if !matches!(self.verb(), "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !self.wanted.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if self.wanted.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(kind)
    }

    fn get(&self, related: impl Fn() -> bool) -> Answer {
        if self.verb() != "get" {
            return no("can only get individual resources of this type");
        }
        if !self.wanted.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.one(related)
    }

    fn token(&self) -> Answer {
        if self.verb() != "create" || self.wanted.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if self.wanted.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(Kind::ServiceAccount)
    }

    fn lease(&self) -> Answer {
        if !writes_one(self.verb()) {
            return no("can only get, create, update, patch, or delete a node lease");
        }
        if self.wanted.namespace != LEASES {
            return no(&format!("can only access leases in the \"{LEASES}\" system namespace"));
        }
        if self.verb() != "create" && self.wanted.name != self.node {
            return no("can only access node lease with the same name as the requesting node");
        }
        Ok(())
    }

    fn csi_node(&self) -> Answer {
        if !writes_one(self.verb()) {
            return no("can only get, create, update, patch, or delete a CSINode");
        }
        if !self.wanted.subresource.is_empty() {
            return no("cannot authorize CSINode subresources");
        }
        if self.verb() != "create" && self.wanted.name != self.node {
            return no("can only access CSINode with the same name as the requesting node");
        }
        Ok(())
    }

    fn slice(&self) -> Answer {
        if !self.wanted.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match self.verb() {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.one(|| self.names_node("/spec/nodeName")),
            "watch" | "list" | "deletecollection" if self.wanted.selects("spec.nodeName", self.node) => {
                Ok(())
            }
            "watch" | "list" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn own_node(&self, subresource: &str) -> Answer {
        match (subresource, self.verb()) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") if self.wanted.name == self.node => Ok(()),
            ("", "get" | "list" | "watch") if self.wanted.name.is_empty() => {
                no(&format!("node '{}' cannot read all nodes, only its own Node object", self.node))
            }
            ("", "get" | "list" | "watch") => {
                let other = &self.wanted.name;
                no(&format!("node '{}' cannot read '{other}', only its own Node object", self.node))
            }
            _ => no(""),
        }
    }

    fn pod(&self, subresource: &str) -> Answer {
        match (subresource, self.verb()) {
            ("", "get") => self.one(|| self.is_bound()),
            ("", "list" | "watch") if self.wanted.selects("spec.nodeName", self.node) => Ok(()),
            ("", "list" | "watch") if !self.wanted.name.is_empty() => self.one(|| self.is_bound()),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => no(""),
        }
    }

    // === ways to the node ===

    fn with_graph<T>(&self, ask: impl FnOnce(&Graph) -> T) -> T {
        let mut graph = self.nodes.graph.lock().unwrap_or_else(PoisonError::into_inner);
        graph.catch_up(self.objects);
        ask(&graph)
    }

    fn leads(&self, kind: Kind) -> bool {
        let wanted = self.wanted;
        self.with_graph(|graph| graph.leads(kind, &wanted.namespace, &wanted.name, self.node))
    }

    fn is_bound(&self) -> bool {
        let wanted = self.wanted;
        self.with_graph(|graph| graph.node_of_pod(&wanted.namespace, &wanted.name) == Some(self.node))
    }

    /// A volume is, when one of the node's pods uses the claim it is bound to.
    fn is_mounted(&self) -> bool {
        let volume = self.objects.object("", "persistentvolumes", "", &self.wanted.name);
        let claim = volume.as_ref().and_then(references::claim_of);
        claim.is_some_and(|claim| self.with_graph(|graph| graph.has(Kind::Claim, &claim, self.node)))
    }

    /// The wanted object itself says which node it belongs to.
    fn names_node(&self, pointer: &str) -> bool {
        let wanted = self.wanted;
        let found = self.objects.object(&wanted.group, &wanted.resource, &wanted.namespace, &wanted.name);
        found.is_some_and(|object| object.pointer(pointer).and_then(Value::as_str) == Some(self.node))
    }
}

fn writes_one(verb: &str) -> bool {
    matches!(verb, "get" | "create" | "update" | "patch" | "delete")
}

fn no(reason: &str) -> Answer {
    Err(reason.to_owned())
}
