//! `image build`: Debian's packages and our binaries become kernel, initramfs and root file system.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

use crate::apt::{Archive, Package};
use crate::cache::Cache;
use crate::digest;
use crate::erofs;
use crate::initramfs::Initramfs;
use crate::libraries;
use crate::lock::{self, Lock};
use crate::manifest::{self, Manifest};
use crate::modules::{Available, Selection};
use crate::oci::Image;
use crate::replace::replace;
use crate::tool::Tool;
use crate::tree::{Kind, Tree};

/// The demo workload, applied by the node itself on first start.
const DEMO_MANIFEST: &str = include_str!("../files/demo.yaml");

/// What this operating system says of itself.
const OS_RELEASE: &str = concat!(
    "NAME=Skerry\n",
    "ID=skerry\n",
    "PRETTY_NAME=\"Skerry ",
    env!("CARGO_PKG_VERSION"),
    "\"\n",
    "VERSION_ID=",
    env!("CARGO_PKG_VERSION"),
    "\n",
);

/// Directories that exist only so that something can be mounted on them.
const MOUNT_POINTS: [&str; 11] =
    ["/boot", "/dev", "/etc", "/home", "/mnt", "/opt/cni/bin", "/proc", "/run", "/srv", "/sys", "/var"];

/// Links that make the tree a merged-/usr one, as Debian's programs expect.
const LINKS: [(&str, &str); 4] =
    [("/bin", "usr/bin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64"), ("/sbin", "usr/sbin")];

/// The command line of `image build`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory for the results
    #[arg(long)]
    out: PathBuf,
    /// Directory with our static binaries: k3sd, init, pause, demo
    #[arg(long)]
    binaries: PathBuf,
    /// PID 1, if it is not in the directory of binaries
    #[arg(long)]
    init: Option<PathBuf>,
    /// The Kubernetes daemon, if it is not in the directory of binaries
    #[arg(long)]
    k3sd: Option<PathBuf>,
    /// Ask Debian for newer packages even if the lists are fresh
    #[arg(long)]
    refresh: bool,
}

/// Our own programs, all static.
struct Programs {
    init: PathBuf,
    k3sd: PathBuf,
    pause: PathBuf,
    demo: PathBuf,
}

/// The packages of one build, resolved and unpacked.
struct Packages {
    resolved: Vec<Package>,
    directories: Vec<PathBuf>,
    kernel: PathBuf,
}

/// Runs `image build`.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let manifest = Manifest::embedded()?;
    let programs = Programs::find(options)?;
    fs::create_dir_all(&options.out)
        .with_context(|| format!("failed to make '{}'", options.out.display()))?;

    let cache = Cache::open()?;
    let archive = Archive::open(&cache, &manifest.archive, options.refresh)?;
    let mkfs_manifest = manifest.tools.get("mkfs-erofs").context("debian.toml has no tool mkfs-erofs")?;
    let mkfs = Tool::prepare(&archive, mkfs_manifest)?;
    let packages = Packages::fetch(&archive, &manifest)?;
    let kernel = Available::scan(&packages.kernel)?;

    let scratch = tempfile::tempdir_in(&options.out).context("failed to make a scratch directory")?;
    let directory = scratch.path().join("root");
    fs::create_dir(&directory).context("failed to make the tree's directory")?;
    let mut tree = Tree::new(&directory)?;
    lay_out(&mut tree)?;
    add_debian_files(&mut tree, &manifest, &packages)?;
    add_programs(&mut tree, &programs)?;
    add_modules(&mut tree, &kernel, &manifest.kernel)?;
    add_configuration(&mut tree, &manifest.kernel)?;

    let root = options.out.join("root.erofs");
    replace(&root, |partial| erofs::write(&mkfs, tree.root(), partial))?;
    let initramfs = options.out.join("initramfs.img");
    let image = make_initramfs(&programs, &kernel, &kernel.select(&manifest.kernel.initramfs_modules())?)?;
    replace(&initramfs, |partial| fs::write(partial, &image).context("failed to write the initramfs"))?;
    let vmlinuz = options.out.join("vmlinuz");
    let source = packages.kernel.join(format!("boot/vmlinuz-{}", kernel.release()));
    replace(&vmlinuz, |partial| {
        let bytes = fs::read(&source).with_context(|| format!("failed to read '{}'", source.display()))?;
        fs::write(partial, bytes).context("failed to write the kernel")
    })?;

    let lock = describe(&kernel, &packages, &mkfs, &programs, &[&vmlinuz, &initramfs, &root])?;
    lock.write(&options.out)?;
    report(&tree, &lock);
    Ok(())
}

