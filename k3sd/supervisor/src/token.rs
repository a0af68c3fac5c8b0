//! Tokens: the shared secrets by which machines join, in K3s's forms and files.
//!
//! A full token is `K10`, the SHA-256 of the server CA bundle in hex, `::`, and `user:password`.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::files::{self, FileError};

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The token does not have one of the known forms.
    #[error("token is malformed: {0}; allowed: K10<64 hex digits>::<user>:<password>, or just the password")]
    Malformed(&'static str),
}

/// Writes `cred/passwd`, `token`, `agent-token` and the `node-token` link below `DATA/server`.
///
/// The password is the configured one, else the one of an earlier start, else 16 random bytes in hex.
///
/// # Errors
/// A malformed token, or a file that cannot be read or written.
pub fn write_server_files(
    data_dir: &Path,
    server_ca: &Path,
    token: Option<&str>,
    agent_token: Option<&str>,
) -> Result<(), Error> {
    let server_dir = data_dir.join("server");
    let passwd_path = server_dir.join("cred/passwd");
    files::private_dir(&server_dir.join("cred"))?;
    let before = files::read(&passwd_path)?.unwrap_or_default();
    let password = match token {
        Some(token) => password_of(token)?.to_owned(),
        None => stored_password(&before, "server").map_or_else(random_password, str::to_owned),
    };
    let agent_password = match agent_token {
        Some(token) => password_of(token)?.to_owned(),
        None => password.clone(),
    };
    let passwd = format!("{agent_password},node,node,k3s:agent\n{password},server,server,k3s:server\n");
    if passwd != before {
        files::write(&passwd_path, &passwd, 0o600)?;
    }

    let hash = ca_hash(&files::read(server_ca)?.unwrap_or_default());
    files::write(&server_dir.join("token"), &format!("K10{hash}::server:{password}\n"), 0o600)?;
    files::link(&server_dir.join("node-token"), "token")?;
    let agent_path = server_dir.join("agent-token");
    if agent_token.is_some() {
        let _ = std::fs::remove_file(&agent_path);
        Ok(files::write(&agent_path, &format!("K10{hash}::node:{agent_password}\n"), 0o600)?)
    } else {
        Ok(files::link(&agent_path, "token")?)
    }
}

/// The hash a joining machine checks `/cacerts` against: SHA-256 over the file's bytes, lower-case hex.
pub fn ca_hash(bundle: &str) -> String {
    Sha256::digest(bundle.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn password_of(token: &str) -> Result<&str, Error> {
    let token = token.trim();
    let Some(full) = token.strip_prefix("K10") else {
        return if token.is_empty() { Err(Error::Malformed("it is empty")) } else { Ok(token) };
    };
    let credentials = match full.split_once("::") {
        Some((hash, _)) if !hash.is_empty() && hash.len() != 64 => {
            return Err(Error::Malformed("the CA hash is not 64 digits"));
        }
        Some((_, credentials)) => credentials,
        None => full,
    };
    let password = credentials.split_once(':').map_or(credentials, |(_, password)| password);
    if password.is_empty() { Err(Error::Malformed("the password is empty")) } else { Ok(password) }
}

fn stored_password<'a>(passwd: &'a str, user: &str) -> Option<&'a str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(',');
        let password = fields.next()?;
        (fields.next() == Some(user)).then_some(password)
    })
}

fn random_password() -> String {
    rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_found_in_every_form_of_a_token() {
        let hash = "a".repeat(64);
        for (token, password) in [
            ("secret", "secret"),
            ("K10::server:secret", "secret"),
            (&format!("K10{hash}::node:se:cret"), "se:cret"),
        ] {
            assert_eq!(password_of(token).unwrap(), password, "{token}");
        }
        for token in ["", "K10abc::server:secret", "K10::server:"] {
            assert!(password_of(token).is_err(), "{token:?}");
        }
    }

    #[test]
    fn a_generated_password_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.crt");
        std::fs::write(&ca, "ca").unwrap();
        write_server_files(dir.path(), &ca, None, None).unwrap();
        let read = || std::fs::read_to_string(dir.path().join("server/node-token")).unwrap();
        let first = read();
        assert!(first.starts_with(&format!("K10{}::server:", ca_hash("ca"))), "{first}");
        write_server_files(dir.path(), &ca, None, None).unwrap();
        assert_eq!(first, read());
        write_server_files(dir.path(), &ca, Some("mine"), Some("theirs")).unwrap();
        assert!(read().ends_with("::server:mine\n"));
        let agent = std::fs::read_to_string(dir.path().join("server/agent-token")).unwrap();
        assert!(agent.ends_with("::node:theirs\n"));
    }
}
