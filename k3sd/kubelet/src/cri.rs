//! The container runtime, spoken to in CRI v1 over containerd's Unix socket.
//!
//! [`Cri`] is a cheap handle. Its channel connects lazily and again after containerd was restarted, so a
//! caller that retries needs no logic of its own for that. Every call has a deadline and names itself in its
//! error. Nothing is cached here: what runs is what the runtime says runs.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::{debug, info};

/// How long a call may take unless it says otherwise; upstream's `runtimeRequestTimeout`.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// A registry may be slow; upstream sets no limit on a pull, we set one that ends.
const PULL_TIMEOUT: Duration = Duration::from_secs(1800);
/// A node with many containers and long annotations answers lists beyond gRPC's 4 MiB.
const MAX_MESSAGE: usize = 16 << 20;
/// Pause between attempts while containerd is not there yet.
const CONNECT_RETRY: Duration = Duration::from_millis(50);
const CONNECT_RETRY_MAX: Duration = Duration::from_secs(1);

/// A failed runtime call.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {message}")]
pub(crate) struct CriError {
    /// The CRI method.
    pub(crate) call: &'static str,
    /// gRPC status code.
    pub(crate) code: tonic::Code,
    /// The runtime's own words.
    pub(crate) message: String,
}

impl CriError {
    /// The object is not there (any more).
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == tonic::Code::NotFound
    }

    fn from_status(call: &'static str, status: &tonic::Status) -> Self {
        Self { call, code: status.code(), message: status.message().to_owned() }
    }
}

/// Handle to the runtime and image services.
#[derive(Clone)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
}

/// A channel to a Unix socket that connects on first use and reconnects when the peer was restarted.
fn lazy_channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    // The URI is never looked at; the connector decides where the bytes go.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    }))
}

async fn call<T>(
    name: &'static str,
    limit: Duration,
    reply: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, CriError> {
    match tokio::time::timeout(limit, reply).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CriError::from_status(name, &status)),
        Err(_) => Err(CriError {
            call: name,
            code: tonic::Code::DeadlineExceeded,
            message: format!("no answer within {} s", limit.as_secs()),
        }),
    }
}

