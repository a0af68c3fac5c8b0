//! Node passwords: what keeps a second machine from taking the name, and so the identity, of a node.
//!
//! A machine makes its password once and keeps it in [`FILE`]. The first that joins under a name leaves its password's hash
//! in the secret `NAME.node-password.k3s`; whoever comes later must know the password. When the Node is deleted, its
//! secret goes with it, so the name is free again.
//!
//! Names, hash and rules are K3s's (`pkg/nodepassword`), so servers of both kinds can share a cluster's data.

mod hash;
mod keep;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use client::request;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::files::{self, FileError};

pub use keep::keep;

/// Where a machine keeps its password.
pub const FILE: &str = "/etc/rancher/node/password";

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "k3s.cattle.io/node-password";
/// A hash takes 32 MiB while it is computed.
const HASHES_AT_ONCE: usize = 1;

/// Why a node password is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another machine has the name.
    #[error("unable to verify password for node {node}: hash does not match")]
    Mismatch {
        /// The name.
        node: String,
    },
    /// The secret holds no hash that can be checked.
    #[error(
        "unable to verify password for node {node}: secret {NAMESPACE}/{node}.node-password.k3s holds no usable hash"
    )]
    Damaged {
        /// The name.
        node: String,
    },
    /// The API did not answer.
    #[error("failed to {action} the password of node {node}")]
    Api {
        /// What was attempted.
        action: &'static str,
        /// The name.
        node: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The process is ending.
    #[error("interrupted")]
    Interrupted,
}

/// The password of this machine, made when there is none.
///
/// # Errors
/// A file that cannot be read or written.
pub fn ensure_file(path: &Path) -> Result<String, FileError> {
    ensure(path, 16, 0o600)
}

/// The id of this machine, made when there is none: it tells nodes apart that have one host name.
///
/// # Errors
/// A file that cannot be read or written.
pub fn ensure_id(path: &Path) -> Result<String, FileError> {
    ensure(path, 4, 0o644)
}

fn ensure(path: &Path, bytes: usize, mode: u32) -> Result<String, FileError> {
    if let Some(text) = files::read(path)?
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    if let Some(parent) = path.parent() {
        let make = || -> io::Result<()> {
            std::fs::create_dir_all(parent)?;
            std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755))
        };
        make().map_err(FileError::of("create", parent))?;
    }
    let random = rand::random::<[u8; 16]>();
    let text: String = random.iter().take(bytes).map(|byte| format!("{byte:02x}")).collect();
    files::write(path, &format!("{text}\n"), mode)?;
    Ok(text)
}

/// Checks and records passwords in the cluster's secrets.
#[derive(Debug)]
pub struct Passwords {
    secrets: Api<Secret>,
    nodes: Api<Node>,
    hashing: Semaphore,
}

impl Passwords {
    /// Through a client that may read and write secrets of `kube-system`.
    pub fn new(client: &kube::Client) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), NAMESPACE),
            nodes: Api::all(client.clone()),
            hashing: Semaphore::new(HASHES_AT_ONCE),
        }
    }

    /// Whether a Node of this name exists.
    ///
    /// # Errors
    /// An API that does not answer.
    pub async fn node_exists(&self, node: &str) -> Result<bool, Error> {
        let found = self.nodes.get_opt(node).await.map_err(api("look up", node))?;
        Ok(found.is_some())
    }

    /// Accepts the password recorded for the name; the first one is recorded.
    ///
    /// # Errors
    /// Another password, a secret that holds none, an API that does not answer.
    pub async fn verify(&self, node: &str, password: &str) -> Result<(), Error> {
        if let Some(secret) = self.read(node).await? {
            return self.check(node, &secret, password).await;
        }
        let Err(error) = self.create(node, password).await else { return Ok(()) };
        match &error {
            // Somebody else was first: then theirs counts.
            Error::Api { source, .. } if request::is_already_exists(source) => {
                let secret = self.read(node).await?.ok_or(error)?;
                self.check(node, &secret, password).await
            }
            _ => Err(error),
        }
    }

    /// Records the password whatever was recorded before: for the server's own node, whose name nobody else may have.
    ///
    /// # Errors
    /// An API that does not answer.
    pub async fn claim(&self, node: &str, password: &str) -> Result<(), Error> {
        match self.verify(node, password).await {
            Err(Error::Mismatch { .. } | Error::Damaged { .. }) => {
                warn!(node, "the recorded password of this server's node is another one and is replaced");
                let name = secret_name(node);
                self.secrets.delete(&name, &DeleteParams::default()).await.map_err(api("replace", node))?;
                self.create(node, password).await
            }
            result => result,
        }
    }

    async fn read(&self, node: &str) -> Result<Option<Secret>, Error> {
        self.secrets.get_opt(&secret_name(node)).await.map_err(api("read", node))
    }

    async fn check(&self, node: &str, secret: &Secret, password: &str) -> Result<(), Error> {
        let damaged = || Error::Damaged { node: node.to_owned() };
        let hash = secret.data.as_ref().and_then(|data| data.get("hash")).ok_or_else(damaged)?;
        let hash = String::from_utf8(hash.0.clone()).map_err(|_| damaged())?;
        let password = password.to_owned();
        let checked = self.hashed(move || hash::matches(&hash, &password)).await?;
        match checked {
            Some(true) => Ok(()),
            Some(false) => Err(Error::Mismatch { node: node.to_owned() }),
            None => Err(damaged()),
        }
    }

    async fn create(&self, node: &str, password: &str) -> Result<(), Error> {
        let password = password.to_owned();
        let hash = self.hashed(move || hash::create(&password)).await?;
        let secret = Secret {
            metadata: ObjectMeta { name: Some(secret_name(node)), ..ObjectMeta::default() },
            type_: Some(SECRET_TYPE.to_owned()),
            immutable: Some(true),
            data: Some(BTreeMap::from([("hash".to_owned(), ByteString(hash.into_bytes()))])),
            ..Secret::default()
        };
        self.secrets.create(&PostParams::default(), &secret).await.map_err(api("record", node))?;
        info!(node, "node password recorded");
        Ok(())
    }

    /// Runs work that takes much memory, a little of it at a time, where it keeps nobody waiting.
    async fn hashed<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let _turn = self.hashing.acquire().await.map_err(|_| Error::Interrupted)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)
    }
}

fn api(action: &'static str, node: &str) -> impl FnOnce(kube::Error) -> Error {
    let node = node.to_owned();
    move |source| Error::Api { action, node, source: Box::new(source) }
}

fn secret_name(node: &str) -> String {
    format!("{node}.node-password.k3s")
}
