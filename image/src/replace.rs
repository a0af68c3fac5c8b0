//! Files that are replaced whole or not at all.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Writes a file under another name first, so that a build that is cut short leaves the old one whole.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let partial = path.with_added_extension("partial");
    write(&partial)?;
    fs::rename(&partial, path).with_context(|| format!("failed to rename '{}'", partial.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x");
        fs::write(&path, "old").unwrap();
        replace(&path, |_| anyhow::bail!("no")).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
