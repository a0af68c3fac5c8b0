//! The certificate authorities and leaf certificates of a server and of its local agent, as K3s lays them out.
//!
//! Existing files are kept. A leaf is issued again when it is missing, within 120 days of its end, names somebody else,
//! lacks a name it must have, or was signed by another authority; its key stays unless the authority is new.

mod authority;
mod der;
pub mod inventory;
mod leaf;
mod node;
mod request;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::PrivateKeyDer;

use crate::files::{self, FileError};
use authority::Authority;
use leaf::{Leaf, Usage};
pub use node::{NodeCertificate, SignError, Signer};
pub(crate) use node::{ensure_key, is_for_key, signing_request};
pub use request::Ca;

/// What the names in the certificates depend on.
#[derive(Clone, Debug)]
pub struct Params {
    /// The name this node registers under.
    pub node_name: String,
    /// The addresses of this node.
    pub node_ips: Vec<IpAddr>,
    /// Further names and addresses that clients use (`--tls-san`).
    pub tls_sans: Vec<String>,
    /// The address of the `kubernetes` Service.
    pub service_ip: IpAddr,
    /// The DNS domain of the cluster, `cluster.local` unless configured.
    pub cluster_domain: String,
}

/// Why the certificates could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is there but holds no usable key or certificate.
    #[error("{} holds no usable {what}: restore it, or remove it and its partner so that new ones are made", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A certificate or a key could not be made.
    #[error("failed to issue {}", path.display())]
    Issue {
        /// Where it would have gone.
        path: PathBuf,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct KeyPairFiles {
    /// PEM: the leaf, then the certificates of its authority.
    pub cert: PathBuf,
    /// PEM: an EC P-256 key.
    pub key: PathBuf,
}

/// Everything a server process needs of the key infrastructure.
#[derive(Debug)]
pub struct ServerPki {
    /// `server/tls`.
    pub tls_dir: PathBuf,
    /// The authorities that sign clients.
    pub client_ca: PathBuf,
    /// The authorities that sign servers.
    pub server_ca: PathBuf,
    /// What the API server shows its clients.
    pub serving: KeyPairFiles,
    /// What the API server shows kubelets.
    pub kubelet_client: KeyPairFiles,
    /// The administrator, `system:admin` of `system:masters`.
    pub admin: KeyPairFiles,
    /// What the local kubelet shows its clients.
    pub kubelet_serving: KeyPairFiles,
    /// What signs the certificates of nodes that join, and of whoever asks through the API.
    pub signer: Arc<Signer>,
    /// The keys of service account tokens, RSA or EC P-256: the first signs, all verify.
    pub service_account_keys: Vec<Arc<PrivateKeyDer<'static>>>,
}

impl ServerPki {
    /// Loads the files below `data_dir` (K3s's `/var/lib/rancher/k3s`) and makes whatever is missing or due.
    ///
    /// # Errors
    /// A file that cannot be read, written or understood; the error names it. Nothing that exists is overwritten
    /// unless it was understood and found to be due.
    pub fn load_or_create(data_dir: &Path, params: &Params) -> Result<Self, Error> {
        let tls_dir = data_dir.join("server/tls");
        let agent_dir = data_dir.join("agent");
        files::private_dir(&tls_dir)?;
        files::private_dir(&agent_dir)?;

        let client_ca = Authority::load_or_create(&tls_dir.join("client-ca"), "k3s-client")?;
        let server_ca = Authority::load_or_create(&tls_dir.join("server-ca"), "k3s-server")?;
        let proxy_ca = Authority::load_or_create(&tls_dir.join("request-header-ca"), "k3s-request-header")?;
        client_ca.write_first_certificate(&tls_dir.join("client-ca.nochain.crt"))?;
        server_ca.write_first_certificate(&tls_dir.join("server-ca.nochain.crt"))?;
        client_ca.write_bundle(&agent_dir.join("client-ca.crt"))?;
        server_ca.write_bundle(&agent_dir.join("server-ca.crt"))?;

        let server =
            |leaf: Leaf| leaf.ensure(&tls_dir, if leaf.is_client() { &client_ca } else { &server_ca });
        let agent =
            |leaf: Leaf| leaf.ensure(&agent_dir, if leaf.is_client() { &client_ca } else { &server_ca });
        let admin = server(Leaf::client("client-admin", "system:admin", Some("system:masters")))?;
        server(Leaf::client("client-supervisor", "system:k3s-supervisor", Some("system:masters")))?;
        server(Leaf::client("client-controller", "system:kube-controller-manager", None))?;
        server(Leaf::client("client-scheduler", "system:kube-scheduler", None))?;
        server(Leaf::client("client-k3s-cloud-controller", "k3s-cloud-controller-manager", None))?;
        let kubelet_client =
            server(Leaf::client("client-kube-apiserver", "system:apiserver", Some("system:masters")))?;
        let serving = server(serving_leaf(params))?;
        Leaf::client("client-auth-proxy", "system:auth-proxy", None).ensure(&tls_dir, &proxy_ca)?;

        for certificate in NodeCertificate::ALL {
            agent(certificate.leaf(&params.node_name, &params.node_ips))?;
        }

        let service_account_keys = authority::service_account_keys(&tls_dir)?;
        Ok(Self {
            client_ca: tls_dir.join("client-ca.crt"),
            server_ca: tls_dir.join("server-ca.crt"),
            tls_dir,
            serving,
            kubelet_client,
            admin,
            kubelet_serving: NodeCertificate::ServingKubelet.files(&agent_dir),
            signer: Arc::new(Signer::new(client_ca, server_ca)),
            service_account_keys,
        })
    }
}

/// The names that clients, on this machine and elsewhere, call the API server by (reference: K3s's dynamic listener).
fn serving_leaf(params: &Params) -> Leaf {
    let mut sans: Vec<String> = params.tls_sans.clone();
    sans.extend(["127.0.0.1", "::1", "localhost"].map(String::from));
    sans.push(params.node_name.clone());
    sans.extend(params.node_ips.iter().map(IpAddr::to_string));
    sans.push(params.service_ip.to_string());
    sans.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(String::from));
    sans.push(format!("kubernetes.default.svc.{}", params.cluster_domain));
    Leaf::new("serving-kube-apiserver", "kube-apiserver", None, Usage::Server, sans)
}

#[cfg(test)]
mod tests;
