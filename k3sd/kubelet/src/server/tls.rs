//! Who may talk to the kubelet's server: holders of a client certificate, by its subject.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::Config;

/// Names of the API server in its client certificate: ours, and upstream's.
const API_SERVERS: [&str; 2] = ["system:apiserver", "kube-apiserver"];
const ADMINISTRATORS: &str = "system:masters";

/// The subject of a verified client certificate.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    pub(super) name: String,
    groups: Vec<String>,
}

impl Caller {
    pub(super) fn may_use_kubelet(&self) -> bool {
        API_SERVERS.contains(&self.name.as_str()) || self.groups.iter().any(|group| group == ADMINISTRATORS)
    }
}

/// TLS with a client certificate demanded.
pub(super) fn config(config: &Config) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&config.client_ca)? {
        roots.add(certificate).with_context(|| format!("in '{}'", config.client_ca.display()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .with_context(|| format!("failed to use '{}' for client certificates", config.client_ca.display()))?;
    let key = PrivateKeyDer::from_pem_file(&config.serving_key)
        .with_context(|| format!("failed to read key '{}'", config.serving_key.display()))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&config.serving_cert)?, key)
        .with_context(|| format!("failed to use '{}'", config.serving_cert.display()))?;
    // Upgrades are HTTP/1.1's; a client that knows both must not choose HTTP/2 for them.
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("failed to read certificates '{}'", path.display()))
}

/// Who is on the other side. The handshake has verified the certificate.
pub(super) fn caller(connection: &ServerConnection) -> Caller {
    let certificate = connection.peer_certificates().and_then(|chain| chain.first());
    certificate.map(subject).unwrap_or_default()
}

fn subject(certificate: &CertificateDer<'_>) -> Caller {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Caller::default() };
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).unwrap_or_default()
    };
    Caller {
        name: certificate.subject().iter_common_name().next().map(text).unwrap_or_default(),
        groups: certificate.subject().iter_organization().map(text).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn caller_of(name: &str, group: &str) -> Caller {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        subject(certificate.der())
    }

    #[test]
    fn only_the_api_server_and_administrators_may_use_the_kubelet() {
        assert!(caller_of("system:apiserver", "x").may_use_kubelet());
        assert!(caller_of("kube-apiserver", "x").may_use_kubelet());
        assert!(caller_of("someone", "system:masters").may_use_kubelet());
        assert!(!caller_of("system:node:n1", "system:nodes").may_use_kubelet());
        assert!(!Caller::default().may_use_kubelet());
    }
}
