//! The way to servers on other machines: one HTTP/2 connection over TLS, to whichever server of the cluster answers.
//!
//! Servers are known by their authority, not by their address: whatever address leads to one, its certificate must name
//! [`SERVER_NAME`], as every API server's does. So a server is reached by a name, a forwarded port or a new address
//! without a new certificate.
//!
//! A connection that is lost is made again by the next request. Pings find a server that went without a word.

mod stream;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Request, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::ServiceExt as _;
use tracing::debug;

use self::stream::{AnyServer, TlsStream};

/// The name in every API server's certificate that a client may always insist on.
pub const SERVER_NAME: &str = "kubernetes";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle connection is tried, and how long the answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Room for what the server sends ahead; hyper's default of 1 MiB per stream is more than a node's watches need.
const WINDOW: u32 = 256 * 1024;

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A text that is no `HOST:PORT`.
#[derive(Debug, thiserror::Error)]
#[error("not HOST:PORT: {0:?}")]
pub struct NotAnEndpoint(String);

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || NotAnEndpoint(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(fail)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match port.parse() {
            Ok(port) if !host.is_empty() => Ok(Self { host: host.to_owned(), port }),
            _ => Err(fail()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The servers of the cluster as far as they are known, the one that answered last first. A clone shares them.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Never held across an await.
    known: Arc<Mutex<Vec<Endpoint>>>,
}

impl Servers {
    /// Begins with the one that was configured.
    pub fn new(first: Endpoint) -> Self {
        Self { known: Arc::new(Mutex::new(vec![first])) }
    }

    /// Adds servers that were heard of.
    pub fn learn(&self, servers: impl IntoIterator<Item = Endpoint>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for server in servers {
            if !known.contains(&server) {
                known.push(server);
            }
        }
    }

    fn prefer(&self, server: &Endpoint) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = known.iter().position(|other| other == server) {
            known[..=at].rotate_right(1);
        }
    }

    /// A connection to the first that accepts one.
    async fn connect(&self) -> io::Result<TcpStream> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut last = io::Error::other("no server is known");
        for server in known {
            let connecting = TcpStream::connect((server.host.as_str(), server.port));
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(stream)) => {
                    self.prefer(&server);
                    return Ok(stream);
                }
                Ok(Err(error)) => {
                    debug!(%server, %error, "server does not accept a connection");
                    last = error;
                }
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer"),
            }
        }
        Err(last)
    }
}

/// Whom a client takes for a server.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Whoever shows a certificate of one of these authorities, in the name of an API server.
    Authorities(Vec<CertificateDer<'static>>),
    /// Anybody: only for fetching what the trust is then built on.
    Anybody,
}

/// Who a client says it is.
#[derive(Debug)]
pub enum Credentials {
    /// Nobody.
    None,
    /// The holder of a client certificate: the chain, leaf first, and the leaf's key.
    Certificate(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    /// HTTP Basic; the value of the header `Authorization`.
    Header(HeaderValue),
}

/// A client for the servers. It connects with its first request.
///
/// # Errors
/// Certificates or a key that cannot be used.
pub fn connect(
    servers: Servers,
    trust: Trust,
    credentials: Credentials,
) -> Result<kube::Client, rustls::Error> {
    let (tls, authorization) = tls_config(trust, credentials)?;
    let connector = Connector { servers, tls: TlsConnector::from(Arc::new(tls)) };
    let client: Client<Connector, Body> = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_only(true)
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(WINDOW * 2)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build(connector);
    let service = client.map_request(move |request| addressed(request, authorization.as_ref()));
    Ok(kube::Client::new(service, "default"))
}

/// Components ask for paths; HTTP/2 wants to know of whom, too.
fn addressed(mut request: Request<Body>, authorization: Option<&HeaderValue>) -> Request<Body> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(Authority::from_static(SERVER_NAME));
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are there");
    if let Some(value) = authorization {
        request.headers_mut().insert(header::AUTHORIZATION, value.clone());
    }
    request
}

fn tls_config(
    trust: Trust,
    credentials: Credentials,
) -> Result<(ClientConfig, Option<HeaderValue>), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let trusting = match trust {
        Trust::Authorities(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(authority)?;
            }
            versions.with_root_certificates(roots)
        }
        Trust::Anybody => {
            versions.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer::new(&provider)))
        }
    };
    let (mut tls, authorization) = match credentials {
        Credentials::None => (trusting.with_no_client_auth(), None),
        Credentials::Certificate(chain, key) => (trusting.with_client_auth_cert(chain, key)?, None),
        Credentials::Header(value) => (trusting.with_no_client_auth(), Some(value)),
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok((tls, authorization))
}

#[derive(Clone)]
struct Connector {
    servers: Servers,
    tls: TlsConnector,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Self { servers, tls } = self.clone();
        Box::pin(async move {
            let stream = servers.connect().await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(SERVER_NAME).expect("it is a DNS name");
            let shaking = tokio::time::timeout(CONNECT_TIMEOUT, tls.connect(name, stream));
            let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timed out");
            Ok(TokioIo::new(TlsStream(shaking.await.map_err(timed_out)??)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn endpoints_are_read_and_written_alike() {
        for text in ["10.0.0.1:6443", "[fd00::1]:6443", "server.example:443"] {
            assert_eq!(endpoint(text).to_string(), text);
        }
        for text in ["10.0.0.1", ":6443", "a:b", "a:70000"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn the_server_that_answers_is_tried_first_from_then_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = endpoint(&listener.local_addr().unwrap().to_string());
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = endpoint(&closed.local_addr().unwrap().to_string());
        drop(closed);
        let servers = Servers::new(dead.clone());
        servers.connect().await.unwrap_err();
        servers.learn([alive.clone(), dead.clone()]);
        servers.connect().await.unwrap();
        assert_eq!(*servers.known.lock().unwrap(), [alive, dead]);
    }
}
