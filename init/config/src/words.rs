//! Words of the kernel command line as a [`Layer`].
//!
//! A word is a path into the document, `skerry.network.nameservers=1.1.1.1`, or one of a few short names for what is set there
//! most often. Of several words with one key the last wins, except where the key takes a list: there each adds to it.

use crate::tree::{Item, Layer, Place, Table, Value};

/// What our words begin with.
pub const PREFIX: &str = "skerry.";
/// What mistakes call this source.
pub const COMMAND_LINE: &str = "kernel command line";

/// Short names, and the path each stands for.
const SHORT: &[(&str, &str)] = &[
    ("role", "node.role"),
    ("server", "node.server"),
    ("token", "node.token"),
    ("hostname", "node.hostname"),
    ("log", "log.level"),
    ("root", "boot.root"),
    ("state", "boot.state"),
    ("watchdog", "boot.watchdog"),
    ("debug", "boot.debug"),
];
/// These two make one interface between them.
const IP: &str = "ip";
const INTERFACE: &str = "interface";
/// Tables whose keys may hold dots: what follows is one key.
const OPEN: &[&str] = &["node.labels", "sysctl", "log.services"];

impl Layer {
    /// Reads words, given without [`PREFIX`], in the order in which they were written.
    #[must_use]
    pub fn words<'a>(words: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Self {
        let mut gathered: Vec<(&str, Vec<String>)> = Vec::new();
        for (key, value) in words {
            let value = value.unwrap_or_default().to_owned();
            match gathered.iter_mut().find(|(known, _)| *known == key) {
                Some((_, values)) => values.push(value),
                None => gathered.push((key, vec![value])),
            }
        }
        let mut layer = Self::empty(Place::named(COMMAND_LINE));
        let (single, others): (Vec<_>, Vec<_>) =
            gathered.into_iter().partition(|(key, _)| [IP, INTERFACE].contains(key));
        let interface = Interface::of(single);
        for (path, item) in interface.items() {
            insert(&mut layer.root, &split(path), item);
        }
        for (key, values) in others {
            let path = SHORT.iter().find(|(short, _)| *short == key).map_or(key, |(_, path)| *path);
            insert(&mut layer.root, &split(path), written(key, Value::Words(values)));
        }
        layer
    }
}

/// A value that the word `key` gave.
fn written(key: &str, value: Value) -> Item {
    Item { value, place: Place::named(&format!("{COMMAND_LINE}: {PREFIX}{key}")) }
}

/// The keys of a path. A key with dots in it stands in single quotes, since the kernel takes double ones for itself.
fn split(path: &str) -> Vec<String> {
    for open in OPEN {
        if let Some(rest) = path.strip_prefix(open).and_then(|rest| rest.strip_prefix('.')) {
            return open.split('.').chain([rest]).map(str::to_owned).collect();
        }
    }
    let mut keys = vec![String::new()];
    let mut quoted = false;
    for c in path.chars() {
        match (c, keys.last_mut()) {
            ('\'', _) => quoted = !quoted,
            ('.', _) if !quoted => keys.push(String::new()),
            (c, Some(key)) => key.push(c),
            (_, None) => {}
        }
    }
    keys
}

/// Puts `item` where `path` leads. What is in the way stays there, where reading it finds that it should have been a table.
fn insert(root: &mut Item, path: &[String], item: Item) {
    let Value::Table(table) = &mut root.value else { return };
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), item);
        }
        [key, rest @ ..] => {
            let empty = || Item { value: Value::Table(Table::new()), place: item.place.clone() };
            insert(table.entry(key.clone()).or_insert_with(empty), rest, item);
        }
    }
}

/// What the short words `ip` and `interface` say: the one link of a simple machine.
#[derive(Default)]
struct Interface {
    name: Option<String>,
    /// `dhcp`, or `ADDRESS/PREFIX[,GATEWAY[,DNS...]]`.
    ip: Option<String>,
}

