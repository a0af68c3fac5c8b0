//! The label that shows a server's node as part of the control plane. A node may not give it to itself (`NodeRestriction`), so the
//! server does, as K3s's does.

use client::request::{self, Patch};
use client::{Informers, ObjectKey, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const LABEL: &str = "node-role.kubernetes.io/control-plane";

/// Keeps the label on the Node of this name until `cancel`.
pub(super) async fn keep(
    node: String,
    client: kube::Client,
    informers: Informers,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let nodes = informers.shared::<Node>();
    let queue = WorkQueue::<ObjectKey>::new();
    let mut changes = nodes.subscribe();
    let feed = async {
        while let Some(key) = changes.next().await {
            if key.name == node {
                queue.add(key);
            }
        }
    };
    let reconcile = |key: ObjectKey| {
        let (nodes, client) = (nodes.clone(), client.clone());
        async move {
            let Some(stored) = nodes.get(&key) else { return Ok(None) };
            if machinery::meta::label(&stored.project()?, LABEL) != Some("true") {
                let change = json!({ "metadata": { "labels": { LABEL: "true" } } });
                let path = format!("/api/v1/nodes/{}", key.name);
                request::patch::<Value>(&client, &path, Patch::Merge, &change).await?;
            }
            anyhow::Ok(None)
        }
    };
    tokio::join!(feed, run_workers("role", queue.clone(), 1, cancel, reconcile));
    Ok(())
}
