//! `[k3s]`: K3s's flags by K3s's names, and the `config.yaml` that k3sd reads.

mod flags;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::node::{Node, Role};
use crate::read::{At, Notes};
use crate::tree::{Item, Value, quoted};
pub use flags::{FLAGS, Flag, find};

/// Flags and what they are set to.
pub type Flags = BTreeMap<String, FlagValue>;

/// What a flag is set to.
#[derive(Clone, PartialEq, Eq)]
pub enum FlagValue {
    /// On or off.
    Boolean(bool),
    /// A number.
    Number(i64),
    /// Text.
    Text(String),
    /// What a flag is given several times with.
    List(Vec<String>),
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// True or false.
    Boolean,
    /// A whole number.
    Number,
    /// Text.
    Text,
    /// Several texts; one alone does as well.
    List,
}

/// Which command takes a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBy {
    /// `k3s server`.
    Server,
    /// `k3s agent`.
    Agent,
    /// Either.
    Both,
}

/// Flags that hold what must not be shown.
const SECRETS: &[&str] = &[
    "token",
    "agent-token",
    "etcd-s3-access-key",
    "etcd-s3-secret-key",
    "etcd-s3-session-token",
    "datastore-endpoint",
    "vpn-auth",
];
/// Flags that PID 1 decides, and where one says it instead.
const OURS: &[(&str, &str)] = &[
    ("data-dir", "nothing: it is /var/lib/rancher/k3s, on STATE"),
    ("container-runtime-endpoint", "nothing: it is the containerd of the appliance"),
    ("log", "nothing: the log is kept by the appliance; see [log]"),
    ("docker", "nothing: the appliance has containerd only"),
    ("rootless", "nothing: the appliance runs as root"),
    ("private-registry", "the section [registries]"),
];

/// What PID 1 does by itself; k3sd would only warn that it does nothing of it.
const DONE_BY_PID_1: &[&str] = &[DISABLE_DEFAULT_REGISTRY_ENDPOINT];
/// Whether registries that have mirrors are never asked themselves.
pub const DISABLE_DEFAULT_REGISTRY_ENDPOINT: &str = "disable-default-registry-endpoint";

/// A value may be a secret, so none is shown.
impl std::fmt::Debug for FlagValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Boolean(_) => "Boolean(...)",
            Self::Number(_) => "Number(...)",
            Self::Text(_) => "Text(...)",
            Self::List(_) => "List(...)",
        })
    }
}

/// Whether a flag that takes true or false is true.
#[must_use]
pub fn is_on(flags: &Flags, name: &str) -> bool {
    flags.get(name) == Some(&FlagValue::Boolean(true))
}

impl TakenBy {
    fn takes(self, role: Role) -> bool {
        match self {
            Self::Both => true,
            Self::Server => role == Role::Server,
            Self::Agent => role == Role::Agent,
        }
    }
}

/// Reads the section.
pub(crate) fn read(at: &At<'_>) -> Flags {
    let entries = at.entries("a table of K3s's flags, without their dashes").into_iter();
    entries.filter_map(|(name, at)| Some((name.to_owned(), read_flag(name, &at)?))).collect()
}

fn read_flag(name: &str, at: &At<'_>) -> Option<FlagValue> {
    let Some(flag) = find(name) else {
        at.wrong_because(&format!("an unknown key, {}", quoted(name)), unknown(name));
        return None;
    };
    if let Some((_, instead)) = OURS.iter().find(|(ours, _)| *ours == name) {
        at.wrong_because("a flag that the appliance decides", instead);
        return None;
    }
    let value = value(flag.takes, at.value());
    if value.is_none() {
        let allowed = match flag.takes {
            Takes::Boolean => "true or false",
            Takes::Number => "a whole number",
            Takes::Text => "text, in quotes",
            Takes::List => "a list of texts",
        };
        match SECRETS.contains(&name) {
            true => at.wrong_because("something else", allowed),
            false => at.wrong(allowed),
        }
    }
    value
}

