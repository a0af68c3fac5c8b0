//! Certificate authorities, and the other keys that live as long as the cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Error, der};
use crate::files;

/// Ten years, as K3s gives its authorities.
const LIFETIME: Duration = Duration::days(3650);
/// Certificates begin in the past, so that a machine whose clock is a little behind accepts them.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::hours(1);

/// A certificate authority: its bundle as it is on disk, and the key that signs.
pub(crate) struct Authority {
    /// Signing certificate first, then intermediates and root when the authority was brought from outside.
    bundle: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) subject_key_id: Vec<u8>,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    /// Made just now: what it signed before, if anything, is of no more use.
    pub(crate) is_new: bool,
}

impl Authority {
    /// Loads `STEM.crt` and `STEM.key`, or makes them when both are missing.
    pub(crate) fn load_or_create(stem: &Path, common_name: &str) -> Result<Self, Error> {
        let (cert_path, key_path) = (stem.with_extension("crt"), stem.with_extension("key"));
        match (files::read(&cert_path)?, files::read(&key_path)?) {
            (Some(cert), Some(key)) => Self::from_pem(cert, &key, (&cert_path, &key_path), false),
            (None, None) => Self::create(&cert_path, &key_path, common_name),
            (Some(_), None) => Err(Error::Damaged { path: key_path, what: "key (it is missing)" }),
            (None, Some(_)) => Err(Error::Damaged { path: cert_path, what: "certificate (it is missing)" }),
        }
    }

    /// The bundle as PEM text.
    pub(crate) fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Writes the signing certificate alone.
    pub(crate) fn write_first_certificate(&self, path: &Path) -> Result<(), Error> {
        const END: &str = "-----END CERTIFICATE-----";
        let end = self.bundle.find(END).map_or(self.bundle.len(), |at| at + END.len());
        write_if_changed(path, &format!("{}\n", &self.bundle[..end]))
    }

    /// Writes the whole bundle, for the agent beside this server.
    pub(crate) fn write_bundle(&self, path: &Path) -> Result<(), Error> {
        write_if_changed(path, &self.bundle)
    }

    fn create(cert_path: &Path, key_path: &Path, common_name: &str) -> Result<Self, Error> {
        let fail = |source| Error::Issue { path: cert_path.to_path_buf(), source };
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{common_name}-ca@{}", now.unix_timestamp()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        params.serial_number = Some(SerialNumber::from(0));
        params.not_before = now - CLOCK_TOLERANCE;
        params.not_after = now + LIFETIME;
        let key = KeyPair::generate().map_err(fail)?;
        let cert = params.self_signed(&key).map_err(fail)?.pem();
        let key = der::sec1_pem(key.serialized_der())
            .ok_or(Error::Damaged { path: key_path.to_path_buf(), what: "EC P-256 key" })?;
        // The key first: a certificate without its key would be reported as damage after a power cut.
        files::write(key_path, &key, 0o600)?;
        files::write(cert_path, &cert, 0o644)?;
        Self::from_pem(cert, &key, (cert_path, key_path), true)
    }

    fn from_pem(bundle: String, key: &str, paths: (&Path, &Path), is_new: bool) -> Result<Self, Error> {
        let damaged = |path: &Path, what| Error::Damaged { path: path.to_path_buf(), what };
        let key = load_key(key).ok_or_else(|| damaged(paths.1, "EC P-256 key"))?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(bundle.as_bytes())
            .map_err(|_| damaged(paths.0, "certificate"))?;
        let (_, cert) =
            X509Certificate::from_der(&pem.contents).map_err(|_| damaged(paths.0, "certificate"))?;
        if cert.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(damaged(paths.1, "key for the certificate beside it"));
        }
        let subject_key_id = subject_key_id(&cert).unwrap_or_default();
        let not_before = cert.validity().not_before.to_datetime();
        let not_after = cert.validity().not_after.to_datetime();
        let issuer =
            Issuer::from_ca_cert_pem(&bundle, key).map_err(|_| damaged(paths.0, "authority certificate"))?;
        Ok(Self { issuer, subject_key_id, not_before, not_after, is_new, bundle })
    }
}

/// The keys of service account tokens: those of `service.key`, which K3s makes with RSA and we with EC P-256. The first of them
/// stands in `service.current.key` again.
pub(crate) fn service_account_keys(tls_dir: &Path) -> Result<Vec<Arc<PrivateKeyDer<'static>>>, Error> {
    let path: PathBuf = tls_dir.join("service.key");
    let text = match files::read(&path)? {
        Some(text) => text,
        None => {
            let key = new_key(&path)?;
            files::write(&path, &key, 0o600)?;
            key
        }
    };
    let keys: Result<Vec<_>, _> =
        PrivateKeyDer::pem_slice_iter(text.as_bytes()).map(|key| key.map(Arc::new)).collect();
    let keys = keys.ok().filter(|keys| !keys.is_empty());
    let keys = keys.ok_or(Error::Damaged { path, what: "private key" })?;
    write_if_changed_private(&tls_dir.join("service.current.key"), first_key(&text))?;
    Ok(keys)
}

/// The first block of a PEM text that is a private key.
fn first_key(text: &str) -> &str {
    const LABEL: &str = "PRIVATE KEY-----";
    let Some(label) = text.find(LABEL) else { return text };
    let start = text[..label].rfind("-----BEGIN").unwrap_or_default();
    let rest = &text[label + LABEL.len()..];
    let end = rest.find(LABEL).map_or(text.len(), |end| label + 2 * LABEL.len() + end);
    let end = text[end..].find('\n').map_or(text.len(), |line| end + line + 1);
    &text[start..end]
}

/// A new EC P-256 key as the PEM text K3s would write.
pub(crate) fn new_key(path: &Path) -> Result<String, Error> {
    let key = KeyPair::generate().map_err(|source| Error::Issue { path: path.to_path_buf(), source })?;
    der::sec1_pem(key.serialized_der())
        .ok_or(Error::Damaged { path: path.to_path_buf(), what: "EC P-256 key" })
}

/// Reads a key from PEM text of either shape.
pub(crate) fn load_key(pem: &str) -> Option<KeyPair> {
    let der = der::pkcs8_from_pem(pem)?;
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).ok()
}

/// The subject key identifier extension of a certificate.
fn subject_key_id(cert: &X509Certificate<'_>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension;
    cert.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn write_if_changed(path: &Path, text: &str) -> Result<(), Error> {
    if files::read(path)?.as_deref() != Some(text) {
        files::write(path, text, 0o644)?;
    }
    Ok(())
}

fn write_if_changed_private(path: &Path, text: &str) -> Result<(), Error> {
    if files::read(path)?.as_deref() != Some(text) {
        files::write(path, text, 0o600)?;
    }
    Ok(())
}
