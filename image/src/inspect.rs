//! `image inspect`: what an image consists of, and whether it is as it was built.
//!
//! Takes the directory of a build, the image of a disk (or a disk), a root file system or an initramfs, and finds out
//! which of them it is from the content.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use disk::gpt;

use crate::build::output;
use crate::digest;
use crate::erofs;
use crate::lock::{Lock, Origin, Output};

mod archive;
mod partitions;
mod root;

/// The command line of `image inspect`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory that `image build` wrote, or disk.img, root.erofs, initramfs.img, or a disk
    path: PathBuf,
    /// How many of the biggest files to list
    #[arg(long, default_value_t = 12)]
    biggest: usize,
}

/// A file with its size, of any of the images.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sized {
    path: String,
    bytes: u64,
    /// Room that it takes in the image, where that is known.
    stored: Option<u64>,
}

/// Runs `image inspect`. What is damaged makes it fail, after all has been looked at.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let faults = look(&mut out, &options.path, options.biggest)?;
    if faults.is_empty() {
        return Ok(());
    }
    bail!("'{}' is not as it was built: {}", options.path.display(), faults.join("; "))
}

fn look(out: &mut impl Write, path: &Path, biggest: usize) -> anyhow::Result<Vec<String>> {
    if path.is_dir() {
        return directory(out, path, biggest);
    }
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("failed to open '{name}'"))?;
    match gpt::Table::read(&mut file) {
        Ok((table, copy)) => return partitions::describe(out, path, &table, copy, biggest),
        Err(gpt::Error::NotFound(gpt::Damage::Signature | gpt::Damage::Truncated)) => {}
        Err(error) => return Err(error).with_context(|| format!("failed to inspect '{name}'")),
    }
    if let Some(image) =
        erofs::read::Image::open(&mut file).with_context(|| format!("failed to read '{name}'"))?
    {
        root::describe(out, image, biggest).with_context(|| format!("failed to inspect '{name}'"))?;
        root::list_components(out, path)?;
        return root::check_beside(out, path);
    }
    let mut start = [0; 6];
    io::Seek::rewind(&mut file)?;
    let _ = file.read(&mut start).with_context(|| format!("failed to read '{name}'"))?;
    if archive::is_one(&start) {
        let bytes = fs::read(path).with_context(|| format!("failed to read '{name}'"))?;
        archive::describe(out, &bytes, biggest).with_context(|| format!("failed to inspect '{name}'"))?;
        return Ok(Vec::new());
    }
    bail!(
        "'{name}' is nothing that can be inspected: neither a directory of `image build`, nor a disk with a GUID partition \
         table, nor an EROFS, nor an initramfs"
    )
}

/// All that a build wrote, against its lock.
fn directory(out: &mut impl Write, path: &Path, biggest: usize) -> anyhow::Result<Vec<String>> {
    let lock = Lock::read(path)?;
    let debug = if lock.debug { ", debug" } else { "" };
    writeln!(out, "Skerry {} for {}{debug}, build {}", lock.release, lock.target, lock.build)?;
    let origin = match lock.origin {
        Origin::Debian => "Debian's packages",
        Origin::Tree => "a tree",
    };
    writeln!(out, "from {origin}, compressed with {}", lock.compression)?;
    writeln!(out, "kernel {}", lock.kernel)?;
    writeln!(out, "root hash {}", lock.root_hash)?;
    let mut faults = Vec::new();
    for output in &lock.outputs {
        let fault = check(path, output)?;
        let verdict = fault.as_deref().unwrap_or("as built");
        writeln!(out, "{:<22}{:>12} bytes  {}  {verdict}", output.name, output.bytes, output.sha256)?;
        faults.extend(fault.map(|fault| format!("{}: {fault}", output.name)));
    }
    for file in &lock.boot_files {
        writeln!(out, "boot file {} {}", file.path, file.sha256)?;
    }
    for program in &lock.programs {
        writeln!(out, "program {:<8}{}", program.path, program.sha256)?;
    }
    for package in &lock.packages {
        writeln!(out, "package {} {}", package.name, package.version)?;
    }
    let root = path.join(output::ROOT);
    if root.is_file() {
        faults.extend(look(out, &root, biggest)?);
    }
    Ok(faults)
}

/// What is wrong with a file, if anything is.
fn check(directory: &Path, output: &Output) -> anyhow::Result<Option<String>> {
    let path = directory.join(&output.name);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("missing".to_owned())),
        Err(error) => return Err(error).with_context(|| format!("failed to look at '{}'", path.display())),
        Ok(metadata) if metadata.len() != output.bytes => {
            return Ok(Some(format!("{} bytes long", metadata.len())));
        }
        Ok(_) => {}
    }
    let found = digest::of_file(&path).with_context(|| format!("failed to read '{}'", path.display()))?;
    Ok((found != output.sha256).then(|| format!("changed (SHA-256 {found})")))
}

/// Lists the biggest files, the biggest first.
fn list_biggest(out: &mut impl Write, mut files: Vec<Sized>, count: usize) -> io::Result<()> {
    let all = files.len();
    files.sort_by(|a, b| {
        b.stored.unwrap_or(b.bytes).cmp(&a.stored.unwrap_or(a.bytes)).then(a.path.cmp(&b.path))
    });
    if count > 0 {
        writeln!(out, "  {:>12}{:>12}  biggest of {all} files", "bytes", "stored")?;
    }
    for file in files.into_iter().take(count) {
        let stored = file.stored.map(|stored| stored.to_string()).unwrap_or_default();
        writeln!(out, "  {:>12}{stored:>12}  {}", file.bytes, file.path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
