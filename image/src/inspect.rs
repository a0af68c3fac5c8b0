//! `image inspect`: what an image was made from, and whether its files still are what was built.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use crate::digest;
use crate::lock::{Lock, Output};

/// The command line of `image inspect`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory that `image build` wrote
    directory: PathBuf,
}

/// Runs `image inspect`. A file that is missing or changed makes it fail, after all have been looked at.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let lock = Lock::read(&options.directory)?;
    let mut faults = Vec::new();
    let mut out = std::io::stdout().lock();
    writeln!(out, "kernel {}", lock.kernel)?;
    for output in &lock.outputs {
        let fault = check(&options.directory, output)?;
        let verdict = fault.as_deref().unwrap_or("as built");
        writeln!(out, "{:<16}{:>12} bytes  {}  {verdict}", output.name, output.bytes, output.sha256)?;
        faults.extend(fault.map(|fault| format!("{}: {fault}", output.name)));
    }
    for program in &lock.programs {
        writeln!(out, "program {:<8}{}", program.path, program.sha256)?;
    }
    for package in &lock.packages {
        writeln!(out, "package {} {}", package.name, package.version)?;
    }
    if faults.is_empty() { Ok(()) } else { bail!("the image is not as it was built: {}", faults.join("; ")) }
}

/// What is wrong with a file, if anything is.
fn check(directory: &Path, output: &Output) -> anyhow::Result<Option<String>> {
    let path = directory.join(&output.name);
    match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Some("missing".to_owned())),
        Err(error) => return Err(error).with_context(|| format!("failed to look at '{}'", path.display())),
        Ok(metadata) if metadata.len() != output.bytes => {
            return Ok(Some(format!("{} bytes long", metadata.len())));
        }
        Ok(_) => {}
    }
    let found = digest::of_file(&path).with_context(|| format!("failed to read '{}'", path.display()))?;
    Ok((found != output.sha256).then(|| format!("changed (SHA-256 {found})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_a_cut_and_a_missing_file_are_told_apart() {
        let scratch = tempfile::tempdir().unwrap();
        let output = Output { name: "x".into(), bytes: 3, sha256: digest::of_bytes(b"abc") };
        let look = |content: Option<&str>| {
            let _ = fs::remove_file(scratch.path().join("x"));
            if let Some(content) = content {
                fs::write(scratch.path().join("x"), content).unwrap();
            }
            check(scratch.path(), &output).unwrap()
        };
        assert_eq!(look(Some("abc")), None);
        assert!(look(Some("abd")).unwrap().starts_with("changed"));
        assert_eq!(look(Some("ab")).unwrap(), "2 bytes long");
        assert_eq!(look(None).unwrap(), "missing");
    }

    #[test]
    fn a_lock_that_was_written_can_be_read() {
        let scratch = tempfile::tempdir().unwrap();
        let lock = Lock {
            version: Lock::VERSION,
            target: "t".into(),
            release: "0.1.0".into(),
            build: "b".into(),
            debug: false,
            kernel: "6.12".into(),
            root_hash: "00".into(),
            outputs: vec![Output { name: "x".into(), bytes: 3, sha256: "ab".into() }],
            programs: Vec::new(),
            packages: Vec::new(),
        };
        lock.write(scratch.path()).unwrap();
        assert_eq!(Lock::read(scratch.path()).unwrap().outputs[0].name, "x");
    }
}
