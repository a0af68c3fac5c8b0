//! Who asks: client certificates and bearer tokens.

use std::net::{IpAddr, Ipv4Addr};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use machinery::status::Status;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::registry::Registry;
use crate::user::UserInfo;

mod bootstrap;
pub(crate) mod token;

use token::{Tokens, Verified};

/// Where a request came from, before anybody looked at its headers.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// In process, with a fixed identity.
    Trusted(UserInfo),
    /// Over TLS.
    Network { address: IpAddr, shown: Shown },
}

/// What a client's certificate says.
#[derive(Debug, Clone)]
pub(crate) enum Shown {
    /// It has shown none.
    Nothing,
    /// A good one, of this user.
    Identity(UserInfo),
    /// One that has run out, that another authority has signed, or that names nobody.
    Invalid,
}

impl Peer {
    /// Where it is. Components in process are on this machine.
    pub(crate) fn address(&self) -> IpAddr {
        match self {
            Self::Trusted(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::Network { address, .. } => *address,
        }
    }

    /// The identity that needs nothing of a request to be known.
    pub(crate) fn user(&self) -> Option<&UserInfo> {
        match self {
            Self::Trusted(user) | Self::Network { shown: Shown::Identity(user), .. } => Some(user),
            Self::Network { shown: Shown::Nothing | Shown::Invalid, .. } => None,
        }
    }
}

/// The user of a request. Wrong credentials are refused even where none would do.
pub(crate) fn authenticate(
    peer: &Peer,
    headers: &HeaderMap,
    tokens: &Tokens,
    objects: &Registry,
) -> Result<UserInfo, Status> {
    match proved(peer, headers, tokens, objects)? {
        Some(user) => Ok(user),
        None if headers.contains_key(AUTHORIZATION) => Err(unauthorized()),
        None if matches!(peer, Peer::Network { shown: Shown::Invalid, .. }) => Err(unauthorized()),
        None => Ok(UserInfo::anonymous()),
    }
}

/// The user that a certificate or a bearer token proves; `None` without either.
pub(crate) fn proved(
    peer: &Peer,
    headers: &HeaderMap,
    tokens: &Tokens,
    objects: &Registry,
) -> Result<Option<UserInfo>, Status> {
    if let Some(user) = peer.user() {
        return Ok(Some(user.clone()));
    }
    let Some(token) = bearer(headers) else { return Ok(None) };
    verify(token, &[], tokens, objects).map(|verified| Some(verified.user)).ok_or_else(unauthorized)
}

/// Whose token it is, of any kind, for one of these audiences (none: for this server).
pub(crate) fn verify(
    token: &str,
    audiences: &[String],
    tokens: &Tokens,
    objects: &Registry,
) -> Option<Verified> {
    if let Some(verified) = tokens.verify(token, audiences, objects) {
        return Some(verified);
    }
    // Bootstrap tokens name no audience: they are for this server.
    let own = tokens.audiences();
    let audiences: Vec<String> =
        own.iter().filter(|own| audiences.is_empty() || audiences.contains(own)).cloned().collect();
    if audiences.is_empty() {
        return None;
    }
    bootstrap::verify(token, objects).map(|user| Verified { user, audiences })
}

/// The token of `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

pub(crate) fn unauthorized() -> Status {
    Status::unauthorized()
}

/// The identity in a certificate that TLS has verified: user = common name, groups = organizations.
pub(crate) fn certificate_user(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let groups: Vec<&str> = subject.iter_organization().filter_map(|entry| entry.as_str().ok()).collect();
    Some(UserInfo::new(name, &groups))
}
