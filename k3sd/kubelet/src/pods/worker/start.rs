//! Starting: volumes, sandbox, containers, and the hook after a container's start.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, Service};
use tracing::{info, warn};

use super::{SyncError, Worker};
use crate::pods::env::{self, Fields};
use crate::pods::plan::Start;
use crate::pods::status::Reason;
use crate::pods::{container, dns, resources, sandbox};
use crate::probes::check::{self, Action, Target};
use crate::runtime::{PodState, State};
use crate::volumes::{self, FileSource};

/// A hook without an end of its own is given this long.
const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the runtime's network is looked at while a pod waits for it.
const NETWORK_CHECK: Duration = Duration::from_millis(250);
/// Dead incarnations kept per container, for `kubectl logs --previous`.
const KEPT_DEAD: usize = 1;

/// What came of starting a container.
pub(super) struct Outcome {
    pub(super) started: bool,
    /// When to try again, if time alone helps.
    pub(super) retry_at: Option<Timestamp>,
}

impl Worker {
    /// Stops what is left of the pod and makes a sandbox, with everything it needs on the host.
    pub(super) async fn new_sandbox(
        &mut self,
        pod: &Arc<Pod>,
        state: &PodState,
        attempt: u32,
    ) -> Result<(), SyncError> {
        if !state.sandboxes.is_empty() {
            self.agent.events.pod_event(
                pod,
                "Normal",
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
            self.stop_left_overs(state).await?;
        }
        self.prepare_volumes(pod, state).await?;
        self.network_ready(pod).await?;
        std::fs::create_dir_all(sandbox::log_dir(pod, &self.agent.config))?;
        let parent = resources::cgroup_parent(resources::qos_class(pod), &self.uid);
        self.agent.hierarchy.create(&parent, &resources::pod_cgroup_files(pod))?;
        let resolver = dns::resolver(pod, &self.agent.config);
        if resolver.cluster_dns_missing {
            let text = "pod: kubelet does not have ClusterDNS IP configured and cannot create Pod using \
                        \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
            self.agent.events.pod_event(pod, "Warning", "MissingClusterDNS", text);
        }
        let config = sandbox::config(pod, &self.agent.config, resolver.config, attempt);
        let made = match self.runtime_handler(pod).await {
            Ok(handler) => self.agent.cri().run_pod_sandbox(config, &handler).await.map_err(SyncError::from),
            Err(error) => Err(error),
        };
        match made {
            Ok(id) => {
                self.agent.runtime.register(&id, &self.poke);
                info!(pod = %self.name(), sandbox = %id, attempt, "sandbox started");
                Ok(())
            }
            Err(error) => {
                let text = match &error {
                    SyncError::Runtime(refused) => {
                        format!("Failed to create pod sandbox: {}", refused.message)
                    }
                    other => format!("Failed to create pod sandbox: {other}"),
                };
                self.agent.events.pod_event(pod, "Warning", "FailedCreatePodSandBox", text);
                Err(error)
            }
        }
    }

    /// Waits until the runtime can give pods a network, unless the pod uses the host's. After a boot that takes a
    /// moment, and sandboxes made before would fail.
    async fn network_ready(&self, pod: &Pod) -> Result<(), SyncError> {
        if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            return Ok(());
        }
        let mut told = false;
        loop {
            let conditions = self.agent.cri().status().await?;
            let down = conditions
                .into_iter()
                .find(|condition| condition.r#type == "NetworkReady" && !condition.status);
            let Some(down) = down else { return Ok(()) };
            if !told {
                told = true;
                let text = format!(
                    "network is not ready: container runtime network not ready: NetworkReady=false reason:{} message:{}",
                    down.reason, down.message
                );
                self.agent.events.pod_event(pod, "Warning", "NetworkNotReady", text);
            }
            tokio::time::sleep(NETWORK_CHECK).await;
        }
    }

    /// Makes the volumes or brings them up to date.
    pub(super) async fn prepare_volumes(
        &mut self,
        pod: &Arc<Pod>,
        state: &PodState,
    ) -> Result<(), SyncError> {
        let pod_dir = self.agent.pod_dir(&self.uid);
        std::fs::create_dir_all(&pod_dir)?;
        let user = self.user();
        let (pod_ips, host_ips) = (self.pod_ips(pod, state), self.agent.host_ips());
        let source = FileSource {
            fields: self.fields(pod, &pod_ips, &host_ips),
            objects: &self.agent.objects,
            tokens: &self.agent.tokens,
            user: &user,
        };
        match volumes::prepare(pod, &pod_dir, &source).await {
            Ok(mounted) => {
                self.mounted = mounted;
                Ok(())
            }
            Err(error) => {
                self.agent.events.pod_event(pod, "Warning", "FailedMount", error.to_string());
                Err(error.into())
            }
        }
    }

    fn fields<'a>(&self, pod: &'a Pod, pod_ips: &'a [String], host_ips: &'a [String]) -> Fields<'a> {
        let machine = &self.agent.machine;
        Fields { pod, pod_ips, host_ips, node_milli_cpu: machine.milli_cpu, node_memory: machine.memory }
    }

    fn pod_ips(&self, pod: &Pod, state: &PodState) -> Vec<String> {
        if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            return self.agent.host_ips();
        }
        state.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    /// Image, environment, description, start, hook. What goes wrong is the container's waiting reason.
    pub(super) async fn start_container(
        &mut self,
        pod: &Arc<Pod>,
        state: &PodState,
        start: &Start,
    ) -> Result<Outcome, SyncError> {
        let Some(spec) = find_spec(pod, &start.name) else {
            return Ok(Outcome { started: false, retry_at: None });
        };
        if let Some(since) = start.failed_at {
            self.backoff.next(&start.name, since, Timestamp::now());
        }
        let image = match self.agent.images.ensure(pod, spec).await {
            Ok(image) => image,
            Err(missing) => {
                self.reasons.insert(start.name.clone(), missing.reason);
                let retry_at = missing.retry_at.or_else(|| self.retry_at());
                return Ok(Outcome { started: false, retry_at });
            }
        };
        match self.create_and_start(pod, state, spec, start, &image).await {
            Ok(()) => {
                self.reasons.remove(&start.name);
                self.prune(state, &start.name).await;
                Ok(Outcome { started: true, retry_at: None })
            }
            Err(reason) => {
                warn!(pod = %self.name(), container = %start.name, reason = reason.reason, message = %reason.message,
                    "container not started");
                let text = format!("Error: {}", reason.message);
                self.agent.events.container_event(pod, &start.name, "Warning", "Failed", text);
                self.reasons.insert(start.name.clone(), reason);
                Ok(Outcome { started: false, retry_at: self.retry_at() })
            }
        }
    }

    fn retry_at(&mut self) -> Option<Timestamp> {
        let at = Timestamp::now() + self.retry;
        self.retry = (self.retry * 2).min(super::RETRY_MAX);
        Some(at)
    }

    async fn create_and_start(
        &mut self,
        pod: &Arc<Pod>,
        state: &PodState,
        spec: &Spec,
        start: &Start,
        image: &cri::Image,
    ) -> Result<(), Reason> {
        let failed = |reason, message: String| Reason { reason, message };
        let sandbox =
            state.sandbox().ok_or_else(|| failed("CreateContainerError", "no sandbox".to_owned()))?;
        let request = self
            .create_request(pod, state, spec, start, image, &sandbox.id)
            .await
            .map_err(|message| failed("CreateContainerConfigError", message))?;
        let cri = self.agent.cri().clone();
        let id = cri
            .create_container(request)
            .await
            .map_err(|error| failed("CreateContainerError", error.message))?;
        // Registered before it starts, so that an immediate end is noticed.
        self.agent.runtime.register(&id, &self.poke);
        let events = self.agent.events.clone();
        events.container_event(
            pod,
            &spec.name,
            "Normal",
            "Created",
            format!("Created container: {}", spec.name),
        );
        cri.start_container(&id).await.map_err(|error| failed("RunContainerError", error.message))?;
        events.container_event(
            pod,
            &spec.name,
            "Normal",
            "Started",
            format!("Started container {}", spec.name),
        );
        info!(pod = %self.name(), container = %spec.name, restart_count = start.restart_count, "container started");
        self.post_start(pod, state, spec, &id).await
    }

    async fn create_request(
        &self,
        pod: &Arc<Pod>,
        state: &PodState,
        spec: &Spec,
        start: &Start,
        image: &cri::Image,
        sandbox_id: &str,
    ) -> Result<cri::CreateContainerRequest, String> {
        let (pod_ips, host_ips, user) = (self.pod_ips(pod, state), self.agent.host_ips(), self.user());
        let services: Vec<Service> =
            self.agent.services.list().iter().filter_map(|service| service.decode().ok()).collect();
        let source = env::Source {
            fields: self.fields(pod, &pod_ips, &host_ips),
            objects: &self.agent.objects,
            user: &user,
            services: &services,
        };
        let environment = source.environment(spec).await.map_err(|error| error.to_string())?;
        self.write_hosts(pod, &pod_ips).map_err(|error| error.to_string())?;
        let pod_dir = self.agent.pod_dir(&self.uid);
        let description = container::Source {
            pod,
            container: spec,
            restart_count: start.restart_count,
            environment,
            volumes: &self.mounted.paths,
            image,
            pod_dir: &pod_dir,
            node_memory: self.agent.machine.memory,
        };
        let log_dir = sandbox::log_dir(pod, &self.agent.config).join(&spec.name);
        std::fs::create_dir_all(log_dir).map_err(|error| error.to_string())?;
        let resolver = dns::resolver(pod, &self.agent.config);
        let attempt = state.sandbox().map_or(0, |sandbox| sandbox.attempt);
        Ok(cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(description.config().map_err(|error| error.to_string())?),
            sandbox_config: Some(sandbox::config(pod, &self.agent.config, resolver.config, attempt)),
        })
    }

    /// The managed `/etc/hosts`; the sandbox's address is known by now.
    fn write_hosts(&self, pod: &Pod, pod_ips: &[String]) -> std::io::Result<()> {
        let spec = pod.spec.clone().unwrap_or_default();
        let text = if spec.host_network == Some(true) {
            dns::host_network_hosts_file(&spec)
        } else {
            let (hostname, domain) = dns::hostname(pod, &self.agent.config);
            dns::hosts_file(&spec, &hostname, domain.as_deref(), pod_ips)
        };
        std::fs::write(self.agent.pod_dir(&self.uid).join("etc-hosts"), text)
    }

    async fn post_start(
        &mut self,
        pod: &Arc<Pod>,
        state: &PodState,
        spec: &Spec,
        id: &str,
    ) -> Result<(), Reason> {
        let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(action) = hook.and_then(Action::of_hook) else { return Ok(()) };
        let target = self.target(pod, state, spec, id);
        if let Err(message) = check::run(self.agent.cri(), &action, &target, HOOK_TIMEOUT).await {
            let text = format!("PostStartHook failed: {message}");
            self.agent.events.container_event(
                pod,
                &spec.name,
                "Warning",
                "FailedPostStartHook",
                text.clone(),
            );
            let grace = self.grace(pod);
            if let Err(error) = self.agent.cri().stop_container(id, grace).await {
                warn!(pod = %self.name(), %error, "container with a failed hook not stopped");
            }
            return Err(Reason { reason: "PostStartHookError", message: text });
        }
        Ok(())
    }

    /// Where probes and hooks of a container go.
    pub(super) fn target(&self, pod: &Pod, state: &PodState, spec: &Spec, id: &str) -> Target {
        let ip = self.pod_ips(pod, state).into_iter().next().unwrap_or_else(|| "127.0.0.1".to_owned());
        Target::new(id.to_owned(), ip, spec)
    }

    /// Removes dead incarnations beyond those kept for their logs. `state` is from before the new start.
    async fn prune(&self, state: &PodState, name: &str) {
        let dead = state.of(name).filter(|made| made.state == State::Exited).skip(KEPT_DEAD);
        for made in dead {
            if let Err(error) = self.agent.cri().remove_container(&made.id).await {
                warn!(pod = %self.name(), container = %made.id, %error, "dead container not removed");
            }
            // Its log goes with it.
            let _ = std::fs::remove_file(&made.log_path);
        }
    }
}

pub(super) fn find_spec<'a>(pod: &'a Pod, name: &str) -> Option<&'a Spec> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == name)
}
