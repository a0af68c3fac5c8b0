//! Bootstrap tokens: `ID.SECRET`, kept as secrets of `kube-system`, with which machines introduce themselves before they have a
//! certificate (upstream's `plugin/pkg/auth/authenticator/token/bootstrap`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use machinery::meta;
use serde_json::Value;
use tracing::debug;

use crate::registry::Registry;
use crate::user::UserInfo;

const NAMESPACE: &str = "kube-system";
const NAME_PREFIX: &str = "bootstrap-token-";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const USER_PREFIX: &str = "system:bootstrap:";
/// Everybody who shows such a token.
const GROUP: &str = "system:bootstrappers";
const EXTRA_GROUP_PREFIX: &str = "system:bootstrappers:";
const MAX_EXTRA_GROUP: usize = 256;
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// Whose token it is.
pub(super) fn verify(token: &str, objects: &Registry) -> Option<UserInfo> {
    let (id, secret) = parse(token)?;
    let stored = objects.object("", "secrets", NAMESPACE, &format!("{NAME_PREFIX}{id}"))?;
    match user(&stored, id, secret, Timestamp::now()) {
        Ok(user) => Some(user),
        Err(reason) => {
            debug!(name = meta::name(&stored), reason, "bootstrap token refused");
            None
        }
    }
}

fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (plain(id, ID_LENGTH) && plain(secret, SECRET_LENGTH)).then_some((id, secret))
}

fn user(stored: &Value, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, &'static str> {
    if meta::deletion_timestamp(stored).is_some() || stored["type"] != TYPE {
        return Err("being deleted, or of another type");
    }
    let data = |key: &str| {
        let encoded = stored.get("data")?.get(key)?.as_str()?;
        String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
    };
    if data("token-id").as_deref() != Some(id) {
        return Err("it names another id");
    }
    let kept = data("token-secret").unwrap_or_default();
    // Digests are compared, so that the time it takes tells nothing of the secret.
    let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    if kept.is_empty() || digest(&kept).as_ref() != digest(secret).as_ref() {
        return Err("wrong secret");
    }
    if let Some(end) = data("expiration").filter(|end| !end.is_empty())
        && end.parse::<Timestamp>().map_or(true, |end| end <= now)
    {
        return Err("expired");
    }
    if data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err("not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').filter(|group| !group.is_empty()) {
        if !is_extra_group(group) {
            return Err("it names a group that it may not");
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    Ok(UserInfo::new(format!("{USER_PREFIX}{id}"), &groups))
}

/// `system:bootstrappers:`, then letters, digits, colons and dashes, not ending with one of the latter.
fn is_extra_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(EXTRA_GROUP_PREFIX) else { return false };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= MAX_EXTRA_GROUP
        && rest.bytes().all(|byte| plain(byte) || matches!(byte, b':' | b'-'))
        && rest.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn stored(changes: &[(&str, &str)]) -> Value {
        let mut data = vec![
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
        ];
        data.extend(changes);
        let mut secret =
            json!({ "type": TYPE, "metadata": { "name": "bootstrap-token-abcdef" }, "data": {} });
        for (key, value) in data {
            secret["data"][key] = STANDARD.encode(value).into();
        }
        secret
    }

    #[test]
    fn a_good_token_is_its_user_with_the_groups_it_names() {
        let extra = ("auth-extra-groups", "system:bootstrappers:a:b-1,system:bootstrappers:c");
        let later = ("expiration", "2026-01-01T00:00:01Z");
        let user = user(&stored(&[extra, later]), "abcdef", "0123456789abcdef", now()).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        let groups = [
            "system:bootstrappers",
            "system:bootstrappers:a:b-1",
            "system:bootstrappers:c",
            "system:authenticated",
        ];
        assert_eq!(user.groups, groups);
    }

    #[test]
    fn whatever_is_not_as_it_must_be_is_refused() {
        for change in [
            ("token-id", "other1"),
            ("token-secret", "0123456789abcdee"),
            ("token-secret", ""),
            ("expiration", "2025-12-31T23:59:59Z"),
            ("expiration", "soon"),
            ("usage-bootstrap-authentication", "false"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
            ("auth-extra-groups", "system:bootstrappers:a-"),
        ] {
            let found = user(&stored(&[change]), "abcdef", "0123456789abcdef", now());
            assert!(found.is_err(), "{change:?}: {found:?}");
        }
        let mut other = stored(&[]);
        other["type"] = json!("Opaque");
        assert!(user(&other, "abcdef", "0123456789abcdef", now()).is_err());
        for token in
            ["abcdef", "abcdef.0123456789abcde", "Abcdef.0123456789abcdef", "abcdefg.0123456789abcdef"]
        {
            assert_eq!(parse(token), None, "{token}");
        }
    }
}
