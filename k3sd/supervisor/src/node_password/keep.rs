//! Node passwords go with their Nodes.

use std::collections::HashMap;
use std::time::Duration;

use client::{Informer, Informers, ObjectKey, request};
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{NAMESPACE, SECRET_TYPE, secret_name};

/// A machine that has not registered its Node this long after joining has given up.
const ORPHAN_AGE: Duration = Duration::from_secs(600);

/// Ties every node's secret to its Node, so that the garbage collector removes them together, and removes those of machines
/// that never registered. Runs until `cancel`; what fails is tried again with the next change.
pub async fn keep(client: kube::Client, informers: Informers, cancel: CancellationToken) {
    let nodes: Informer<Node> = informers.shared();
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let work = async {
        let mut changes = nodes.subscribe();
        let mut clean = tokio::time::interval(ORPHAN_AGE);
        let mut adopted: HashMap<ObjectKey, String> = HashMap::new();
        loop {
            tokio::select! {
                key = changes.next() => {
                    let Some(key) = key else { return };
                    let Some(node) = nodes.get(&key) else {
                        adopted.remove(&key);
                        continue;
                    };
                    let uid = node.uid();
                    if adopted.get(&key) != Some(&uid) && adopt(&secrets, &key.name, &uid).await {
                        adopted.insert(key, uid);
                    }
                }
                _ = clean.tick() => {
                    nodes.synced().await;
                    if let Err(error) = remove_orphans(&secrets, &nodes).await {
                        warn!(error = %error, "failed to look for passwords of nodes that never registered");
                    }
                }
            }
        }
    };
    cancel.run_until_cancelled(work).await;
}

/// Whether the node's secret, if it has one, has its owner now.
async fn adopt(secrets: &Api<Secret>, node: &str, uid: &str) -> bool {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
    match secrets.patch(&secret_name(node), &PatchParams::default(), &patch).await {
        Ok(_) => {
            debug!(node, "node password tied to its node");
            true
        }
        // The server's own node, before its password is recorded.
        Err(error) if request::is_not_found(&error) => false,
        Err(error) => {
            warn!(node, error = %error, "failed to tie a node password to its node");
            false
        }
    }
}

async fn remove_orphans(secrets: &Api<Secret>, nodes: &Informer<Node>) -> Result<(), kube::Error> {
    let all = secrets.list(&ListParams::default().fields(&format!("type={SECRET_TYPE}"))).await?;
    for secret in all {
        let metadata = secret.metadata;
        let name = metadata.name.unwrap_or_default();
        let Some(node) = name.strip_suffix(".node-password.k3s") else { continue };
        let age = metadata.creation_timestamp.map(|time| Timestamp::now().duration_since(time.0));
        let old = age.and_then(|age| Duration::try_from(age).ok()).is_some_and(|age| age >= ORPHAN_AGE);
        if !old || nodes.get(&ObjectKey::cluster(node)).is_some() {
            continue;
        }
        // Not the one a machine leaves that joins at this very moment.
        let preconditions = Preconditions { uid: metadata.uid, resource_version: metadata.resource_version };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match secrets.delete(&name, &params).await {
            Ok(_) => info!(node, "password of a node that never registered removed"),
            Err(error) => debug!(node, error = %error, "password of a node that never registered stays"),
        }
    }
    Ok(())
}
