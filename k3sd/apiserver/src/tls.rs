//! TLS for the listener: our certificate, and the client's if it shows one.
//!
//! A handshake takes any client certificate whose key the client has; [`Tls::judge`] then says whose it is. So a client with a
//! certificate that has run out, or is of another cluster, is told so by status 401, and may still prove itself by a token, as
//! with upstream's server.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};
use tracing::debug;

use crate::authn::{Shown, certificate_user};
use crate::config::Config;
use crate::server::StartError;

/// HTTP/2 as it is negotiated.
pub(crate) const HTTP2: &[u8] = b"h2";

/// The server side of TLS.
#[derive(Debug)]
pub(crate) struct Tls {
    pub config: Arc<ServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, client certificates optional.
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in &config.client_ca {
            roots.add(certificate.clone())?;
        }
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()?;
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Unjudged(clients.clone())))
            .with_single_cert(config.serving.chain.clone(), config.serving.key.clone_key())?;
        tls.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(tls), clients })
    }

    /// Whose the certificates of a finished handshake are.
    pub(crate) fn judge(&self, chain: Option<&[CertificateDer<'_>]>) -> Shown {
        let Some((leaf, rest)) = chain.and_then(<[_]>::split_first) else { return Shown::Nothing };
        match self.clients.verify_client_cert(leaf, rest, UnixTime::now()) {
            Ok(_) => certificate_user(leaf).map_or(Shown::Invalid, Shown::Identity),
            Err(error) => {
                debug!(%error, "client certificate refused");
                Shown::Invalid
            }
        }
    }
}

/// Leaves the judgement of a certificate to those who can answer it in HTTP; that the client has its key is verified here.
#[derive(Debug)]
struct Unjudged(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Unjudged {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
