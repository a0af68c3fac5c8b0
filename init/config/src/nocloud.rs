//! NoCloud's files (cloud-init: `user-data`, `vendor-data`, `meta-data`, `network-config`) in the shape of our own document.
//!
//! What has a meaning here is carried over, with its place, and read as if it stood in `config.toml`; so a mistake in a value is told
//! with our key and the file and line it was written in. What has none is not a mistake but is told, key by key: a machine that comes
//! up must not differ silently from what was asked for.

mod files;
mod k3os;
mod network;
mod network_v1;

use crate::mistake::Mistake;
use crate::toml_text::shown_of_line;
use crate::tree::{Item, Layer, Place, Table, Value};
use crate::yaml;

/// The first line of what we can read.
const CLOUD_CONFIG: &str = "#cloud-config";

/// NoCloud's files, before they are read.
#[derive(Debug)]
pub struct CloudFiles {
    /// What stands before a file's name in mistakes.
    place: String,
    files: Vec<(&'static str, Vec<u8>)>,
}

/// What NoCloud's files came to.
#[derive(Debug, Clone)]
pub struct Cloud {
    /// What has a meaning here.
    pub layer: Layer,
    /// What keeps a file from being read.
    pub mistakes: Vec<Mistake>,
    /// What was asked for and is not done.
    pub ignored: Vec<Mistake>,
}

impl CloudFiles {
    /// The files that are looked for, lowest first.
    pub const NAMES: [&'static str; 4] = ["vendor-data", "meta-data", "user-data", "network-config"];

    /// No files yet. `place` stands before each one's name where it is told of.
    #[must_use]
    pub fn new(place: &str) -> Self {
        Self { place: place.to_owned(), files: Vec::new() }
    }

    /// One of [`Self::NAMES`].
    pub fn add(&mut self, name: &'static str, bytes: Vec<u8>) {
        self.files.push((name, bytes));
    }

    /// Reads them.
    #[must_use]
    pub fn read(&self) -> Cloud {
        let empty = Layer::empty(Place::named(&self.place));
        let mut cloud = Cloud { layer: empty.clone(), mistakes: Vec::new(), ignored: Vec::new() };
        let in_order =
            Self::NAMES.iter().flat_map(|name| self.files.iter().filter(move |(own, _)| own == name));
        for (name, bytes) in in_order {
            let called = format!("{}{name}", self.place);
            let mut ours = Mapping { layer: empty.clone(), mistakes: Vec::new(), ignored: Vec::new() };
            match *name {
                "meta-data" => ours.document(yaml::read(&called, bytes), meta_data),
                "network-config" => ours.document(yaml::read(&called, bytes), network::read),
                _ => ours.user_data(&called, bytes),
            }
            cloud.layer = cloud.layer.overlaid(&ours.layer);
            cloud.mistakes.extend(ours.mistakes);
            cloud.ignored.extend(ours.ignored);
        }
        cloud
    }
}

/// A document of ours that is being made.
#[derive(Debug)]
struct Mapping {
    layer: Layer,
    mistakes: Vec<Mistake>,
    ignored: Vec<Mistake>,
}

impl Mapping {
    fn document(&mut self, read: Result<Item, Vec<Mistake>>, carry: impl FnOnce(&mut Self, &Item)) {
        match read {
            Ok(item) => carry(self, &item),
            Err(mistakes) => self.mistakes.extend(mistakes),
        }
    }

    fn user_data(&mut self, called: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]);
        let first =
            text.trim_start_matches('\u{feff}').lines().next().unwrap_or_default().trim_end().to_owned();
        if bytes.is_empty() || first.starts_with(CLOUD_CONFIG) || bytes.iter().all(u8::is_ascii_whitespace) {
            return self.document(yaml::read(called, bytes), cloud_config);
        }
        let kind = match first.as_str() {
            _ if bytes.starts_with(&[0x1F, 0x8B]) => "compressed data".to_owned(),
            text if text.starts_with("#!") => "a script, and nothing here could run it".to_owned(),
            text if text.starts_with("#include") => "a list of addresses to fetch from".to_owned(),
            text if text.starts_with("## template:") => "a template".to_owned(),
            text if text.to_ascii_lowercase().starts_with("content-type:") => {
                "a message of several parts".to_owned()
            }
            text => shown_of_line(text),
        };
        let place = Place::named(called).at_line(1);
        self.mistakes.push(told(&place, "(first line)", &kind, CLOUD_CONFIG));
    }

    /// Puts a value where `path` leads in our document.
    fn set(&mut self, path: &[&str], item: Item) {
        insert(&mut self.layer.root, path, item);
    }

    /// Adds a member to the list where `path` leads.
    fn push(&mut self, path: &[&str], item: Item) {
        let place = item.place.clone();
        match find(&mut self.layer.root, path) {
            Some(Item { value: Value::List(items), .. }) => items.push(item),
            _ => self.set(path, Item { value: Value::List(vec![item]), place }),
        }
    }

    /// Notes what is asked for and not done.
    fn ignore(&mut self, item: &Item, path: &str, instead: &str) {
        self.ignored.push(told(&item.place, path, "what means nothing here", instead));
    }

    /// Notes a value that is of no use.
    fn wrong(&mut self, item: &Item, path: &str, allowed: &str) {
        self.mistakes.push(told(&item.place, path, &item.shown(), allowed));
    }

