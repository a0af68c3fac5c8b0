//! The cluster as an administrator reaches it: by a kubeconfig.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::remote::{self, Credentials, Endpoint, Servers, Trust};
use http::HeaderValue;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use supervisor::token;

const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// Where the kubeconfig is.
#[derive(Debug, clap::Args)]
pub(super) struct Access {
    /// The administrator's kubeconfig [default: /etc/rancher/k3s/k3s.yaml]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", default_value = KUBECONFIG, hide_default_value = true)]
    kubeconfig: PathBuf,
}

/// A server and how it is asked.
pub(super) struct Cluster {
    /// A client with the user's rights.
    pub(super) client: kube::Client,
    /// What a token says of the cluster's authority.
    pub(super) ca_hash: String,
}

impl Access {
    /// The cluster of the kubeconfig's current context. Nothing is asked of it yet.
    pub(super) fn connect(&self) -> anyhow::Result<Cluster> {
        let path = &self.kubeconfig;
        let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
        Kubeconfig::parse(&text)
            .and_then(|config| config.connect(path.parent().unwrap_or(Path::new("."))))
            .with_context(|| path.display().to_string())
    }
}

/// As much of a kubeconfig (`client-go/tools/clientcmd/api/v1`) as reaching a server takes.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Named>,
    clusters: Vec<Named>,
    users: Vec<Named>,
}

/// One of a kind's list; which of the three is set is up to the list.
#[derive(Deserialize)]
struct Named {
    name: String,
    context: Option<ContextEntry>,
    cluster: Option<ClusterEntry>,
    user: Option<UserEntry>,
}

#[derive(Clone, Debug, Deserialize)]
struct ContextEntry {
    cluster: String,
    user: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserEntry {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
}

impl Kubeconfig {
    fn parse(text: &str) -> anyhow::Result<Self> {
        serde_yaml_ng::from_str(text).context("not a kubeconfig")
    }

    fn connect(&self, directory: &Path) -> anyhow::Result<Cluster> {
        let context = find(&self.contexts, "context", &self.current_context, |entry| entry.context.clone())?;
        let cluster = find(&self.clusters, "cluster", &context.cluster, |entry| entry.cluster.clone())?;
        let user = find(&self.users, "user", &context.user, |entry| entry.user.clone())?;
        let ca = pem(
            directory,
            cluster.certificate_authority_data.as_ref(),
            cluster.certificate_authority.as_ref(),
        )?
        .context("the cluster has no certificate-authority")?;
        let trust = Trust::Authorities(certificates(&ca).context("certificate-authority")?);
        let servers = Servers::new(endpoint(&cluster.server)?);
        let client = remote::connect(servers, trust, user.credentials(directory)?)?;
        Ok(Cluster { client, ca_hash: token::ca_hash(&ca) })
    }
}

impl UserEntry {
    fn credentials(&self, directory: &Path) -> anyhow::Result<Credentials> {
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).context("the user's token")?;
            value.set_sensitive(true);
            return Ok(Credentials::Header(value));
        }
        let chain = pem(directory, self.client_certificate_data.as_ref(), self.client_certificate.as_ref())?
            .context("the user has neither token nor client-certificate")?;
        let key = pem(directory, self.client_key_data.as_ref(), self.client_key.as_ref())?
            .context("the user has no client-key")?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("client-key")?;
        Ok(Credentials::Certificate(certificates(&chain).context("client-certificate")?, key))
    }
}

fn find<T>(list: &[Named], what: &str, name: &str, of: impl Fn(&Named) -> Option<T>) -> anyhow::Result<T> {
    let found = list.iter().find(|entry| entry.name == name).and_then(of);
    found.with_context(|| format!("there is no {what} named {name:?}"))
}

/// What stands in the kubeconfig itself, else in the file it names.
fn pem(directory: &Path, data: Option<&String>, file: Option<&PathBuf>) -> anyhow::Result<Option<String>> {
    if let Some(data) = data {
        let bytes = STANDARD.decode(data.trim()).context("data that is not base64")?;
        return Ok(Some(String::from_utf8(bytes).context("data that is not PEM")?));
    }
    let Some(file) = file else { return Ok(None) };
    let path = directory.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    Ok(Some(text))
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    ensure!(!found.is_empty(), "no certificate in it");
    Ok(found)
}

/// Host and port of a server's URL.
pub(super) fn endpoint(url: &str) -> anyhow::Result<Endpoint> {
    let fail = || format!("server {url:?} is not https://HOST[:PORT]");
    let uri: http::Uri = url.parse().with_context(fail)?;
    let is_plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    ensure!(uri.scheme_str() == Some("https") && is_plain && !has_user, fail());
    let host = uri.host().with_context(fail)?.trim_start_matches('[').trim_end_matches(']');
    Ok(Endpoint { host: host.to_owned(), port: uri.port_u16().unwrap_or(443) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let result = Kubeconfig::parse(text).and_then(|config| config.connect(Path::new(".")).map(|_| ()));
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn what_a_kubeconfig_lacks_is_named() {
        let text = |user: &str| {
            format!(
                "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: {user}}}}}]\n\
                 clusters: [{{name: k, cluster: {{server: 'https://127.0.0.1:6443'}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
            )
        };
        assert!(refusal("current-context: c").contains("not a kubeconfig"));
        assert!(refusal(&text("nobody")).contains("no user named \"nobody\""));
        assert!(refusal(&text("u")).contains("certificate-authority"));
    }

    #[test]
    fn a_server_is_an_https_url() {
        assert_eq!(endpoint("https://10.0.0.1:6443").unwrap().to_string(), "10.0.0.1:6443");
        assert_eq!(endpoint("https://[fd00::1]:6443").unwrap().to_string(), "[fd00::1]:6443");
        assert_eq!(endpoint("https://server").unwrap().to_string(), "server:443");
        for url in [
            "http://server",
            "server:1",
            "https://server/k8s/clusters/c-1",
            "https://me@server",
            "https://server/?a=b",
        ] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }
}
