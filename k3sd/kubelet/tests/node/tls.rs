//! Certificates for the kubelet's server and for the one client of these tests.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;

/// A client that calls itself the API server.
pub(crate) struct Client {
    config: Arc<rustls::ClientConfig>,
}

/// Writes `ca.crt`, `kubelet.crt` and `kubelet.key` below `dir` and returns the client to use with them.
pub(crate) fn set_up(dir: &Path) -> Client {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "ca");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["n1".to_owned()]).unwrap().signed_by(&server_key, &ca).unwrap();
    std::fs::write(dir.join("ca.crt"), ca.pem()).unwrap();
    std::fs::write(dir.join("kubelet.crt"), server.pem()).unwrap();
    std::fs::write(dir.join("kubelet.key"), server_key.serialize_pem()).unwrap();

    let client_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "system:apiserver");
    let client = params.signed_by(&client_key, &ca).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![client.der().clone()];
    let key = PrivateKeyDer::try_from(client_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Client { config: Arc::new(config) }
}

impl Client {
    /// Status and body of a GET from the kubelet on this port; `None` when nobody answers.
    pub(crate) async fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let stream = connector.connect(ServerName::try_from("n1").unwrap(), stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
        let request = http::Request::get(path).header("host", "n1").body(Empty::new()).unwrap();
        let exchange = async {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.ok()?.to_bytes();
            Some((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            result = &mut exchange => result,
            _ = connection => exchange.await,
        }
    }
}
