//! The passwords that machines join with while the server runs: who shows one, and another for the cluster.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};

use crate::token::{Error, Passwords};

/// The group of those who know the server's token.
pub(super) const SERVER_GROUP: &str = "k3s:server";
const AGENT_GROUP: &str = "k3s:agent";

/// Where tokens are kept.
#[derive(Clone, Debug)]
pub struct TokenFiles {
    /// K3s's data directory.
    pub data_dir: PathBuf,
    /// The authorities that sign servers.
    pub server_ca: PathBuf,
}

/// What is good now, and on disk.
#[derive(Debug)]
pub(super) struct Current {
    passwords: RwLock<Passwords>,
    files: TokenFiles,
    /// Held by whoever changes both.
    rotating: Mutex<()>,
}

impl Current {
    pub(super) fn new(passwords: Passwords, files: TokenFiles) -> Self {
        Self { passwords: RwLock::new(passwords), files, rotating: Mutex::new(()) }
    }

    /// The group of a user who shows the right password.
    pub(super) fn group_of(&self, user: &str, password: &str) -> Option<&'static str> {
        let passwords = self.passwords.read().unwrap_or_else(PoisonError::into_inner);
        let (expected, group) = match user {
            "node" => (passwords.agent(), AGENT_GROUP),
            "server" => (passwords.server.as_str(), SERVER_GROUP),
            _ => return None,
        };
        // Digests of both: how long the comparison takes tells nothing of them.
        (Sha256::digest(password) == Sha256::digest(expected)).then_some(group)
    }

    /// Gives the cluster another token, a random one if this is empty: for servers, and for agents that have none of their own. Blocks.
    pub(super) fn rotate(&self, token: &str) -> Result<(), Error> {
        let _turn = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.passwords.read().unwrap_or_else(PoisonError::into_inner).clone();
        let rotated = before.rotated(token)?;
        // On disk first: what is answered must hold after a restart.
        rotated.write(&self.files.data_dir, &self.files.server_ca)?;
        *self.passwords.write().unwrap_or_else(PoisonError::into_inner) = rotated;
        Ok(())
    }
}