fn value(takes: Takes, value: &Value) -> Option<FlagValue> {
    if let Value::Words(words) = value {
        let last = words.last().map(String::as_str).unwrap_or_default();
        return match takes {
            Takes::Boolean => match last {
                "" | "true" | "1" => Some(FlagValue::Boolean(true)),
                "false" | "0" => Some(FlagValue::Boolean(false)),
                _ => None,
            },
            Takes::Number => last.parse().ok().map(FlagValue::Number),
            Takes::Text => Some(FlagValue::Text(last.to_owned())),
            // Not split at commas: that is the flag's own affair, as on K3s's command line.
            Takes::List => Some(FlagValue::List(words.clone())),
        };
    }
    match (takes, value) {
        (Takes::Boolean, Value::Boolean(on)) => Some(FlagValue::Boolean(*on)),
        (Takes::Number, Value::Integer(number)) => Some(FlagValue::Number(*number)),
        (Takes::Text, Value::Text(text)) => Some(FlagValue::Text(text.clone())),
        (Takes::List, Value::Text(text)) => Some(FlagValue::List(vec![text.clone()])),
        (Takes::List, Value::List(items)) => {
            items.iter().map(text).collect::<Option<_>>().map(FlagValue::List)
        }
        _ => None,
    }
}

fn text(item: &Item) -> Option<String> {
    match &item.value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

/// The flags whose names are like `name`, since the whole table is too long to show.
fn unknown(name: &str) -> String {
    let mut near: Vec<_> = FLAGS.iter().map(|flag| (distance(name, flag.name), flag.name)).collect();
    near.sort_unstable();
    let near: Vec<_> =
        near.into_iter().filter(|(distance, _)| *distance <= 4).take(3).map(|(_, name)| name).collect();
    match near.is_empty() {
        true => "a flag of k3s server or k3s agent, without its dashes".to_owned(),
        false => format!("a flag of k3s server or k3s agent, such as {}", near.join(", ")),
    }
}

/// How many letters must be changed, put in or left out to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    // A key can be as long as the document; what is much longer than any flag is like none.
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

/// What can only be judged when all layers are known: flags against the role, and what is said twice.
pub(crate) fn check(notes: &Notes, root: &Item, node: &Node) {
    let Value::Table(sections) = &root.value else { return };
    let Some(section) = sections.get("k3s") else { return };
    let at = notes.read_below("k3s", section);
    for (name, at) in at.entries("a table") {
        let Some(flag) = find(name) else { continue };
        if let Some(role) = node.role.filter(|role| !flag.by.takes(*role)) {
            let other = if role == Role::Server { Role::Agent } else { Role::Server };
            at.wrong_because(
                &format!("a flag of k3s {other} alone"),
                format_args!("a flag of k3s {role}, the node's role"),
            );
        }
        let twice = match name {
            "server" => node.server.is_some(),
            "token" => node.token.is_some(),
            "node-name" => node.hostname.is_some(),
            _ => false,
        };
        if twice {
            let key = if name == "node-name" { "hostname" } else { name };
            at.wrong_because("what [node] says as well", format_args!("either this or node.{key}"));
        }
    }
}

/// `config.yaml` for k3sd: the flags, and what `[node]` says in their words.
#[must_use]
pub fn config_yaml(node: &Node, flags: &Flags) -> String {
    let mut all = flags.clone();
    all.retain(|name, _| !DONE_BY_PID_1.contains(&name.as_str()));
    let mut text = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            all.entry(name.to_owned()).or_insert(FlagValue::Text(value));
        }
    };
    text("server", node.server.clone());
    text("token", node.token.as_ref().map(|token| token.0.clone()));
    let labels = node.labels.iter().map(|(key, value)| format!("{key}={value}"));
    extend(&mut all, "node-label", labels);
    extend(&mut all, "node-taint", node.taints.iter().cloned());
    let mut yaml =
        String::from("# Written by init at every boot, from [node] and [k3s] of the node configuration.\n");
    for (name, value) in &all {
        // Writing to a String does not fail.
        let _ = match value {
            FlagValue::Boolean(on) => writeln!(yaml, "{name}: {on}"),
            FlagValue::Number(number) => writeln!(yaml, "{name}: {number}"),
            FlagValue::Text(text) => writeln!(yaml, "{name}: {}", yaml_text(text)),
            FlagValue::List(items) => {
                let items: String = items.iter().map(|item| format!("\n  - {}", yaml_text(item))).collect();
                match items.is_empty() {
                    true => writeln!(yaml, "{name}: []"),
                    false => writeln!(yaml, "{name}:{items}"),
                }
            }
        };
    }
    yaml
}

