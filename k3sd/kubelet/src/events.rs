//! Events about pods, in upstream's words and with upstream's references.

use client::Recorder;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodSpec};

/// Records what happens to pods and to the node.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
}

impl Events {
    pub(crate) fn new(recorder: Recorder) -> Self {
        Self { recorder }
    }

    /// Something happened to a pod.
    pub(crate) fn pod_event(&self, pod: &Pod, kind: &'static str, reason: &str, message: impl Into<String>) {
        self.recorder.event(&reference(pod, None), kind, reason, message);
    }

    /// Something happened to one of its containers.
    pub(crate) fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        kind: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.recorder.event(&reference(pod, Some(container)), kind, reason, message);
    }

    /// Something happened to the node.
    pub(crate) fn node_event(
        &self,
        node: &str,
        kind: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        let object = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // Upstream's kubelet refers to its node by name here as well.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        self.recorder.event(&object, kind, reason, message);
    }
}

fn reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let metadata = &pod.metadata;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let field_path = container.map(|name| {
        let init = spec.init_containers.iter().flatten().any(|container| container.name == name);
        format!("spec.{}{{{name}}}", if init { "initContainers" } else { "containers" })
    });
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path,
    }
}
