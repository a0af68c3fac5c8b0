//! What Buildroot made a tree from: the answer of its `make show-info`, for the bill of materials.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// Packages of ours begin so; their crates are listed one by one.
const OWN: &str = "skerry-";

/// A package of Buildroot that is in the tree, or beside it for the boot loader.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Built {
    pub(crate) name: String,
    pub(crate) version: String,
    /// In Buildroot's words, such as `GPL-2.0+, LGPL-2.1+`; may be empty.
    pub(crate) licenses: String,
    /// The name by which faults are published, where Buildroot knows it.
    pub(crate) cpe: Option<String>,
}

/// The part of an entry that counts here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    r#type: String,
    version: String,
    licenses: String,
    install_target: bool,
    install_images: bool,
    #[serde(rename = "cpe-id")]
    cpe: Option<String>,
}

/// Reads the packages, sorted by name.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Built>> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read '{}'", path.display()))?;
    parse(&text).with_context(|| format!("'{}' is not what `make show-info` prints", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Vec<Built>> {
    let entries: BTreeMap<String, Entry> = serde_json::from_str(text)?;
    let installed = entries.into_iter().filter(|(name, entry)| {
        // What is virtual stands for another package, and the skeleton is no software: neither has a version.
        entry.r#type == "target"
            && (entry.install_target || entry.install_images)
            && !entry.version.is_empty()
            && !name.starts_with(OWN)
    });
    Ok(installed
        .map(|(name, entry)| Built { name, version: entry.version, licenses: entry.licenses, cpe: entry.cpe })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_listed_and_nothing_else() {
        let text = r#"{
            "containerd": {"type": "target", "virtual": false, "version": "2.0.5", "licenses": "Apache-2.0",
                "downloads": [], "install_target": true, "install_images": false,
                "cpe-id": "cpe:2.3:a:linuxfoundation:containerd:2.0.5:*:*:*:*:*:*:*"},
            "grub2": {"type": "target", "version": "2.12", "licenses": "GPL-3.0+", "install_target": false,
                "install_images": true},
            "host-cmake": {"type": "host", "version": "3.31", "licenses": "BSD-3-Clause"},
            "libyaml": {"type": "target", "version": "1", "install_target": false, "install_images": false},
            "skeleton": {"type": "target", "virtual": true, "install_target": true, "install_images": false},
            "skerry-k3sd": {"type": "target", "version": "custom", "install_target": true, "install_images": false},
            "rootfs-tar": {"type": "rootfs", "dependencies": []}
        }"#;
        let built = parse(text).unwrap();
        let found: Vec<_> =
            built.iter().map(|built| (&*built.name, &*built.version, &*built.licenses)).collect();
        assert_eq!(found, [("containerd", "2.0.5", "Apache-2.0"), ("grub2", "2.12", "GPL-3.0+")]);
        assert!(built[0].cpe.as_deref().unwrap().starts_with("cpe:2.3:a:linuxfoundation:"));
        parse("make: nothing to be done").unwrap_err();
    }
}
