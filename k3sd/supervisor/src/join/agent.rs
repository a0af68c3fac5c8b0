//! Joining as an agent: from a server's address and a token to certificates and kubeconfigs on disk.
//!
//! [`Join::attempt`] is one attempt, with an error for each thing that somebody can put right; how often to try, and what to tell
//! people meanwhile, is the caller's. Every start asks for new certificates, for the keys that are there already.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::remote::{self, Credentials, Endpoint, Servers, Trust};
use client::request;
use http::{HeaderValue, Method, Request};
use kube::client::Body;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{debug, warn};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{NODE_IP, NODE_NAME, NODE_PASSWORD, Settings};
use crate::files::{self, FileError};
use crate::kubeconfig;
use crate::node_password;
use crate::pki::{self, KeyPairFiles, NodeCertificate};
use crate::token::{Secret, Token, ca_hash};

/// Longest part of a server's answer that is repeated to people.
const MAX_QUOTE: usize = 300;

/// What an agent joins with.
#[derive(Clone, Debug)]
pub struct Join {
    /// Where servers are.
    pub servers: Servers,
    /// What the token says.
    pub token: Token,
    /// The name to register under.
    pub node_name: String,
    /// Addresses of this machine.
    pub node_ips: Vec<IpAddr>,
    /// K3s's data directory; files go below its `agent`.
    pub data_dir: PathBuf,
    /// Where this machine's password is; [`node_password::FILE`].
    pub password_file: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The cluster's settings.
    pub settings: Settings,
    /// The directory of the files below.
    pub agent_dir: PathBuf,
    /// The authorities that sign clients.
    pub client_ca: PathBuf,
    /// The authorities that sign servers.
    pub server_ca: PathBuf,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server answered, or one broke off.
    #[error("the server does not answer")]
    Unreachable(#[source] Box<kube::Error>),
    /// A server answered that it cannot yet.
    #[error("the server is not ready: {0}")]
    NotReady(String),
    /// What answered holds no certificate of the authority it names.
    #[error("the server does not hold a certificate of the authority it presents")]
    Unproved(#[source] Box<kube::Error>),
    /// What answered is no server of the cluster.
    #[error(
        "the server is not of the cluster the token is for: its CA hash is {found}, the token's is {expected}; give this machine the \
         token of this cluster, or the address of the token's"
    )]
    WrongAuthority {
        /// What the token says.
        expected: String,
        /// What the server shows.
        found: String,
    },
    /// The token's secret is not the cluster's.
    #[error("the server refused the token (401, {0}): give this machine the token of the cluster")]
    WrongToken(String),
    /// The name is taken.
    #[error(
        "the server refused the node password (403, {message}): another machine is registered as '{node}'. Give this machine another \
         name (node-name, with-node-id), or delete Node '{node}' if it is this machine without its {}",
        node_password::FILE
    )]
    NameTaken {
        /// The name.
        node: String,
        /// What the server says.
        message: String,
    },
    /// Anything else the server refused.
    #[error("the server refused {path}: {code} {message}")]
    Refused {
        /// The endpoint.
        path: String,
        /// HTTP status.
        code: u16,
        /// What it says.
        message: String,
    },
    /// An answer that cannot be understood.
    #[error("the server's answer to {path} is not {expected}")]
    Malformed {
        /// The endpoint.
        path: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A certificate or key could not be used.
    #[error("failed to prepare the connection")]
    Tls(#[from] rustls::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key could not be made.
    #[error(transparent)]
    Pki(#[from] pki::Error),
}

impl Error {
    /// Whether waiting alone may help: nobody has to change anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::NotReady(_))
    }
}

impl Join {
    /// Tries once.
    ///
    /// # Errors
    /// See [`Error`]. Files of an earlier join stay as they are until there is something newer.
    pub async fn attempt(&self) -> Result<Joined, Error> {
        let agent_dir = self.data_dir.join("agent");
        files::private_dir(&agent_dir)?;
        let authorities = authorities(&self.servers, &self.token).await?;
        // Who joined before is known by that, whatever became of the token. One that is refused comes anew, with the token.
        if let Some(credentials) = self.certificate(&agent_dir) {
            match self.join_as(credentials, &authorities, &agent_dir).await {
                Err(error) => debug!(error = %error, "the certificate of an earlier start does not help"),
                joined => return joined,
            }
        }
        self.join_as(self.credentials(), &authorities, &agent_dir).await
    }

    async fn join_as(
        &self,
        credentials: Credentials,
        authorities: &[CertificateDer<'static>],
        agent_dir: &Path,
    ) -> Result<Joined, Error> {
        let trust = Trust::Authorities(authorities.to_vec());
        let server = Server { client: remote::connect(self.servers.clone(), trust, credentials)? };
        let settings: Settings = server.get_json("/v1-k3s/config", "the cluster's settings").await?;
        self.learn_servers(&server).await;
        let joined = Joined {
            settings,
            client_ca: agent_dir.join("client-ca.crt"),
            server_ca: agent_dir.join("server-ca.crt"),
            agent_dir: agent_dir.to_owned(),
        };
        for (path, file) in
            [("/v1-k3s/client-ca.crt", &joined.client_ca), ("/v1-k3s/server-ca.crt", &joined.server_ca)]
        {
            let bundle = server.get_text(path).await?;
            certificates(&bundle).ok_or(Error::Malformed { path: path.into(), expected: "certificates" })?;
            files::write(file, &bundle, 0o600)?;
        }
        let password = node_password::ensure_file(&self.password_file)?;
        for certificate in NodeCertificate::ALL {
            self.obtain(&server, certificate, &joined.agent_dir, &password).await?;
        }
        Ok(joined)
    }

    /// The node's own certificate of an earlier start, if it is there and for this name.
    fn certificate(&self, agent_dir: &Path) -> Option<Credentials> {
        let files = NodeCertificate::ClientKubelet.files(agent_dir);
        let chain = read_certificates(&files.cert).ok()?;
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        let own = format!("system:node:{}", self.node_name.to_ascii_lowercase());
        let is_own = leaf.subject().iter_common_name().any(|name| name.as_str() == Ok(&own));
        if !is_own || !leaf.validity().is_valid() {
            return None;
        }
        let key = PrivateKeyDer::from_pem_file(&files.key).ok()?;
        Some(Credentials::Certificate(chain, key))
    }

    fn credentials(&self) -> Credentials {
        let text = match &self.token.secret {
            Secret::Password(password) => format!("Basic {}", STANDARD.encode(format!("node:{password}"))),
            Secret::Bootstrap(token) => format!("Bearer {token}"),
        };
        let mut value = HeaderValue::try_from(text).expect("base64 and bootstrap tokens are plain text");
        value.set_sensitive(true);
        Credentials::Header(value)
    }

    /// Other servers are for when this one is gone; joining does not depend on them.
    async fn learn_servers(&self, server: &Server) {
        match server.get_json::<Option<Vec<String>>>("/v1-k3s/apiservers", "a list of servers").await {
            Ok(servers) => {
                let servers = servers.unwrap_or_default();
                self.servers.learn(servers.iter().filter_map(|text| text.parse::<Endpoint>().ok()));
            }
            Err(error) => debug!(error = %error, "no other servers are known"),
        }
    }

    async fn obtain(
        &self,
        server: &Server,
        certificate: NodeCertificate,
        agent_dir: &Path,
        password: &str,
    ) -> Result<(), Error> {
        let files = certificate.files(agent_dir);
        let key = pki::ensure_key(&files.key)?;
        let body = pki::signing_request(&key, &files.cert)?;
        let path = format!("/v1-k3s/{}.crt", certificate.stem());
        let mut request = Request::builder().method(Method::POST).uri(&path);
        if certificate.names_node() {
            request = request.header(NODE_NAME, &self.node_name).header(NODE_PASSWORD, password);
        }
        if certificate == NodeCertificate::ServingKubelet {
            let ips: Vec<String> = self.node_ips.iter().map(IpAddr::to_string).collect();
            request = request.header(NODE_IP, ips.join(","));
        }
        let request = request.body(Body::from(body)).expect("names, passwords and addresses are plain text");
        let issued = match server.send(&path, request).await {
            Err(Error::Refused { code: 403, message, .. }) if certificate.names_node() => {
                return Err(Error::NameTaken { node: self.node_name.clone(), message });
            }
            result => result?,
        };
        let malformed = || Error::Malformed { path: path.clone(), expected: "a certificate for our key" };
        let text = String::from_utf8(issued.to_vec()).map_err(|_| malformed())?;
        if !pki::is_for_key(&text, &key) {
            return Err(malformed());
        }
        files::write(&files.cert, &text, 0o600)?;
        Ok(())
    }
}

/// The authorities of the servers, proved by one of them and checked against the token.
///
/// # Errors
/// No answer, or one by somebody whom the token does not mean.
pub async fn authorities(servers: &Servers, token: &Token) -> Result<Vec<CertificateDer<'static>>, Error> {
    const PATH: &str = "/cacerts";
    let anybody = remote::connect(servers.clone(), Trust::Anybody, Credentials::None)?;
    let bundle = Server { client: anybody }.get_text(PATH).await?;
    let authorities = certificates(&bundle)
        .ok_or(Error::Malformed { path: PATH.into(), expected: "the certificates of a cluster" })?;
    let trust = Trust::Authorities(authorities.clone());
    let proved = Server { client: remote::connect(servers.clone(), trust, Credentials::None)? };
    let again = match proved.get_text(PATH).await {
        Err(Error::Unreachable(source)) => return Err(Error::Unproved(source)),
        result => result?,
    };
    let found = ca_hash(&again);
    match &token.ca_hash {
        Some(expected) if *expected != found => {
            return Err(Error::WrongAuthority { expected: expected.clone(), found });
        }
        Some(_) => {}
        None => warn!(ca_hash = found, "the token names no CA: whoever answers is believed"),
    }
    Ok(authorities)
}

impl Joined {
    /// The files of a certificate.
    pub fn files(&self, certificate: NodeCertificate) -> KeyPairFiles {
        certificate.files(&self.agent_dir)
    }

    /// A client for the API with one of the client certificates.
    ///
    /// # Errors
    /// Files that are not what was written a moment ago.
    pub fn client(&self, servers: Servers, certificate: NodeCertificate) -> Result<kube::Client, Error> {
        let files = self.files(certificate);
        let chain = read_certificates(&files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|_| pki::Error::Damaged { path: files.key.clone(), what: "key" })?;
        let trust = Trust::Authorities(read_certificates(&self.server_ca)?);
        Ok(remote::connect(servers, trust, Credentials::Certificate(chain, key))?)
    }

    /// Writes the kubeconfigs that point to `server`, for tools that look for them.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_kubeconfigs(&self, server: &str) -> Result<(), FileError> {
        for (name, certificate) in [
            ("kubelet", NodeCertificate::ClientKubelet),
            ("kubeproxy", NodeCertificate::ClientKubeProxy),
            ("k3scontroller", NodeCertificate::ClientK3sController),
        ] {
            let path = self.agent_dir.join(format!("{name}.kubeconfig"));
            kubeconfig::write_component(&path, server, &self.server_ca, &self.files(certificate))?;
        }
        Ok(())
    }
}

