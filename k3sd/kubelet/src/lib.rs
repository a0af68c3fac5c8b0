//! The node agent: runs the pods that are bound to this node, and says how they and the node are.
//!
//! ```text
//!   API ──informer──┐                        ┌── status, events ──> API
//!   manifests ──────┴─> manager ─> worker ───┤
//!   containerd ──events──────────────┘       └── CRI ─────────────> containerd
//! ```
//!
//! One [`worker`](pods::worker) per pod looks at what the runtime has, decides the next step by a pure function
//! ([`plan`](pods::plan)), does it, and looks again. Nothing is remembered that the runtime knows, so containers
//! outlive this daemon and are found again. Not here: eviction, device plug-ins, CSI and other network volumes.

mod agent;
mod backoff;
mod cgroup;
pub mod config;
pub mod containerd;
mod cri;
mod events;
mod eviction;
mod images;
mod inotify;
mod logs;
mod node;
mod objects;
mod pods;
mod probes;
mod runtime;
mod server;
mod volumes;

use std::sync::Arc;

use anyhow::Context as _;
use client::{Informers, Recorder};
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use config::{Config, NodeReport};
pub use eviction::{ThresholdError, Thresholds};

use agent::{Agent, Books};
use cgroup::Hierarchy;
use cri::Cri;
use events::Events;
use images::Images;
use images::import::{import_all, import_changes};
use node::NodeIdentity;
use node::machine::Machine;
use objects::Objects;
use pods::manager::Manager;
use runtime::Runtime;
use volumes::Tokens;

/// Runs the kubelet until `cancel`. Pods are left running; the next run finds them.
///
/// Fails at once when the server's port or files cannot be used. Whatever else is missing (runtime, API server)
/// is waited for.
pub async fn run(
    config: Config,
    client: kube::Client,
    informers: Informers,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let pods_dir = config.root_dir.join("pods");
    std::fs::create_dir_all(&pods_dir)
        .with_context(|| format!("failed to create '{}'", pods_dir.display()))?;
    let listener = server::bind(config.listen).await?;
    let cri = Cri::new(&config.cri_socket);
    let recorder = Recorder::new(client.clone(), "kubelet", &config.node_name, cancel.clone());
    let agent = Arc::new(build(config, client, &informers, cri, Events::new(recorder.clone())));
    let pods = informers.filtered::<Pod>(&format!("spec.nodeName={}", agent.config.node_name));

    let serve = server::serve(agent.clone(), listener, cancel.clone());
    let work = work(agent, pods, cancel.clone());
    let result = tokio::try_join!(serve, work).map(|_| ());
    if result.is_err() {
        cancel.cancel();
    }
    recorder.stopped().await;
    result
}

fn build(config: Config, client: kube::Client, informers: &Informers, cri: Cri, events: Events) -> Agent {
    Agent {
        machine: Machine::detect(&config.root_dir),
        node: Arc::new(NodeIdentity::new(&config.node_name)),
        books: Books::new(config.report.clone()),
        config,
        runtime: Runtime::new(cri.clone()),
        images: Images::new(cri, events.clone()),
        objects: Objects::new(client.clone()),
        tokens: Tokens::new(client.clone()),
        events,
        services: informers.shared::<Service>(),
        hierarchy: Hierarchy::detect(),
        client,
    }
}

/// Everything that needs the runtime: it is waited for, images are imported, then the node and its pods begin.
async fn work(
    agent: Arc<Agent>,
    pods: client::Informer<Pod>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let Some(version) = agent.cri().wait(&cancel).await else { return Ok(()) };
    let runtime_version = format!("{}://{}", version.runtime_name, version.runtime_version);
    let imports = import_all(agent.cri(), &agent.config.image_dirs);
    let node = node::run(agent.clone(), runtime_version, cancel.clone());
    let manager = async {
        // A pod whose image is about to be imported would fail to pull it.
        if cancel.run_until_cancelled(imports).await.is_none() {
            return Ok(());
        }
        let later = import_changes(agent.cri(), &agent.config.image_dirs, &cancel);
        let later = async { later.await.context("failed to watch the directories of images") };
        tokio::try_join!(later, run_pods(agent.clone(), pods, cancel.clone())).map(|_| ())
    };
    let events = async {
        agent.runtime.watch(cancel.clone()).await;
        Ok(())
    };
    let rotation = async {
        logs::rotate_forever(agent.clone(), cancel.clone()).await;
        Ok(())
    };
    tokio::try_join!(node, manager, events, rotation).map(|_| ())
}

async fn run_pods(
    agent: Arc<Agent>,
    pods: client::Informer<Pod>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let config = &agent.config;
    let manager = Manager::new(agent.clone(), pods, cancel.clone());
    let Some(dir) = config.pod_manifest_dir.clone() else {
        manager.run(None).await;
        return Ok(());
    };
    let (sender, receiver) = mpsc::channel(1);
    let watch = pods::static_pods::watch(dir.clone(), config.node_name.clone(), sender, cancel);
    let watch = async { watch.await.with_context(|| format!("failed to watch '{}'", dir.display())) };
    let manage = async {
        manager.run(Some(receiver)).await;
        Ok(())
    };
    tokio::try_join!(watch, manage).map(|_| ())
}
