//! The API server as a whole: what it is built from, how it starts, and the ways in.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use datastore::Datastore;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use machinery::kinds::Resource;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::admission::{Admission, Configuration};
use crate::allocator::Allocators;
use crate::audit::Audit;
use crate::authn::Peer;
use crate::authn::token::{KeyError, Tokens};
use crate::authz::node::Nodes;
use crate::authz::rbac::Rbac;
use crate::body::{Body, BoxError};
use crate::cache::feed::{self, Feed};
use crate::config::Config;
use crate::kubelet::KubeletTransport;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::tls::Tls;
use crate::user::UserInfo;
use crate::{addresses, bootstrap, compactor, pipeline};

/// Upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
const MAX_IN_FLIGHT: usize = 600;

/// A request as the pipeline sees it.
pub(crate) type ApiRequest = Request<UnsyncBoxBody<Bytes, BoxError>>;

/// Answers of [`ExtraRoutes`].
pub type ExtraFuture = Pin<Box<dyn Future<Output = Option<Response<Body>>> + Send>>;

/// Endpoints that share the port without being Kubernetes API: asked first, before authentication.
/// `None` means "not mine".
pub trait ExtraRoutes: Send + Sync + 'static {
    /// True if this path is answered here. Must be cheap.
    fn owns(&self, path: &str) -> bool;
    /// Answer. `client` is whom a verified client certificate or a bearer token proves; `None` without a good one.
    fn answer(
        &self,
        request: Request<UnsyncBoxBody<Bytes, BoxError>>,
        client: Option<UserInfo>,
    ) -> ExtraFuture;
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The datastore cannot be read.
    #[error("failed to read the datastore")]
    Datastore(#[from] datastore::Error),
    /// The service account keys cannot be used.
    #[error("failed to use the service account keys")]
    Keys(#[from] KeyError),
    /// The certificates cannot be used.
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
    /// The client CA cannot be used.
    #[error("failed to use the client certificate authority")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
    /// Admission cannot be set up as configured.
    #[error(transparent)]
    Admission(#[from] crate::admission::ConfigurationError),
    /// Requests could not be recorded as configured.
    #[error(transparent)]
    Audit(#[from] crate::audit::Error),
    /// Objects that every cluster has could not be written.
    #[error("failed to write the cluster's own {what}")]
    Bootstrap {
        /// Which object.
        what: String,
        /// Why.
        #[source]
        source: Box<machinery::status::Status>,
    },
}

/// Everything requests share.
pub(crate) struct Shared {
    pub config: Config,
    pub datastore: Arc<dyn Datastore>,
    pub registry: Arc<Registry>,
    pub feed: Feed,
    pub allocators: Arc<Allocators>,
    pub tokens: Tokens,
    pub admission: Admission,
    pub rbac: Arc<Rbac>,
    pub nodes: Nodes,
    pub kubelets: KubeletTransport,
    pub metrics: Metrics,
    pub tls: Tls,
    pub audit: Option<Arc<Audit>>,
    /// Requests from the network that may be answered at one time, streams aside.
    pub in_flight: Semaphore,
    /// Set when the caches can no longer follow the datastore.
    pub stale: watch::Receiver<Option<datastore::Error>>,
    pub extra: OnceLock<Arc<dyn ExtraRoutes>>,
    /// Tasks that outlive their request: spliced connections.
    pub tasks: TaskTracker,
    pub cancel: CancellationToken,
}

/// A running API server. Clones are handles on the same server.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Fill the caches, write the objects that every cluster has, and be ready for [`ApiServer::service_as`] and
    /// [`ApiServer::serve`]. Background tasks end with `cancel`.
    pub async fn start(
        config: Config,
        datastore: Arc<dyn Datastore>,
        cancel: CancellationToken,
    ) -> Result<Self, StartError> {
        let registry = Arc::new(Registry::builtin());
        let tokens = Tokens::new(&config)?;
        let tls = Tls::new(&config)?;
        let audit = config.audit.as_ref().map(Audit::open).transpose()?.map(Arc::new);
        let settings = config.admission.as_deref().map(Configuration::read).transpose()?.unwrap_or_default();
        let kubelets = KubeletTransport::new(&config)?;
        let allocators = Allocators::new(&config.service_cidrs, config.node_port_range.clone());
        let allocators = Arc::new(allocators);
        let (feed, feeder) = feed::start(datastore.clone(), registry.clone(), allocators.clone()).await?;
        let tasks = TaskTracker::new();
        let (stale_sender, stale) = watch::channel(None);
        let feeding = cancel.clone();
        let feeding = async move {
            if let Err(error) = feeder.run(feeding).await {
                stale_sender.send_replace(Some(error));
            }
        };
        tasks.spawn(feeding.in_current_span());
        tasks.spawn(compactor::run(datastore.clone(), cancel.clone()).in_current_span());
        let rbac = Arc::new(Rbac::default());
        let shared = Arc::new(Shared {
            config,
            datastore,
            registry,
            feed,
            allocators,
            tokens,
            admission: Admission::builtin(rbac.clone(), settings),
            rbac,
            nodes: Nodes::new(&bootstrap::node_rules()),
            kubelets,
            metrics: Metrics::default(),
            tls,
            audit,
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            stale,
            extra: OnceLock::new(),
            tasks,
            cancel,
        });
        bootstrap::ensure(&shared).await?;
        // So that what was just written is seen as there.
        let written = shared.datastore.revision().await?;
        // The feed takes it from here if it is slow.
        let _slow = shared.feed.wait(written.0).await;
        shared.tasks.spawn(bootstrap::keep(shared.clone()).in_current_span());
        shared.tasks.spawn(addresses::keep(shared.clone()).in_current_span());
        Ok(Self { shared })
    }

    /// Share the port with other endpoints. The first call wins.
    pub fn with_extra_routes(self, routes: Arc<dyn ExtraRoutes>) -> Self {
        // A second set of routes would be a wiring mistake; the first stays.
        let _second = self.shared.extra.set(routes);
        self
    }

    /// The in-process transport: the same pipeline, with this identity instead of authentication.
    pub fn service_as(&self, user: UserInfo) -> InProcess {
        InProcess { shared: self.shared.clone(), peer: Peer::Trusted(user) }
    }

    /// Serve one more resource from now on. Objects that are stored already are read first, so that the first list is complete.
    pub async fn register(&self, resource: Resource) -> Result<(), datastore::Error> {
        let shared = &self.shared;
        let resource = Arc::new(resource);
        let revision = shared.feed.revision();
        if let Some(cache) = shared.registry.add_cache(&resource, revision) {
            shared.feed.fill(cache).await?;
        }
        shared.registry.add(resource, revision);
        Ok(())
    }

    /// A token for a service account that is good as long as the secret that keeps it; `None` if the key cannot sign.
    pub fn sign_secret_token(
        &self,
        namespace: &str,
        secret: &str,
        account: &str,
        account_uid: &str,
    ) -> Option<String> {
        self.shared.tokens.sign_for_secret(namespace, secret, account, account_uid)
    }

    /// Read view of every stored object.
    pub fn objects(&self) -> &Registry {
        &self.shared.registry
    }
}

/// See [`ApiServer::service_as`].
#[derive(Clone)]
pub struct InProcess {
    shared: Arc<Shared>,
    peer: Peer,
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let (shared, peer) = (self.shared.clone(), self.peer.clone());
        Box::pin(async move { Ok(pipeline::handle(shared, peer, request).await) })
    }
}
