//! Bootstrap tokens: `ID.SECRET`, kept as secrets of `kube-system`, by which machines introduce themselves before they have a
//! certificate (upstream's `cluster-bootstrap/token/api`).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Where their secrets are.
pub const NAMESPACE: &str = "kube-system";
/// The type of their secrets.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// What a secret's name has before the ID.
pub const NAME_PREFIX: &str = "bootstrap-token-";
/// Everybody who shows one.
pub const GROUP: &str = "system:bootstrappers";
/// To know who shows it.
pub const AUTHENTICATION: &str = "authentication";
/// To sign `kube-public/cluster-info`.
pub const SIGNING: &str = "signing";

const USAGE_PREFIX: &str = "usage-bootstrap-";
const EXTRA_GROUP_PREFIX: &str = "system:bootstrappers:";
const MAX_EXTRA_GROUP: usize = 256;
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// What a secret says.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BootstrapToken {
    /// The part that is no secret.
    pub id: String,
    /// The other.
    pub secret: String,
    /// What it is for.
    pub description: String,
    /// RFC 3339; empty: it is good for ever.
    pub expiration: String,
    /// Such as [`SIGNING`], sorted.
    pub usages: Vec<String>,
    /// Further groups of those who show it, as written.
    pub groups: Vec<String>,
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootstrapToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl BootstrapToken {
    /// `None`: the secret is none of them. Fields that are no text are empty.
    pub fn of(secret: &Value) -> Option<Self> {
        if secret["type"] != TYPE {
            return None;
        }
        let text = |encoded: &Value| {
            let bytes = STANDARD.decode(encoded.as_str().unwrap_or_default()).unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        };
        let field = |key: &str| text(&secret["data"][key]);
        let keys = secret["data"].as_object().into_iter().flatten();
        let usages = keys.filter(|(_, value)| text(value) == "true");
        let mut usages: Vec<String> =
            usages.filter_map(|(key, _)| key.strip_prefix(USAGE_PREFIX)).map(str::to_owned).collect();
        usages.sort();
        let groups = field("auth-extra-groups");
        Some(Self {
            id: field("token-id"),
            secret: field("token-secret"),
            description: field("description"),
            expiration: field("expiration"),
            usages,
            // An empty one between commas stays: it is a mistake that somebody has to see.
            groups: if groups.is_empty() {
                Vec::new()
            } else {
                groups.split(',').map(str::to_owned).collect()
            },
        })
    }

    /// Whether it is for this.
    pub fn is_for(&self, usage: &str) -> bool {
        self.usages.iter().any(|own| own == usage)
    }

    /// The `stringData` of the secret that keeps it.
    pub fn data(&self) -> serde_json::Map<String, Value> {
        let fields = [
            ("token-id", self.id.clone()),
            ("token-secret", self.secret.clone()),
            ("description", self.description.clone()),
            ("expiration", self.expiration.clone()),
            ("auth-extra-groups", self.groups.join(",")),
        ];
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value));
        let usages = self.usages.iter().map(|usage| (format!("{USAGE_PREFIX}{usage}"), "true".to_owned()));
        let set = fields.chain(usages).filter(|(_, value)| !value.is_empty());
        set.map(|(key, value)| (key, value.into())).collect()
    }
}

/// ID and secret of a token's text: six characters, a dot, sixteen characters, all of them lower-case letters and digits.
pub fn parse(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.split_once('.')?;
    let plain = |part: &str, length| part.len() == length && part.bytes().all(is_plain);
    (plain(id, ID_LENGTH) && plain(secret, SECRET_LENGTH)).then_some((id, secret))
}

/// Whether a token may name this group: `system:bootstrappers:`, then lower-case letters, digits, colons and dashes, not ending with
/// one of the latter two.
pub fn is_extra_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(EXTRA_GROUP_PREFIX) else { return false };
    rest.len() <= MAX_EXTRA_GROUP
        && rest.bytes().all(|byte| is_plain(byte) || matches!(byte, b':' | b'-'))
        && rest.bytes().last().is_some_and(is_plain)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_has_one_form() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for text in
            ["abcdef", "abcdef.0123456789abcde", "Abcdef.0123456789abcdef", "abcdefg.0123456789abcdef"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_group_stays_below_the_bootstrappers() {
        assert!(is_extra_group("system:bootstrappers:a:b-1"));
        for group in ["system:masters", "system:bootstrappers:", "system:bootstrappers:a-"] {
            assert!(!is_extra_group(group), "{group}");
        }
    }

    #[test]
    fn a_secret_says_what_was_put_into_it() {
        let token = BootstrapToken {
            id: "abcdef".into(),
            secret: "0123456789abcdef".into(),
            expiration: "2026-01-01T00:00:00Z".into(),
            usages: vec![AUTHENTICATION.into(), SIGNING.into()],
            groups: vec!["system:bootstrappers:a".into(), "system:bootstrappers:b".into()],
            ..BootstrapToken::default()
        };
        let data =
            token.data().into_iter().map(|(key, value)| (key, STANDARD.encode(value.as_str().unwrap())));
        let data: std::collections::BTreeMap<_, _> = data.collect();
        assert!(!data.contains_key("description"));
        assert_eq!(BootstrapToken::of(&json!({ "type": TYPE, "data": data })), Some(token));
        assert_eq!(BootstrapToken::of(&json!({ "type": "Opaque", "data": data })), None);
    }
}
