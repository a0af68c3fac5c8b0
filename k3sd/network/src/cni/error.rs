//! What the plugin reports when it fails: the error object of the CNI specification.

use std::path::PathBuf;

use serde::Serialize;

use super::config::Version;
use crate::{netlink, nft, sysctl};

/// Why a CNI command failed. [`Error::code`] gives the specification's number.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("environment variable {variable} {problem}")]
    Environment { variable: &'static str, problem: String },
    #[error("failed to decode the network configuration from standard input")]
    Decode(#[source] serde_json::Error),
    #[error("network configuration has version '{version}', supported are {}", Version::ALL_TEXT.join(", "))]
    UnsupportedVersion { version: String },
    #[error("network configuration: {key}: {problem}")]
    InvalidConfig { key: &'static str, problem: String },
    #[error("container '{container}' has no attachment '{interface}' to this network")]
    UnknownContainer { container: String, interface: String },
    #[error("failed to {action} '{}'", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no free address in {subnet}")]
    Exhausted { subnet: ipnet::IpNet },
    #[error("host port {port} is in use by container '{owner}'")]
    HostPortTaken { port: String, owner: String },
    #[error("attachment is not as it was made: {problem}")]
    Changed { problem: String },
    #[error("not ready to attach containers: {problem}")]
    Unavailable { problem: String },
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Nft(#[from] nft::Error),
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
}

impl Error {
    /// CNI specification 1.1.0, section 5, "Error": 1 to 99 are the specification's, from 100 on the plugin's own.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::UnsupportedVersion { .. } => 1,
            Self::UnknownContainer { .. } => 3,
            Self::Environment { .. } => 4,
            Self::Io { .. } => 5,
            Self::Decode(_) => 6,
            Self::InvalidConfig { .. } => 7,
            Self::Unavailable { .. } => 50,
            Self::Netlink(_) => 100,
            Self::Exhausted { .. } => 101,
            Self::HostPortTaken { .. } => 102,
            Self::Nft(_) => 103,
            Self::Changed { .. } => 104,
            Self::Sysctl(_) => 105,
        }
    }

    /// The error as the runtime reads it: the message, and its causes as details.
    pub(crate) fn report(&self, version: &str) -> Report {
        let mut details = Vec::new();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            details.push(error.to_string());
            cause = error.source();
        }
        Report {
            cni_version: version.to_owned(),
            code: self.code(),
            msg: self.to_string(),
            details: details.join(": "),
        }
    }
}

/// The error object of the CNI specification.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    cni_version: String,
    code: u32,
    msg: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    details: String,
}
