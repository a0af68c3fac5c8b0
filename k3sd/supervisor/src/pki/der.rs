//! The two shapes of an EC P-256 private key: K3s writes SEC 1 (RFC 5915, "EC PRIVATE KEY"), libraries want PKCS#8
//! (RFC 5958, "PRIVATE KEY"). Only the wrapping differs, so it is changed here without touching the key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, PrivateSec1KeyDer};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;
/// OBJECT IDENTIFIER 1.2.840.10045.3.1.7, prime256v1.
const PRIME256V1: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// OBJECT IDENTIFIER 1.2.840.10045.2.1, id-ecPublicKey.
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// Reads a private key of either shape; `None` when the text holds none that is EC P-256.
pub(crate) fn pkcs8_from_pem(pem: &str) -> Option<PrivatePkcs8KeyDer<'static>> {
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(key) => Some(key),
        PrivateKeyDer::Sec1(key) => Some(PrivatePkcs8KeyDer::from(pkcs8_from_sec1(&key))),
        _ => None,
    }
}

/// The PEM text K3s would write for this key; `None` when it is not an EC P-256 key.
pub(crate) fn sec1_pem(pkcs8: &[u8]) -> Option<String> {
    let sec1 = sec1_from_pkcs8(pkcs8)?;
    let mut text = String::from("-----BEGIN EC PRIVATE KEY-----\n");
    let encoded = STANDARD.encode(sec1);
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END EC PRIVATE KEY-----\n");
    Some(text)
}

fn pkcs8_from_sec1(key: &PrivateSec1KeyDer<'_>) -> Vec<u8> {
    let algorithm = element(SEQUENCE, &[EC_PUBLIC_KEY, PRIME256V1].concat());
    let version = [INTEGER, 1, 0];
    element(SEQUENCE, &[&version[..], &algorithm, &element(OCTET_STRING, key.secret_sec1_der())].concat())
}

fn sec1_from_pkcs8(pkcs8: &[u8]) -> Option<Vec<u8>> {
    let (_, body, _) = split(pkcs8)?;
    let (_, _, rest) = split(body)?; // version
    let (_, algorithm, rest) = split(rest)?;
    if !algorithm.ends_with(PRIME256V1) {
        return None;
    }
    let (_, sec1, _) = split(rest)?;
    let (_, fields, _) = split(sec1)?;
    let (_, _, rest) = split(fields)?; // version
    let (_, secret, rest) = split(rest)?;
    let mut out = [&[INTEGER, 1, 1][..], &element(OCTET_STRING, secret)].concat();
    out.extend(element(CONTEXT_0, PRIME256V1));
    let mut rest = rest;
    while let Some((tag, content, after)) = split(rest) {
        if tag == CONTEXT_1 {
            out.extend(element(CONTEXT_1, content));
        }
        rest = after;
    }
    Some(element(SEQUENCE, &out))
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length @ 0x80..=0xff => out.extend([0x81, length as u8]),
        length => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

/// Splits the first element off: its tag, its content, and what follows it.
fn split(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?), &rest[2..]),
        short if short < 0x80 => (usize::from(short), rest),
        _ => return None,
    };
    (rest.len() >= length).then(|| (tag, &rest[..length], &rest[length..]))
}
