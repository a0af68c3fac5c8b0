//! Writes a pod's status to the API: when it changed, again until it was taken, and again when someone else changed it.
//!
//! For a static pod the object in the API is its mirror, which is made here when it is missing.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::debug;

use crate::node::NodeIdentity;
use crate::pods::static_pods;

/// Fields of `status` this kubelet writes; absent ones are cleared.
const OWNED: [&str; 14] = [
    "conditions",
    "containerStatuses",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "startTime",
    "ephemeralContainerStatuses",
];

/// The status of one pod on its way to the API.
pub(crate) struct StatusWriter {
    client: Client,
    node: Arc<NodeIdentity>,
    /// The status last taken by the API.
    written: Option<PodStatus>,
    /// The API's revision of it.
    revision: Option<u64>,
    /// The last attempt failed.
    pub(crate) pending: bool,
}

impl StatusWriter {
    pub(crate) fn new(client: Client, node: Arc<NodeIdentity>) -> Self {
        Self { client, node, written: None, revision: None, pending: false }
    }

    /// The pod with the newest status known: what was written here, with others' conditions as the API has them.
    /// The copy from the informer may be older than our own last write.
    pub(crate) fn current(&self, pod: &Pod) -> Pod {
        let Some(written) = &self.written else { return pod.clone() };
        let mut status = written.clone();
        let theirs = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let conditions = status.conditions.get_or_insert_default();
        for condition in theirs {
            if !conditions.iter().any(|ours: &PodCondition| ours.type_ == condition.type_) {
                conditions.push(condition);
            }
        }
        Pod { status: Some(status), ..pod.clone() }
    }

    /// Writes `status` when it differs from what the API has, `pod` being the API's. Whether the API has it now.
    pub(crate) async fn write(&mut self, pod: &Pod, status: PodStatus) -> bool {
        let known = self.written.as_ref().or(pod.status.as_ref());
        if !self.pending && known == Some(&status) && !self.is_overwritten(pod) {
            self.written = Some(status);
            // What an earlier run of this daemon wrote counts as ours.
            self.revision = self.revision.or_else(|| revision(pod));
            return true;
        }
        if static_pods::is_static(pod) && self.node.uid.get().is_none() {
            // A mirror belongs to its node, and would be collected as garbage without one.
            self.written = Some(status);
            self.pending = true;
            return false;
        }
        match self.patch(pod, &status).await {
            Ok(revision) => {
                self.written = Some(status);
                self.revision = revision;
                self.pending = false;
                true
            }
            Err(error) if is_gone(&error) => {
                // Deleted or replaced meanwhile; the source will say so.
                self.pending = false;
                true
            }
            Err(error) => {
                debug!(pod = pod.metadata.name, %error, "pod status not written, will be tried again");
                self.written = Some(status);
                self.pending = true;
                false
            }
        }
    }

    fn is_overwritten(&self, pod: &Pod) -> bool {
        let Some((written, revision)) = self.written.as_ref().zip(self.revision) else { return false };
        overwritten(written, revision, pod)
    }

    /// Gives back the API's revision of the status.
    async fn patch(&self, pod: &Pod, status: &PodStatus) -> Result<Option<u64>, kube::Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let api = self.api(pod);
        let is_static = static_pods::is_static(pod);
        // The uid guards against a pod of the same name that came after this one. A mirror has its own.
        let uid = if is_static { None } else { pod.metadata.uid.as_deref() };
        let body = Patch::Merge(merge_body(uid, status));
        match api.patch_status(name, &PatchParams::default(), &body).await {
            Err(error) if is_static && is_not_found(&error) => {
                let mirror = static_pods::mirror(pod, &self.node);
                api.create(&PostParams::default(), &mirror).await?;
                api.patch_status(name, &PatchParams::default(), &body).await
            }
            result => result,
        }
        .map(|pod| revision(&pod))
    }

    /// Removes the object from the API at once. Whether it is gone.
    pub(crate) async fn delete(&self, pod: &Pod) -> bool {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = if static_pods::is_static(pod) { None } else { pod.metadata.uid.clone() };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api(pod).delete(name, &params).await {
            Ok(_) => true,
            Err(error) if is_gone(&error) => true,
            Err(error) => {
                debug!(pod = name, %error, "pod not deleted, will be tried again");
                false
            }
        }
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"))
    }
}

/// Whether a condition that we wrote at `revision` says something else since. The node lifecycle controller does so to pods of
/// a node that stopped being ready, and leaves it to us to take that back. An older `pod` tells nothing: informers lag.
fn overwritten(written: &PodStatus, ours: u64, pod: &Pod) -> bool {
    let found = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let differs = |ours: &PodCondition| {
        found.iter().any(|found| found.type_ == ours.type_ && found.status != ours.status)
    };
    revision(pod).is_some_and(|theirs| theirs > ours) && written.conditions.iter().flatten().any(differs)
}

fn revision(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_ref()?.parse().ok()
}

fn merge_body(uid: Option<&str>, status: &PodStatus) -> Value {
    let mut status = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = status.as_object_mut() {
        for name in OWNED {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    match uid {
        Some(uid) => json!({ "metadata": { "uid": uid }, "status": status }),
        None => json!({ "status": status }),
    }
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// There is no such pod, or another one of that name.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(revision: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "resourceVersion": revision},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_condition_that_someone_else_changed_after_us_is_written_again() {
        let written = pod("10", "True").status.unwrap();
        assert!(overwritten(&written, 10, &pod("11", "False")));
        assert!(!overwritten(&written, 10, &pod("9", "False")), "an informer that lags behind our own write");
        assert!(!overwritten(&written, 10, &pod("11", "True")));
    }

    #[test]
    fn fields_that_are_no_longer_set_are_cleared() {
        let status = PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() };
        let body = merge_body(Some("u1"), &status);
        assert_eq!(body["metadata"]["uid"], "u1");
        assert_eq!(body["status"]["phase"], "Running");
        assert_eq!(body["status"].get("message"), Some(&Value::Null));
    }
}
