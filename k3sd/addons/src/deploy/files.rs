//! Which files are manifests, and which of them count.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use tracing::{debug, warn};

use super::ownership::addon_name;
use super::watch::Watch;

const SUFFIXES: [&str; 3] = [".yaml", ".yml", ".json"];
const SKIP: &str = ".skip";

/// The manifests of all directories.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Those that count, in path order.
    pub(super) files: BTreeMap<PathBuf, Found>,
    /// Those that are skipped or hidden by another.
    pub(super) hidden: BTreeSet<PathBuf>,
}

/// A manifest file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Path below the manifest directory.
    relative: PathBuf,
    /// Whether the file itself may go when it is disabled: not when it is reached by a linked directory.
    pub(super) may_be_removed: bool,
}

impl Found {
    /// Disabled by the base name without extension, or by a directory above (`parent`, `parent/child`).
    pub(super) fn is_disabled(&self, disabled: &HashSet<String>) -> bool {
        let stem = self.relative.file_stem().unwrap_or_default().to_string_lossy();
        let mut parents = self.relative.ancestors().skip(1);
        disabled.contains(stem.as_ref())
            || parents.any(|parent| disabled.contains(parent.to_string_lossy().as_ref()))
    }
}

/// Searches the directories and watches all that it finds.
pub(super) fn scan(directories: &[PathBuf], watch: &mut Watch) -> Tree {
    let mut listing = Listing { watch, files: Vec::new(), skips: HashSet::new() };
    for directory in directories {
        listing.walk(directory, directory, Links::Follow);
    }
    let Listing { files, skips, .. } = listing;
    let mut tree = Tree::default();
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (path, found) in files {
        let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = addon_name(&path);
        if skips.contains(&base) {
            debug!(path = %path.display(), "manifest is skipped");
            tree.hidden.insert(path);
        } else if let Some(other) = names.get(&name) {
            // Two files of one add-on would delete each other's objects.
            warn!(path = %path.display(), by = %other.display(), "manifest is hidden by another of its name");
            tree.hidden.insert(path);
        } else {
            names.insert(name, path.clone());
            tree.files.insert(path, found);
        }
    }
    tree
}

/// Whether linked directories are entered: links inside of them are not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Follow,
    Ignore,
}

struct Listing<'a> {
    watch: &'a mut Watch,
    /// In the order of directories, then of paths.
    files: Vec<(PathBuf, Found)>,
    /// Base names that are not to be deployed.
    skips: HashSet<String>,
}

impl Listing<'_> {
    fn walk(&mut self, base: &Path, directory: &Path, links: Links) {
        // Before it is listed, so that nothing in between goes unseen.
        self.watch.add(directory);
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                debug!(path = %directory.display(), error = %error, "cannot list a manifest directory");
                return;
            }
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            self.visit(base, path, links);
        }
    }

    fn visit(&mut self, base: &Path, path: PathBuf, links: Links) {
        let Ok(own) = path.symlink_metadata() else { return };
        // A dangling link.
        let Ok(target) = path.metadata() else { return };
        if target.is_dir() {
            if !own.is_symlink() {
                self.walk(base, &path, links);
            } else if links == Links::Follow {
                self.walk(base, &path, Links::Ignore);
            }
            return;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(skipped) = name.strip_suffix(SKIP) {
            self.skips.insert(skipped.to_owned());
        } else if is_manifest(&name) && target.is_file() {
            let relative = path.strip_prefix(base).unwrap_or(&path).to_owned();
            self.files.push((path, Found { relative, may_be_removed: links == Links::Follow }));
        }
    }
}

fn is_manifest(name: &str) -> bool {
    let lower = name.to_lowercase();
    !name.starts_with('.') && SUFFIXES.iter().any(|suffix| lower.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[tokio::test]
    async fn manifests_are_found_skipped_hidden_and_disabled_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let (user, image) = (directory.path().join("user"), directory.path().join("image"));
        for name in ["b.yaml", "a.YML", "sub/c.json", ".d.yaml", "e.txt", "f.yaml", "demo.yaml.skip"] {
            write(&user.join(name));
        }
        for name in ["demo.yaml", "f.json", "metrics/g.yaml", "metrics/deep/h.yaml"] {
            write(&image.join(name));
        }
        write(&directory.path().join("elsewhere/i.yaml"));
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), user.join("link")).unwrap();

        let mut watch = Watch::new().unwrap();
        let tree = scan(&[user.clone(), image.clone()], &mut watch);
        let found: Vec<String> =
            tree.files.values().map(|found| found.relative.display().to_string()).collect();
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(
            sorted,
            [
                "a.YML",
                "b.yaml",
                "f.yaml",
                "link/i.yaml",
                "metrics/deep/h.yaml",
                "metrics/g.yaml",
                "sub/c.json"
            ]
        );
        assert_eq!(tree.hidden, BTreeSet::from([image.join("demo.yaml"), image.join("f.json")]));
        assert!(!tree.files[&user.join("link/i.yaml")].may_be_removed);

        let disabled = |list: &[&str]| -> Vec<String> {
            let list: HashSet<String> = list.iter().map(ToString::to_string).collect();
            let files = tree.files.values().filter(|found| found.is_disabled(&list));
            files.map(|found| found.relative.display().to_string()).collect()
        };
        assert_eq!(disabled(&["b"]), ["b.yaml"]);
        assert_eq!(disabled(&["metrics"]), ["metrics/deep/h.yaml", "metrics/g.yaml"]);
        assert_eq!(disabled(&["metrics/deep"]), ["metrics/deep/h.yaml"]);
        assert!(disabled(&["deep"]).is_empty());
    }
}