// === impl Programs ===

impl Programs {
    /// Finds the programs and checks that each is static.
    fn find(options: &Options) -> anyhow::Result<Self> {
        let in_directory = |name: &str| options.binaries.join(name);
        let programs = Self {
            init: options.init.clone().unwrap_or_else(|| in_directory("init")),
            k3sd: options.k3sd.clone().unwrap_or_else(|| in_directory("k3sd")),
            pause: in_directory("pause"),
            demo: in_directory("demo"),
        };
        for path in programs.all() {
            ensure!(
                path.is_file(),
                "there is no '{}': build the binaries first (`./just build`)",
                path.display()
            );
            libraries::check_static(path)?;
        }
        Ok(programs)
    }

    fn all(&self) -> [&Path; 4] {
        [&self.init, &self.k3sd, &self.pause, &self.demo]
    }
}

// === impl Packages ===

impl Packages {
    fn fetch(archive: &Archive, manifest: &Manifest) -> anyhow::Result<Self> {
        let names: Vec<String> = manifest.packages().into_iter().collect();
        let mut resolved = archive.resolve(&names)?;
        let [meta] = &archive.resolve(std::slice::from_ref(&manifest.kernel.package))?[..] else {
            unreachable!("one name resolves to one package")
        };
        let kernel_name = first_dependency(&meta.depends)
            .with_context(|| format!("package '{}' depends on no kernel", meta.name))?;
        resolved.extend(archive.resolve(&[kernel_name])?);
        let mut directories = archive.unpack(&resolved)?;
        let kernel = directories.pop().context("the kernel was not unpacked")?;
        Ok(Self { resolved, directories, kernel })
    }

    /// The directory with a package's content.
    fn content(&self, name: &str) -> anyhow::Result<&Path> {
        self.resolved
            .iter()
            .zip(&self.directories)
            .find(|(package, _)| package.name == name)
            .map(|(_, directory)| directory.as_path())
            .with_context(|| format!("package '{name}' was not fetched"))
    }
}

/// `linux-image-6.12.1-cloud-amd64 (= 6.12.1-1), other` begins with the kernel.
fn first_dependency(depends: &str) -> Option<String> {
    let first = depends.split([',', '|']).next()?.split_whitespace().next()?;
    Some(first.to_owned())
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
    tree.directory_with_mode("/tmp", 0o1777)?;
    tree.file("configuration", Path::new("/usr/lib/os-release"), OS_RELEASE.as_bytes(), Kind::Data)
}

fn add_debian_files(tree: &mut Tree, manifest: &Manifest, packages: &Packages) -> anyhow::Result<()> {
    let mut programs = Vec::new();
    for files in &manifest.files {
        let content = packages.content(&files.package)?;
        for path in &files.paths {
            let from = content.join(path.strip_prefix("/").unwrap_or(path));
            tree.copy(&files.package, &from, path, Kind::Program)?;
            programs.push(from);
        }
    }
    let certificates = &manifest.certificates;
    let bundle = join_certificates(packages.content(&certificates.package)?, &certificates.directory)?;
    tree.file(&certificates.package, &certificates.path, &bundle, Kind::Data)?;

    let wanted = &manifest.libraries;
    let relative = wanted.directory.strip_prefix("/").unwrap_or(&wanted.directory);
    let directories: Vec<PathBuf> = wanted
        .packages
        .iter()
        .map(|name| Ok(packages.content(name)?.join(relative)))
        .collect::<anyhow::Result<_>>()?;
    for (name, file) in libraries::closure(&programs, &directories, &wanted.loader)? {
        tree.copy("libraries", &file, &wanted.directory.join(name), Kind::Program)?;
    }
    let loader = wanted.loader.file_name().context("the loader has no name")?.to_string_lossy().into_owned();
    let in_directory = wanted.directory.join(&loader);
    if !tree.root().join(relative).join(&loader).is_file() {
        let from = directories
            .iter()
            .map(|directory| directory.join(&loader))
            .find(|path| path.is_file())
            .with_context(|| format!("no package has the loader '{loader}'"))?;
        tree.copy("libraries", &from, &in_directory, Kind::Program)?;
    }
    tree.link(
        &wanted.loader.display().to_string(),
        &format!("..{}", in_directory.display().to_string().trim_start_matches("/usr")),
    )
}

