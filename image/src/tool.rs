//! Programs of the image's Debian release, run on a host of another one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::apt::{Archive, Package};
use crate::cache::Cache;
use crate::libraries;
use crate::manifest;
use crate::replace::replace;

/// The loader as programs name it, and where libc6 has it.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const LOADER_FILE: &str = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A program of another Debian release that runs on this host: by its own loader, with its own libraries.
pub(crate) struct Tool {
    pub(crate) packages: Vec<Package>,
    /// `None` for a program of the host's own.
    loader: Option<PathBuf>,
    program: PathBuf,
    libraries: Vec<PathBuf>,
}

// === impl Tool ===

impl Tool {
    /// The host's, as Debian calls it: tools run here, whatever the image is for.
    pub(crate) const ARCHITECTURE: &str = "amd64";

    /// Fetches a tool and checks that all its libraries came with it.
    pub(crate) fn prepare(archive: &Archive, tool: &manifest::Tool) -> anyhow::Result<Self> {
        let packages = archive.resolve(&tool.packages)?;
        let directories = archive.unpack(&packages)?;
        let find = |path: &Path| {
            let relative = path.strip_prefix("/").unwrap_or(path);
            directories
                .iter()
                .map(|directory| directory.join(relative))
                .find(|candidate| candidate.is_file())
                .with_context(|| format!("no package of the tool has '{}'", path.display()))
        };
        let program = find(&tool.program)?;
        let loader = find(Path::new(LOADER_FILE))?;
        let libraries: Vec<PathBuf> = directories.iter().map(|directory| directory.join(LIBRARIES)).collect();
        libraries::closure(std::slice::from_ref(&program), &libraries, Path::new(LOADER))?;
        Ok(Self { packages, loader: Some(loader), program, libraries })
    }

    /// A program that the host has itself.
    pub(crate) fn of_host(program: &Path) -> anyhow::Result<Self> {
        ensure!(program.is_file(), "there is no program '{}'", program.display());
        Ok(Self { packages: Vec::new(), loader: None, program: program.to_owned(), libraries: Vec::new() })
    }

    /// A command that runs the tool; arguments can be added.
    pub(crate) fn command(&self) -> Command {
        let Some(loader) = &self.loader else { return Command::new(&self.program) };
        let mut command = Command::new(loader);
        command.args(self.loader_arguments()).arg(&self.program);
        command
    }

    /// Writes a script in the cache that runs the tool, and returns its path.
    pub(crate) fn wrapper(&self, cache: &Cache, name: &str) -> anyhow::Result<PathBuf> {
        let mut words = Vec::new();
        if let Some(loader) = &self.loader {
            words.push(loader.display().to_string());
            words.extend(self.loader_arguments());
        }
        words.push(self.program.display().to_string());
        let words: Vec<String> =
            words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        let path = cache.directory("tools")?.join(name);
        replace(&path, |partial| {
            fs::write(partial, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))
                .with_context(|| format!("failed to write '{}'", partial.display()))?;
            make_executable(partial)
        })?;
        Ok(path)
    }

    fn loader_arguments(&self) -> Vec<String> {
        let libraries: Vec<String> = self.libraries.iter().map(|path| path.display().to_string()).collect();
        let name =
            self.program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        vec!["--library-path".into(), libraries.join(":"), "--argv0".into(), name]
    }
}

fn make_executable(path: &Path) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("failed to make '{}' executable", path.display()))
}
