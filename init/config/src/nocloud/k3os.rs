//! The sections `k3s` (K3s's flags, also as `args` and `env`) and `k3os` (what k3OS called them).

use super::files::texts;
use super::{Mapping, text_at};
use crate::k3s::{Takes, find};
use crate::tree::{Item, Value};

/// Environment variables of K3s that say what a flag says.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("K3S_TOKEN", "token"),
    ("K3S_URL", "server"),
    ("K3S_TOKEN_FILE", "token-file"),
    ("K3S_AGENT_TOKEN", "agent-token"),
    ("K3S_NODE_NAME", "node-name"),
    ("K3S_DATASTORE_ENDPOINT", "datastore-endpoint"),
    ("K3S_CLUSTER_INIT", "cluster-init"),
];

/// `k3s`: flags by their names, and beside them `role`, `enabled`, `args` and `env`.
pub(super) fn k3s(ours: &mut Mapping, item: &Item) {
    let mut plain = item.clone();
    let Value::Table(table) = &mut plain.value else {
        return ours.wrong(item, "k3s", "a table of K3s's flags");
    };
    if let Some(role) = table.remove("role") {
        ours.set(&["node", "role"], role);
    }
    if let Some(enabled) = table.remove("enabled").filter(|item| item.value != Value::Boolean(true)) {
        ours.ignore(&enabled, "k3s.enabled", "true: Kubernetes is all that runs here");
    }
    let (list, variables) = (table.remove("args"), table.remove("env"));
    flags(ours, &plain, "k3s");
    if let Some(list) = list {
        args(ours, &list, "k3s.args");
    }
    if let Some(variables) = variables {
        environment(ours, &variables, "k3s.env");
    }
}

/// A table of flags.
pub(super) fn flags(ours: &mut Mapping, item: &Item, path: &str) {
    let entries: Vec<_> = ours.table(item, path).map(|(key, item)| (key.to_owned(), item.clone())).collect();
    for (key, item) in entries {
        flag(ours, &key, item);
    }
}

/// One flag; `node.server` and `node.token` are where those two are said.
fn flag(ours: &mut Mapping, name: &str, item: Item) {
    match name {
        "server" => ours.set(&["node", "server"], item),
        "token" => ours.set(&["node", "token"], item),
        "node-name" => ours.set(&["node", "hostname"], item),
        _ => ours.set(&["k3s", name], item),
    }
}

/// A command line: `--name=value`, `--name value` or `--name`, with the command before them.
fn args(ours: &mut Mapping, item: &Item, path: &str) {
    let words: Vec<(String, &Item)> = match &item.value {
        Value::Text(text) => text.split_whitespace().map(|word| (word.to_owned(), item)).collect(),
        _ => {
            let items = ours.list(item, path).iter();
            items.filter_map(|item| Some((word(item)?, item))).collect()
        }
    };
    let mut words = words.into_iter().peekable();
    while let Some((word, item)) = words.next() {
        let Some(name) = word.strip_prefix("--") else {
            match word.as_str() {
                "server" | "agent" => ours.set(&["node", "role"], text_at(&item.place, word)),
                _ => ours.wrong(item, path, "server or agent, and K3s's flags in their long form"),
            }
            continue;
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None if find(name).is_some_and(|flag| flag.takes == Takes::Boolean) => (name.to_owned(), None),
            None => {
                (name.to_owned(), words.next_if(|(next, _)| !next.starts_with("--")).map(|(next, _)| next))
            }
        };
        typed_flag(ours, &name, value.unwrap_or_else(|| "true".to_owned()), item);
    }
}

fn word(item: &Item) -> Option<String> {
    match &item.value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A flag given as text, as what it takes. A text that does not fit stays one and is told when it is read.
fn typed_flag(ours: &mut Mapping, name: &str, text: String, at: &Item) {
    let item = |value| Item { value, place: at.place.clone() };
    match find(name).map(|flag| flag.takes) {
        Some(Takes::List) => ours.push(&["k3s", name], text_at(&at.place, text)),
        Some(Takes::Boolean) if text == "true" || text == "false" => {
            ours.set(&["k3s", name], item(Value::Boolean(text == "true")));
        }
        Some(Takes::Number) => {
            let value = text.parse().map_or(Value::Text(text), Value::Integer);
            ours.set(&["k3s", name], item(value));
        }
        _ => flag(ours, name, item(Value::Text(text))),
    }
}

fn environment(ours: &mut Mapping, item: &Item, path: &str) {
    for (key, item) in ours.table(item, path) {
        match (ENVIRONMENT.iter().find(|(name, _)| *name == key), word(item)) {
            (Some((_, flag)), Some(text)) => typed_flag(ours, flag, text, item),
            _ => {
                let names: Vec<_> = ENVIRONMENT.iter().map(|(name, _)| *name).collect();
                ours.ignore(item, &format!("{path}.{key}"), &names.join(", "));
            }
        }
    }
}

/// `k3os`, by the names of its documentation.
pub(super) fn k3os(ours: &mut Mapping, item: &Item) {
    let entries: Vec<_> = ours.table(item, "k3os").collect();
    // A machine that was to join was an agent, unless its arguments say otherwise.
    if let Some((_, item)) = entries.iter().find(|(key, _)| *key == "server_url") {
        ours.set(&["node", "role"], text_at(&item.place, "agent"));
    }
    for (key, item) in entries {
        let path = format!("k3os.{key}");
        match key {
            "server_url" => ours.set(&["node", "server"], item.clone()),
            "token" => ours.set(&["node", "token"], item.clone()),
            "labels" => ours.set(&["node", "labels"], item.clone()),
            "taints" => ours.set(&["node", "taints"], item.clone()),
            "modules" => ours.set(&["modules"], item.clone()),
            "sysctl" | "sysctls" => ours.set(&["sysctl"], item.clone()),
            "dns_nameservers" => ours.set(&["network", "nameservers"], item.clone()),
            "ntp_servers" => ours.set(&["time", "servers"], item.clone()),
            "k3s_args" => args(ours, item, &path),
            "environment" => environment(ours, item, &path),
            "password" | "ssh_authorized_keys" => {
                ours.ignore(item, &path, "nothing: there is no shell to log in to")
            }
            _ => ours.ignore(
                item,
                &path,
                "server_url, token, labels, taints, modules, sysctls, dns_nameservers, ntp_servers, k3s_args",
            ),
        }
    }
    if let Some(list) = super::find(&mut ours.layer.root, &["node", "taints"])
        && let Value::Text(text) = &list.value
    {
        *list = texts(&list.place.clone(), [text.clone()]);
    }
}
