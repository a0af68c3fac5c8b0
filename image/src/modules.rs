//! Kernel modules: which ones are taken with what they depend on, and the index files over them.
//!
//! Debian's package has compressed modules and no indexes (its installation script would make them). Here the chosen
//! ones are unpacked, since the file system compresses them better and loading is quicker, and `modules.dep`,
//! `modules.alias` and `modules.softdep` are written from what each module says of itself (section `.modinfo`), in
//! the format of depmod(8).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::elf;

/// Without these no root file system is found, verified and mounted, from a disk or from memory.
const NEEDED: [&str; 3] = ["erofs", "dm_verity", "loop"];

/// All modules of a kernel package.
#[derive(Debug)]
pub(crate) struct Available {
    release: String,
    directory: PathBuf,
    /// Compressed file by module name, relative to the directory.
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    /// Whether this is a distribution's kernel, with every module that will be asked for and many more. Another was
    /// configured for the machine: it may lack some, and what it has is there for a reason.
    complete: bool,
}

/// The chosen modules.
#[derive(Debug)]
pub(crate) struct Selection {
    modules: BTreeMap<String, Module>,
}

#[derive(Debug)]
struct Module {
    /// Relative to the directory of the release, without the compression's ending.
    path: PathBuf,
    bytes: Vec<u8>,
    info: Info,
}

/// What a module says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    depends: Vec<String>,
    aliases: Vec<String>,
    soft_dependencies: Vec<String>,
}

// === impl Available ===

impl Available {
    /// Looks at an unpacked kernel package. It must have the modules of exactly one release. With `complete` it is
    /// expected to have every module that will be asked for; a kernel that was configured for a machine is not.
    pub(crate) fn scan(package: &Path, complete: bool) -> anyhow::Result<Self> {
        let parent = package.join("usr/lib/modules");
        let parent = if parent.is_dir() { parent } else { package.join("lib/modules") };
        let releases: Vec<_> = fs::read_dir(&parent)
            .with_context(|| format!("failed to list '{}'", parent.display()))?
            .collect::<Result<_, _>>()?;
        let [release] = &releases[..] else {
            bail!("'{}' has the modules of {} kernels, not of one", parent.display(), releases.len())
        };
        let directory = release.path();
        let mut files = BTreeMap::new();
        find_modules(&directory, &directory.join("kernel"), &mut files)?;
        let builtin = fs::read_to_string(directory.join("modules.builtin"))
            .context("failed to read modules.builtin")?
            .lines()
            .map(|line| module_name(Path::new(line)))
            .collect();
        let release = release.file_name().to_string_lossy().into_owned();
        let this = Self { release, directory, files, builtin, complete };
        let missing = this.missing(&NEEDED);
        ensure!(
            missing.is_empty(),
            "kernel {} has no {}, neither built in nor as a module: no machine could mount its root",
            this.release,
            missing.join(", ")
        );
        Ok(this)
    }

