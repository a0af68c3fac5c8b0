//! Where the files of the root file system come from: Debian's packages, or a tree that something else built.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, ensure};

use crate::apt::{Archive, Package};
use crate::lock::Origin;
use crate::manifest::Manifest;
use crate::target::{Boot, Target};

/// A place to take files from.
pub(crate) enum Source {
    /// Debian's packages, each unpacked in a directory of its own.
    Debian(Packages),
    /// A root file system, such as Buildroot's, and the kernel beside it.
    Tree {
        /// The root file system.
        root: PathBuf,
        /// The kernel's image.
        kernel: PathBuf,
    },
}

/// The packages of one build, resolved and unpacked.
pub(crate) struct Packages {
    packages: Vec<(Package, PathBuf)>,
    kernel: PathBuf,
    libraries: Vec<String>,
    library_directory: PathBuf,
}

// === impl Source ===

impl Source {
    /// Fetches the packages that the manifest and the target name.
    pub(crate) fn debian(
        archive: &Archive,
        manifest: &Manifest,
        target: &Target,
        debug: bool,
    ) -> anyhow::Result<Self> {
        let mut names: BTreeSet<String> = manifest.packages(debug);
        if let Boot::Uefi { package, .. } = &target.boot {
            names.insert(package.clone());
        }
        let meta = archive.resolve(std::slice::from_ref(&target.kernel.package))?;
        let depends = meta.first().map(|meta| meta.depends.as_str()).unwrap_or_default();
        let kernel = first_dependency(depends)
            .with_context(|| format!("package '{}' depends on no kernel", target.kernel.package))?;
        names.insert(kernel.clone());
        let names: Vec<String> = names.into_iter().collect();
        let resolved = archive.resolve(&names)?;
        let directories = archive.unpack(&resolved)?;
        let packages: Vec<_> = resolved.into_iter().zip(directories).collect();
        let kernel = find(&packages, &kernel)?.to_owned();
        Ok(Self::Debian(Packages {
            packages,
            kernel,
            libraries: manifest.libraries.packages.clone(),
            library_directory: target.libraries.directory.clone(),
        }))
    }

    /// Takes a tree that is there.
    pub(crate) fn tree(root: &Path, kernel: &Path) -> anyhow::Result<Self> {
        ensure!(root.join("usr").is_dir(), "'{}' is no root file system: it has no /usr", root.display());
        ensure!(kernel.is_file(), "there is no kernel '{}'", kernel.display());
        Ok(Self::Tree { root: root.to_owned(), kernel: kernel.to_owned() })
    }

    /// Which kind it is, for the lock.
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::Debian(_) => Origin::Debian,
            Self::Tree { .. } => Origin::Tree,
        }
    }

    /// A file or directory on the host, by the path it has in the image and the package that it is in.
    pub(crate) fn path(&self, package: &str, path: &Path) -> anyhow::Result<PathBuf> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        match self {
            Self::Debian(packages) => Ok(find(&packages.packages, package)?.join(relative)),
            Self::Tree { root, .. } => {
                let found =
                    places(relative).into_iter().map(|place| root.join(place)).find(|path| path.exists());
                found.with_context(|| {
                    format!(
                        "'{}' has no '{}': select the package '{package}'",
                        root.display(),
                        path.display()
                    )
                })
            }
        }
    }

    /// Directories on the host to look for shared libraries in.
    pub(crate) fn library_directories(&self) -> anyhow::Result<Vec<PathBuf>> {
        match self {
            Self::Debian(packages) => packages
                .libraries
                .iter()
                .map(|name| {
                    let directory = &packages.library_directory;
                    Ok(find(&packages.packages, name)?.join(directory.strip_prefix("/").unwrap_or(directory)))
                })
                .collect(),
            Self::Tree { root, .. } => {
                let candidates = ["usr/lib", "usr/lib64", "lib", "lib64"].map(|name| root.join(name));
                Ok(candidates.into_iter().filter(|path| path.is_dir()).collect())
            }
        }
    }

    /// Where libraries go in the image: where the loader of this source looks for them.
    pub(crate) fn library_directory(&self) -> &Path {
        match self {
            Self::Debian(packages) => &packages.library_directory,
            Self::Tree { .. } => Path::new("/usr/lib"),
        }
    }

    /// The directory that has the kernel's modules below `usr/lib/modules` or `lib/modules`.
    pub(crate) fn modules(&self) -> &Path {
        match self {
            Self::Debian(packages) => &packages.kernel,
            Self::Tree { root, .. } => root,
        }
    }

    /// The kernel's image.
    pub(crate) fn kernel(&self, release: &str) -> PathBuf {
        match self {
            Self::Debian(packages) => packages.kernel.join(format!("boot/vmlinuz-{release}")),
            Self::Tree { kernel, .. } => kernel.clone(),
        }
    }

    /// Packages that at least one of these files came from, and where each is unpacked. A tree knows nothing of its own.
    pub(crate) fn packages_of(&self, files: &BTreeSet<PathBuf>) -> Vec<(&Package, &Path)> {
        let Self::Debian(packages) = self else { return Vec::new() };
        let used = |directory: &Path| files.iter().any(|file| file.starts_with(directory));
        let all = packages.packages.iter().map(|(package, directory)| (package, directory.as_path()));
        all.filter(|(_, directory)| used(directory)).collect()
    }

    /// The time of the newest of these files that is from a package, in seconds since 1970: Debian's packages have the times of their
    /// sources. The files of a tree are as old as whoever made it left them, which says nothing.
    pub(crate) fn newest_of(&self, files: &BTreeSet<PathBuf>) -> u64 {
        let packages = self.packages_of(files);
        let packaged = |file: &&PathBuf| packages.iter().any(|(_, directory)| file.starts_with(directory));
        newest(files.iter().filter(packaged))
    }
}

