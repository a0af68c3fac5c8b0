//! Certificates that people and programs ask for through the API: subject, names and key are the request's, uses and end are not.

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::authority::Authority;
use super::node::{SignError, Signer};

/// Certificates begin this much in the past, for machines whose clock is behind.
const BACKDATE: Duration = Duration::minutes(5);
/// Those that live shorter than this are not shortened by that.
const SHORT: Duration = Duration::hours(8);

/// Which authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ca {
    /// The one that signs clients.
    Client,
    /// The one that signs servers.
    Server,
}

impl Signer {
    /// A certificate for a PKCS#10 request in PEM, without those of its authority. Of the request, subject, alternative names and key
    /// count; nothing in it makes an authority.
    ///
    /// `usages` are the API's names (`client auth`, `key encipherment`, ...). No certificate outlives its authority.
    ///
    /// # Errors
    /// A request that is none, or an unknown use.
    pub fn fulfil(
        &self,
        ca: Ca,
        request: &[u8],
        usages: &[String],
        lifetime: std::time::Duration,
    ) -> Result<String, SignError> {
        let authority = match ca {
            Ca::Client => self.client_ca(),
            Ca::Server => self.server_ca(),
        };
        let text = std::str::from_utf8(request)
            .map_err(|_| SignError::Malformed(rcgen::Error::CouldNotParseCertificationRequest))?;
        let request = CertificateSigningRequestParams::from_pem(text).map_err(SignError::Malformed)?;
        let lifetime = Duration::try_from(lifetime).unwrap_or(Duration::MAX);
        let mut params = params(authority, OffsetDateTime::now_utc(), lifetime);
        params.distinguished_name = request.params.distinguished_name;
        params.subject_alt_names = request.params.subject_alt_names;
        for usage in usages {
            match use_of(usage).ok_or_else(|| SignError::Usage(usage.clone()))? {
                Use::Key(purpose) => params.key_usages.push(purpose),
                Use::Extended(purpose) => params.extended_key_usages.push(purpose),
            }
        }
        let signed = params.signed_by(&request.public_key, &authority.issuer).map_err(SignError::Issue)?;
        Ok(signed.pem())
    }
}

fn params(authority: &Authority, now: OffsetDateTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
    params.not_before = (now - BACKDATE).max(authority.not_before);
    let from = if lifetime < SHORT { now } else { params.not_before };
    params.not_after = from.saturating_add(lifetime).min(authority.not_after);
    params.use_authority_key_identifier_extension = true;
    params
}

enum Use {
    Key(KeyUsagePurpose),
    Extended(ExtendedKeyUsagePurpose),
}

/// By the API's name (`certificates.k8s.io/v1 KeyUsage`).
fn use_of(name: &str) -> Option<Use> {
    use ExtendedKeyUsagePurpose as Extended;
    use KeyUsagePurpose as Key;
    let other = |oid: &[u64]| Use::Extended(Extended::Other(oid.to_vec()));
    Some(match name {
        "signing" | "digital signature" => Use::Key(Key::DigitalSignature),
        "content commitment" => Use::Key(Key::ContentCommitment),
        "key encipherment" => Use::Key(Key::KeyEncipherment),
        "key agreement" => Use::Key(Key::KeyAgreement),
        "data encipherment" => Use::Key(Key::DataEncipherment),
        "cert sign" => Use::Key(Key::KeyCertSign),
        "crl sign" => Use::Key(Key::CrlSign),
        "encipher only" => Use::Key(Key::EncipherOnly),
        "decipher only" => Use::Key(Key::DecipherOnly),
        "any" => Use::Extended(Extended::Any),
        "server auth" => Use::Extended(Extended::ServerAuth),
        "client auth" => Use::Extended(Extended::ClientAuth),
        "code signing" => Use::Extended(Extended::CodeSigning),
        "email protection" | "s/mime" => Use::Extended(Extended::EmailProtection),
        "ipsec end system" => other(&[1, 3, 6, 1, 5, 5, 7, 3, 5]),
        "ipsec tunnel" => other(&[1, 3, 6, 1, 5, 5, 7, 3, 6]),
        "ipsec user" => other(&[1, 3, 6, 1, 5, 5, 7, 3, 7]),
        "timestamping" => Use::Extended(Extended::TimeStamping),
        "ocsp signing" => Use::Extended(Extended::OcspSigning),
        "microsoft sgc" => other(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => other(&[2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, DnType, KeyPair};
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;

    fn signer(dir: &std::path::Path) -> Signer {
        let authority = |name: &str| Authority::load_or_create(&dir.join(name), name).unwrap();
        Signer::new(authority("client"), authority("server"))
    }

    /// A request that also asks to become an authority.
    fn request(key: &KeyPair) -> String {
        let mut params = CertificateParams::new(vec!["a.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.distinguished_name.push(DnType::OrganizationName, "team");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_certificate_says_what_was_asked_for_and_not_more_than_was_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let signer = signer(dir.path());
        let key = KeyPair::generate().unwrap();
        let usages = ["client auth", "digital signature"].map(str::to_owned);
        let hour = std::time::Duration::from_secs(3600);
        let pem = signer.fulfil(Ca::Client, request(&key).as_bytes(), &usages, hour).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=ann, O=team");
        assert!(certificate.issuer().to_string().starts_with("CN=client-ca@"));
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.key_encipherment());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        let now = OffsetDateTime::now_utc();
        let ends = certificate.validity().not_after.to_datetime() - now;
        assert!((Duration::minutes(59)..=Duration::minutes(60)).contains(&ends), "{ends}");
        assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    }

    #[test]
    fn no_certificate_outlives_its_authority_and_no_unknown_use_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let signer = signer(dir.path());
        let request = request(&KeyPair::generate().unwrap());
        let century = std::time::Duration::from_secs(100 * 365 * 24 * 3600);
        let pem =
            signer.fulfil(Ca::Server, request.as_bytes(), &["server auth".to_owned()], century).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        let end = certificate.validity().not_after.to_datetime();
        assert_eq!(end.unix_timestamp(), signer.server_ca().not_after.unix_timestamp());
        let fulfil = |request: &str, usage: &str| {
            signer.fulfil(Ca::Server, request.as_bytes(), &[usage.to_owned()], century).unwrap_err()
        };
        assert!(matches!(fulfil(&request, "world domination"), SignError::Usage(_)));
        assert!(matches!(fulfil("nonsense", "server auth"), SignError::Malformed(_)));
    }
}
