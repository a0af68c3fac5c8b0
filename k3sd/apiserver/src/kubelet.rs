//! The way to kubelets, pods and services: one connection per request, TLS with this server's client certificate only where the other
//! end is a kubelet, and upgraded connections spliced byte for byte. Nothing of the caller's credentials is passed on.
//!
//! Nothing here reads what is streamed: a client's WebSocket or SPDY request goes to the kubelet with its own headers, and what the
//! kubelet answers goes back, so the two agree on protocols end to end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use machinery::status::Status;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::{Instrument, debug};

use crate::body::{Body, BoxError};
use crate::config::Config;
use crate::respond::Response;
use crate::server::{Shared, StartError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KUBELET_PORT: u16 = 10250;
/// Upstream's `--kubelet-preferred-address-types` as K3s sets it.
const ADDRESS_TYPES: [&str; 3] = ["InternalIP", "ExternalIP", "Hostname"];

/// Opens connections to kubelets, pods and services.
#[derive(Debug, Clone)]
pub(crate) struct KubeletTransport {
    /// Shows this server's certificate, to a kubelet that has proved to be one.
    kubelet: Arc<ClientConfig>,
    /// Shows no certificate: the other end is whatever somebody put behind a pod or a service.
    unproven: Arc<ClientConfig>,
}

/// How a connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// Plain HTTP.
    None,
    /// TLS with a kubelet, both ends proved.
    Kubelet,
    /// TLS with an end that proves nothing and is shown nothing, as upstream speaks to pods and services.
    Unproven,
}

/// Where a request is passed on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub host: String,
    pub port: u16,
    pub security: Security,
    /// Path and query.
    pub target: String,
}

/// What to pass on of a request.
pub(crate) struct Passed {
    pub method: Method,
    pub headers: HeaderMap,
    pub upgrade: Option<OnUpgrade>,
    pub body: http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>,
}

impl KubeletTransport {
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in &config.kubelet_ca {
            roots.add(certificate.clone())?;
        }
        let mut kubelet = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                config.kubelet_client.chain.clone(),
                config.kubelet_client.key.clone_key(),
            )?;
        let mut unproven = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer::new(&provider)))
            .with_no_client_auth();
        for config in [&mut kubelet, &mut unproven] {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Ok(Self { kubelet: Arc::new(kubelet), unproven: Arc::new(unproven) })
    }
}

/// Takes any certificate whose key the server holds: pods sign their own.
#[derive(Debug)]
struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyServer {
    fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The kubelet of a node, as the node publishes it.
pub(crate) fn of_node(shared: &Shared, name: &str, target: String) -> Result<Upstream, Status> {
    let node =
        shared.registry.object("", "nodes", "", name).ok_or_else(|| Status::not_found("", "nodes", name))?;
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let addresses = addresses.map_or(&[][..], Vec::as_slice);
    let host = ADDRESS_TYPES
        .iter()
        .find_map(|wanted| addresses.iter().find(|address| address["type"] == *wanted))
        .and_then(|address| address.get("address")?.as_str())
        .ok_or_else(|| {
            Status::internal(format!("no preferred addresses found; known addresses: {addresses:?}"))
        })?;
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
        .unwrap_or(KUBELET_PORT);
    Ok(Upstream { host: host.to_owned(), port, security: Security::Kubelet, target })
}

/// Pass a request on and its answer back. An upgraded connection lives on as a task of the server.
pub(crate) async fn forward(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    passed: Passed,
) -> Result<Response, Status> {
    let client = passed.upgrade;
    let upgrading = client.is_some() && passed.headers.contains_key(UPGRADE);
    let request = request(upstream, passed.method, passed.headers, passed.body, upgrading)?;
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, open(shared, upstream));
    let mut sender = match connecting.await {
        Ok(Ok(sender)) => sender,
        Ok(Err(error)) => return Err(unreachable(upstream, &*error)),
        Err(elapsed) => return Err(unreachable(upstream, &elapsed)),
    };
    let mut response = sender.send_request(request).await.map_err(|error| unreachable(upstream, &error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let server = hyper::upgrade::on(&mut response);
        let cancel = shared.cancel.clone();
        let splicing = async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = splice(client, server) => {}
            }
        };
        shared.tasks.spawn(splicing.in_current_span());
        return Ok(response.map(|_| Body::empty()));
    }
    strip_hop_headers(response.headers_mut());
    Ok(response.map(Body::from))
}

fn unreachable(upstream: &Upstream, error: &dyn std::error::Error) -> Status {
    let mut status = Status::internal(format!(
        "error dialing backend: {}:{}: {}",
        upstream.host,
        upstream.port,
        crate::errors::chain(error)
    ));
    status.message = status.message.replace("Internal error occurred: ", "");
    status
}

async fn splice(client: OnUpgrade, server: OnUpgrade) {
    let (client, server) = match tokio::try_join!(client, server) {
        Ok(both) => both,
        Err(error) => return debug!(%error, "upgrade failed"),
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
        debug!(%error, "spliced connection ended");
    }
}

fn request(
    upstream: &Upstream,
    method: Method,
    mut headers: HeaderMap,
    body: http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>,
    upgrading: bool,
) -> Result<Request<http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>>, Status> {
    let bad = |error: &dyn std::error::Error| Status::bad_request(error.to_string());
    let upgrade = headers.get(UPGRADE).cloned();
    strip_hop_headers(&mut headers);
    strip_credentials(&mut headers);
    let host = format!("{}:{}", bracketed(&upstream.host), upstream.port);
    headers.insert(HOST, HeaderValue::from_str(&host).map_err(|error| bad(&error))?);
    if let (Some(upgrade), true) = (upgrade, upgrading) {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    let uri: Uri = upstream.target.parse().map_err(|error| bad(&error))?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

fn bracketed(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host.to_owned(),
    }
}

/// Headers that belong to one connection (RFC 9110 section 7.6.1).
fn strip_hop_headers(headers: &mut HeaderMap) {
    for name in
        ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"]
    {
        headers.remove(HeaderName::from_static(name));
    }
}

/// Who the caller is, or acts as, has been decided here: the other end must not be able to repeat it.
fn strip_credentials(headers: &mut HeaderMap) {
    headers.remove(http::header::AUTHORIZATION);
    headers.remove(http::header::PROXY_AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
}

type Sender = http1::SendRequest<http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>>;

async fn open(shared: &Arc<Shared>, upstream: &Upstream) -> Result<Sender, BoxError> {
    let stream = TcpStream::connect((upstream.host.as_str(), upstream.port)).await?;
    stream.set_nodelay(true)?;
    let tls = match upstream.security {
        Security::None => return converse(shared, stream).await,
        Security::Kubelet => &shared.kubelets.kubelet,
        Security::Unproven => &shared.kubelets.unproven,
    };
    let name = ServerName::try_from(upstream.host.clone())?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
    converse(shared, stream).await
}

async fn converse<S>(shared: &Arc<Shared>, stream: S) -> Result<Sender, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let cancel = shared.cancel.clone();
    let driving = async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            ended = connection.with_upgrades() => {
                if let Err(error) = ended {
                    debug!(%error, "proxied connection ended");
                }
            }
        }
    };
    shared.tasks.spawn(driving.in_current_span());
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_callers_credentials_is_passed_on() {
        let mut headers = HeaderMap::new();
        for name in
            ["authorization", "proxy-authorization", "impersonate-user", "impersonate-extra-scopes", "accept"]
        {
            headers.append(name, HeaderValue::from_static("x"));
        }
        strip_credentials(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
