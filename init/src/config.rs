//! What the machine is told to be: one type, filled from `config.toml` files and from `skerry.*` kernel words.
//!
//! Two steps. *As written*: every source contributes text settings; a later source wins (the image's defaults, then the
//! copy on STATE, then the kernel command line). *Resolved*: the settings are parsed, and **all** mistakes are reported
//! together, each with its source and key. A configuration with mistakes still resolves to something usable, because a
//! machine that is told nonsense must stay up and say so; it just starts no services.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::Ipv4Net;

use crate::cmdline::Cmdline;

/// Defaults that the image carries.
pub(crate) const IMAGE_FILE: &str = "/usr/share/skerry/config.toml";
/// The machine's own file, on STATE.
pub(crate) const STATE_FILE: &str = "/var/lib/skerry/config.toml";
/// What our words on the kernel command line begin with.
const PREFIX: &str = "skerry.";
/// Where something is wrong that is nowhere: a role nobody gave.
const NO_PLACE: &str = "configuration";

/// The resolved configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// What the machine is in the cluster; none when that is missing or wrong.
    pub(crate) role: Option<Role>,
    /// The host's and the node's name; none means one made from the machine id.
    pub(crate) hostname: Option<String>,
    /// How the interface gets its address.
    pub(crate) ip: Addressing,
    /// The interface to use; none means the first Ethernet one.
    pub(crate) interface: Option<String>,
    /// Where the root filesystem is.
    pub(crate) root: RootSource,
    /// Where STATE may be.
    pub(crate) state: StatePolicy,
    /// The least important service lines that reach the console.
    pub(crate) log: Level,
}

/// What a machine is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Control plane and node in one: `k3sd server`.
    Server,
}

/// How the interface gets its IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Addressing {
    /// Ask a DHCP server.
    Dhcp,
    /// Use this address.
    Static {
        /// Address and prefix length.
        address: Ipv4Net,
        /// Default gateway, if any.
        gateway: Option<Ipv4Addr>,
        /// Name servers.
        dns: Vec<IpAddr>,
    },
}

/// Which block device holds the root filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootSource {
    /// The first EROFS found, or `/root.erofs` in the initramfs.
    Auto,
    /// The EROFS with this volume label.
    Label(String),
    /// This device.
    Device(String),
}

/// Where STATE may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatePolicy {
    /// A labelled or blank disk, else memory.
    Auto,
    /// A disk, whatever time it takes to appear.
    Disk,
    /// Memory, even if a disk is there.
    Ram,
}

/// Importance of a log line, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Someone must act.
    Error,
    /// Degraded.
    Warn,
    /// Life events.
    Info,
    /// Everything.
    Debug,
}

/// One thing wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub(crate) struct Mistake {
    /// Source and key, such as `kernel command line: skerry.role`.
    place: String,
    /// What is wrong and what would be right.
    problem: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            role: None,
            hostname: None,
            ip: Addressing::Dhcp,
            interface: None,
            root: RootSource::Auto,
            state: StatePolicy::Auto,
            log: Level::Info,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
        })
    }
}

/// A key one may write, what it takes, and how its text becomes part of the configuration.
struct Key {
    name: &'static str,
    takes: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

/// Every key there is. The order is the one users see.
const KEYS: &[Key] = &[
    Key { name: "role", takes: "server", set: |c, v| parse_role(v).map(|role| c.role = Some(role)) },
    Key {
        name: "hostname",
        takes: "a lower-case DNS name",
        set: |c, v| parse_hostname(v).map(|name| c.hostname = Some(name)),
    },
    Key {
        name: "ip",
        takes: "dhcp, or ADDRESS/PREFIX[,GATEWAY[,DNS...]]",
        set: |c, v| parse_ip(v).map(|ip| c.ip = ip),
    },
    Key {
        name: "interface",
        takes: "an interface name",
        set: |c, v| non_empty(v).map(|name| c.interface = Some(name)),
    },
    Key {
        name: "root",
        takes: "auto, LABEL=name or /dev/name",
        set: |c, v| parse_root(v).map(|root| c.root = root),
    },
    Key {
        name: "state",
        takes: "auto, disk or ram",
        set: |c, v| {
            let choices =
                [("auto", StatePolicy::Auto), ("disk", StatePolicy::Disk), ("ram", StatePolicy::Ram)];
            choose(v, &choices).map(|state| c.state = state)
        },
    },
    Key {
        name: "log",
        takes: "error, warn, info or debug",
        set: |c, v| {
            let choices = [
                ("error", Level::Error),
                ("warn", Level::Warn),
                ("info", Level::Info),
                ("debug", Level::Debug),
            ];
            choose(v, &choices).map(|level| c.log = level)
        },
    },
];

/// What came of reading the configuration: as much as could be understood, and everything that could not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The configuration; a setting with a mistake has its default.
    pub(crate) config: Config,
    /// Every mistake. Services are started only when there is none.
    pub(crate) mistakes: Vec<Mistake>,
    /// Settings without effect, because they are needed before the file they stand in can be read.
    pub(crate) too_late: Vec<Mistake>,
}

