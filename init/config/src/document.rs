//! The whole document: its sections, and how layers become one configuration.

use std::collections::BTreeSet;

use crate::boot::Boot;
use crate::files::{self, File};
use crate::k3s::{self, Flags};
use crate::kernel::{self, Module, Sysctl};
use crate::log::Log;
use crate::mistake::Mistake;
use crate::network::Network;
use crate::node::{Node, Role};
use crate::read::{At, Notes};
use crate::registries::Registries;
use crate::time::Time;
use crate::tree::{Layer, Place};

/// The top of the document.
const SECTIONS: &[&str] =
    &["node", "network", "time", "k3s", "files", "registries", "sysctl", "modules", "log", "boot"];

/// What the machine is told to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeConfig {
    /// Its part in the cluster.
    pub node: Node,
    /// Links and addresses.
    pub network: Network,
    /// The clock.
    pub time: Time,
    /// K3s's flags.
    pub k3s: Flags,
    /// Files that are written at every boot.
    pub files: Vec<File>,
    /// Mirrors and credentials of image registries.
    pub registries: Registries,
    /// Kernel settings.
    pub sysctl: Sysctl,
    /// Kernel modules.
    pub modules: Vec<Module>,
    /// The log.
    pub log: Log,
    /// The boot itself.
    pub boot: Boot,
}

/// What came of the layers: as much as could be understood, and everything that could not.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The configuration; a setting with a mistake has its default.
    pub config: NodeConfig,
    /// Every mistake of every layer.
    pub mistakes: Vec<Mistake>,
    /// What a machine needs to be told and was not. Nothing of this is wrong in any one layer.
    pub missing: Vec<Mistake>,
}

impl Resolved {
    /// Whether a machine can be what it is told to be.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.mistakes.is_empty() && self.missing.is_empty()
    }
}

/// Lays `layers` over each other, lowest first, and reads the result.
///
/// A mistake in a layer is reported even where a higher layer sets the same key: it is wrong all the same.
#[must_use]
pub fn resolve(layers: &[Layer]) -> Resolved {
    let notes = Notes::default();
    for layer in layers {
        NodeConfig::read(notes.read(&layer.root));
    }
    let nothing = Layer::empty(Place::named("configuration"));
    let merged = layers.iter().fold(nothing, Layer::overlaid);
    let config = NodeConfig::read(notes.read(&merged.root));
    k3s::check(&notes, &merged.root, &config.node);
    let mut known = BTreeSet::new();
    let mut mistakes = notes.into_mistakes();
    mistakes.retain(|mistake| known.insert(mistake.clone()));
    let missing = missing(&config, &mistakes);
    Resolved { config, mistakes, missing }
}

/// What is not there and must be. What was given and is wrong has been told already.
fn missing(config: &NodeConfig, mistakes: &[Mistake]) -> Vec<Mistake> {
    let absent = |key: &str, allowed: &str| Mistake {
        source_name: "configuration".to_owned(),
        key: key.to_owned(),
        given: "nothing".to_owned(),
        allowed: allowed.to_owned(),
    };
    let wrong = |key: &str| mistakes.iter().any(|mistake| mistake.key == key);
    let mut missing = Vec::new();
    match config.node.role {
        None if !wrong("node.role") => missing.push(absent(
            "node.role",
            "server or agent, as role in [node] of config.toml or as skerry.role= on the kernel command line",
        )),
        Some(Role::Agent) => {
            let has = |flag: &str| config.k3s.contains_key(flag);
            if config.node.server.is_none() && !has("server") && !wrong("node.server") {
                missing.push(absent(
                    "node.server",
                    "with the role agent: the server to join, https://HOST[:PORT]",
                ));
            }
            if config.node.token.is_none() && !has("token") && !has("token-file") && !wrong("node.token") {
                missing.push(absent("node.token", "with the role agent: the cluster's token"));
            }
        }
        None | Some(Role::Server) => {}
    }
    missing
}

impl NodeConfig {
    fn read(root: At<'_>) -> Self {
        let Some(fields) = root.fields(SECTIONS) else { return Self::default() };
        Self {
            node: fields.get("node").map(Node::read).unwrap_or_default(),
            network: fields.get("network").map(Network::read).unwrap_or_default(),
            time: fields.get("time").map(Time::read).unwrap_or_default(),
            k3s: fields.get("k3s").map(|at| k3s::read(&at)).unwrap_or_default(),
            files: fields.get("files").map(|at| files::read(&at)).unwrap_or_default(),
            registries: fields.get("registries").map(Registries::read).unwrap_or_default(),
            sysctl: fields.get("sysctl").map(|at| kernel::sysctl(&at)).unwrap_or_default(),
            modules: fields.get("modules").map(|at| kernel::modules(&at)).unwrap_or_default(),
            log: fields.get("log").map(Log::read).unwrap_or_default(),
            boot: fields.get("boot").map(Boot::read).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_layer_wins_and_all_mistakes_of_all_layers_are_told() {
        let below =
            Layer::toml("a.toml", b"[node]\nrole = \"boss\"\nhostname = \"a\"\ncolour = 1\n").unwrap();
        let above =
            Layer::toml("b.toml", b"[node]\nrole = \"server\"\n[network]\nnameservers = [\"1.1.1\"]\n")
                .unwrap();
        let resolved = resolve(&[below, above]);
        assert_eq!(resolved.config.node.role, Some(crate::Role::Server));
        assert_eq!(resolved.config.node.hostname.as_deref(), Some("a"));
        let told: Vec<_> = resolved.mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "a.toml:4: node.colour: given an unknown key, \"colour\"; allowed: role, hostname, server, token, labels, taints",
                "a.toml:2: node.role: given \"boss\"; allowed: server, agent",
                "b.toml:4: network.nameservers[0]: given \"1.1.1\"; allowed: an IP address",
            ]
        );
    }

    #[test]
    fn a_long_document_that_is_none_of_ours_is_read_in_a_moment() {
        let text: String = (0..60_000).map(|number| format!("key{number} = 1\n")).collect();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = sender.send(resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]));
        });
        // What grows with the square of the length takes minutes here.
        let read = receiver.recv_timeout(std::time::Duration::from_secs(60));
        let mistakes = read.expect("it has been read").mistakes;
        assert_eq!(mistakes.len(), 60_000);
        assert!(mistakes.iter().any(|mistake| mistake.source_name == "c:60000"));
    }
}
