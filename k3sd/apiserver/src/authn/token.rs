//! Service account tokens: JSON web tokens (RFC 7519) signed with the cluster's service account key and bound to the account, and
//! to a pod, a secret or a node when the request asked for it. A token ends with the objects it is bound to.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};

use crate::config::Config;
use crate::registry::Registry;
use crate::user::UserInfo;

mod secret;

const USER_PREFIX: &str = "system:serviceaccount:";
/// Bytes of one coordinate.
const P256_BYTES: usize = 32;
const EXTRA_PREFIX: &str = "authentication.kubernetes.io/";

/// A key that cannot sign tokens.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No key was given.
    #[error("no service account key was given")]
    Missing,
    /// Neither RSA (2048 bits or more) nor P-256.
    #[error("a service account key is neither RSA nor P-256, or damaged")]
    Unusable,
}

/// Signs and verifies tokens.
pub(crate) struct Tokens {
    keys: Vec<Key>,
    issuer: String,
    audiences: Vec<String>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

enum Signer {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

struct Key {
    id: String,
    signer: Signer,
}

/// What a token is bound to besides its service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    /// "pod", "secret" or "node".
    pub kind: &'static str,
    pub name: String,
    pub uid: String,
}

/// What to put in a token.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    pub namespace: String,
    pub account: String,
    pub account_uid: String,
    pub audiences: Vec<String>,
    /// Seconds since the epoch.
    pub issued: i64,
    pub expires: i64,
    pub bound: Option<Bound>,
    /// The node the bound pod runs on.
    pub node: Option<(String, Option<String>)>,
    /// When a refresh is due, for tokens whose life was extended.
    pub warn_after: Option<i64>,
}

/// A token that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    pub user: UserInfo,
    /// The audiences that the token and the asker share.
    pub audiences: Vec<String>,
}