/// Reads the files that exist, then the command line over them.
pub(crate) fn load(files: &[&Path], cmdline: &Cmdline) -> Resolved {
    let mut resolved = Resolved { config: Config::default(), mistakes: Vec::new(), too_late: Vec::new() };
    for file in files {
        match std::fs::read_to_string(file) {
            Ok(text) => resolved.apply_file(&file.display().to_string(), &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                resolved.mistake(file.display().to_string(), format!("cannot be read: {error}"));
            }
        }
    }
    resolved.apply_cmdline(cmdline);
    resolved.require_role();
    resolved
}

impl Resolved {
    fn mistake(&mut self, place: String, problem: String) {
        self.mistakes.push(Mistake { place, problem });
    }

    fn apply_file(&mut self, file: &str, text: &str) {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map(|span| text[..span.start].lines().count().max(1));
                let place = line.map_or(file.to_owned(), |line| format!("{file}:{line}"));
                return self.mistake(place, error.message().to_owned());
            }
        };
        for (key, value) in table {
            let place = format!("{file}: {key}");
            // The root holds the image's file, and STATE the machine's own: both are found without them.
            if key == "root" || (key == "state" && file == STATE_FILE) {
                let also = if key == "state" { format!(" or in {IMAGE_FILE}") } else { String::new() };
                let problem =
                    format!("has no effect here; set {PREFIX}{key} on the kernel command line{also}");
                self.too_late.push(Mistake { place, problem });
                continue;
            }
            match value {
                toml::Value::String(text) => self.set(place, &key, Some(&text)),
                other => self.mistake(place, format!("must be a string, not {}", other.type_str())),
            }
        }
    }

    fn apply_cmdline(&mut self, cmdline: &Cmdline) {
        for (key, value) in cmdline.with_prefix(PREFIX) {
            self.set(format!("kernel command line: {PREFIX}{key}"), key, value);
        }
    }

    fn set(&mut self, place: String, key: &str, value: Option<&str>) {
        let Some(known) = KEYS.iter().find(|known| known.name == key) else {
            let names: Vec<_> = KEYS.iter().map(|known| known.name).collect();
            return self.mistake(place, format!("unknown key; allowed are {}", names.join(", ")));
        };
        match (known.set)(&mut self.config, value.unwrap_or_default()) {
            // A later source that is right makes good what an earlier one got wrong.
            Ok(()) => self.mistakes.retain(|mistake| !mistake.is_about(key)),
            Err(problem) => self.mistake(place, problem),
        }
    }

    fn require_role(&mut self) {
        let missing = self.config.role.is_none() && !self.mistakes.iter().any(|m| m.is_about("role"));
        if missing {
            let problem = format!(
                "no role is given; put {PREFIX}role=server on the kernel command line, or role = \"server\" in {STATE_FILE}"
            );
            self.mistake(NO_PLACE.to_owned(), problem);
        }
    }
}

impl Mistake {
    /// Whether it is that no source gives a role, which a source not yet read may make good.
    pub(crate) fn is_missing_role(&self) -> bool {
        self.place == NO_PLACE
    }

    /// Whether it is in the setting of `key`.
    pub(crate) fn is_about(&self, key: &str) -> bool {
        let name = self.place.rsplit(": ").next().unwrap_or_default();
        name.strip_prefix(PREFIX).unwrap_or(name) == key
    }
}

/// The keys and what they take, one line each, for the maintenance screen.
pub(crate) fn help() -> impl Iterator<Item = String> {
    KEYS.iter().map(|key| format!("{PREFIX}{:<10} {}", key.name, key.takes))
}

fn parse_role(text: &str) -> Result<Role, String> {
    match text {
        "server" => Ok(Role::Server),
        "agent" => Err("this version cannot join a cluster yet, so the role agent is not available; \
                        allowed is server"
            .to_owned()),
        "" => Err("needs a value; allowed is server".to_owned()),
        other => Err(format!("there is no role {other:?}; allowed is server")),
    }
}

/// Kubernetes takes a lower-case RFC 1123 subdomain as a node name; the kernel takes at most 64 bytes.
fn parse_hostname(text: &str) -> Result<String, String> {
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 64 && text.split('.').all(label_ok) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a host name: lower-case letters, digits and dashes, dots between labels, at most 64 characters"
        ))
    }
}

fn parse_ip(text: &str) -> Result<Addressing, String> {
    if text == "dhcp" {
        return Ok(Addressing::Dhcp);
    }
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let address: Ipv4Net = first
        .parse()
        .map_err(|_| format!("{first:?} is neither dhcp nor ADDRESS/PREFIX such as 10.0.0.5/24"))?;
    let gateway = match parts.next() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|_| format!("{text:?} is not a gateway address"))?),
    };
    let dns = parts
        .map(|text| text.parse().map_err(|_| format!("{text:?} is not a name server address")))
        .collect::<Result<_, _>>()?;
    Ok(Addressing::Static { address, gateway, dns })
}

fn parse_root(text: &str) -> Result<RootSource, String> {
    match text.split_once('=') {
        _ if text == "auto" => Ok(RootSource::Auto),
        _ if text.starts_with("/dev/") => Ok(RootSource::Device(text.to_owned())),
        Some(("LABEL", label)) if !label.is_empty() => Ok(RootSource::Label(label.to_owned())),
        _ => Err(format!("{text:?} is not auto, LABEL=name or /dev/name")),
    }
}

fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("needs a value".to_owned()) } else { Ok(text.to_owned()) }
}

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is not allowed; allowed are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests;
