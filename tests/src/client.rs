//! A connection to an API server, as its administrator: for what kubectl is too slow or too polite for.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What Go's HTTP/2 client lets a server send ahead, and so what kubectl and client-go do.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024 * 1024;

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where the server's certificates are, and its port.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `server/tls` of its data directory.
    pub tls: PathBuf,
    /// On 127.0.0.1.
    pub port: u16,
}

impl Credentials {
    /// What TLS needs to know: the server's authority, and who is calling.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn config(&self, protocol: Protocol) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.tls.join("server-ca.crt"))? {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_file_iter(self.tls.join("client-admin.crt"))?;
        let key = PrivateKeyDer::from_pem_file(self.tls.join("client-admin.key"))?;
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = builder.with_client_auth_cert(chain.collect::<Result<_, _>>()?, key)?;
        config.alpn_protocols = vec![match protocol {
            Protocol::Http1 => b"http/1.1".to_vec(),
            Protocol::Http2 => b"h2".to_vec(),
        }];
        Ok(config)
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client(Sender);

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// No server, or one that does not accept the certificate.
    pub async fn connect(credentials: &Credentials, protocol: Protocol) -> anyhow::Result<Self> {
        let connector = TlsConnector::from(Arc::new(credentials.config(protocol)?));
        let stream = TcpStream::connect(("127.0.0.1", credentials.port)).await?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(connector.connect(ServerName::try_from("localhost")?, stream).await?);
        Ok(Self(match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .handshake(stream)
                    .await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        }))
    }

    /// Another handle on the same connection, where the protocol has that.
    pub fn share(&self) -> Option<Self> {
        match &self.0 {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self(Sender::Http2(sender.clone()))),
        }
    }

    /// One request, and its answer's head. A `PATCH` is a server-side apply.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn open(
        &mut self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let patch = method == Method::PATCH;
        let request = Request::builder()
            .method(method)
            .header(CONTENT_TYPE, if patch { "application/apply-patch+yaml" } else { "application/json" });
        Ok(match &mut self.0 {
            Sender::Http1(sender) => {
                let request = request.uri(target).header(HOST, "localhost").body(Full::new(body))?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                let request = request.uri(format!("https://localhost{target}")).body(Full::new(body))?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// One request, and its whole answer.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn call(
        &mut self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.open(method, target, body).await?;
        Ok((response.status(), response.into_body().collect().await?.to_bytes()))
    }

    /// One request that must succeed, and how many bytes its answer had; they are not kept.
    ///
    /// # Errors
    /// The connection failed, or the server refused.
    pub async fn count(&mut self, method: Method, target: &str, body: Bytes) -> anyhow::Result<usize> {
        let response = self.open(method, target, body).await?;
        let success = response.status().is_success();
        let mut body = response.into_body();
        if !success {
            bail!("{target}: {}", String::from_utf8_lossy(&body.collect().await?.to_bytes()));
        }
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }
}
