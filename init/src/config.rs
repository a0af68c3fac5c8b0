//! What this machine is told to be: where the configuration is found, and what is made of it.
//!
//! The types, the rules and the mistakes are the crate `node_config`'s.

use std::path::Path;

use node_config::{Layer, PREFIX, resolve};
pub(crate) use node_config::{Level, NodeConfig, Resolved, Role, RootSource, StatePolicy, Watchdog};

use crate::cmdline::Cmdline;

/// Defaults that the image carries.
pub(crate) const IMAGE_FILE: &str = "/usr/share/skerry/config.toml";

/// Reads the files that exist, then the command line over them.
pub(crate) fn load(files: &[&Path], cmdline: &Cmdline) -> Resolved {
    let mut layers = Vec::new();
    let mut mistakes = Vec::new();
    for file in files {
        let name = file.display().to_string();
        match std::fs::read(file) {
            Ok(bytes) => match Layer::toml(&name, &bytes) {
                Ok(layer) => layers.push(layer),
                Err(found) => mistakes.extend(found),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => mistakes.push(node_config::Mistake {
                source_name: name,
                key: "(whole file)".to_owned(),
                given: format!("an unreadable file ({error})"),
                allowed: "a file that can be read".to_owned(),
            }),
        }
    }
    layers.push(Layer::words(cmdline.with_prefix(PREFIX)));
    let mut resolved = resolve(&layers);
    resolved.mistakes.splice(0..0, mistakes);
    resolved
}

/// What to write where, in a few lines, for the maintenance screen.
pub(crate) fn help() -> impl Iterator<Item = &'static str> {
    [
        "on the kernel command line: skerry.role=server, or skerry.role=agent skerry.server=https://HOST:6443 skerry.token=TOKEN",
        "or in config.toml on a FAT partition: [node], and below it role = \"server\"",
    ]
    .into_iter()
}
