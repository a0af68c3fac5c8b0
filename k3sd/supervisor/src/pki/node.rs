//! The four certificates of a node: made beside the server at once, and for machines that join on request.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use rcgen::{CertificateParams, CertificateSigningRequestParams};
use rustls_pki_types::CertificateSigningRequestDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::{self, Authority};
use super::leaf::{Leaf, Usage};
use super::{Error, KeyPairFiles};
use crate::files;

/// A certificate that every node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeCertificate {
    /// What the kubelet's server shows.
    ServingKubelet,
    /// Who the kubelet is: `system:node:NAME`.
    ClientKubelet,
    /// Who the service proxy is.
    ClientKubeProxy,
    /// Who the node's other controllers are.
    ClientK3sController,
}

impl NodeCertificate {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::ServingKubelet, Self::ClientKubelet, Self::ClientKubeProxy, Self::ClientK3sController];

    /// The name of its files, and of the endpoint that issues it, without the ending.
    pub fn stem(self) -> &'static str {
        match self {
            Self::ServingKubelet => "serving-kubelet",
            Self::ClientKubelet => "client-kubelet",
            Self::ClientKubeProxy => "client-kube-proxy",
            Self::ClientK3sController => "client-k3s-controller",
        }
    }

    /// Whether it says which node it is for.
    pub fn names_node(self) -> bool {
        matches!(self, Self::ServingKubelet | Self::ClientKubelet)
    }

    /// Its files in the agent's directory.
    pub fn files(self, agent_dir: &Path) -> KeyPairFiles {
        let file = |ending| agent_dir.join(format!("{}.{ending}", self.stem()));
        KeyPairFiles { cert: file("crt"), key: file("key") }
    }

    pub(crate) fn leaf(self, node_name: &str, node_ips: &[IpAddr]) -> Leaf {
        match self {
            Self::ServingKubelet => {
                let mut sans: Vec<String> =
                    [node_name, "localhost", "127.0.0.1", "::1"].map(String::from).into();
                sans.extend(node_ips.iter().map(IpAddr::to_string));
                Leaf::new(self.stem(), node_name, None, Usage::Server, sans)
            }
            Self::ClientKubelet => {
                Leaf::client(self.stem(), &format!("system:node:{node_name}"), Some("system:nodes"))
            }
            Self::ClientKubeProxy => Leaf::client(self.stem(), "system:kube-proxy", None),
            Self::ClientK3sController => Leaf::client(self.stem(), "system:k3s-controller", None),
        }
    }
}

/// Why a request for a certificate was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request is none.
    #[error("the body is not a PKCS#10 certificate request in DER with a valid signature")]
    Malformed(#[source] rcgen::Error),
    /// It is for something that certificates do not know.
    #[error("unrecognized usage {0:?}")]
    Usage(String),
    /// A name in it cannot be in a certificate.
    #[error("failed to issue a certificate")]
    Issue(#[source] rcgen::Error),
}

/// Issues certificates, to nodes that join and by requests. It asks nobody: whether somebody may have one is decided before.
pub struct Signer {
    client_ca: Authority,
    server_ca: Authority,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    pub(super) fn new(client_ca: Authority, server_ca: Authority) -> Self {
        Self { client_ca, server_ca }
    }

    /// The certificate, as PEM with those of its authority behind it. Of the request only the public key counts.
    ///
    /// # Errors
    /// A body that is no request, or a name that fits no certificate.
    pub fn sign(
        &self,
        certificate: NodeCertificate,
        request: &[u8],
        node_name: &str,
        node_ips: &[IpAddr],
    ) -> Result<String, SignError> {
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request).map_err(SignError::Malformed)?;
        let leaf = certificate.leaf(node_name, node_ips);
        let authority = if leaf.is_client() { &self.client_ca } else { &self.server_ca };
        leaf.certify(&request.public_key, authority).map_err(SignError::Issue)
    }

    /// The authorities that sign clients, as PEM.
    pub fn client_bundle(&self) -> &str {
        self.client_ca.bundle()
    }

    /// The authorities that sign servers, as PEM.
    pub fn server_bundle(&self) -> &str {
        self.server_ca.bundle()
    }

    pub(super) fn client_ca(&self) -> &Authority {
        &self.client_ca
    }

    pub(super) fn server_ca(&self) -> &Authority {
        &self.server_ca
    }
}

/// The key in a file, made when there is none: a node's keys outlive its certificates.
pub(crate) fn ensure_key(path: &Path) -> Result<String, Error> {
    if let Some(key) = files::read(path)?
        && authority::load_key(&key).is_some()
    {
        return Ok(key);
    }
    let key = authority::new_key(path)?;
    files::write(path, &key, 0o600)?;
    Ok(key)
}

/// A PKCS#10 request in DER that says nothing but whose key it is.
pub(crate) fn signing_request(key: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::Issue { path: path.to_path_buf(), source };
    let key = authority::load_key(key)
        .ok_or_else(|| Error::Damaged { path: path.to_path_buf(), what: "EC P-256 key" })?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(&key).map_err(fail)?.der().to_vec())
}

/// Whether the first certificate of a PEM text is for this key.
pub(crate) fn is_for_key(cert: &str, key: &str) -> bool {
    let Some(key) = authority::load_key(key) else { return false };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(cert.as_bytes()) else { return false };
    let Ok((_, cert)) = X509Certificate::from_der(&pem.contents) else { return false };
    cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
}
