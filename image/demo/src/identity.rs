//! Who this server is: the node and pod it runs in, as the downward API tells it.

use std::env;

/// What the page says about the server. A value the pod was not given is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `NODE_NAME`, from `spec.nodeName`.
    pub(crate) node: Option<String>,
    /// `POD_NAMESPACE`, from `metadata.namespace`.
    pub(crate) namespace: Option<String>,
    /// `POD_NAME`, from `metadata.name`; the host name (which a pod shares with its name) without it.
    pub(crate) pod: String,
    /// `POD_IP`, from `status.podIP`.
    pub(crate) address: Option<String>,
}

impl Identity {
    /// Reads the environment.
    pub(crate) fn from_environment() -> Self {
        Self {
            node: variable("NODE_NAME"),
            namespace: variable("POD_NAMESPACE"),
            pod: variable("POD_NAME").unwrap_or_else(hostname),
            address: variable("POD_IP"),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The kernel's host name, or `unknown`.
pub(crate) fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}
