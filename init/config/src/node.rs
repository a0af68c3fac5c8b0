//! `[node]`: what the machine is in the cluster.

use std::collections::BTreeMap;
use std::fmt;

use crate::read::At;
use crate::tree::{Value, quoted};
use crate::value::{HOST_NAME, host_name};

/// What the machine is in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its part; none when that is missing or wrong.
    pub role: Option<Role>,
    /// The host's and the node's name; none means one made from the machine id.
    pub hostname: Option<String>,
    /// The server to join, as a URL.
    pub server: Option<String>,
    /// The secret of the cluster.
    pub token: Option<Token>,
    /// Labels the node registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints the node registers with, as `key=value:Effect`.
    pub taints: Vec<String>,
}

/// What a machine is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Control plane and node in one: `k3sd server`.
    Server,
    /// A node: `k3sd agent`.
    Agent,
}

/// A secret that is not printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Agent => "agent",
        })
    }
}

impl Node {
    pub(crate) fn read(at: At<'_>) -> Self {
        let mut node = Self::default();
        let known = &["role", "hostname", "server", "token", "labels", "taints"];
        let Some(fields) = at.fields(known) else { return node };
        node.role =
            fields.get("role").and_then(|at| at.choice(&[("server", Role::Server), ("agent", Role::Agent)]));
        node.hostname = fields
            .get("hostname")
            .and_then(|at| at.parsed(HOST_NAME, |text| host_name(text).then(|| text.to_owned())));
        node.server = fields.get("server").and_then(|at| server(&at));
        node.token = fields.get("token").and_then(|at| token(&at));
        if let Some(at) = fields.get("labels") {
            let entries = at.entries("a table of labels and their values").into_iter();
            node.labels = entries.filter_map(|(key, at)| label(key, &at)).collect();
        }
        if let Some(at) = fields.get("taints") {
            node.taints = at.list("taints", |at| {
                at.parsed("KEY[=VALUE]:NoSchedule, :PreferNoSchedule or :NoExecute", |text| {
                    taint(text).then(|| text.to_owned())
                })
            });
        }
        node
    }
}

fn server(at: &At<'_>) -> Option<String> {
    at.parsed("https://HOST[:PORT]", |text| {
        let rest = text.strip_prefix("https://")?.trim_end_matches('/');
        let odd = |c: char| c.is_whitespace() || c == '/' || c == '@';
        (!rest.is_empty() && !rest.contains(odd)).then(|| text.trim_end_matches('/').to_owned())
    })
}

/// A secret: what was given is never shown.
fn token(at: &At<'_>) -> Option<Token> {
    let allowed = "the cluster's token as text, without blanks";
    match at.value() {
        Value::Text(text) => Some(text),
        Value::Words(words) => words.last(),
        _ => None,
    }
    .filter(|text| !text.is_empty() && !text.contains(char::is_whitespace))
    .map(|text| Token(text.clone()))
    .or_else(|| {
        at.wrong_because("something else", allowed);
        None
    })
}

fn label(key: &str, at: &At<'_>) -> Option<(String, String)> {
    if !qualified_name(key) {
        at.wrong_because(
            &format!("the key {}", quoted(key)),
            "a label's key: [DOMAIN/]NAME, with a NAME of at most 63 letters, digits, -, _ and .",
        );
        return None;
    }
    let allowed =
        "text of at most 63 letters, digits, -, _ and ., with a letter or digit at both ends, or empty";
    let value = at.parsed(allowed, |text| (text.is_empty() || name_part(text)).then(|| text.to_owned()))?;
    Some((key.to_owned(), value))
}

fn taint(text: &str) -> bool {
    let Some((what, effect)) = text.rsplit_once(':') else { return false };
    let (key, value) = what.split_once('=').unwrap_or((what, ""));
    ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect)
        && qualified_name(key)
        && (value.is_empty() || name_part(value))
}

/// Kubernetes' qualified name: an optional DNS prefix, a slash and a name.
fn qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => dns_subdomain(prefix) && name_part(name),
        None => name_part(text),
    }
}

fn dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(host_name)
}

fn name_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&byte| inner(byte))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_labels_follow_kubernetes_names() {
        assert!(taint("dedicated=gpu:NoSchedule") && taint("example.com/a:NoExecute"));
        assert!(!taint("dedicated=gpu") && !taint("a:Never") && !taint(":NoSchedule"));
        assert!(qualified_name("topology.kubernetes.io/zone"));
        assert!(!qualified_name("/zone") && !qualified_name("a/b/c") && !qualified_name("-a"));
    }

    #[test]
    fn a_token_is_not_printed() {
        let node = Node { token: Some(Token("secret".to_owned())), ..Node::default() };
        assert!(!format!("{node:?}").contains("secret"));
    }
}
