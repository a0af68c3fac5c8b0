//! A kubelet writes its own node, its own lease and the pods bound to it, and nothing else: what authorization cannot see, because it
//! is in the object (upstream's `plugin/pkg/admission/noderestriction`).

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::status::Status;
use machinery::{meta, node_label};
use serde_json::Value;

use super::certificates::Request;
use super::{Operation, Plugin, Review};
use crate::authz::node::{MIRROR, PodReferences, node_of};

const KUBELET_SIGNERS: [&str; 2] =
    ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
/// What a kubelet reports of a claim.
const CLAIM_STATUS: [&str; 5] =
    ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses", "modifyVolumeStatus"];

pub(super) struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        let Some(node) = node_of(review.cx.user) else { return Ok(()) };
        let restricted = Restricted { review, node, object };
        match (review.cx.resource.group.as_str(), review.cx.resource.plural.as_str()) {
            ("", "nodes") => restricted.own_node(),
            ("", "pods") => match review.cx.subresource {
                "" | "eviction" => restricted.pod(),
                "status" => restricted.pod_status(),
                other => review.refuse(format!(
                    "unexpected pod subresource \"{other}\", only 'status' and 'eviction' are allowed"
                )),
            },
            ("", "persistentvolumeclaims") => restricted.claim(),
            ("", "serviceaccounts") if review.cx.subresource == "token" => restricted.token(),
            ("coordination.k8s.io", "leases") => restricted.lease(),
            ("storage.k8s.io", "csinodes") if review.name != node => {
                review.refuse("can only access CSINode with the same name as the requesting node")
            }
            ("resource.k8s.io", "resourceslices") => restricted.slice(),
            ("certificates.k8s.io", "certificatesigningrequests") => restricted.signing_request(),
            _ => Ok(()),
        }
    }
}

/// A write of a node.
struct Restricted<'a> {
    review: &'a Review<'a>,
    node: &'a str,
    object: &'a Value,
}

impl Review<'_> {
    fn refuse(&self, detail: impl AsRef<str>) -> Result<(), Status> {
        Err(self.forbid(detail.as_ref()))
    }

    /// A field as it was.
    fn old_field(&self, pointer: &str) -> Option<&Value> {
        self.old.and_then(|old| old.pointer(pointer))
    }
}

