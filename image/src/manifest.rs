//! `debian.toml`: which file of the image comes from which Debian package, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use crate::target::{Processor, Target};

/// The manifest that this program was built with.
const EMBEDDED: &str = include_str!("../debian.toml");

/// The whole manifest. Every entry says why it is there; the reason is for readers and is not interpreted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Manifest {
    pub(crate) archive: Archive,
    pub(crate) files: Vec<Files>,
    /// What an image for looking around has beside that.
    pub(crate) debug: Vec<Files>,
    pub(crate) certificates: Certificates,
    pub(crate) libraries: Libraries,
    pub(crate) kernel: Kernel,
    pub(crate) tools: BTreeMap<String, Tool>,
}

/// Which Debian release, and where to get it when the host does not say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Archive {
    pub(crate) suite: String,
    pub(crate) mirror: String,
    pub(crate) security_mirror: String,
}

/// Files that go to the same place in the image that they have in their package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Files {
    pub(crate) package: String,
    pub(crate) paths: Vec<PathBuf>,
    #[serde(rename = "why")]
    _why: String,
}

/// Root certificates, joined into one file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Certificates {
    pub(crate) package: String,
    pub(crate) directory: PathBuf,
    pub(crate) path: PathBuf,
    #[serde(rename = "why")]
    _why: String,
}

/// Where shared libraries may come from. Which of them are taken follows from the programs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Libraries {
    pub(crate) packages: Vec<String>,
}

/// The kernel and which of its modules are taken.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Kernel {
    pub(crate) initramfs: Vec<ModuleSet>,
    pub(crate) modules: Vec<ModuleSet>,
    pub(crate) boot: ModuleSet,
}

/// Modules that are there for one reason.
///
/// Debian's kernel is expected to have each of them for the processors that the set is for; a kernel that was configured
/// for a machine may lack some.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ModuleSet {
    pub(crate) modules: Vec<String>,
    /// Only for these; for all if there are none.
    #[serde(default)]
    pub(crate) processors: Vec<Processor>,
    #[serde(rename = "why")]
    _why: String,
}

/// A program that the build or the user runs on the host, with all that it needs to run there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Tool {
    pub(crate) program: PathBuf,
    pub(crate) packages: Vec<String>,
    #[serde(rename = "why")]
    _why: String,
}

impl Manifest {
    /// The manifest in this program.
    pub(crate) fn embedded() -> anyhow::Result<Self> {
        Self::parse(EMBEDDED, Path::new("debian.toml"))
    }

    fn parse(text: &str, source: &Path) -> anyhow::Result<Self> {
        toml::from_str(text).with_context(|| format!("failed to read '{}'", source.display()))
    }

    /// The files of an image.
    pub(crate) fn files(&self, debug: bool) -> impl Iterator<Item = &Files> {
        self.files.iter().chain(self.debug.iter().filter(move |_| debug))
    }

    /// Every package whose content goes into the root file system, except the kernel.
    pub(crate) fn packages(&self, debug: bool) -> BTreeSet<String> {
        let files = self.files(debug).map(|files| &files.package);
        files.chain(&self.libraries.packages).chain([&self.certificates.package]).cloned().collect()
    }
}

impl Kernel {
    /// Names of the modules of the initramfs.
    pub(crate) fn initramfs_modules(&self, target: &Target) -> Vec<String> {
        names(&self.initramfs, target.processor).chain(&target.kernel.initramfs_modules).cloned().collect()
    }

    /// Names of the modules of the root file system, the initramfs's among them.
    pub(crate) fn root_modules(&self, target: &Target) -> Vec<String> {
        let mut all = self.initramfs_modules(target);
        let others = names(&self.modules, target.processor).chain(&target.kernel.modules);
        all.extend(others.chain(&self.boot.modules).cloned());
        all
    }
}

fn names(sets: &[ModuleSet], processor: Processor) -> impl Iterator<Item = &String> {
    let wanted = move |set: &&ModuleSet| set.processors.is_empty() || set.processors.contains(&processor);
    sets.iter().filter(wanted).flat_map(|set| &set.modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_manifest_is_complete() {
        let manifest = Manifest::embedded().unwrap();
        assert!(manifest.packages(false).contains("containerd"));
        assert!(!manifest.packages(false).contains("busybox-static"), "no shell but in debug images");
        assert!(manifest.packages(true).contains("busybox-static"));
        assert!(manifest.tools.contains_key("mkfs-erofs"));
    }

    /// Each builds: a name that Debian's kernel for the other processor lacks would end it.
    #[test]
    fn modules_of_one_processor_are_asked_of_no_other() {
        let kernel = Manifest::embedded().unwrap().kernel;
        let modules = |name| kernel.root_modules(&Target::find(name).unwrap());
        let has = |modules: &[String], name: &str| modules.iter().any(|module| module == name);
        let (intel, arm, board) =
            (modules("qemu-x86_64"), modules("qemu-aarch64"), modules("raspberrypi4-64"));
        for name in ["vmw_pvscsi", "sha256_ssse3", "i6300esb"] {
            assert!(has(&intel, name) && !has(&arm, name) && !has(&board, name), "{name}");
        }
        assert!(!has(&intel, "sha2_ce") && has(&arm, "sha2_ce"));
        assert!(!has(&arm, "genet") && has(&board, "genet") && has(&board, "virtio_blk"));
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let error = Manifest::parse("[archive]\nsweet = 'trixie'\n", Path::new("x.toml")).unwrap_err();
        assert!(format!("{error:#}").contains("sweet"), "{error:#}");
    }
}
