//! Tokens: the shared secrets by which machines join, in K3s's forms and files.
//!
//! A full token is `K10`, the SHA-256 of the server CA bundle in hex, `::`, and `user:password`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use machinery::bootstrap_token;
use sha2::{Digest as _, Sha256};
use tracing::warn;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

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

/// The passwords of a cluster.
#[derive(Clone)]
pub struct Passwords {
    /// Of those who join as a server.
    pub server: String,
    /// Of those who join as an agent; `None`: the server's.
    pub agent: Option<String>,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

/// What a joining machine was given: which cluster to trust, and the secret that lets it in.
#[derive(Clone)]
pub struct Token {
    /// [`ca_hash`] of the cluster; without it whoever answers first is believed.
    pub ca_hash: Option<String>,
    /// The secret.
    pub secret: Secret,
}

/// The secret part of a token.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// One that all machines share.
    Password(String),
    /// A bootstrap token of Kubernetes, `id.secret`.
    Bootstrap(String),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("ca_hash", &self.ca_hash).finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::Malformed("it is empty"));
        }
        let Some(full) = text.strip_prefix("K10") else {
            return Ok(Self {
                ca_hash: None,
                secret: bootstrap(text).unwrap_or(Secret::Password(text.into())),
            });
        };
        let (hash, credentials) = full.split_once("::").unwrap_or(("", full));
        if !hash.is_empty() && (hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err(Error::Malformed("the CA hash is not 64 hex digits"));
        }
        let ca_hash = (!hash.is_empty()).then(|| hash.to_ascii_lowercase());
        if let Some(secret) = bootstrap(credentials) {
            return Ok(Self { ca_hash, secret });
        }
        let password = credentials.split_once(':').map_or(credentials, |(_, password)| password);
        if password.is_empty() {
            return Err(Error::Malformed("the password is empty"));
        }
        Ok(Self { ca_hash, secret: Secret::Password(password.to_owned()) })
    }
}

fn bootstrap(text: &str) -> Option<Secret> {
    bootstrap_token::parse(text).map(|_| Secret::Bootstrap(text.to_owned()))
}

/// Writes `cred/passwd`, `token`, `agent-token` and the `node-token` link below `DATA/server`.
///
/// The password is the configured one, else the one of an earlier start, else 16 random bytes in hex. Gives back which they are.
///
/// # Errors
/// A malformed token, or a file that cannot be read or written.
pub fn write_server_files(
    data_dir: &Path,
    server_ca: &Path,
    token: Option<&str>,
    agent_token: Option<&str>,
) -> Result<Passwords, Error> {
    let server_dir = data_dir.join("server");
    let passwd_path = server_dir.join("cred/passwd");
    files::private_dir(&server_dir.join("cred"))?;
    let before = files::read(&passwd_path)?.unwrap_or_default();
    let password = match token {
        Some(token) => {
            let configured = password_of(token)?;
            if stored_password(&before, "server").is_some_and(|stored| stored != configured) {
                warn!(
                    "the configured token replaces the one that was good before; after a rotation, configure the new one"
                );
            }
            configured
        }
        None => stored_password(&before, "server").map_or_else(random_password, str::to_owned),
    };
    let passwords = Passwords { server: password, agent: agent_token.map(password_of).transpose()? };
    passwords.write(data_dir, server_ca)?;
    Ok(passwords)
}

impl Passwords {
    /// Of those who join as an agent.
    pub fn agent(&self) -> &str {
        self.agent.as_ref().unwrap_or(&self.server)
    }

    /// Those after the server's has become `token`'s, or a random one if that is empty.
    ///
    /// # Errors
    /// A malformed token.
    pub fn rotated(&self, token: &str) -> Result<Self, Error> {
        let server = if token.is_empty() { random_password() } else { password_of(token)? };
        Ok(Self { server, agent: self.agent.clone() })
    }

    /// Writes them to `cred/passwd` and the token files of `DATA/server`.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn write(&self, data_dir: &Path, server_ca: &Path) -> Result<(), Error> {
        let server_dir = data_dir.join("server");
        let (password, agent) = (&self.server, self.agent());
        let passwd = format!("{agent},node,node,k3s:agent\n{password},server,server,k3s:server\n");
        let passwd_path = server_dir.join("cred/passwd");
        if files::read(&passwd_path)?.as_ref() != Some(&passwd) {
            files::write(&passwd_path, &passwd, 0o600)?;
        }
        let hash = ca_hash(&files::read(server_ca)?.unwrap_or_default());
        files::write(&server_dir.join("token"), &format!("K10{hash}::server:{password}\n"), 0o600)?;
        files::link(&server_dir.join("node-token"), "token")?;
        let agent_path = server_dir.join("agent-token");
        if self.agent.is_none() {
            return Ok(files::link(&agent_path, "token")?);
        }
        // Through a link the server's own would be overwritten.
        let _ = std::fs::remove_file(&agent_path);
        Ok(files::write(&agent_path, &format!("K10{hash}::node:{agent}\n"), 0o600)?)
    }
}

