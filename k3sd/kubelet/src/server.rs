//! The kubelet's HTTPS server: logs, exec, attach and port forwarding for the API server, pods for everybody who
//! may ask.
//!
//! A client must show a certificate of the cluster's client authority, and be the API server or an administrator.
//! Streams are not interpreted: the request goes on to containerd's streaming server as it is, and the two
//! connections are joined byte for byte, so that SPDY and WebSocket both work end to end.

mod logs;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::agent::Agent;
use crate::runtime::Container;

/// How long a client may take to say who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause when no connection can be accepted (too many open files).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

type Body = BoxBody<Bytes, std::io::Error>;

/// A refusal: status and what to say.
pub(crate) struct Refusal(StatusCode, String);

impl Refusal {
    fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }

    fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    fn internal(error: impl std::fmt::Display) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

/// Opens the port; connections are accepted once [`serve`] runs.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address} (kubelet server)"))
}

/// Serves until cancelled, then drops what is still open.
pub(crate) async fn serve(
    agent: Arc<Agent>,
    listener: TcpListener,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(tls::config(&agent.config)?);
    info!(address = %listener.local_addr()?, "kubelet server listening");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (agent, acceptor) = (agent.clone(), acceptor.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection(agent, acceptor, stream).await {
                            debug!(%peer, error = format!("{error:#}"), "connection ended");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
    Ok(())
}

async fn connection(agent: Arc<Agent>, acceptor: TlsAcceptor, stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream =
        tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.context("no handshake")??;
    let caller = tls::caller(stream.get_ref().1);
    let service = hyper::service::service_fn(move |request| {
        let (agent, caller) = (agent.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(agent, &caller, request).await) }
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(|error| anyhow::anyhow!(error))
}

async fn answer(agent: Arc<Agent>, caller: &tls::Caller, request: Request<Incoming>) -> Response<Body> {
    let what = format!("{} {}", request.method(), request.uri().path());
    let result = if caller.may_use_kubelet() {
        route(agent, request).await
    } else {
        let text = format!("Forbidden (user={}, verb=get, resource=nodes, subresource=proxy)", caller.name);
        Err(Refusal(StatusCode::FORBIDDEN, text))
    };
    result.unwrap_or_else(|Refusal(status, text)| {
        debug!(request = what, %status, reason = text, "request refused");
        respond(status, "text/plain; charset=utf-8", text)
    })
}

async fn route(agent: Arc<Agent>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let get = request.method() == Method::GET;
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping"] if get => {
            Ok(respond(StatusCode::OK, "text/plain; charset=utf-8", "ok".to_owned()))
        }
        ["pods"] if get => pods(&agent),
        ["containerLogs", namespace, name, container] if get => {
            let query = Query::of(&request);
            logs::container_logs(agent, namespace, name, container, &query).await
        }
        ["exec", namespace, name, .., container] if matches!(parts.len(), 4 | 5) => {
            let (namespace, name, container) = owned3(namespace, name, container);
            stream::exec(&agent, request, &namespace, &name, &container).await
        }
        ["attach", namespace, name, .., container] if matches!(parts.len(), 4 | 5) => {
            let (namespace, name, container) = owned3(namespace, name, container);
            stream::attach(&agent, request, &namespace, &name, &container).await
        }
        ["portForward", namespace, name] | ["portForward", namespace, name, _] => {
            let (namespace, name, _) = owned3(namespace, name, "");
            stream::port_forward(&agent, request, &namespace, &name).await
        }
        ["run", namespace, name, .., container] if matches!(parts.len(), 4 | 5) => {
            stream::run(&agent, &request, namespace, name, container).await
        }
        _ => Err(Refusal::not_found("404 page not found")),
    }
}

fn owned3(a: &str, b: &str, c: &str) -> (String, String, String) {
    (a.to_owned(), b.to_owned(), c.to_owned())
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

fn pods(agent: &Agent) -> Result<Response<Body>, Refusal> {
    let list = serde_json::json!({
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {},
        "items": agent.books.pods(),
    });
    Ok(respond(StatusCode::OK, "application/json", list.to_string()))
}

/// The parameters of a request, decoded; a name may occur several times.
struct Query(Vec<(String, String)>);

impl Query {
    fn of<B>(request: &Request<B>) -> Self {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        let pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// Go's idea of true: the kubelet's parameters are `1`, `true` or absent.
    fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true" | "True" | "TRUE" | "t" | "T"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Refusal::bad(format!("invalid value for {name}: {text:?}")))
    }
}

fn find_pod(agent: &Agent, namespace: &str, name: &str) -> Result<Pod, Refusal> {
    agent
        .books
        .find(namespace, name)
        .ok_or_else(|| Refusal::not_found(format!("pod \"{name}\" not found in namespace \"{namespace}\"")))
}

/// The newest incarnation of a container, or the one before it.
async fn find_container(
    agent: &Agent,
    namespace: &str,
    name: &str,
    container: &str,
    previous: bool,
) -> Result<Container, Refusal> {
    let pod = find_pod(agent, namespace, name)?;
    let spec = pod.spec.clone().unwrap_or_default();
    let known =
        spec.init_containers.iter().flatten().chain(&spec.containers).any(|spec| spec.name == container);
    if !known {
        let text = format!("container \"{container}\" not found in pod \"{name}\"");
        return Err(Refusal::not_found(text));
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let containers = agent.runtime.containers(&uid, container).await.map_err(Refusal::internal)?;
    let found = containers.into_iter().nth(usize::from(previous));
    found.ok_or_else(|| {
        Refusal::bad(if previous {
            format!("previous terminated container \"{container}\" in pod \"{name}\" not found")
        } else {
            format!(
                "container \"{container}\" in pod \"{name}\" is waiting to start: {}",
                waiting(&pod, container)
            )
        })
    })
}

/// What a container that is not there yet waits for, in the words of its status.
fn waiting(pod: &Pod, container: &str) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let mut all = status.container_statuses.into_iter().chain(status.init_container_statuses).flatten();
    let state = all.find(|status| status.name == container).and_then(|status| status.state);
    let reason = state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason);
    match reason.as_deref() {
        Some("ErrImagePull" | "ImagePullBackOff") => "trying and failing to pull image".to_owned(),
        Some(reason) => reason.to_owned(),
        None => "ContainerCreating".to_owned(),
    }
}
