//! Lets claims and volumes go when nobody uses them any more.
//!
//! Reads: claims, volumes, pods. Owns: the removal of the finalizers `kubernetes.io/pvc-protection` and
//! `kubernetes.io/pv-protection`, which admission puts on. Follows `pkg/controller/volume/{pvcprotection,pvprotection}` of v1.36:
//! a claim is used by pods that have a node, and a volume while it is bound.

use std::sync::Arc;

use client::{
    Informer, ObjectKey, Stored, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Resource;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::{Context, feed, own_key, path};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
/// The index of pods by the claims they use.
const BY_CLAIM: &str = "claim";

struct Controller {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    pods: Informer<Pod>,
}

/// What is looked at of a claim or a volume.
#[derive(Deserialize)]
struct View {
    metadata: Meta,
    #[serde(default)]
    status: Phase,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    uid: String,
    deletion_timestamp: Option<String>,
    #[serde(default)]
    finalizers: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Phase {
    phase: String,
}

/// What is looked at of a pod.
#[derive(Deserialize)]
struct PodView {
    metadata: PodMeta,
    #[serde(default)]
    spec: PodSpec,
}

#[derive(Deserialize)]
struct PodMeta {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    name: String,
    persistent_volume_claim: Option<ClaimSource>,
    ephemeral: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimSource {
    claim_name: String,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        claims: context.informers.shared(),
        volumes: context.informers.shared(),
        pods: context.informers.shared(),
        context: context.clone(),
    });
    controller.pods.index(BY_CLAIM, |raw| {
        let claims = serde_json::from_slice(raw).map_or_else(|_| Vec::new(), claims_of);
        claims.iter().map(ToString::to_string).collect()
    });
    controller.pods.synced().await;
    controller.claims.synced().await;
    controller.volumes.synced().await;
    let (claims, volumes) = (WorkQueue::new(), WorkQueue::new());
    let (of_claims, of_volumes) = (controller.clone(), controller.clone());
    let reconcile_claim = move |key| {
        let controller = of_claims.clone();
        async move { controller.claim(key).await.map(|()| None) }
    };
    let reconcile_volume = move |key| {
        let controller = of_volumes.clone();
        async move { controller.volume(key).await.map(|()| None) }
    };
    tokio::join!(
        feed(&controller.claims, &claims, own_key),
        feed(&controller.volumes, &volumes, own_key),
        feed(&controller.pods, &claims, |change| {
            // A pod that is gone, or has changed, may have been the last user.
            let users = [change.old, change.new].into_iter().flatten();
            users.filter_map(|pod| pod.project().ok()).flat_map(claims_of).collect::<Vec<_>>()
        }),
        run_workers("claim_protection", claims.clone(), 1, context.cancel.clone(), reconcile_claim),
        run_workers("volume_protection", volumes.clone(), 1, context.cancel.clone(), reconcile_volume),
    );
}

impl Controller {
    async fn claim(&self, key: ObjectKey) -> anyhow::Result<()> {
        let Some(claim) = self.claims.get(&key) else { return Ok(()) };
        if self.users(&key)? > 0 {
            return Ok(());
        }
        self.release(&claim, CLAIM_FINALIZER, |_| false).await
    }

    async fn volume(&self, key: ObjectKey) -> anyhow::Result<()> {
        let Some(volume) = self.volumes.get(&key) else { return Ok(()) };
        self.release(&volume, VOLUME_FINALIZER, |view| view.status.phase == "Bound").await
    }

    /// How many pods with a node use the claim.
    fn users(&self, claim: &ObjectKey) -> anyhow::Result<usize> {
        let mut users = 0;
        for pod in self.pods.by_index(BY_CLAIM, &claim.to_string()) {
            let view: PodView = pod.project()?;
            users += usize::from(!view.spec.node_name.is_empty());
        }
        Ok(users)
    }

    /// Takes the finalizer off an object that is to be deleted and not in use.
    async fn release<K: Resource<DynamicType = ()>>(
        &self,
        stored: &Stored<K>,
        finalizer: &str,
        in_use: impl Fn(&View) -> bool,
    ) -> anyhow::Result<()> {
        let view: View = stored.project()?;
        let held = view.metadata.finalizers.iter().any(|one| one == finalizer);
        if view.metadata.deletion_timestamp.is_none() || !held || in_use(&view) {
            return Ok(());
        }
        let change = json!({"metadata": {
            "uid": view.metadata.uid, "$deleteFromPrimitiveList/finalizers": [finalizer],
        }});
        let path = path::<K>(stored.key());
        match request::patch::<Value>(&self.context.client, &path, Patch::Strategic, &change).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The claims that a pod names or that are made for it.
fn claims_of(pod: PodView) -> Vec<ObjectKey> {
    let PodView { metadata, spec } = pod;
    let names = spec.volumes.into_iter().filter_map(|volume| match volume {
        Volume { persistent_volume_claim: Some(source), .. } => Some(source.claim_name),
        Volume { ephemeral: Some(_), name, .. } => Some(format!("{}-{name}", metadata.name)),
        Volume { .. } => None,
    });
    names.map(|name| ObjectKey::namespaced(&metadata.namespace, name)).collect()
}