impl Restricted<'_> {
    fn own_node(&self) -> Result<(), Status> {
        let Self { review, node, object } = *self;
        if review.name != node {
            return review
                .refuse(format!("node \"{node}\" is not allowed to modify node \"{}\"", review.name));
        }
        let forbidden = self.forbidden_labels();
        match review.operation {
            Operation::Create if !forbidden.is_empty() => {
                return review.refuse(format!(
                    "node \"{node}\" is not allowed to set the following labels: {}",
                    forbidden.join(", ")
                ));
            }
            Operation::Update => {}
            _ => return Ok(()),
        }
        for (pointer, what) in [("/spec/taints", "taints"), ("/metadata/ownerReferences", "ownerReferences")]
        {
            if object.pointer(pointer) != review.old_field(pointer) {
                return review.refuse(format!("node \"{node}\" is not allowed to modify {what}"));
            }
        }
        if !forbidden.is_empty() {
            return review.refuse(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
        }
        Ok(())
    }

    /// Labels that are set, changed or removed and are not the node's to decide, in order.
    fn forbidden_labels(&self) -> Vec<&str> {
        let (old, new) = (labels(self.review.old), labels(Some(self.object)));
        let keys: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
        let changed = keys.into_iter().filter(|key| old.get(key) != new.get(key));
        changed.filter(|key| !node_label::is_for_nodes(key)).collect()
    }

    fn pod(&self) -> Result<(), Status> {
        let Self { review, node, .. } = *self;
        let bound = review.old_field("/spec/nodeName").and_then(Value::as_str) == Some(node);
        match review.operation {
            Operation::Create => self.mirror_pod(),
            Operation::Delete if bound => Ok(()),
            Operation::Delete => review
                .refuse(format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")),
            _ => review.refuse(format!(
                "unexpected operation \"UPDATE\", node \"{node}\" can only create and delete mirror pods"
            )),
        }
    }

    /// A pod that stands for one on the node's disk: bound to the node, owned by it, and without a reference to anything.
    fn mirror_pod(&self) -> Result<(), Status> {
        let Self { review, node, object } = *self;
        if meta::annotation(object, MIRROR).is_none() {
            return review.refuse(format!(
                "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
            ));
        }
        if object.pointer("/spec/nodeName").and_then(Value::as_str) != Some(node) {
            return review
                .refuse(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
        }
        self.owned_by_node()?;
        let found = PodReferences::of(object);
        let bundles = object.pointer("/spec/volumes").and_then(Value::as_array).is_some_and(|volumes| {
            volumes.iter().any(|volume| {
                let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
                sources.is_some_and(|all| all.iter().any(|source| source.get("clusterTrustBundle").is_some()))
            })
        });
        for (names, what) in [
            (!found.service_account.is_empty(), "a service account"),
            (!found.secrets.is_empty(), "secrets"),
            (!found.config_maps.is_empty(), "configmaps"),
            (bundles, "clustertrustbundles"),
            (!found.claims.is_empty(), "persistentvolumeclaims"),
            (object.pointer("/spec/resourceClaims").is_some(), "resourceclaims"),
        ] {
            if names {
                return review.refuse(format!("node \"{node}\" can not create pods that reference {what}"));
            }
        }
        Ok(())
    }

    fn owned_by_node(&self) -> Result<(), Status> {
        let Self { review, node, object } = *self;
        let owner = match meta::owner_references(object) {
            [owner] => owner,
            [] => {
                return review.refuse(format!(
                    "node \"{node}\" can only create pods with an owner reference set to itself"
                ));
            }
            _ => {
                return review.refuse(format!(
                    "node \"{node}\" can only create pods with a single owner reference set to itself"
                ));
            }
        };
        if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
            return review.refuse(format!(
                "node \"{node}\" can only create pods with an owner reference set to itself"
            ));
        }
        if owner["controller"] != true {
            return review.refuse(format!(
                "node \"{node}\" can only create pods with a controller owner reference set to itself"
            ));
        }
        if owner["blockOwnerDeletion"] == true {
            return review
                .refuse(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
        }
        let own = review.cx.objects.object("", "nodes", "", node);
        let own = own.ok_or_else(|| Status::not_found("", "nodes", node))?;
        let named = owner["uid"].as_str().unwrap_or_default();
        if named != meta::uid(&own) {
            let uid = meta::uid(&own);
            return review.refuse(format!("node {node} UID mismatch: expected {named} got {uid}"));
        }
        Ok(())
    }

    fn pod_status(&self) -> Result<(), Status> {
        let Self { review, node, object } = *self;
        if review.old_field("/spec/nodeName").and_then(Value::as_str) != Some(node) {
            return review.refuse(format!(
                "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
            ));
        }
        for (pointer, what) in [
            ("/metadata/labels", "labels through pod status"),
            ("/status/resourceClaimStatuses", "resource claim statues"),
            ("/status/extendedResourceClaimStatus", "extended resource claim status"),
        ] {
            if object.pointer(pointer) != review.old_field(pointer) {
                return review.refuse(format!("node \"{node}\" cannot update {what}"));
            }
        }
        Ok(())
    }

    fn claim(&self) -> Result<(), Status> {
        let Self { review, node, object } = *self;
        if review.cx.subresource != "status" {
            return review.refuse("may only update PVC status");
        }
        let rest = |claim: &Value| {
            let mut claim = claim.clone();
            for field in ["resourceVersion", "managedFields"] {
                meta::metadata_mut(&mut claim).remove(field);
            }
            if let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) {
                status.retain(|field, _| !CLAIM_STATUS.contains(&field.as_str()));
            }
            claim
        };
        if review.old.is_some_and(|old| rest(old) != rest(object)) {
            return review.refuse(format!(
                "node \"{node}\" is not allowed to update fields other than status.capacity and status.conditions"
            ));
        }
        Ok(())
    }

    /// Tokens only for pods that run on the node.
    fn token(&self) -> Result<(), Status> {
        let Self { review, node, object } = *self;
        let text = |field: &str| {
            let pointer = format!("/spec/boundObjectRef/{field}");
            object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default()
        };
        if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
            return review.refuse("node requested token not bound to a pod");
        }
        if text("uid").is_empty() {
            return review.refuse("node requested token with a pod binding without a uid");
        }
        let pod = review.cx.objects.object("", "pods", review.cx.namespace, text("name"));
        let pod = pod.ok_or_else(|| Status::not_found("", "pods", text("name")))?;
        if meta::uid(&pod) != text("uid") {
            return review.refuse(format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                text("uid")
            ));
        }
        let field = |pointer| pod.pointer(pointer).and_then(Value::as_str);
        if field("/spec/nodeName") != Some(node) || field("/spec/serviceAccountName") != Some(review.name) {
            return review.refuse("node requested token bound to a pod scheduled on a different node");
        }
        Ok(())
    }

    fn lease(&self) -> Result<(), Status> {
        if self.review.cx.namespace != "kube-node-lease" {
            return self.review.refuse("can only access leases in the \"kube-node-lease\" system namespace");
        }
        if self.review.name != self.node {
            return self
                .review
                .refuse("can only access node lease with the same name as the requesting node");
        }
        Ok(())
    }

    fn slice(&self) -> Result<(), Status> {
        let (verb, slice) = match self.review.operation {
            Operation::Create => ("create", Some(self.object)),
            Operation::Delete => ("delete", self.review.old),
            _ => ("update", self.review.old),
        };
        let owner = slice.and_then(|slice| slice.pointer("/spec/nodeName")).and_then(Value::as_str);
        if owner == Some(self.node) {
            return Ok(());
        }
        self.review
            .refuse(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
    }

    /// A node asks for certificates of its own name.
    fn signing_request(&self) -> Result<(), Status> {
        let Self { review, node, object } = *self;
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if review.operation != Operation::Create || !KUBELET_SIGNERS.contains(&text("/spec/signerName")) {
            return Ok(());
        }
        let request = STANDARD.decode(text("/spec/request")).ok();
        let Some(request) = request.as_deref().and_then(Request::parse) else {
            return review.refuse("unable to parse csr");
        };
        let own = format!("system:node:{node}");
        if request.common_name != own {
            return review
                .refuse(format!("can only create a node CSR with CN={own}, not CN={}", request.common_name));
        }
        Ok(())
    }
}

fn labels(object: Option<&Value>) -> BTreeMap<&str, &Value> {
    let labels = object.and_then(|object| object.pointer("/metadata/labels")).and_then(Value::as_object);
    labels.into_iter().flatten().map(|(key, value)| (key.as_str(), value)).collect()
}