/// A server, with some trust and some credentials.
struct Server {
    client: kube::Client,
}

impl Server {
    async fn send(&self, path: &str, request: Request<Body>) -> Result<Bytes, Error> {
        request::send(&self.client, request).await.map_err(|error| match error {
            kube::Error::Api(status) => {
                let message: String = status.message.trim().chars().take(MAX_QUOTE).collect();
                match status.code {
                    401 => Error::WrongToken(message),
                    429 | 500.. => Error::NotReady(message),
                    code => Error::Refused { path: path.to_owned(), code, message },
                }
            }
            error => Error::Unreachable(Box::new(error)),
        })
    }

    async fn get_text(&self, path: &str) -> Result<String, Error> {
        let request = Request::get(path).body(Body::empty()).expect("the path is one");
        let body = self.send(path, request).await?;
        String::from_utf8(body.to_vec())
            .map_err(|_| Error::Malformed { path: path.to_owned(), expected: "text" })
    }

    async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        expected: &'static str,
    ) -> Result<T, Error> {
        let malformed = |error: serde_json::Error| {
            debug!(path, error = %error, "answer cannot be read");
            Error::Malformed { path: path.to_owned(), expected }
        };
        serde_json::from_str(&self.get_text(path).await?).map_err(malformed)
    }
}

/// Every certificate of a PEM text; `None` when there is none, or one that is damaged.
fn certificates(bundle: &str) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!found.is_empty()).then_some(found)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = files::read(path)?.unwrap_or_default();
    let found = certificates(&text);
    Ok(found.ok_or_else(|| pki::Error::Damaged { path: path.to_path_buf(), what: "certificate" })?)
}
