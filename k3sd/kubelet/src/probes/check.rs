//! One check of a container: a command in it, an HTTP request, a TCP connection, a gRPC health call. Lifecycle
//! hooks are made of the same parts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::grpc;
use crate::cri::Cri;

/// Most of a response's body that is read; upstream's `maxRespBodyLength`.
const MAX_BODY: usize = 10 << 10;
/// Most of a command's output that goes into an event.
const MAX_OUTPUT: usize = 10 << 10;

/// What to do.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Exec(Vec<String>),
    HttpGet(HTTPGetAction),
    TcpSocket(TCPSocketAction),
    Grpc(GRPCAction),
    Sleep(Duration),
}

/// What to do it to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) container_id: String,
    ip: String,
    ports: Vec<ContainerPort>,
}

impl Action {
    pub(crate) fn of_probe(probe: &Probe) -> Option<Self> {
        if let Some(exec) = &probe.exec {
            return Some(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(get) = &probe.http_get {
            return Some(Self::HttpGet(get.clone()));
        }
        if let Some(tcp) = &probe.tcp_socket {
            return Some(Self::TcpSocket(tcp.clone()));
        }
        probe.grpc.clone().map(Self::Grpc)
    }

    pub(crate) fn of_hook(hook: &LifecycleHandler) -> Option<Self> {
        if let Some(exec) = &hook.exec {
            return Some(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(get) = &hook.http_get {
            return Some(Self::HttpGet(get.clone()));
        }
        let sleep = hook.sleep.as_ref()?;
        Some(Self::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))))
    }
}

impl Target {
    pub(crate) fn new(container_id: String, ip: String, spec: &Container) -> Self {
        Self { container_id, ip, ports: spec.ports.clone().unwrap_or_default() }
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => {
                match self.ports.iter().find(|port| port.name.as_ref() == Some(name)) {
                    Some(port) => port.container_port,
                    None => name.parse().map_err(|_| format!("couldn't find port: {name:?}"))?,
                }
            }
        };
        u16::try_from(number).map_err(|_| format!("invalid port number: {number}"))
    }
}

/// Does it, within `limit`. The error is what an event says.
pub(crate) async fn run(cri: &Cri, action: &Action, target: &Target, limit: Duration) -> Result<(), String> {
    match action {
        Action::Exec(command) => exec(cri, &target.container_id, command.clone(), limit).await,
        Action::Sleep(pause) => {
            tokio::time::sleep(*pause).await;
            Ok(())
        }
        Action::HttpGet(get) => within(limit, http_get(get, target)).await,
        Action::TcpSocket(tcp) => within(limit, tcp_socket(tcp, target)).await,
        Action::Grpc(call) => within(limit, grpc::check(call, &target.ip)).await,
    }
}

async fn within(limit: Duration, check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    match tokio::time::timeout(limit, check).await {
        Ok(result) => result,
        Err(_) => Err(format!("context deadline exceeded (no answer within {} s)", limit.as_secs())),
    }
}

async fn exec(cri: &Cri, id: &str, command: Vec<String>, limit: Duration) -> Result<(), String> {
    let reply = cri.exec_sync(id, command.clone(), limit).await.map_err(|error| match error.code {
        tonic::Code::DeadlineExceeded => {
            format!("command timed out: {:?} timed out after {}s", command.join(" "), limit.as_secs())
        }
        _ => error.to_string(),
    })?;
    if reply.exit_code == 0 {
        return Ok(());
    }
    let mut output = reply.stdout;
    output.extend(reply.stderr);
    output.truncate(MAX_OUTPUT);
    Err(String::from_utf8_lossy(&output).into_owned())
}

async fn tcp_socket(action: &TCPSocketAction, target: &Target) -> Result<(), String> {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&target.ip);
    connect(host, target.port(&action.port)?).await.map(|_| ())
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("dial tcp {}: {error}", authority(host, port)))
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Success is any status from 200 to 399.
async fn http_get(action: &HTTPGetAction, target: &Target) -> Result<(), String> {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&target.ip);
    let port = target.port(&action.port)?;
    let https = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let scheme = if https { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", authority(host, port));
    let named = |error: String| format!("Get \"{url}\": {error}");
    let request = http_request(action, &path, &authority(host, port)).map_err(|error| error.to_string())?;
    let stream = connect(host, port).await.map_err(named)?;
    let status = if https {
        let stream = tls(stream, host).await.map_err(named)?;
        send(stream, request).await.map_err(named)?
    } else {
        send(stream, request).await.map_err(named)?
    };
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

fn http_request(
    action: &HTTPGetAction,
    path: &str,
    authority: &str,
) -> Result<http::Request<Empty<Bytes>>, http::Error> {
    let mut request = http::Request::get(path)
        .header(http::header::HOST, authority)
        .header(http::header::USER_AGENT, "kube-probe/1.36")
        .header(http::header::ACCEPT, "*/*")
        .header(http::header::CONNECTION, "close");
    for header in action.http_headers.iter().flatten() {
        let name = http::HeaderName::try_from(header.name.as_str())?;
        let value = http::HeaderValue::try_from(header.value.as_str())?;
        if let Some(headers) = request.headers_mut() {
            headers.insert(name, value);
        }
    }
    request.body(Empty::new())
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: http::Request<Empty<Bytes>>,
) -> Result<u16, String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status().as_u16();
        // The body is read so that the server does not see its answer cut off; how it ends does not matter.
        let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok(status)
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        // The connection may end before the answer is read; the answer decides.
        _ = connection => exchange.await,
    }
}

async fn tls(stream: TcpStream, host: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| error.to_string())
}

/// Probes do not check certificates: they reach the container by its address, and ask only whether it lives.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn probe_answer(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let spec = Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".to_owned()),
                container_port: i32::from(port),
                ..ContainerPort::default()
            }]),
            ..Container::default()
        };
        let action = HTTPGetAction {
            port: IntOrString::String("web".to_owned()),
            path: Some("/healthz".to_owned()),
            ..HTTPGetAction::default()
        };
        let target = Target::new("c".to_owned(), "127.0.0.1".to_owned(), &spec);
        let result = http_get(&action, &target).await;
        assert!(server.await.unwrap().starts_with("GET /healthz HTTP/1.1\r\n"));
        result
    }

    #[tokio::test]
    async fn statuses_from_200_to_399_are_success() {
        assert_eq!(probe_answer("HTTP/1.1 204 No Content\r\n\r\n").await, Ok(()));
        assert_eq!(
            probe_answer("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n").await,
            Ok(())
        );
        let failed = probe_answer("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(failed, Err("HTTP probe failed with statuscode: 503".to_owned()));
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        drop(listener);
        let action = TCPSocketAction { port: IntOrString::Int(port), ..TCPSocketAction::default() };
        let target = Target::new("c".to_owned(), "127.0.0.1".to_owned(), &Container::default());
        assert!(tcp_socket(&action, &target).await.unwrap_err().contains("refused"));
    }
}