fn extend(flags: &mut Flags, name: &str, more: impl Iterator<Item = String>) {
    let more: Vec<_> = more.collect();
    if more.is_empty() {
        return;
    }
    match flags.entry(name.to_owned()).or_insert_with(|| FlagValue::List(Vec::new())) {
        FlagValue::List(items) => items.extend(more),
        other => *other = FlagValue::List(more),
    }
}

/// A double-quoted YAML scalar.
pub(crate) fn yaml_text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            // Characters that YAML takes for line ends or forbids.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // Writing to a String does not fail.
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use crate::{Layer, NodeConfig, k3s, resolve};

    fn told(text: &str) -> Vec<String> {
        let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
        resolved.mistakes.iter().map(ToString::to_string).collect()
    }

    fn config(text: &str) -> NodeConfig {
        let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
        assert_eq!(resolved.mistakes, []);
        resolved.config
    }

    #[test]
    fn flags_and_node_become_one_file_for_k3sd() {
        let config = config(
            r#"
            [node]
            role = "server"
            token = "s3cret"
            labels = { disk = "ssd" }
            taints = ["a=b:NoSchedule"]
            [k3s]
            tls-san = ["edge.example", "say \"hi\""]
            disable = "traefik"
            node-label = ["zone=1"]
            cluster-init = true
            disable-default-registry-endpoint = true
            https-listen-port = 6444
            "#,
        );
        let yaml = k3s::config_yaml(&config.node, &config.k3s);
        let expected = "cluster-init: true\ndisable:\n  - \"traefik\"\nhttps-listen-port: 6444\nnode-label:\n  - \"zone=1\"\n  - \"disk=ssd\"\n\
            node-taint:\n  - \"a=b:NoSchedule\"\ntls-san:\n  - \"edge.example\"\n  - \"say \\\"hi\\\"\"\ntoken: \"s3cret\"\n";
        assert_eq!(yaml.split_once('\n').unwrap().1, expected);
    }

    #[test]
    fn an_unknown_flag_is_told_with_what_is_like_it() {
        assert_eq!(
            told("[k3s]\ntls-sans = [\"a\"]"),
            [
                "c:2: k3s.tls-sans: given an unknown key, \"tls-sans\"; allowed: a flag of k3s server or k3s agent, such as tls-san"
            ]
        );
    }

    #[test]
    fn a_flag_of_the_other_role_is_a_mistake() {
        let text = "[node]\nrole = \"agent\"\nserver = \"https://a:6443\"\ntoken = \"t\"\n[k3s]\ndisable = [\"traefik\"]";
        assert_eq!(
            told(text),
            [
                "c:6: k3s.disable: given a flag of k3s server alone; allowed: a flag of k3s agent, the node's role"
            ]
        );
    }

    #[test]
    fn a_secret_is_not_shown_even_when_it_is_wrong() {
        let told = told("[k3s]\ntoken = 12345");
        assert!(told[0].contains("k3s.token") && !told[0].contains("12345"), "{told:?}");
    }

    #[test]
    fn what_the_appliance_decides_and_what_is_said_twice_are_mistakes() {
        assert!(told("[k3s]\ndata-dir = \"/x\"")[0].contains("on STATE"));
        let twice = told("[node]\ntoken = \"a\"\n[k3s]\ntoken = \"a\"");
        assert_eq!(
            twice,
            ["c:4: k3s.token: given what [node] says as well; allowed: either this or node.token"]
        );
    }
}
