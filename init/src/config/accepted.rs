//! The copy on STATE of the document that was accepted last.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use node_config::Layer;

use crate::identity;

/// Where it is kept. It holds the cluster's token, so nobody else may read it.
const FILE: &str = "/var/lib/skerry/accepted.toml";
const MODE: u32 = 0o600;
const HEADING: &str =
    "# Kept by init: the configuration that was accepted last. Changing it has no lasting effect.\n";

/// The copy, if there is one. One that cannot be read is a problem and counts as none.
pub(super) fn read(problems: &mut Vec<String>) -> Option<Layer> {
    let mut problem =
        |what: String| problems.push(format!("the configuration accepted last is lost: {what}"));
    let bytes = match super::read_capped(Path::new(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            problem(format!("{FILE}: {error}"));
            return None;
        }
    };
    match Layer::toml(FILE, &bytes) {
        Ok(layer) => Some(layer),
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| problem(mistake.to_string()));
            None
        }
    }
}

/// Keeps `document`, unless it is what is kept already: flash wears out.
pub(super) fn write(document: &Layer) -> Result<()> {
    let text = format!("{HEADING}{}", document.to_toml());
    if std::fs::read(FILE).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    identity::write_durably(Path::new(FILE), text.as_bytes(), MODE)
        .with_context(|| format!("failed to write {FILE}"))
}