impl Cri {
    /// A handle to the runtime behind `socket`; does not connect yet.
    pub(crate) fn new(socket: &Path) -> Self {
        let channel = lazy_channel(socket);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            channel,
        }
    }

    /// The gRPC channel, for containerd's own services on the same socket.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits until the runtime answers. `None` when cancelled first.
    pub(crate) async fn wait(&self, cancel: &CancellationToken) -> Option<cri::VersionResponse> {
        let mut pause = CONNECT_RETRY;
        let mut told = false;
        loop {
            match self.version().await {
                Ok(version) => {
                    info!(runtime = %version.runtime_name, version = %version.runtime_version, "container runtime connected");
                    return Some(version);
                }
                Err(error) if !told => {
                    told = true;
                    info!(%error, "waiting for the container runtime");
                }
                Err(error) => debug!(%error, "container runtime not there yet"),
            }
            tokio::select! {
                () = cancel.cancelled() => return None,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(CONNECT_RETRY_MAX),
            }
        }
    }

    pub(crate) async fn version(&self) -> Result<cri::VersionResponse, CriError> {
        let request = cri::VersionRequest { version: "v1".to_owned() };
        call("Version", CALL_TIMEOUT, self.runtime.clone().version(request)).await
    }

    /// The runtime's conditions, `RuntimeReady` and `NetworkReady`.
    pub(crate) async fn status(&self) -> Result<Vec<cri::RuntimeCondition>, CriError> {
        let request = cri::StatusRequest { verbose: false };
        let reply = call("Status", CALL_TIMEOUT, self.runtime.clone().status(request)).await?;
        Ok(reply.status.unwrap_or_default().conditions)
    }

    // === Sandboxes ===

    pub(crate) async fn run_pod_sandbox(
        &self,
        config: cri::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, CriError> {
        let request =
            cri::RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.to_owned() };
        let reply =
            call("RunPodSandbox", 2 * CALL_TIMEOUT, self.runtime.clone().run_pod_sandbox(request)).await?;
        Ok(reply.pod_sandbox_id)
    }

    pub(crate) async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        call("StopPodSandbox", CALL_TIMEOUT, self.runtime.clone().stop_pod_sandbox(request)).await?;
        Ok(())
    }

    pub(crate) async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        call("RemovePodSandbox", CALL_TIMEOUT, self.runtime.clone().remove_pod_sandbox(request)).await?;
        Ok(())
    }

    pub(crate) async fn pod_sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus, CriError> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let reply =
            call("PodSandboxStatus", CALL_TIMEOUT, self.runtime.clone().pod_sandbox_status(request)).await?;
        Ok(reply.status.unwrap_or_default())
    }

    /// Sandboxes having all of `labels`; all of them when empty.
    pub(crate) async fn list_pod_sandboxes(
        &self,
        labels: HashMap<String, String>,
    ) -> Result<Vec<cri::PodSandbox>, CriError> {
        let filter = cri::PodSandboxFilter { label_selector: labels, ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let reply =
            call("ListPodSandbox", CALL_TIMEOUT, self.runtime.clone().list_pod_sandbox(request)).await?;
        Ok(reply.items)
    }

    // === Containers ===

    pub(crate) async fn create_container(
        &self,
        request: cri::CreateContainerRequest,
    ) -> Result<String, CriError> {
        let reply =
            call("CreateContainer", CALL_TIMEOUT, self.runtime.clone().create_container(request)).await?;
        Ok(reply.container_id)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        call("StartContainer", CALL_TIMEOUT, self.runtime.clone().start_container(request)).await?;
        Ok(())
    }

    /// Sends the stop signal, waits up to `grace`, then kills.
    pub(crate) async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        call("StopContainer", grace + CALL_TIMEOUT, self.runtime.clone().stop_container(request)).await?;
        Ok(())
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        call("RemoveContainer", CALL_TIMEOUT, self.runtime.clone().remove_container(request)).await?;
        Ok(())
    }

    pub(crate) async fn list_containers(
        &self,
        labels: HashMap<String, String>,
    ) -> Result<Vec<cri::Container>, CriError> {
        let filter = cri::ContainerFilter { label_selector: labels, ..Default::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let reply =
            call("ListContainers", CALL_TIMEOUT, self.runtime.clone().list_containers(request)).await?;
        Ok(reply.containers)
    }

    pub(crate) async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus, CriError> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let reply =
            call("ContainerStatus", CALL_TIMEOUT, self.runtime.clone().container_status(request)).await?;
        Ok(reply.status.unwrap_or_default())
    }

    pub(crate) async fn reopen_container_log(&self, id: &str) -> Result<(), CriError> {
        let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        call("ReopenContainerLog", CALL_TIMEOUT, self.runtime.clone().reopen_container_log(request)).await?;
        Ok(())
    }

    /// Runs a command to its end; the runtime kills it after `limit`.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        limit: Duration,
    ) -> Result<cri::ExecSyncResponse, CriError> {
        let timeout = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        call("ExecSync", limit + CALL_TIMEOUT, self.runtime.clone().exec_sync(request)).await
    }

    // === Streaming: each returns the URL of the runtime's streaming server ===

    pub(crate) async fn exec(&self, request: cri::ExecRequest) -> Result<String, CriError> {
        Ok(call("Exec", CALL_TIMEOUT, self.runtime.clone().exec(request)).await?.url)
    }

    pub(crate) async fn attach(&self, request: cri::AttachRequest) -> Result<String, CriError> {
        Ok(call("Attach", CALL_TIMEOUT, self.runtime.clone().attach(request)).await?.url)
    }

    pub(crate) async fn port_forward(&self, request: cri::PortForwardRequest) -> Result<String, CriError> {
        Ok(call("PortForward", CALL_TIMEOUT, self.runtime.clone().port_forward(request)).await?.url)
    }

    // === Images ===

    /// The image a reference resolves to; `None` when it is not on this node.
    pub(crate) async fn image_status(&self, image: &str) -> Result<Option<cri::Image>, CriError> {
        let request = cri::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        Ok(call("ImageStatus", CALL_TIMEOUT, self.images.clone().image_status(request)).await?.image)
    }

    pub(crate) async fn list_images(&self) -> Result<Vec<cri::Image>, CriError> {
        let request = cri::ListImagesRequest { filter: None };
        Ok(call("ListImages", CALL_TIMEOUT, self.images.clone().list_images(request)).await?.images)
    }

    pub(crate) async fn pull_image(
        &self,
        image: &str,
        auth: Option<cri::AuthConfig>,
        sandbox_config: Option<cri::PodSandboxConfig>,
    ) -> Result<String, CriError> {
        let request = cri::PullImageRequest { image: Some(image_spec(image)), auth, sandbox_config };
        Ok(call("PullImage", PULL_TIMEOUT, self.images.clone().pull_image(request)).await?.image_ref)
    }
}

/// An image named by `image`, a reference or an image id.
pub(crate) fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}
