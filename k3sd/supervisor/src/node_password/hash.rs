//! K3s's text form of a password's scrypt hash: `$1:SALT:15:8:1:KEY`, salt in hex, key in base64 without padding.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};

const VERSION: &str = "$1";
const LOG_N: u8 = 15;
const R: u32 = 8;
const P: u32 = 1;
const KEY_BYTES: usize = 64;
/// What a hash may cost at most; one in a secret could ask for any amount of memory.
const MAX_LOG_N: u8 = 18;
const MAX_R: u32 = 16;

/// A new hash with a salt of its own.
pub(super) fn create(password: &str) -> String {
    let salt = rand::random::<[u8; 8]>();
    let params = scrypt::Params::new(LOG_N, R, P, KEY_BYTES).expect("the parameters are in range");
    let key = derive(password, &salt, &params, KEY_BYTES);
    let salt: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{VERSION}:{salt}:{LOG_N}:{R}:{P}:{}", STANDARD_NO_PAD.encode(key))
}

/// Whether the password is the hashed one; `None` when the text is no hash.
pub(super) fn matches(hash: &str, password: &str) -> Option<bool> {
    let [version, salt, log_n, r, p, key] = hash.trim().split(':').collect::<Vec<_>>().try_into().ok()?;
    let (log_n, r, p): (u8, u32, u32) = (log_n.parse().ok()?, r.parse().ok()?, p.parse().ok()?);
    if version != VERSION || log_n > MAX_LOG_N || r > MAX_R || p > MAX_R {
        return None;
    }
    let salt: Vec<u8> = salt
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect::<Option<_>>()?;
    let key = STANDARD_NO_PAD.decode(key).ok().filter(|key| !key.is_empty())?;
    let params = scrypt::Params::new(log_n, r, p, key.len().clamp(10, KEY_BYTES)).ok()?;
    let derived = derive(password, &salt, &params, key.len());
    // Digests of both: how long the comparison takes tells nothing of them.
    Some(Sha256::digest(derived) == Sha256::digest(key))
}

fn derive(password: &str, salt: &[u8], params: &scrypt::Params, length: usize) -> Vec<u8> {
    let mut key = vec![0; length];
    scrypt::scrypt(password.as_bytes(), salt, params, &mut key).expect("the length is in range");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7914 section 12, third vector, in this form.
    const RFC: &str = "$1:536f6469756d43686c6f72696465:14:8:1:\
        cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw";

    #[test]
    fn the_hash_is_scrypt_in_k3ss_form() {
        assert_eq!(matches(RFC, "pleaseletmein"), Some(true));
        let hash = create("secret");
        let fields: Vec<&str> = hash.split(':').collect();
        assert_eq!(fields.len(), 6, "{hash}");
        assert_eq!((fields[0], fields[1].len(), &fields[2..5]), ("$1", 16, &["15", "8", "1"][..]));
        assert_eq!(fields[5].len(), 86, "64 bytes without padding");
        assert_eq!(matches(&hash, "secret"), Some(true));
        assert_eq!(matches(&hash, "Secret"), Some(false));
        assert_ne!(create("secret"), hash, "salted");
    }

    #[test]
    fn what_is_no_hash_is_told_from_a_wrong_password() {
        for text in [
            "",
            "$1:00:15:8:1",
            "$2:00:15:8:1:AAAA",
            "$1:zz:15:8:1:AAAA",
            "$1:00:60:8:1:AAAA",
            "$1:00:15:8:1:",
        ] {
            assert_eq!(matches(text, "secret"), None, "{text:?}");
        }
    }
}
