//! The root file system as a directory on the host.
//!
//! Owner and times are not kept here: the file system writer sets them all to root and to one time. Modes are, and
//! depend neither on the host's umask nor on who builds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::digest;

const MODE_DIRECTORY: u32 = 0o755;
const MODE_FILE: u32 = 0o644;
const MODE_PROGRAM: u32 = 0o755;

/// Whether a file is data or may be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Mode 0644.
    Data,
    /// Mode 0755.
    Program,
}

/// A tree under construction. Paths are absolute, as the appliance will see them.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    /// Bytes by component, for the report.
    sizes: BTreeMap<String, u64>,
    /// One line for all that is in the tree, by path.
    content: BTreeMap<PathBuf, String>,
    /// What each file belongs to.
    components: BTreeMap<PathBuf, String>,
    /// Files on the host that something in the tree was taken from.
    origins: BTreeSet<PathBuf>,
}

impl Tree {
    /// Starts an empty tree in a directory that exists and is empty.
    pub(crate) fn new(root: &Path) -> anyhow::Result<Self> {
        set_mode(root, MODE_DIRECTORY)?;
        Ok(Self {
            root: root.to_owned(),
            sizes: BTreeMap::new(),
            content: BTreeMap::new(),
            components: BTreeMap::new(),
            origins: BTreeSet::new(),
        })
    }

    /// Where the tree is on the host.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes by component.
    pub(crate) fn sizes(&self) -> &BTreeMap<String, u64> {
        &self.sizes
    }

    /// What a file of the tree belongs to.
    pub(crate) fn component(&self, path: &Path) -> Option<&str> {
        self.components.get(path).map(String::as_str)
    }

    /// Files on the host that something in the tree was taken from.
    pub(crate) fn origins(&self) -> &BTreeSet<PathBuf> {
        &self.origins
    }

    /// Notes that something in the tree was made from a file on the host.
    pub(crate) fn came_from(&mut self, file: PathBuf) {
        self.origins.insert(file);
    }

    /// SHA-256 over all that was put into the tree: paths, modes, contents and links.
    pub(crate) fn digest(&self) -> String {
        let lines: Vec<String> =
            self.content.iter().map(|(path, what)| format!("{} {what}\n", path.display())).collect();
        digest::of_bytes(lines.concat().as_bytes())
    }

    /// Makes a directory and those above it, with mode 0755.
    pub(crate) fn directory(&self, path: &str) -> anyhow::Result<()> {
        self.host_directory(Path::new(path)).map(drop)
    }

    /// Makes a directory with a mode of its own.
    pub(crate) fn directory_with_mode(&self, path: &str, mode: u32) -> anyhow::Result<()> {
        set_mode(&self.host_directory(Path::new(path))?, mode)
    }

    /// Writes a file.
    pub(crate) fn file(
        &mut self,
        component: &str,
        path: &Path,
        bytes: &[u8],
        kind: Kind,
    ) -> anyhow::Result<()> {
        let target = self.host_path(path)?;
        ensure!(!target.exists(), "two things want to be '{}'", path.display());
        fs::write(&target, bytes).with_context(|| format!("failed to write '{}'", target.display()))?;
        set_mode(&target, if kind == Kind::Program { MODE_PROGRAM } else { MODE_FILE })?;
        *self.sizes.entry(component.to_owned()).or_default() += bytes.len() as u64;
        self.content.insert(path.to_owned(), format!("{kind:?} {}", digest::of_bytes(bytes)));
        self.components.insert(path.to_owned(), component.to_owned());
        Ok(())
    }

    /// Copies a file of the host.
    pub(crate) fn copy(
        &mut self,
        component: &str,
        from: &Path,
        path: &Path,
        kind: Kind,
    ) -> anyhow::Result<()> {
        let bytes = fs::read(from).with_context(|| format!("failed to read '{}'", from.display()))?;
        self.came_from(from.to_owned());
        self.file(component, path, &bytes, kind)
    }

    /// Makes a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> anyhow::Result<()> {
        let host = self.host_path(Path::new(path))?;
        self.content.insert(path.into(), format!("link {target}"));
        symlink(target, &host).with_context(|| format!("failed to make the link '{}'", host.display()))
    }

    /// A path on the host for a file of the tree; the directories above it are made.
    fn host_path(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let parent = path.parent().with_context(|| format!("'{}' has no directory", path.display()))?;
        let name = path.file_name().with_context(|| format!("'{}' has no name", path.display()))?;
        Ok(self.host_directory(parent)?.join(name))
    }

    fn host_directory(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let mut host = self.root.clone();
        for part in path.components() {
            match part {
                Component::RootDir => {}
                Component::Normal(name) => {
                    host.push(name);
                    // Not `exists`: links of the tree, such as /lib, point into the tree and not into the host.
                    match fs::symlink_metadata(&host) {
                        Ok(found) if found.is_dir() => {}
                        Ok(found) if found.is_symlink() => {
                            let target = fs::read_link(&host)?;
                            host.pop();
                            host.push(target);
                        }
                        Ok(_) => bail!("'{}' is a file and a directory at once", host.display()),
                        Err(_) => {
                            fs::create_dir(&host)
                                .with_context(|| format!("failed to make '{}'", host.display()))?;
                            set_mode(&host, MODE_DIRECTORY)?;
                        }
                    }
                }
                _ => bail!("'{}' is not a plain absolute path", path.display()),
            }
        }
        Ok(host)
    }
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("failed to set the mode of '{}'", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_through_the_trees_links_stay_inside_the_tree() {
        let scratch = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(scratch.path()).unwrap();
        tree.directory("/usr/lib").unwrap();
        tree.link("/lib", "usr/lib").unwrap();
        tree.file("x", Path::new("/lib/modules/a"), b"a", Kind::Data).unwrap();
        assert!(scratch.path().join("usr/lib/modules/a").is_file());
        assert_eq!(tree.sizes()["x"], 1);
    }

    #[test]
    fn the_digest_follows_from_the_content_and_not_from_the_place() {
        let digest = |path: &str, bytes: &[u8], kind| {
            let scratch = tempfile::tempdir().unwrap();
            let mut tree = Tree::new(scratch.path()).unwrap();
            tree.file("x", Path::new(path), bytes, kind).unwrap();
            tree.digest()
        };
        let first = digest("/a", b"a", Kind::Data);
        assert_eq!(first, digest("/a", b"a", Kind::Data));
        assert_ne!(first, digest("/b", b"a", Kind::Data));
        assert_ne!(first, digest("/a", b"b", Kind::Data));
        assert_ne!(first, digest("/a", b"a", Kind::Program));
    }

    #[test]
    fn one_path_is_written_once() {
        let scratch = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(scratch.path()).unwrap();
        tree.file("x", Path::new("/a"), b"a", Kind::Data).unwrap();
        tree.file("x", Path::new("/a"), b"b", Kind::Data).unwrap_err();
        tree.file("x", Path::new("/../b"), b"b", Kind::Data).unwrap_err();
    }
}