/// The hash a joining machine checks `/cacerts` against, in lower-case hex: SHA-256 over the file's bytes; of a bundle of several
/// certificates, over the root that the first leads to, so that intermediates may change.
pub fn ca_hash(bundle: &str) -> String {
    let hashed = root_of(bundle).map_or_else(|| Sha256::digest(bundle.as_bytes()), Sha256::digest);
    hashed.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The root of a bundle of several certificates, in DER.
fn root_of(bundle: &str) -> Option<Vec<u8>> {
    let pems: Vec<_> =
        x509_parser::pem::Pem::iter_from_buffer(bundle.as_bytes()).collect::<Result<_, _>>().ok()?;
    let certificates: Vec<X509Certificate<'_>> = pems
        .iter()
        .map(|pem| X509Certificate::from_der(&pem.contents).map(|(_, certificate)| certificate))
        .collect::<Result<_, _>>()
        .ok()?;
    if certificates.len() < 2 {
        return None;
    }
    let mut at = 0;
    for _ in 0..certificates.len() {
        let current = &certificates[at];
        if current.subject() == current.issuer() && current.verify_signature(None).is_ok() {
            return Some(pems[at].contents.clone());
        }
        at = certificates.iter().position(|issuer| {
            issuer.subject() == current.issuer()
                && current.verify_signature(Some(issuer.public_key())).is_ok()
        })?;
    }
    None
}

fn password_of(token: &str) -> Result<String, Error> {
    match token.parse::<Token>()?.secret {
        // The file of passwords has a line for each, and commas between fields.
        Secret::Password(password)
            if password.contains(|c: char| matches!(c, ',' | '"') || c.is_control()) =>
        {
            Err(Error::Malformed("the password has a comma, a quotation mark or a control character"))
        }
        Secret::Password(password) => Ok(password),
        Secret::Bootstrap(_) => Err(Error::Malformed("a bootstrap token cannot be the cluster's own")),
    }
}

fn stored_password<'a>(passwd: &'a str, user: &str) -> Option<&'a str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(',');
        let password = fields.next()?;
        (fields.next() == Some(user)).then_some(password)
    })
}

/// A bootstrap token that nobody has yet.
pub fn random_bootstrap() -> String {
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let part = |length: usize| -> String {
        (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
    };
    format!("{}.{}", part(6), part(16))
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
    fn a_token_is_taken_apart() {
        let hash = "A".repeat(64);
        let token: Token = format!("K10{hash}::abcdef.0123456789abcdef").parse().unwrap();
        assert_eq!(token.ca_hash, Some("a".repeat(64)));
        assert!(token.secret == Secret::Bootstrap("abcdef.0123456789abcdef".into()));
        let token: Token = "secret".parse().unwrap();
        assert_eq!(token.ca_hash, None);
        assert!(!format!("{token:?}").contains("secret\""), "tokens are not logged");
        assert!(format!("K10{}::node:x", "g".repeat(64)).parse::<Token>().is_err());
    }

    #[test]
    fn the_hash_of_a_bundle_is_that_of_its_root() {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            (params, KeyPair::generate().unwrap())
        };
        let ((root, root_key), (middle, middle_key)) = (authority("root"), authority("middle"));
        let root_cert = root.self_signed(&root_key).unwrap();
        let middle_cert = middle.signed_by(&middle_key, &Issuer::from_params(&root, &root_key)).unwrap();
        let hex = |bytes: &[u8]| -> String {
            Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let bundle = format!("{}{}", middle_cert.pem(), root_cert.pem());
        assert_eq!(ca_hash(&bundle), hex(root_cert.der()));
        // One certificate, or some that do not belong together: the file as it is.
        assert_eq!(ca_hash(&root_cert.pem()), hex(root_cert.pem().as_bytes()));
        let strangers =
            format!("{}{}", middle_cert.pem(), authority("other").0.self_signed(&middle_key).unwrap().pem());
        assert_eq!(ca_hash(&strangers), hex(strangers.as_bytes()));
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
