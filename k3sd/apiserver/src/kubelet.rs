//! The way to kubelets: TLS with this server's client certificate to the address a node publishes.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::config::Config;
use crate::server::StartError;

/// Opens connections to kubelets.
#[derive(Debug, Clone)]
pub(crate) struct KubeletTransport {
    tls: Arc<ClientConfig>,
}

impl KubeletTransport {
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in &config.kubelet_ca {
            roots.add(certificate.clone())?;
        }
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                config.kubelet_client.chain.clone(),
                config.kubelet_client.key.clone_key(),
            )?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }
}