impl Tokens {
    pub(crate) fn new(config: &Config) -> Result<Self, KeyError> {
        let keys: Vec<Key> =
            config.service_account_keys.iter().map(|key| Key::parse(key)).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(KeyError::Missing);
        }
        Ok(Self {
            keys,
            issuer: config.service_account_issuer.clone(),
            audiences: config.api_audiences.clone(),
        })
    }

    /// The audiences of this API server.
    pub(crate) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Who signs.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public keys as a JSON Web Key Set (RFC 7517), for those who verify tokens by themselves.
    pub(crate) fn key_set(&self) -> Value {
        json!({ "keys": self.keys.iter().map(Key::public_document).collect::<Vec<_>>() })
    }

    /// The signature algorithms in use.
    pub(crate) fn algorithms(&self) -> Vec<&'static str> {
        let mut algorithms: Vec<_> = self.keys.iter().map(Key::algorithm).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        algorithms
    }

    /// Sign a token with the first key.
    pub(crate) fn sign(&self, claims: &Claims) -> Option<String> {
        self.signed(&self.payload(claims))
    }

    /// A token without an end, for a secret that keeps it.
    pub(crate) fn sign_for_secret(
        &self,
        namespace: &str,
        secret: &str,
        account: &str,
        uid: &str,
    ) -> Option<String> {
        self.signed(&secret::payload(namespace, secret, account, uid))
    }

    fn signed(&self, payload: &Value) -> Option<String> {
        let key = self.keys.first()?;
        let header = json!({ "alg": key.algorithm(), "kid": key.id });
        let text = format!("{}.{}", encode(&header), encode(payload));
        let signature = key.sign(text.as_bytes())?;
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn payload(&self, claims: &Claims) -> Value {
        let mut private = json!({
            "namespace": claims.namespace,
            "serviceaccount": { "name": claims.account, "uid": claims.account_uid },
        });
        if let Some(bound) = &claims.bound {
            private[bound.kind] = json!({ "name": bound.name, "uid": bound.uid });
        }
        if let Some((name, uid)) = &claims.node {
            private["node"] = match uid {
                Some(uid) => json!({ "name": name, "uid": uid }),
                None => json!({ "name": name }),
            };
        }
        if let Some(warn) = claims.warn_after {
            private["warnafter"] = json!(warn);
        }
        json!({
            "aud": claims.audiences,
            "exp": claims.expires,
            "iat": claims.issued,
            "nbf": claims.issued,
            "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": private,
            "sub": format!("{USER_PREFIX}{}:{}", claims.namespace, claims.account),
        })
    }

    /// Check signature, time, issuer, audience (`wanted`, or this server's own) and that what it is bound to still exists.
    pub(crate) fn verify(&self, token: &str, wanted: &[String], objects: &Registry) -> Option<Verified> {
        let (text, signature) = token.rsplit_once('.')?;
        let (header, payload) = text.split_once('.')?;
        let header = decode(header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let id = header.get("kid").and_then(Value::as_str);
        // Who else signed with one of the keys may have named it otherwise.
        let named = id.and_then(|id| self.keys.iter().find(|key| key.id == id));
        let mut candidates = self.keys.iter().filter(|key| named.is_none_or(|named| named.id == key.id));
        if !candidates.any(|key| key.verify(text.as_bytes(), &signature)) {
            return None;
        }
        let payload = decode(payload)?;
        let now = jiff::Timestamp::now().as_second();
        let time = |claim: &str| payload.get(claim).and_then(Value::as_i64);
        let in_time =
            time("exp").is_some_and(|end| now < end) && time("nbf").is_none_or(|start| now >= start);
        if payload.get("iss").and_then(Value::as_str) == Some(secret::ISSUER) {
            let ended = time("exp").is_some_and(|end| now >= end);
            let audiences: Vec<String> = self
                .audiences
                .iter()
                .filter(|own| wanted.is_empty() || wanted.contains(own))
                .cloned()
                .collect();
            let user =
                if ended || audiences.is_empty() { None } else { secret::user(&payload, token, objects) };
            return user.map(|user| Verified { user, audiences });
        }
        if !in_time || payload.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return None;
        }
        let audiences = self.shared_audiences(&payload, wanted);
        if audiences.is_empty() {
            return None;
        }
        let user = bound_user(&payload, objects)?;
        Some(Verified { user, audiences })
    }

    fn shared_audiences(&self, payload: &Value, wanted: &[String]) -> Vec<String> {
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        let in_token: Vec<&str> = match payload.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        wanted.iter().filter(|audience| in_token.contains(&audience.as_str())).cloned().collect()
    }
}

/// The user a token stands for, if the account and everything else it names still exist with the same uid.
fn bound_user(payload: &Value, objects: &Registry) -> Option<UserInfo> {
    let private = payload.get("kubernetes.io")?;
    let text = |pointer: &str| private.pointer(pointer).and_then(Value::as_str);
    let namespace = text("/namespace")?;
    let account = text("/serviceaccount/name")?;
    let uid = text("/serviceaccount/uid")?;
    alive(objects, "serviceaccounts", namespace, account, uid)?;
    let mut extra = BTreeMap::new();
    let mut note =
        |key: &str, value: &str| extra.insert(format!("{EXTRA_PREFIX}{key}"), vec![value.to_owned()]);
    if let Some(id) = payload.get("jti").and_then(Value::as_str) {
        note("credential-id", &format!("JTI={id}"));
    }
    if let (Some(name), Some(uid)) = (text("/pod/name"), text("/pod/uid")) {
        alive(objects, "pods", namespace, name, uid)?;
        note("pod-name", name);
        note("pod-uid", uid);
    }
    if let (Some(name), Some(uid)) = (text("/secret/name"), text("/secret/uid")) {
        alive(objects, "secrets", namespace, name, uid)?;
    }
    if let Some(name) = text("/node/name") {
        // A pod's token only mentions the node: it ends with the pod.
        if text("/pod/name").is_none() {
            alive(objects, "nodes", "", name, text("/node/uid")?)?;
        }
        note("node-name", name);
        if let Some(uid) = text("/node/uid") {
            note("node-uid", uid);
        }
    }
    let group = format!("system:serviceaccounts:{namespace}");
    let mut user =
        UserInfo::new(format!("{USER_PREFIX}{namespace}:{account}"), &["system:serviceaccounts", &group]);
    uid.clone_into(&mut user.uid);
    user.extra = extra;
    Some(user)
}

