//! Carrying out a decision: the requests to the API, and the notes for people.

use std::sync::Arc;

use client::{
    Recorder,
    request::{self, Patch},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::views::{Condition, Pod};

/// Requests under way at once; more wait. Decisions are made much faster than they are written down.
const AT_ONCE: usize = 32;

/// What is needed to tell the cluster.
#[derive(Clone)]
pub(crate) struct Reporter {
    client: kube::Client,
    recorder: Recorder,
    requests: Arc<Semaphore>,
}

impl Reporter {
    pub(crate) fn new(client: kube::Client, recorder: Recorder) -> Self {
        Self { client, recorder, requests: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Binds a pod to a node.
    pub(crate) async fn bind(&self, pod: &Pod, node: &str) -> Result<(), kube::Error> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: None,
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let path = format!("{}/binding", pod_path(pod));
        let permit = self.requests.acquire().await;
        request::create::<Value>(&self.client, &path, &binding).await?;
        drop(permit);
        let message = format!("Successfully assigned {} to {node}", pod.key());
        self.recorder.event(&reference(pod), "Normal", "Scheduled", message);
        Ok(())
    }

    /// Says why a pod has no node: an event, and its condition unless that says so already.
    pub(crate) async fn unschedulable(
        &self,
        pod: &Pod,
        reason: &str,
        message: &str,
    ) -> Result<(), kube::Error> {
        self.recorder.event(&reference(pod), "Warning", "FailedScheduling", message);
        let wanted = Condition {
            kind: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        if pod.scheduled.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let mut condition = json!({
            "type": wanted.kind, "status": wanted.status, "reason": wanted.reason, "message": wanted.message,
            "lastProbeTime": null, "observedGeneration": pod.generation,
        });
        if pod.scheduled.as_ref().is_none_or(|before| before.status != wanted.status) {
            condition["lastTransitionTime"] = json!(Time(Timestamp::now()));
        }
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        let path = format!("{}/status", pod_path(pod));
        let _permit = self.requests.acquire().await;
        match request::patch::<Value>(&self.client, &path, Patch::Strategic, &patch).await {
            Ok(_) => Ok(()),
            // Deleted, or deleted and made again.
            Err(error) if request::is_not_found(&error) || request::is_conflict(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn pod_path(pod: &Pod) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name)
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod.name.clone()),
        namespace: Some(pod.namespace.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}
