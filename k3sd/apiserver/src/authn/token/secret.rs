//! Tokens that secrets keep, of type `kubernetes.io/service-account-token`: without an end of their own, good as long as the secret has
//! them and the account is there (upstream's `pkg/serviceaccount/legacy.go`).
//!
//! Current limitation: nobody notes when one was last used, so none is found to be unused; one that somebody has marked so is refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::meta;
use serde_json::{Value, json};

use super::{USER_PREFIX, alive};
use crate::registry::Registry;
use crate::user::UserInfo;

/// Who says so, by upstream's name.
pub(super) const ISSUER: &str = "kubernetes/serviceaccount";
const NAMESPACE: &str = "kubernetes.io/serviceaccount/namespace";
const SECRET: &str = "kubernetes.io/serviceaccount/secret.name";
const ACCOUNT: &str = "kubernetes.io/serviceaccount/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/serviceaccount/service-account.uid";
/// A secret that has not been used for long may be marked as no longer good.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

pub(super) fn payload(namespace: &str, secret: &str, account: &str, uid: &str) -> Value {
    json!({
        "iss": ISSUER,
        NAMESPACE: namespace,
        SECRET: secret,
        ACCOUNT: account,
        ACCOUNT_UID: uid,
        "sub": format!("{USER_PREFIX}{namespace}:{account}"),
    })
}

/// Whom the token stands for.
pub(super) fn user(payload: &Value, token: &str, objects: &Registry) -> Option<UserInfo> {
    let text = |claim: &str| payload.get(claim).and_then(Value::as_str);
    let (namespace, account, uid) = (text(NAMESPACE)?, text(ACCOUNT)?, text(ACCOUNT_UID)?);
    let name = format!("{USER_PREFIX}{namespace}:{account}");
    if text("sub") != Some(&name) {
        return None;
    }
    let secret = objects.object("", "secrets", namespace, text(SECRET)?)?;
    let kept = STANDARD.decode(secret.pointer("/data/token")?.as_str()?).ok()?;
    let is_good = kept == token.as_bytes()
        && meta::deletion_timestamp(&secret).is_none()
        && meta::label(&secret, INVALID_SINCE).is_none_or(str::is_empty);
    if !is_good {
        return None;
    }
    alive(objects, "serviceaccounts", namespace, account, uid)?;
    let group = format!("system:serviceaccounts:{namespace}");
    let mut user = UserInfo::new(name, &["system:serviceaccounts", &group]);
    uid.clone_into(&mut user.uid);
    Some(user)
}