impl Interface {
    fn of(words: Vec<(&str, Vec<String>)>) -> Self {
        let mut interface = Self::default();
        for (key, mut values) in words {
            *(if key == IP { &mut interface.ip } else { &mut interface.name }) = values.pop();
        }
        interface
    }

    /// The paths and values it stands for. DHCP without a name is what happens anyway.
    fn items(self) -> Vec<(&'static str, Item)> {
        let word = |key, text: &str| written(key, Value::Words(vec![text.to_owned()]));
        let mut table = Table::new();
        let mut items = Vec::new();
        match self.ip.as_deref() {
            None => {}
            Some("dhcp") => {
                table.insert("dhcp".to_owned(), written(IP, Value::Boolean(true)));
            }
            Some(text) => {
                let mut parts = text.split(',');
                let address = word(IP, parts.next().unwrap_or_default());
                table.insert("addresses".to_owned(), written(IP, Value::List(vec![address])));
                if let Some(gateway) = parts.next().filter(|part| !part.is_empty()) {
                    table.insert("gateway".to_owned(), word(IP, gateway));
                }
                let servers: Vec<_> = parts.map(|part| word(IP, part)).collect();
                if !servers.is_empty() {
                    items.push(("network.nameservers", written(IP, Value::List(servers))));
                }
            }
        }
        match &self.name {
            Some(name) => {
                table.insert("name".to_owned(), word(INTERFACE, name));
            }
            None if table.contains_key("addresses") => {
                table.insert("match".to_owned(), written(IP, Value::Table(Table::new())));
            }
            None => return items,
        }
        let key = if self.name.is_some() { INTERFACE } else { IP };
        items
            .push(("network.interfaces", written(key, Value::List(vec![written(key, Value::Table(table))]))));
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeConfig, Resolved, Role, resolve};

    fn told(words: &[(&str, &str)]) -> Resolved {
        resolve(&[Layer::words(words.iter().map(|(key, value)| (*key, Some(*value))))])
    }

    fn config(words: &[(&str, &str)]) -> NodeConfig {
        let resolved = told(words);
        assert_eq!(resolved.mistakes, []);
        resolved.config
    }

    #[test]
    fn short_words_and_paths_lead_to_the_same_place_and_the_last_wins() {
        let config =
            config(&[("role", "agent"), ("role", "server"), ("node.hostname", "edge-1"), ("log", "warn")]);
        assert_eq!(config.node.role, Some(Role::Server));
        assert_eq!(config.node.hostname.as_deref(), Some("edge-1"));
        assert_eq!(config.log.level, crate::Level::Warn);
    }

    #[test]
    fn a_list_takes_commas_and_repeated_words() {
        let config =
            config(&[("network.nameservers", "1.1.1.1,9.9.9.9"), ("network.nameservers", "8.8.8.8")]);
        let found: Vec<_> = config.network.nameservers.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["1.1.1.1", "9.9.9.9", "8.8.8.8"]);
    }

    #[test]
    fn ip_and_interface_make_one_interface_and_its_name_servers() {
        let config = config(&[("ip", "10.0.0.5/24,10.0.0.1,1.1.1.1"), ("interface", "eth1")]);
        let [interface] = &config.network.interfaces[..] else { panic!("{config:?}") };
        assert_eq!(interface.name.as_deref(), Some("eth1"));
        assert_eq!(interface.addresses, ["10.0.0.5/24".parse().unwrap()]);
        assert_eq!(interface.gateways, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(config.network.nameservers, ["1.1.1.1".parse::<std::net::IpAddr>().unwrap()]);
    }

    #[test]
    fn an_unknown_word_is_told_with_the_word_itself() {
        let resolved = told(&[("rolle", "server")]);
        let text = resolved.mistakes[0].to_string();
        assert!(text.starts_with("kernel command line: skerry.rolle: rolle: given an unknown key"), "{text}");
    }

    #[test]
    fn a_word_in_the_place_of_a_table_is_a_mistake() {
        assert_eq!(told(&[("node", "x"), ("node.role", "server")]).mistakes.len(), 1);
    }
}