/// The time of the newest of these files; 0 if there are none.
fn newest<'a>(files: impl Iterator<Item = &'a PathBuf>) -> u64 {
    let time = |file| fs::metadata(file).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok();
    files.filter_map(time).map(|time| time.as_secs()).max().unwrap_or(0)
}

/// Where a file may be in a tree that was not made by Debian's rules, which decide between `bin` and `sbin` for each.
fn places(relative: &Path) -> Vec<PathBuf> {
    let Some((directory, name)) = relative.parent().zip(relative.file_name()) else {
        return vec![relative.into()];
    };
    if ["usr/bin", "usr/sbin"].iter().any(|known| directory == Path::new(known)) {
        return ["usr/bin", "usr/sbin", "bin", "sbin"]
            .map(|directory| Path::new(directory).join(name))
            .into();
    }
    vec![relative.into()]
}

fn find<'a>(packages: &'a [(Package, PathBuf)], name: &str) -> anyhow::Result<&'a Path> {
    packages
        .iter()
        .find(|(package, _)| package.name == name)
        .map(|(_, directory)| directory.as_path())
        .with_context(|| format!("package '{name}' was not fetched"))
}

/// `linux-image-6.12.1-cloud-amd64 (= 6.12.1-1), other` begins with the kernel.
fn first_dependency(depends: &str) -> Option<String> {
    let first = depends.split([',', '|']).next()?.split_whitespace().next()?;
    Some(first.to_owned())
}

/// Whether something is a program or library that can be read; for messages that name it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("failed to read '{}'", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_metapackages_first_dependency() {
        let depends = "linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1), other";
        assert_eq!(first_dependency(depends).as_deref(), Some("linux-image-6.12.117+deb13-cloud-amd64"));
        assert_eq!(first_dependency(""), None);
    }

    #[test]
    fn the_newest_file_gives_the_date() {
        let scratch = tempfile::tempdir().unwrap();
        let file = |name: &str, seconds| {
            let path = scratch.path().join(name);
            let times =
                fs::FileTimes::new().set_modified(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
            fs::File::create(&path).unwrap().set_times(times).unwrap();
            path
        };
        let files = [file("a", 1000), file("b", 3000), file("c", 2000), scratch.path().join("none")];
        assert_eq!(newest(files.iter()), 3000);
        assert_eq!(newest([].iter()), 0);
    }

    #[test]
    fn a_tree_says_which_package_it_lacks() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("usr/sbin")).unwrap();
        fs::write(scratch.path().join("usr/sbin/nft"), "x").unwrap();
        let kernel = scratch.path().join("bzImage");
        fs::write(&kernel, "x").unwrap();
        let source = Source::tree(scratch.path(), &kernel).unwrap();
        for path in ["/usr/sbin/nft", "/usr/bin/nft"] {
            source.path("nftables", Path::new(path)).unwrap();
        }
        let error = source.path("crun", Path::new("/usr/bin/crun")).unwrap_err().to_string();
        assert!(error.contains("crun"), "{error}");
    }
}
