//! What the root file system consists of, step by step.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::libraries;
use crate::manifest::Manifest;
use crate::modules::{Available, Selection};
use crate::oci::Image;
use crate::programs::Programs;
use crate::source::Source;
use crate::target::Target;
use crate::tree::{Kind, Tree};

/// What k3sd applies on every appliance: the demo workload, and the classes of its container runtimes.
const MANIFESTS: [(&str, &str); 2] = [
    ("demo.yaml", include_str!("../files/demo.yaml")),
    ("runtimes.yaml", include_str!("../files/runtimes.yaml")),
];

/// Directories that exist only so that something can be mounted on them.
const MOUNT_POINTS: [&str; 11] =
    ["/boot", "/dev", "/etc", "/home", "/mnt", "/opt/cni/bin", "/proc", "/run", "/srv", "/sys", "/var"];

/// Links that make the tree a merged-/usr one, as Debian's programs expect.
const LINKS: [(&str, &str); 4] =
    [("/bin", "usr/bin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64"), ("/sbin", "usr/sbin")];

/// What a root file system is made from.
pub(crate) struct Parts<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) target: &'a Target,
    pub(crate) source: &'a Source,
    pub(crate) programs: &'a Programs,
    pub(crate) kernel: &'a Available,
    /// Whether the tools for looking around go in.
    pub(crate) debug: bool,
}

/// Fills a tree with all but what describes it.
pub(crate) fn fill(tree: &mut Tree, parts: &Parts<'_>) -> anyhow::Result<()> {
    lay_out(tree)?;
    add_files(tree, parts)?;
    add_programs(tree, parts.programs)?;
    add_modules(tree, parts)?;
    add_configuration(tree, parts)
}

/// The directories and links that every later step counts on.
fn lay_out(tree: &mut Tree) -> anyhow::Result<()> {
    for path in ["/usr/bin", "/usr/lib", "/usr/lib64", "/usr/sbin", "/usr/share"] {
        tree.directory(path)?;
    }
    for (path, target) in LINKS {
        tree.link(path, target)?;
    }
    for path in MOUNT_POINTS {
        tree.directory(path)?;
    }
    tree.directory_with_mode("/root", 0o700)?;
    tree.directory_with_mode("/tmp", 0o1777)
}

fn add_files(tree: &mut Tree, parts: &Parts<'_>) -> anyhow::Result<()> {
    let mut programs = Vec::new();
    for files in parts.manifest.files(parts.debug) {
        for path in &files.paths {
            let from = parts.source.path(&files.package, path)?;
            tree.copy(&files.package, &from, path, Kind::Program)?;
            programs.push(from);
        }
    }
    let certificates = &parts.manifest.certificates;
    let directory = parts.source.path(&certificates.package, &certificates.directory)?;
    let (bundle, files) = join_certificates(&directory)?;
    tree.file(&certificates.package, &certificates.path, &bundle, Kind::Data)?;
    files.into_iter().for_each(|file| tree.came_from(file));
    add_libraries(tree, parts, &programs)
}

fn add_libraries(tree: &mut Tree, parts: &Parts<'_>, programs: &[PathBuf]) -> anyhow::Result<()> {
    let directories = parts.source.library_directories()?;
    let into = parts.source.library_directory();
    let loader_path = &parts.target.libraries.loader;
    let mut files = libraries::closure(programs, &directories, loader_path)?;
    let loader = loader_path.file_name().context("the loader has no name")?.to_string_lossy().into_owned();
    if !files.contains_key(&loader) {
        let from = directories.iter().map(|directory| directory.join(&loader)).find(|path| path.is_file());
        let from = from.with_context(|| format!("no package has the loader '{loader}'"))?;
        files.insert(loader.clone(), from);
    }
    for (name, file) in files {
        tree.copy("libraries", &file, &into.join(name), Kind::Program)?;
    }
    let in_directory = into.join(&loader);
    let through_link = loader_path.parent().is_some_and(|parent| parent == Path::new("/lib"));
    if through_link && into == Path::new("/usr/lib") {
        return Ok(());
    }
    let relative = in_directory.strip_prefix("/usr").unwrap_or(&in_directory);
    tree.link(&loader_path.display().to_string(), &format!("../{}", relative.display()))
}

/// All certificates of a directory in one file, sorted by name, and the files that they came from.
fn join_certificates(directory: &Path) -> anyhow::Result<(Vec<u8>, Vec<PathBuf>)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| format!("failed to list '{}'", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
    paths.sort();
    ensure!(!paths.is_empty(), "'{}' has no certificates", directory.display());
    let mut bundle = Vec::new();
    for path in &paths {
        bundle.extend(fs::read(path).with_context(|| format!("failed to read '{}'", path.display()))?);
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    Ok((bundle, paths))
}

fn add_programs(tree: &mut Tree, programs: &Programs) -> anyhow::Result<()> {
    tree.copy("init", &programs.init, Path::new("/usr/sbin/init"), Kind::Program)?;
    tree.copy("k3sd", &programs.k3sd, Path::new("/usr/bin/k3sd"), Kind::Program)?;
    // One binary, two programs: it looks at the name that it was called by.
    tree.link("/opt/cni/bin/skerry-cni", "/usr/bin/k3sd")?;
    tree.link("/opt/cni/bin/loopback", "/usr/bin/k3sd")?;
    for (name, binary, expose) in [("pause", &programs.pause, vec![]), ("demo", &programs.demo, vec![8080])] {
        let image = Image {
            name: format!("localhost/skerry/{name}:1"),
            binary: binary.clone(),
            install: None,
            user: 65532,
            expose,
        };
        let path = format!("/usr/share/skerry/images/{name}.tar");
        tree.file("container images", Path::new(&path), &image.to_tar()?, Kind::Data)?;
    }
    Ok(())
}

fn add_modules(tree: &mut Tree, parts: &Parts<'_>) -> anyhow::Result<()> {
    let kernel = parts.kernel;
    let wanted = parts.manifest.kernel.root_modules(parts.target);
    let missing = kernel.missing(&wanted);
    let selection = kernel.select_for_root(&wanted)?;
    if !missing.is_empty() {
        eprintln!("warning: kernel {} has no {}", kernel.release(), missing.join(", "));
    }
    let directory = Path::new("/usr/lib/modules").join(kernel.release());
    for (path, bytes) in selection.files() {
        tree.file("kernel modules", &directory.join(path), bytes, Kind::Data)?;
    }
    for (name, bytes) in module_indexes(kernel, &selection)? {
        tree.file("kernel modules", &directory.join(name), &bytes, Kind::Data)?;
    }
    Ok(())
}

/// The index files of a set of modules, the package's own list of what is built in among them.
pub(crate) fn module_indexes(
    kernel: &Available,
    selection: &Selection,
) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files: Vec<_> =
        selection.indexes().into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    files.push(("modules.builtin", kernel.builtin_list()?));
    Ok(files)
}

fn add_configuration(tree: &mut Tree, parts: &Parts<'_>) -> anyhow::Result<()> {
    let mut modules = parts.manifest.kernel.boot.modules.clone();
    let missing = parts.kernel.missing(&parts.manifest.kernel.boot.modules);
    modules.retain(|name| !missing.contains(&name.as_str()));
    let modules = modules.join("\n") + "\n";
    let component = "configuration";
    tree.file(component, Path::new("/usr/lib/modules-load.d/skerry.conf"), modules.as_bytes(), Kind::Data)?;
    MANIFESTS.iter().try_for_each(|(name, text)| {
        let path = Path::new("/usr/share/skerry/manifests").join(name);
        tree.file(component, &path, text.as_bytes(), Kind::Data)
    })
}