    /// The keys of a table; something else is noted.
    fn table<'a>(
        &mut self,
        item: &'a Item,
        path: &str,
    ) -> impl Iterator<Item = (&'a str, &'a Item)> + use<'a> {
        static NONE: Table = Table::new();
        let table = match &item.value {
            Value::Table(table) => table,
            // An empty section says nothing.
            Value::Null => &NONE,
            _ => {
                self.wrong(item, path, "a table");
                &NONE
            }
        };
        table.iter().map(|(key, item)| (key.as_str(), item))
    }

    /// The members of a list; something else is noted.
    fn list<'a>(&mut self, item: &'a Item, path: &str) -> &'a [Item] {
        match &item.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => {
                self.wrong(item, path, "a list");
                &[]
            }
        }
    }
}

fn told(place: &Place, key: &str, given: &str, allowed: &str) -> Mistake {
    Mistake {
        source_name: place.to_string(),
        key: key.to_owned(),
        given: given.to_owned(),
        allowed: allowed.to_owned(),
    }
}

/// What a table at `place` holds.
fn table_at(place: &Place, entries: impl IntoIterator<Item = (&'static str, Item)>) -> Item {
    let table = entries.into_iter().map(|(key, item)| (key.to_owned(), item)).collect();
    Item { value: Value::Table(table), place: place.clone() }
}

fn text_at(place: &Place, text: impl Into<String>) -> Item {
    Item { value: Value::Text(text.into()), place: place.clone() }
}

fn list_at(place: &Place, items: Vec<Item>) -> Item {
    Item { value: Value::List(items), place: place.clone() }
}

fn insert(root: &mut Item, path: &[&str], item: Item) {
    let Value::Table(table) = &mut root.value else { return };
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), item);
        }
        [key, rest @ ..] => {
            let empty = || table_at(&item.place, []);
            insert(table.entry((*key).to_owned()).or_insert_with(empty), rest, item);
        }
    }
}

fn find<'a>(root: &'a mut Item, path: &[&str]) -> Option<&'a mut Item> {
    path.iter().try_fold(root, |item, key| match &mut item.value {
        Value::Table(table) => table.get_mut(*key),
        _ => None,
    })
}

fn meta_data(ours: &mut Mapping, root: &Item) {
    for (key, item) in ours.table(root, "(whole file)") {
        match key {
            // A new configuration is seen by its content, at every boot.
            "instance-id" | "instance_id" => {}
            "local-hostname" | "hostname" => ours.set(&["node", "hostname"], item.clone()),
            "network-interfaces" => ours.ignore(item, key, "network-config"),
            "public-keys" => ours.ignore(item, key, "nothing: there is no shell to log in to"),
            _ => ours.ignore(item, key, "instance-id and local-hostname"),
        }
    }
}

/// What people may look for, and what there is instead.
const INSTEAD: &[(&str, &str)] = &[
    ("bootcmd", "nothing: there is no shell; see sysctl, modules and files"),
    ("runcmd", "nothing: there is no shell; run it in a pod"),
    ("chpasswd", "nothing: there are no users"),
    ("package_update", "nothing: the system is one image"),
    ("package_upgrade", "nothing: the system is one image"),
    ("packages", "nothing: the system is one image"),
    ("password", "nothing: there are no users"),
    ("ssh_authorized_keys", "nothing: there is no shell to log in to"),
    ("ssh_pwauth", "nothing: there is no shell to log in to"),
    ("timezone", "nothing: the clock is UTC"),
    ("user", "nothing: there are no users"),
    ("users", "nothing: there are no users"),
    ("manage_etc_hosts", "nothing: /etc/hosts is generated"),
    ("growpart", "nothing: the last partition grows by itself"),
];

fn cloud_config(ours: &mut Mapping, root: &Item) {
    let mut entries: Vec<_> = ours.table(root, "(whole file)").collect();
    // hostname wins over fqdn, whichever stands first.
    entries.sort_by_key(|(key, _)| *key == "hostname");
    for (key, item) in entries {
        match key {
            "hostname" | "fqdn" => ours.set(&["node", "hostname"], item.clone()),
            "ntp" => ntp(ours, item),
            "write_files" => files::write_files(ours, item),
            "k3s" => k3os::k3s(ours, item),
            "k3os" => k3os::k3os(ours, item),
            // Our own document, whole.
            "skerry" => ours.layer.root.overlay(item),
            _ => {
                let known = INSTEAD.iter().find(|(name, _)| *name == key).map(|(_, instead)| *instead);
                ours.ignore(
                    item,
                    key,
                    known.unwrap_or("hostname, fqdn, ntp, write_files, k3s, k3os, skerry"),
                );
            }
        }
    }
}

fn ntp(ours: &mut Mapping, item: &Item) {
    let mut entries: Vec<_> = ours.table(item, "ntp").collect();
    // Servers that were chosen before pools.
    entries.sort_by_key(|(key, _)| *key == "pools");
    for (key, item) in entries {
        match key {
            "servers" | "pools" => {
                for server in ours.list(item, &format!("ntp.{key}")) {
                    ours.push(&["time", "servers"], server.clone());
                }
            }
            "enabled" if item.value == Value::Boolean(true) => {}
            _ => ours.ignore(item, &format!("ntp.{key}"), "servers and pools"),
        }
    }
}

#[cfg(test)]
mod tests;
