//! The certificates that there are: which, until when, and putting them aside so that the next start issues new ones.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use time::OffsetDateTime;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use super::leaf::RENEW_BEFORE;
use super::node::NodeCertificate;
use crate::files::{self, FileError};

/// What certificates are for, by K3s's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The administrator's client.
    Admin,
    /// What the API server shows its clients and the kubelets.
    ApiServer,
    /// What the API server shows the servers of other APIs.
    AuthProxy,
    /// Client of the cloud controllers.
    CloudController,
    /// Client of the controllers.
    ControllerManager,
    /// Client of a node's other controllers.
    K3sController,
    /// Client and server of the kubelet.
    Kubelet,
    /// Client of the service proxy.
    KubeProxy,
    /// Client of the scheduler.
    Scheduler,
    /// Client of the supervisor.
    Supervisor,
}

/// How it is with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Good for long.
    Ok,
    /// So near its end that the next start issues a new one (authorities: somebody has to).
    Warning,
    /// Past its end.
    Expired,
    /// Before its beginning.
    NotYetValid,
}

/// One certificate of a file. The files hold those of the authority, too.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// Common name of whom it is for.
    pub subject: String,
    /// Common name of the authority.
    pub issuer: String,
    /// `ClientAuth`, `ServerAuth`, `CertSign`.
    pub usages: Vec<&'static str>,
    /// Its first moment.
    pub not_before: OffsetDateTime,
    /// Its last moment.
    pub not_after: OffsetDateTime,
    /// How it is with it.
    pub validity: Validity,
}

// === impl Service ===

impl Service {
    const NAMES: [(Self, &'static str); 10] = [
        (Self::Admin, "admin"),
        (Self::ApiServer, "api-server"),
        (Self::AuthProxy, "auth-proxy"),
        (Self::CloudController, "cloud-controller"),
        (Self::ControllerManager, "controller-manager"),
        (Self::K3sController, "k3s-controller"),
        (Self::Kubelet, "kubelet"),
        (Self::KubeProxy, "kube-proxy"),
        (Self::Scheduler, "scheduler"),
        (Self::Supervisor, "supervisor"),
    ];

    /// Those that have certificates on this machine: all on a server, a node's own elsewhere.
    pub fn all(data_dir: &Path) -> Vec<Self> {
        if data_dir.join("server").is_dir() {
            return Self::NAMES.iter().map(|(service, _)| *service).collect();
        }
        vec![Self::K3sController, Self::Kubelet, Self::KubeProxy]
    }

    /// Its certificates, without the ending.
    fn stems(self, data_dir: &Path) -> Vec<PathBuf> {
        let node = |own: &[NodeCertificate]| {
            own.iter().map(|own| data_dir.join("agent").join(own.stem())).collect::<Vec<_>>()
        };
        let tls = data_dir.join("server/tls");
        match self {
            Self::Admin => vec![tls.join("client-admin")],
            Self::ApiServer => vec![tls.join("client-kube-apiserver"), tls.join("serving-kube-apiserver")],
            Self::AuthProxy => vec![tls.join("client-auth-proxy")],
            Self::CloudController => vec![tls.join("client-k3s-cloud-controller")],
            Self::ControllerManager => vec![tls.join("client-controller")],
            Self::K3sController => node(&[NodeCertificate::ClientK3sController]),
            Self::Kubelet => node(&[NodeCertificate::ClientKubelet, NodeCertificate::ServingKubelet]),
            Self::KubeProxy => node(&[NodeCertificate::ClientKubeProxy]),
            Self::Scheduler => vec![tls.join("client-scheduler")],
            Self::Supervisor => vec![tls.join("client-supervisor")],
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(own, _)| own == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, own)| *own == name);
        let names = || Self::NAMES.map(|(_, name)| name).join(", ");
        found.map(|(own, _)| *own).ok_or_else(|| format!("no service {name:?}; there are {}", names()))
    }
}

impl Validity {
    fn of(certificate: &X509Certificate<'_>, now: OffsetDateTime) -> Self {
        let (begin, end) = (certificate.validity().not_before, certificate.validity().not_after);
        match () {
            () if now < begin.to_datetime() => Self::NotYetValid,
            () if now > end.to_datetime() => Self::Expired,
            () if now + RENEW_BEFORE > end.to_datetime() => Self::Warning,
            () => Self::Ok,
        }
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Expired => "EXPIRED",
            Self::NotYetValid => "NOT YET VALID",
        })
    }
}

/// Days before its end in which a certificate is a [`Validity::Warning`].
pub fn warning_days() -> i64 {
    RENEW_BEFORE.whole_days()
}

/// Every certificate of these services that is there. Files that are not, or hold none, are left out.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn check(data_dir: &Path, services: &[Service]) -> Result<Vec<Found>, FileError> {
    let now = OffsetDateTime::now_utc();
    let mut all = Vec::new();
    for stem in services.iter().flat_map(|service| service.stems(data_dir)) {
        let path = stem.with_extension("crt");
        let text = files::read(&path)?.unwrap_or_default();
        for pem in Pem::iter_from_buffer(text.as_bytes()).flatten() {
            if let Ok(certificate) = pem.parse_x509() {
                all.push(Found::of(&path, &certificate, now));
            }
        }
    }
    Ok(all)
}

impl Found {
    fn of(path: &Path, certificate: &X509Certificate<'_>, now: OffsetDateTime) -> Self {
        let name = |name: &x509_parser::x509::X509Name<'_>| {
            name.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned()
        };
        let extended = certificate.extended_key_usage().ok().flatten().map(|usage| usage.value);
        let signs = certificate.key_usage().ok().flatten().is_some_and(|usage| usage.value.key_cert_sign());
        let usages = [
            (signs, "CertSign"),
            (extended.is_some_and(|usage| usage.client_auth), "ClientAuth"),
            (extended.is_some_and(|usage| usage.server_auth), "ServerAuth"),
        ];
        Self {
            path: path.to_owned(),
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            usages: usages.iter().filter(|(has, _)| *has).map(|(_, usage)| *usage).collect(),
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
            validity: Validity::of(certificate, now),
        }
    }
}

/// Moves certificates and keys of these services into a directory beside, which is given back. The next start makes new ones.
///
/// # Errors
/// A file that cannot be copied or removed. Nothing is removed before all is copied.
pub fn put_aside(data_dir: &Path, services: &[Service]) -> Result<PathBuf, FileError> {
    let name = format!("tls-{}", OffsetDateTime::now_utc().unix_timestamp());
    let server = data_dir.join("server");
    let aside = if server.is_dir() { server.join(name) } else { data_dir.join("agent").join(name) };
    files::private_dir(&aside)?;
    // Keyed by path: a file is of one service, but a service may be named twice.
    let mut moved = BTreeMap::new();
    for stem in services.iter().flat_map(|service| service.stems(data_dir)) {
        for (ending, mode) in [("crt", 0o644), ("key", 0o600)] {
            let path = stem.with_extension(ending);
            let Some(text) = files::read(&path)? else { continue };
            let name = path.file_name().unwrap_or_default().to_owned();
            files::write(&aside.join(&name), &text, mode)?;
            moved.insert(path, name);
        }
    }
    for path in moved.keys() {
        fs::remove_file(path).map_err(FileError::of("remove", path))?;
    }
    Ok(aside)
}
