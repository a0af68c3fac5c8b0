//! A root file system: EROFS, and its hashes where they can be found.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::Context;
use disk::verity::{self, RootHash};

use super::{Sized, list_biggest};
use crate::build::output;
use crate::components;
use crate::erofs::read::Image;
use crate::lock::Lock;

/// Prints what a root file system is and has.
pub(super) fn describe<D: Read + Seek>(
    out: &mut impl Write,
    mut image: Image<D>,
    biggest: usize,
) -> anyhow::Result<()> {
    writeln!(out, "EROFS '{}' {}, {} bytes", image.label(), image.id(), image.bytes())?;
    let files = image.files()?;
    if let Some(file) = files.iter().find(|file| file.path == "/usr/lib/os-release")
        && let Some(text) = image.content(file)?
    {
        for line in String::from_utf8_lossy(&text).lines() {
            writeln!(out, "  {line}")?;
        }
    }
    let files = files
        .into_iter()
        .map(|file| Sized { path: file.path, bytes: file.bytes, stored: Some(file.stored) })
        .collect();
    Ok(list_biggest(out, files, biggest)?)
}

/// Prints how much of a root file system belongs to what, if the lock of its build lies beside it.
pub(super) fn list_components(out: &mut impl Write, root: &Path) -> anyhow::Result<()> {
    let directory = root.parent().unwrap_or(Path::new(""));
    if !directory.join(Lock::FILE).is_file() {
        return Ok(());
    }
    Ok(components::list(out, &Lock::read(directory)?.components)?)
}

/// Checks a root file system against the hashes that lie beside it, if some do. Returns what is wrong.
pub(super) fn check_beside(out: &mut impl Write, root: &Path) -> anyhow::Result<Vec<String>> {
    let hashes = root.with_file_name(output::VERITY);
    let wanted = root.with_file_name(output::ROOT_HASH);
    if !hashes.is_file() {
        return Ok(Vec::new());
    }
    let wanted: Option<RootHash> = match fs::read_to_string(&wanted) {
        Ok(text) => Some(text.parse().with_context(|| format!("'{}' is damaged", wanted.display()))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("failed to read '{}'", wanted.display())),
    };
    let open = |path: &Path| File::open(path).with_context(|| format!("failed to open '{}'", path.display()));
    check(out, "root.erofs", &mut open(root)?, &mut open(&hashes)?, wanted.as_ref())
}

/// Checks data against hashes. Returns what is wrong.
pub(super) fn check(
    out: &mut impl Write,
    name: &str,
    data: &mut impl Read,
    hashes: &mut impl Read,
    wanted: Option<&RootHash>,
) -> anyhow::Result<Vec<String>> {
    match verity::verify(data, hashes, wanted) {
        Ok((superblock, root)) => {
            writeln!(out, "  verity: {} blocks, root hash {root}, all as hashed", superblock.data_blocks)?;
            Ok(Vec::new())
        }
        Err(error @ verity::Error::Io { .. }) => Err(error).context("failed to check the hashes"),
        Err(error) => {
            writeln!(out, "  verity: {error}")?;
            Ok(vec![format!("{name}: {error}")])
        }
    }
}
