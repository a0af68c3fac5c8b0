//! Leaf certificates: what each must say, when it is due, and how it is issued.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::{self, Authority, CLOCK_TOLERANCE};
use super::{Error, KeyPairFiles};
use crate::files;

/// One year, as K3s gives its leaves.
const LIFETIME: Duration = Duration::days(365);
/// A leaf this close to its end is issued again at the next start.
pub(crate) const RENEW_BEFORE: Duration = Duration::days(120);

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

/// What one certificate must say.
pub(crate) struct Leaf {
    name: &'static str,
    common_name: String,
    organization: Option<&'static str>,
    usage: Usage,
    sans: Vec<String>,
}

impl Leaf {
    pub(crate) fn new(
        name: &'static str,
        common_name: &str,
        organization: Option<&'static str>,
        usage: Usage,
        mut sans: Vec<String>,
    ) -> Self {
        sans.sort();
        sans.dedup();
        Self { name, common_name: common_name.to_owned(), organization, usage, sans }
    }

    pub(crate) fn client(name: &'static str, common_name: &str, organization: Option<&'static str>) -> Self {
        Self::new(name, common_name, organization, Usage::Client, Vec::new())
    }

    pub(crate) fn is_client(&self) -> bool {
        self.usage == Usage::Client
    }

    /// Keeps `NAME.crt` and `NAME.key` in `dir` when they are good, else issues them.
    pub(crate) fn ensure(&self, dir: &Path, authority: &Authority) -> Result<KeyPairFiles, Error> {
        let paths = KeyPairFiles {
            cert: dir.join(format!("{}.crt", self.name)),
            key: dir.join(format!("{}.key", self.name)),
        };
        let key = match files::read(&paths.key)? {
            Some(key) if !authority.is_new => Some(key),
            _ => None,
        };
        let cert = files::read(&paths.cert)?;
        if let (Some(cert), Some(key)) = (&cert, &key)
            && self.is_good(cert, key, authority)
        {
            return Ok(paths);
        }
        self.issue(&paths, key, authority)?;
        Ok(paths)
    }

    fn issue(&self, paths: &KeyPairFiles, key: Option<String>, authority: &Authority) -> Result<(), Error> {
        let fail = |source| Error::Issue { path: paths.cert.clone(), source };
        let key = match key {
            Some(key) => key,
            None => {
                let key = authority::new_key(&paths.key)?;
                files::write(&paths.key, &key, 0o600)?;
                key
            }
        };
        let key = authority::load_key(&key)
            .ok_or_else(|| Error::Damaged { path: paths.key.clone(), what: "EC P-256 key" })?;
        files::write(&paths.cert, &self.certify(&key, authority).map_err(fail)?, 0o644)?;
        tracing::info!(certificate = %paths.cert.display(), "certificate issued");
        Ok(())
    }

    /// A certificate for whoever holds the key: PEM, the leaf first, then those of its authority.
    pub(crate) fn certify(
        &self,
        key: &impl PublicKeyData,
        authority: &Authority,
    ) -> Result<String, rcgen::Error> {
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::new(self.sans.clone())?;
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(organization) = self.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.distinguished_name.push(DnType::CommonName, self.common_name.clone());
        params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match self.usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
        params.not_before = (now - CLOCK_TOLERANCE).max(authority.not_before);
        params.not_after = now + LIFETIME;
        params.use_authority_key_identifier_extension = true;
        Ok(format!("{}{}", params.signed_by(key, &authority.issuer)?.pem(), authority.bundle()))
    }

    /// Whether a certificate on disk says all it must, for long enough, under this authority, for this key.
    fn is_good(&self, cert: &str, key: &str, authority: &Authority) -> bool {
        let Some(key) = authority::load_key(key) else { return false };
        let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(cert.as_bytes()) else { return false };
        let Ok((_, cert)) = X509Certificate::from_der(&pem.contents) else { return false };
        let subject = cert.subject();
        let named = subject.iter_common_name().filter_map(|name| name.as_str().ok()).eq([&*self.common_name]);
        let grouped = subject.iter_organization().filter_map(|name| name.as_str().ok()).eq(self.organization);
        let lasts = cert.validity().not_after.to_datetime() > OffsetDateTime::now_utc() + RENEW_BEFORE;
        let keyed = cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
        let names = names(&cert);
        named
            && grouped
            && lasts
            && keyed
            && authority_key_id(&cert).as_deref() == Some(&authority.subject_key_id)
            && self.sans.iter().all(|san| names.contains(san))
    }
}

fn names(cert: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = cert.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().filter_map(general_name).collect()
}

fn general_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
            .ok()
            .map(|address| address.to_string()),
        _ => None,
    }
}

fn authority_key_id(cert: &X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })
}
