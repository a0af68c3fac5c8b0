//! What the API server is told at start. Plain data: addresses, names, certificates and keys.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Configuration of one API server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Service CIDRs, the primary family first. The first address of the first is the API server's own service IP.
    pub service_cidrs: Vec<IpNet>,
    /// Ports for services of type NodePort.
    pub node_port_range: RangeInclusive<u16>,
    /// DNS domain of the cluster, e.g. `cluster.local`.
    pub cluster_domain: String,
    /// Address under which other nodes and pods reach this server; published in the `kubernetes` EndpointSlice.
    pub advertise_address: IpAddr,
    /// Port published beside `advertise_address`.
    pub advertise_port: u16,
    /// Version reported by `/version`, e.g. `v1.36.2+skerry1`.
    pub version: String,

    /// Issuer of service account tokens, e.g. `https://kubernetes.default.svc.cluster.local`.
    pub service_account_issuer: String,
    /// Audiences that this server accepts, and puts in tokens that ask for none.
    pub api_audiences: Vec<String>,
    /// Private keys (RSA or P-256), the first of which signs service account tokens; all verify.
    pub service_account_keys: Vec<Arc<PrivateKeyDer<'static>>>,

    /// Certificates that client certificates must chain to.
    pub client_ca: Vec<CertificateDer<'static>>,
    /// What clients are shown.
    pub serving: Identity,
    /// What kubelets are shown.
    pub kubelet_client: Identity,
    /// Certificates that kubelets' serving certificates must chain to.
    pub kubelet_ca: Vec<CertificateDer<'static>>,

    /// Record requests, as a policy says.
    pub audit: Option<crate::audit::Settings>,
    /// File with the settings of admission plugins.
    pub admission: Option<PathBuf>,
}

/// A certificate chain, leaf first, and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the leaf.
    pub key: Arc<PrivateKeyDer<'static>>,
}

/// A PEM file that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {what} from '{path}'")]
pub struct PemFileError {
    /// What was looked for.
    pub what: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why it was not there.
    #[source]
    pub source: pem::Error,
}

impl Identity {
    /// Read a chain and a key.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, PemFileError> {
        let parsed = PrivateKeyDer::from_pem_file(key);
        let parsed =
            parsed.map_err(|source| PemFileError { what: "a private key", path: key.to_owned(), source })?;
        Ok(Self { chain: certificates_from_file(chain)?, key: Arc::new(parsed) })
    }
}

/// Every certificate of a PEM file.
pub fn certificates_from_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemFileError> {
    let fail = |source| PemFileError { what: "certificates", path: path.to_owned(), source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(fail)?.collect::<Result<_, _>>().map_err(fail)?;
    if found.is_empty() { Err(fail(pem::Error::NoItemsFound)) } else { Ok(found) }
}

impl Config {
    /// Address of the `kubernetes` service: the first one of the primary service CIDR.
    pub fn service_address(&self) -> Option<IpAddr> {
        self.service_cidrs.first().and_then(|net| match net {
            IpNet::V4(net) => Some(IpAddr::V4(u32::from(net.network()).checked_add(1)?.into())),
            IpNet::V6(net) => Some(IpAddr::V6(u128::from(net.network()).checked_add(1)?.into())),
        })
    }
}
