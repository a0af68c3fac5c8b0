//! What of the root file system belongs to what, and how much room each takes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;

use crate::erofs::read::Image;
use crate::lock::Component;
use crate::tree::Tree;

/// Sizes of the parts of a tree, with the room that they take in the image made of it. The biggest comes first.
pub(crate) fn of(tree: &Tree, root: &Path) -> anyhow::Result<Vec<Component>> {
    let mut file = File::open(root).with_context(|| format!("failed to open '{}'", root.display()))?;
    let mut stored: BTreeMap<&str, u64> = BTreeMap::new();
    let image = Image::open(&mut file).with_context(|| format!("failed to read '{}'", root.display()))?;
    // Whoever brings a mkfs.erofs of their own may bring one that writes what is not known here.
    if let Some(mut image) = image {
        for found in image.files()? {
            if let Some(component) = tree.component(Path::new(&found.path)) {
                *stored.entry(component).or_default() += found.stored;
            }
        }
    }
    let sizes = tree.sizes().iter();
    let mut all: Vec<Component> = sizes
        .map(|(name, &bytes)| Component { name: name.clone(), bytes, stored: stored.get(&**name).copied() })
        .collect();
    all.sort_by(|a, b| b.room().cmp(&a.room()).then(a.name.cmp(&b.name)));
    Ok(all)
}

/// Prints them.
pub(crate) fn list(out: &mut impl Write, components: &[Component]) -> io::Result<()> {
    if components.is_empty() {
        return Ok(());
    }
    writeln!(out, "  {:>12}{:>12}  in root.erofs, by component", "bytes", "stored")?;
    for component in components {
        let stored = component.stored.map(|stored| stored.to_string()).unwrap_or_default();
        writeln!(out, "  {:>12}{stored:>12}  {}", component.bytes, component.name)?;
    }
    let bytes: u64 = components.iter().map(|component| component.bytes).sum();
    let stored: Option<u64> = components.iter().map(|component| component.stored).sum();
    let stored = stored.map(|stored| stored.to_string()).unwrap_or_default();
    writeln!(out, "  {bytes:>12}{stored:>12}  all")
}