    /// Which of the names are neither built in nor modules.
    pub(crate) fn missing<'n, N: AsRef<str>>(&self, names: &'n [N]) -> Vec<&'n str> {
        let lacks = |name: &&str| {
            let name = name.replace('-', "_");
            !self.builtin.contains(&name) && !self.files.contains_key(&name)
        };
        names.iter().map(AsRef::as_ref).filter(lacks).collect()
    }

    /// The kernel's release, as `uname -r` will print it.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// The package's own list of built-in modules.
    pub(crate) fn builtin_list(&self) -> anyhow::Result<Vec<u8>> {
        let path = self.directory.join("modules.builtin");
        fs::read(&path).with_context(|| format!("failed to read '{}'", path.display()))
    }

    /// Takes the modules of a root file system: the named ones of a distribution's kernel, all of another.
    pub(crate) fn select_for_root(&self, names: &[String]) -> anyhow::Result<Selection> {
        if self.complete {
            self.select(names)
        } else {
            self.select(&self.files.keys().cloned().collect::<Vec<_>>())
        }
    }

    /// Takes the named modules and all that they depend on. A name that is built in needs no file.
    pub(crate) fn select(&self, names: &[String]) -> anyhow::Result<Selection> {
        let mut modules: BTreeMap<String, Module> = BTreeMap::new();
        let mut queue: Vec<String> = names.iter().map(|name| name.replace('-', "_")).collect();
        if !self.complete {
            queue.retain(|name| self.missing(&[name]).is_empty());
        }
        while let Some(name) = queue.pop() {
            if modules.contains_key(&name) || self.builtin.contains(&name) {
                continue;
            }
            let file = self
                .files
                .get(&name)
                .with_context(|| format!("kernel {} has no module '{name}'", self.release))?;
            let module = self.read(file).with_context(|| format!("failed to read '{}'", file.display()))?;
            queue.extend(module.info.depends.iter().cloned());
            modules.insert(name, module);
        }
        for module in modules.values_mut() {
            module.info.depends.retain(|name| !self.builtin.contains(name));
        }
        Ok(Selection { modules })
    }

    fn read(&self, file: &Path) -> anyhow::Result<Module> {
        let packed = fs::read(self.directory.join(file))?;
        let (path, bytes) = if file.extension().is_some_and(|extension| extension == "xz") {
            let mut bytes = Vec::new();
            lzma_rs::xz_decompress(&mut &packed[..], &mut bytes)
                .map_err(|error| anyhow::anyhow!("damaged xz data: {error:?}"))?;
            (file.with_extension(""), bytes)
        } else {
            (file.to_owned(), packed)
        };
        let info = Info::parse(elf::section(&bytes, ".modinfo")?.unwrap_or_default());
        Ok(Module { path, bytes, info })
    }
}

fn find_modules(root: &Path, directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    for entry in
        fs::read_dir(directory).with_context(|| format!("failed to list '{}'", directory.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(root, &path, found)?;
        } else if path.to_string_lossy().contains(".ko") {
            let relative = path.strip_prefix(root).context("a module outside its tree")?;
            found.insert(module_name(relative), relative.to_owned());
        }
    }
    Ok(())
}

/// `kernel/net/nf-log.ko.xz` is the module `nf_log`.
fn module_name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

// === impl Selection ===

impl Selection {
    /// The modules' files: path below the release's directory, and content.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.modules.values().map(|module| (module.path.as_path(), module.bytes.as_slice()))
    }

    /// Number of modules.
    pub(crate) fn len(&self) -> usize {
        self.modules.len()
    }

    /// The index files: name and content.
    pub(crate) fn indexes(&self) -> Vec<(&'static str, String)> {
        let mut dependencies = String::new();
        let mut aliases = String::from("# Aliases extracted from modules themselves.\n");
        let mut soft = String::from("# Soft dependencies extracted from modules themselves.\n");
        for (name, module) in &self.modules {
            let needed: Vec<String> =
                self.load_order(name).into_iter().rev().map(|path| format!(" {path}")).collect();
            // Writing to a String does not fail.
            let _ = writeln!(dependencies, "{}:{}", module.path.display(), needed.concat());
            for alias in &module.info.aliases {
                let _ = writeln!(aliases, "alias {alias} {name}");
            }
            for text in &module.info.soft_dependencies {
                let _ = writeln!(soft, "softdep {name} {text}");
            }
        }
        vec![("modules.dep", dependencies), ("modules.alias", aliases), ("modules.softdep", soft)]
    }

    /// Paths of all that must be loaded before a module, in the order to load them.
    fn load_order(&self, name: &str) -> Vec<String> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::from([name]);
        self.visit(name, &mut seen, &mut order);
        order
    }

    fn visit<'a>(&'a self, name: &str, seen: &mut BTreeSet<&'a str>, order: &mut Vec<String>) {
        let Some(module) = self.modules.get(name) else { return };
        for dependency in &module.info.depends {
            if seen.insert(dependency.as_str()) {
                self.visit(dependency, seen, order);
                if let Some(found) = self.modules.get(dependency) {
                    order.push(found.path.display().to_string());
                }
            }
        }
    }
}

// === impl Info ===

