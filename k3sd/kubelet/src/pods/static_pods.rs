//! Static pods: manifests in a directory of this node, run without asking the API server, and shown there by a
//! mirror that nobody can use to control them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use rustix::fs::inotify::WatchFlags;
use serde::Deserialize as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::inotify::Inotify;
use crate::node::NodeIdentity;

const SOURCE: &str = "kubernetes.io/config.source";
const HASH: &str = "kubernetes.io/config.hash";
/// Marks a mirror, with the hash of the pod it mirrors.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether a pod comes from a manifest on this node.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some("file")
}

/// Whether an object in the API only mirrors a static pod.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The object that shows a static pod in the API.
pub(crate) fn mirror(pod: &Pod, node: &NodeIdentity) -> Pod {
    let mut mirror = pod.clone();
    let hash = annotation(pod, HASH).unwrap_or_default().to_owned();
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.to_owned(), hash);
    mirror.metadata.uid = None;
    mirror.metadata.resource_version = None;
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name.clone(),
        uid: node.uid.get().cloned().unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    mirror.status = None;
    mirror
}

/// Reads the directory now and at every change, sending all static pods each time, by uid.
pub(crate) async fn watch(
    dir: PathBuf,
    node_name: String,
    pods: mpsc::Sender<HashMap<String, Pod>>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(&dir)?;
    let changes =
        WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
    let inotify = Inotify::new()?;
    inotify.add(&dir, changes)?;
    loop {
        if pods.send(read_dir(&dir, &node_name)).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = inotify.changed() => { changed?; }
        }
    }
}

fn read_dir(dir: &Path, node_name: &str) -> HashMap<String, Pod> {
    let Ok(entries) = std::fs::read_dir(dir) else { return HashMap::new() };
    let mut pods = HashMap::new();
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_manifest(path)) {
        match std::fs::read_to_string(&path)
            .map_err(anyhow::Error::from)
            .and_then(|text| parse(&text, node_name))
        {
            Ok(pod) => {
                pods.insert(pod.metadata.uid.clone().unwrap_or_default(), pod);
            }
            Err(error) => warn!(file = %path.display(), error = %error, "static pod manifest ignored"),
        }
    }
    pods
}

fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// A pod as the API would have made it: named after the node, bound to it, with an identity that follows from
/// the text, so that the same manifest is the same pod after a restart.
fn parse(text: &str, node_name: &str) -> anyhow::Result<Pod> {
    // JSON is YAML.
    let mut pod = Pod::deserialize(serde_yaml_ng::Deserializer::from_str(text))?;
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| anyhow::anyhow!("metadata.name is missing"))?;
    let spec = pod.spec.as_mut().ok_or_else(|| anyhow::anyhow!("spec is missing"))?;
    anyhow::ensure!(!spec.containers.is_empty(), "spec.containers is empty");
    let hash = identity(text, node_name);
    spec.node_name = Some(node_name.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(30);
    // A static pod stays whatever taints the node gets.
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    pod.metadata.name = Some(format!("{name}-{node_name}"));
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    pod.metadata.uid = Some(hash.clone());
    let annotations: &mut BTreeMap<String, String> = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(SOURCE.to_owned(), "file".to_owned());
    annotations.insert(HASH.to_owned(), hash);
    pod.status = None;
    Ok(pod)
}

fn identity(text: &str, node_name: &str) -> String {
    use std::fmt::Write as _;
    let mut hasher = Sha256::new();
    hasher.update(node_name.as_bytes());
    hasher.update([0]);
    hasher.update(text.as_bytes());
    hasher.finalize().iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: i}]}";

    #[test]
    fn the_same_manifest_is_the_same_pod_and_a_changed_one_is_another() {
        let first = parse(MANIFEST, "n1").unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("web-n1"));
        assert_eq!(parse(MANIFEST, "n1").unwrap().metadata.uid, first.metadata.uid);
        assert_ne!(
            parse(&MANIFEST.replace("image: i", "image: j"), "n1").unwrap().metadata.uid,
            first.metadata.uid
        );
    }

    #[test]
    fn a_mirror_is_told_from_the_pod_it_shows() {
        let pod = parse(MANIFEST, "n1").unwrap();
        assert!(is_static(&pod) && !is_mirror(&pod));
        assert!(is_mirror(&mirror(&pod, &NodeIdentity::new("n1"))));
    }

    #[test]
    fn a_manifest_without_a_name_says_so() {
        let error = parse("kind: Pod\nspec: {containers: [{name: a}]}", "n1").unwrap_err();
        assert_eq!(error.to_string(), "metadata.name is missing");
    }
}
