//! Who shows a bootstrap token (upstream's `plugin/pkg/auth/authenticator/token/bootstrap`).

use jiff::Timestamp;
use machinery::bootstrap_token::{self, AUTHENTICATION, BootstrapToken, GROUP, NAME_PREFIX, NAMESPACE};
use machinery::meta;
use serde_json::Value;
use tracing::debug;

use crate::registry::Registry;
use crate::user::UserInfo;

const USER_PREFIX: &str = "system:bootstrap:";

/// Whose token it is.
pub(super) fn verify(token: &str, objects: &Registry) -> Option<UserInfo> {
    let (id, secret) = bootstrap_token::parse(token)?;
    let stored = objects.object("", "secrets", NAMESPACE, &format!("{NAME_PREFIX}{id}"))?;
    match user(&stored, id, secret, Timestamp::now()) {
        Ok(user) => Some(user),
        Err(reason) => {
            debug!(name = meta::name(&stored), reason, "bootstrap token refused");
            None
        }
    }
}

fn user(stored: &Value, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, &'static str> {
    let token = BootstrapToken::of(stored).ok_or("of another type")?;
    if meta::deletion_timestamp(stored).is_some() {
        return Err("being deleted");
    }
    if token.id != id {
        return Err("it names another id");
    }
    // Digests are compared, so that the time it takes tells nothing of the secret.
    let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    if token.secret.is_empty() || digest(&token.secret).as_ref() != digest(secret).as_ref() {
        return Err("wrong secret");
    }
    if !token.expiration.is_empty() && token.expiration.parse::<Timestamp>().map_or(true, |end| end <= now) {
        return Err("expired");
    }
    if !token.is_for(AUTHENTICATION) {
        return Err("not for authentication");
    }
    if !token.groups.iter().all(|group| bootstrap_token::is_extra_group(group)) {
        return Err("it names a group that it may not");
    }
    let mut groups: Vec<&str> = token.groups.iter().map(String::as_str).chain([GROUP]).collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(UserInfo::new(format!("{USER_PREFIX}{id}"), &groups))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use machinery::bootstrap_token::TYPE;
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
            ("auth-extra-groups", "system:bootstrappers:a,,system:bootstrappers:b"),
        ] {
            let found = user(&stored(&[change]), "abcdef", "0123456789abcdef", now());
            assert!(found.is_err(), "{change:?}: {found:?}");
        }
        let mut other = stored(&[]);
        other["type"] = json!("Opaque");
        assert!(user(&other, "abcdef", "0123456789abcdef", now()).is_err());
    }
}