fn alive(objects: &Registry, plural: &str, namespace: &str, name: &str, uid: &str) -> Option<()> {
    let object = objects.object("", plural, namespace, name)?;
    (object.pointer("/metadata/uid").and_then(Value::as_str) == Some(uid)).then_some(())
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

impl Key {
    fn parse(key: &PrivateKeyDer<'_>) -> Result<Self, KeyError> {
        let signer = match key {
            PrivateKeyDer::Pkcs1(rsa) => RsaKeyPair::from_der(rsa.secret_pkcs1_der()).map(Signer::Rsa).ok(),
            PrivateKeyDer::Pkcs8(any) => {
                let der = any.secret_pkcs8_der();
                ec(der).map(Signer::Ec).or_else(|| RsaKeyPair::from_pkcs8(der).map(Signer::Rsa).ok())
            }
            PrivateKeyDer::Sec1(sec1) => ec(&pkcs8_of_sec1(sec1.secret_sec1_der())).map(Signer::Ec),
            _ => None,
        };
        let signer = signer.ok_or(KeyError::Unusable)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, signer.public());
        Ok(Self { id: URL_SAFE_NO_PAD.encode(digest), signer })
    }

    fn algorithm(&self) -> &'static str {
        match self.signer {
            Signer::Ec(_) => "ES256",
            Signer::Rsa(_) => "RS256",
        }
    }

    fn public_document(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut document = match &self.signer {
            Signer::Ec(key) => {
                // An uncompressed point: 4, x, y.
                let (x, y) = key.public_key().as_ref()[1..].split_at(P256_BYTES);
                json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y) })
            }
            Signer::Rsa(key) => {
                let public = signature::RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kty": "RSA", "n": text(&public.n), "e": text(&public.e) })
            }
        };
        document["use"] = "sig".into();
        document["kid"] = self.id.as_str().into();
        document["alg"] = self.algorithm().into();
        document
    }

    fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Ec(key) => key.sign(&random, text).ok().map(|signature| signature.as_ref().to_vec()),
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, text, &mut signature).ok()?;
                Some(signature)
            }
        }
    }

    fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.signer {
            Signer::Ec(_) => &signature::ECDSA_P256_SHA256_FIXED,
            Signer::Rsa(_) => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        verify(algorithm, self.signer.public(), text, signature)
    }
}

fn verify(
    algorithm: &'static dyn signature::VerificationAlgorithm,
    key: &[u8],
    text: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, key).verify(text, signature).is_ok()
}

impl Signer {
    fn public(&self) -> &[u8] {
        match self {
            Self::Ec(key) => key.public_key().as_ref(),
            Self::Rsa(key) => key.public_key().as_ref(),
        }
    }
}

fn ec(pkcs8: &[u8]) -> Option<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new()).ok()
}

/// Wrap a P-256 `ECPrivateKey` (RFC 5915) in PKCS#8. A key on another curve is refused by the parser behind.
fn pkcs8_of_sec1(sec1: &[u8]) -> Vec<u8> {
    // version 0; AlgorithmIdentifier { id-ecPublicKey, prime256v1 }
    const HEAD: [u8; 24] = [
        0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
        0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    let mut inner = HEAD.to_vec();
    inner.extend(tagged(0x04, sec1));
    tagged(0x30, &inner)
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        Ok(one) => out.extend([0x81, one]),
        Err(_) => out.extend([0x82, (length >> 8) as u8, (length & 0xff) as u8]),
    }
    out.extend_from_slice(content);
    out
}