/// All certificates of a directory in one file, sorted by name.
fn join_certificates(package: &Path, directory: &Path) -> anyhow::Result<Vec<u8>> {
    let directory = package.join(directory.strip_prefix("/").unwrap_or(directory));
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .with_context(|| format!("failed to list '{}'", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
    paths.sort();
    ensure!(!paths.is_empty(), "'{}' has no certificates", directory.display());
    let mut bundle = Vec::new();
    for path in paths {
        bundle.extend(fs::read(&path).with_context(|| format!("failed to read '{}'", path.display()))?);
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    Ok(bundle)
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

fn add_modules(tree: &mut Tree, kernel: &Available, wanted: &manifest::Kernel) -> anyhow::Result<()> {
    let selection = kernel.select(&wanted.root_modules())?;
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
fn module_indexes(kernel: &Available, selection: &Selection) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files: Vec<_> =
        selection.indexes().into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    files.push(("modules.builtin", kernel.builtin_list()?));
    Ok(files)
}

fn add_configuration(tree: &mut Tree, kernel: &manifest::Kernel) -> anyhow::Result<()> {
    let modules = kernel.boot.modules.join("\n") + "\n";
    let component = "configuration";
    tree.file(component, Path::new("/usr/lib/modules-load.d/skerry.conf"), modules.as_bytes(), Kind::Data)?;
    let demo = Path::new("/usr/share/skerry/manifests/demo.yaml");
    tree.file(component, demo, DEMO_MANIFEST.as_bytes(), Kind::Data)
}

fn make_initramfs(programs: &Programs, kernel: &Available, selection: &Selection) -> anyhow::Result<Vec<u8>> {
    let init =
        fs::read(&programs.init).with_context(|| format!("failed to read '{}'", programs.init.display()))?;
    let mut initramfs = Initramfs::default();
    initramfs.program("init", &init);
    initramfs.link("lib", "usr/lib");
    for directory in ["dev", "proc", "run", "sys", "sysroot"] {
        initramfs.directory(directory);
    }
    let directory = format!("usr/lib/modules/{}", kernel.release());
    for (path, bytes) in selection.files() {
        initramfs.file(&format!("{directory}/{}", path.display()), bytes);
    }
    for (name, bytes) in module_indexes(kernel, selection)? {
        initramfs.file(&format!("{directory}/{name}"), &bytes);
    }
    eprintln!("initramfs: {} modules", selection.len());
    initramfs.finish().context("failed to compress the initramfs")
}

fn describe(
    kernel: &Available,
    packages: &Packages,
    mkfs: &Tool,
    programs: &Programs,
    outputs: &[&Path],
) -> anyhow::Result<Lock> {
    let mut debian: Vec<&Package> = packages.resolved.iter().chain(&mkfs.packages).collect();
    debian.sort();
    debian.dedup();
    let digest =
        |path: &Path| digest::of_file(path).with_context(|| format!("failed to read '{}'", path.display()));
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Lock {
        version: Lock::VERSION,
        kernel: kernel.release().to_owned(),
        outputs: outputs
            .iter()
            .map(|path| {
                let bytes = fs::metadata(path)?.len();
                Ok(lock::Output { name: name(path), bytes, sha256: digest(path)? })
            })
            .collect::<anyhow::Result<_>>()?,
        programs: programs
            .all()
            .into_iter()
            .map(|path| Ok(lock::Program { path: name(path), sha256: digest(path)? }))
            .collect::<anyhow::Result<_>>()?,
        packages: debian.into_iter().map(lock::Debian::from).collect(),
    })
}

/// Prints where the bytes are.
fn report(tree: &Tree, lock: &Lock) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell when the output is closed.
    let _ = write_report(&mut out, tree, lock);
}

fn write_report(out: &mut impl Write, tree: &Tree, lock: &Lock) -> std::io::Result<()> {
    writeln!(out, "{:<24}{:>12}", "in root.erofs", "bytes")?;
    for (component, bytes) in tree.sizes() {
        writeln!(out, "  {component:<22}{bytes:>12}")?;
    }
    writeln!(out, "  {:<22}{:>12}", "all", tree.sizes().values().sum::<u64>())?;
    writeln!(out, "{:<24}{:>12}  sha256", "output", "bytes")?;
    for output in &lock.outputs {
        writeln!(out, "  {:<22}{:>12}  {}", output.name, output.bytes, output.sha256)?;
    }
    Ok(())
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
}