impl Info {
    /// Reads `key=value` strings, each ended by a zero byte.
    fn parse(section: &[u8]) -> Self {
        let mut info = Self::default();
        for entry in section.split(|&byte| byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            match entry.split_once('=') {
                Some(("depends", value)) => {
                    let names = value.split(',').filter(|name| !name.is_empty());
                    info.depends.extend(names.map(|name| name.replace('-', "_")));
                }
                Some(("alias", value)) => info.aliases.push(value.to_owned()),
                Some(("softdep", value)) => info.soft_dependencies.push(value.to_owned()),
                _ => {}
            }
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, depends: &[&str]) -> Module {
        let info = Info { depends: depends.iter().map(|&name| name.to_owned()).collect(), ..Info::default() };
        Module { path: path.into(), bytes: Vec::new(), info }
    }

    /// A kernel package with modules that say nothing of themselves.
    fn kernel(builtin: &[&str], modules: &[&str]) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("lib/modules/6.18");
        fs::create_dir_all(directory.join("kernel/fs")).unwrap();
        let list: String = builtin.iter().map(|name| format!("kernel/fs/{name}.ko\n")).collect();
        fs::write(directory.join("modules.builtin"), list).unwrap();
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        for name in modules {
            fs::write(directory.join(format!("kernel/fs/{name}.ko")), &elf).unwrap();
        }
        scratch
    }

    #[test]
    fn a_kernel_that_cannot_mount_a_root_is_refused() {
        let scratch = kernel(&["loop"], &["dm-verity"]);
        let error = Available::scan(scratch.path(), false).unwrap_err().to_string();
        assert!(error.contains("6.18 has no erofs, neither"), "{error}");
        let scratch = kernel(&["loop"], &["dm-verity", "erofs"]);
        Available::scan(scratch.path(), false).unwrap();
    }

    /// A driver that somebody configured as a module for their machine reaches it, whatever our lists say.
    #[test]
    fn of_a_kernel_made_for_a_machine_every_module_is_taken() {
        let scratch = kernel(&["loop", "erofs"], &["dm-verity", "bcmgenet"]);
        let names = ["erofs".to_owned(), "virtio_blk".to_owned()];
        let own = Available::scan(scratch.path(), false).unwrap();
        assert_eq!(own.select_for_root(&names).unwrap().len(), 2);
        assert_eq!(own.select(&names).unwrap().len(), 0);
        assert_eq!(own.missing(&names), ["virtio_blk"]);
        let distribution = Available::scan(scratch.path(), true).unwrap();
        let error = distribution.select_for_root(&names).unwrap_err().to_string();
        assert!(error.contains("no module 'virtio_blk'"), "{error}");
    }

    #[test]
    fn modinfo_gives_dependencies_aliases_and_soft_dependencies() {
        let info = Info::parse(
            b"license=GPL\0alias=virtio:d00000002v*\0depends=a,nf-log\0softdep=pre: x\0alias=fs-erofs\0",
        );
        assert_eq!(info.depends, ["a", "nf_log"]);
        assert_eq!(info.aliases, ["virtio:d00000002v*", "fs-erofs"]);
        assert_eq!(info.soft_dependencies, ["pre: x"]);
    }

    #[test]
    fn dependencies_are_listed_so_that_the_last_is_loaded_first() {
        // c needs a and b, b needs a.
        let modules = BTreeMap::from([
            ("a".to_owned(), module("k/a.ko", &[])),
            ("b".to_owned(), module("k/b.ko", &["a"])),
            ("c".to_owned(), module("k/c.ko", &["a", "b"])),
        ]);
        let indexes = Selection { modules }.indexes();
        assert_eq!(
            indexes[0],
            ("modules.dep", "k/a.ko:\nk/b.ko: k/a.ko\nk/c.ko: k/b.ko k/a.ko\n".to_owned())
        );
    }

    #[test]
    fn a_modules_name_has_no_dashes_and_no_endings() {
        assert_eq!(module_name(Path::new("kernel/drivers/char/hw_random/virtio-rng.ko.xz")), "virtio_rng");
    }
}
