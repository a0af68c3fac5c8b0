//! Our own programs: static binaries, and which crates they were built from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::libraries;
use crate::source;
use crate::target::Processor;

/// Written beside the binaries when they are built, by `cargo tree --format '{p}|{l}'`.
const CRATES: &str = "crates.txt";

/// Our own programs, all static.
pub(crate) struct Programs {
    pub(crate) init: PathBuf,
    pub(crate) k3sd: PathBuf,
    pub(crate) pause: PathBuf,
    pub(crate) demo: PathBuf,
    /// Sorted; `None` when nobody wrote the list.
    pub(crate) crates: Option<Vec<Crate>>,
}

/// A crate that is compiled into one of the programs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) version: String,
    /// As its manifest has it; may be empty.
    pub(crate) license: String,
    /// A part of this repository.
    pub(crate) own: bool,
}

// === impl Programs ===

impl Programs {
    /// Finds the programs in a directory, but takes those that are given by path from there. Checks that
    /// each is static and for the processor of the target.
    pub(crate) fn find(
        directory: &Path,
        init: Option<&Path>,
        k3sd: Option<&Path>,
        processor: Processor,
    ) -> anyhow::Result<Self> {
        let or = |path: Option<&Path>, name| path.map_or_else(|| directory.join(name), Path::to_owned);
        let programs = Self {
            init: or(init, "init"),
            k3sd: or(k3sd, "k3sd"),
            pause: directory.join("pause"),
            demo: directory.join("demo"),
            crates: read_crates(&directory.join(CRATES))?,
        };
        for path in programs.all() {
            ensure!(
                path.is_file(),
                "there is no '{}': build the binaries first (`./just build`)",
                path.display()
            );
            libraries::check_static(path)?;
            let found = Processor::of_program(&source::read(path)?)
                .with_context(|| format!("'{}' is of no use", path.display()))?;
            ensure!(
                found == processor,
                "'{}' is for {}, the target for {}: build it for that, or let --binaries name other programs",
                path.display(),
                found.name(),
                processor.name()
            );
        }
        Ok(programs)
    }

    /// All of them.
    pub(crate) fn all(&self) -> [&Path; 4] {
        [&self.init, &self.k3sd, &self.pause, &self.demo]
    }
}

fn read_crates(path: &Path) -> anyhow::Result<Option<Vec<Crate>>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let crates = parse_crates(&text).with_context(|| format!("'{}' is damaged", path.display()))?;
            Ok(Some(crates))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read '{}'", path.display())),
    }
}

/// Reads lines such as `serde v1.0.1|MIT OR Apache-2.0` and `init v0.1.0 (/source/init)|Apache-2.0`.
fn parse_crates(text: &str) -> anyhow::Result<Vec<Crate>> {
    let mut crates = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (package, license) = line.split_once('|').with_context(|| format!("no licence in '{line}'"))?;
        let mut words = package.split_whitespace();
        let (name, version) = words
            .next()
            .zip(words.next().and_then(|word| word.strip_prefix('v')))
            .with_context(|| format!("no name and version in '{line}'"))?;
        // Old manifests write '/' where SPDX has OR; "(*)" says that the crate's own crates were listed before.
        let license = license.trim_end_matches(" (*)").trim().replace('/', " OR ");
        let own = words.any(|word| word.starts_with("(/"));
        crates.push(Crate { name: name.to_owned(), version: version.to_owned(), license, own });
    }
    crates.sort();
    crates.dedup();
    Ok(crates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_as_cargo_tree_prints_them() {
        let text = "k3sd v0.1.0 (/source/k3sd)|Apache-2.0\nserde v1.0.1|MIT/Apache-2.0\nserde v1.0.1|MIT/Apache-2.0 (*)\n\n";
        let crates = parse_crates(text).unwrap();
        let found: Vec<_> =
            crates.iter().map(|c| (&c.name[..], &c.version[..], &c.license[..], c.own)).collect();
        assert_eq!(
            found,
            [("k3sd", "0.1.0", "Apache-2.0", true), ("serde", "1.0.1", "MIT OR Apache-2.0", false)]
        );
        parse_crates("serde 1.0.1|MIT").unwrap_err();
        parse_crates("serde v1.0.1").unwrap_err();
    }

    #[test]
    fn a_missing_program_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let error =
            format!("{:#}", Programs::find(scratch.path(), None, None, Processor::X86_64).err().unwrap());
        assert!(error.contains("/init'"), "{error}");
    }

    #[test]
    fn a_program_for_another_processor_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        for name in ["init", "k3sd", "pause", "demo"] {
            fs::write(scratch.path().join(name), &bytes).unwrap();
        }
        let find = |processor| Programs::find(scratch.path(), None, None, processor);
        assert!(find(Processor::X86_64).is_ok());
        let error = format!("{:#}", find(Processor::Arm64).err().unwrap());
        assert!(error.contains("is for x86-64, the target for arm64"), "{error}");
    }
}
