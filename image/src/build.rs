//! `image build`: Debian's packages and our binaries become everything that a machine boots.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use disk::verity::{self, RootHash};

use crate::apt::{Archive, Package, Refresh};
use crate::boot::{self, Slot};
use crate::buildroot::{self, Built};
use crate::cache::Cache;
use crate::components;
use crate::digest;
use crate::erofs;
use crate::identity::{Identity, VERSION};
use crate::initramfs::Initramfs;
use crate::lock::{self, Lock};
use crate::manifest::Manifest;
use crate::modules::Available;
use crate::partitions;
use crate::programs::Programs;
use crate::replace::replace;
use crate::rootfs::{self, Parts};
use crate::sbom;
use crate::source::{self, Source};
use crate::target::{self, Target};
use crate::tool::Tool;
use crate::tree::{Kind, Tree};

/// What `image build` writes.
pub(crate) mod output {
    pub(crate) const KERNEL: &str = "vmlinuz";
    pub(crate) const INITRAMFS: &str = "initramfs.img";
    pub(crate) const ROOT: &str = "root.erofs";
    pub(crate) const VERITY: &str = "root.verity";
    pub(crate) const ROOT_HASH: &str = "roothash";
    pub(crate) const DISK: &str = "disk.img";
    pub(crate) const NETBOOT: &str = "netboot";
    pub(crate) const NETBOOT_SCRIPT: &str = "boot.ipxe";
}

/// Where the initramfs has the root hash.
pub(crate) const ROOT_HASH_PATH: &str = "roothash";
/// Where the initramfs of a machine without disks has the root file system.
const ROOT_PATH: &str = "root.erofs";
/// Seconds since 1970, for whoever builds from source and knows when that is from.
const DATE_VARIABLE: &str = "SOURCE_DATE_EPOCH";
/// Digits of a build's name: enough that no two are the same.
const BUILD_DIGITS: usize = 16;
/// Goes into every digest of the hash tree. The same in all images, so that equal blocks of two versions have equal
/// digests and an update needs to fetch only the others.
const VERITY_SALT: &[u8] = b"skerry root 1";

/// The command line of `image build`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What the image is for: a file in image/targets
    #[arg(long, default_value = target::DEFAULT)]
    target: String,
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
    /// Take the root file system's parts from this tree instead of Debian's packages
    #[arg(long, requires = "kernel")]
    tree: Option<PathBuf>,
    /// The kernel that belongs to the tree
    #[arg(long, requires = "tree")]
    kernel: Option<PathBuf>,
    /// The mkfs.erofs to pack the root with, instead of Debian's
    #[arg(long, value_name = "PROGRAM")]
    mkfs: Option<PathBuf>,
    /// Put the files of this directory onto BOOT: a board's firmware, or a UEFI loader instead of Debian's
    #[arg(long, value_name = "DIRECTORY")]
    boot_files: Option<PathBuf>,
    /// What the tree was made from, as Buildroot's `make show-info` prints it
    #[arg(long, value_name = "FILE", requires = "tree")]
    packages: Option<PathBuf>,
    /// Add a shell for looking around. Not for production
    #[arg(long)]
    debug: bool,
    /// Compress harder: 7 % smaller, and minutes instead of seconds
    #[arg(long)]
    small: bool,
    /// Ask Debian for newer packages even if the lists are fresh
    #[arg(long)]
    refresh: bool,
    /// Take the package lists that are there, however old
    #[arg(long, conflicts_with = "refresh")]
    offline: bool,
}

impl Options {
    fn refresh(&self) -> Refresh {
        match (self.refresh, self.offline) {
            (true, _) => Refresh::Always,
            (_, true) => Refresh::Never,
            _ => Refresh::WhenOld,
        }
    }
}

/// The files of one image, and what is known of them.
struct Artifacts<'a> {
    out: &'a Path,
    names: Vec<String>,
}

/// Runs `image build`.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let started = Instant::now();
    let manifest = Manifest::embedded()?;
    let target = Target::find(&options.target)?;
    let programs = Programs::find(
        &options.binaries,
        options.init.as_deref(),
        options.k3sd.as_deref(),
        target.processor,
    )?;
    fs::create_dir_all(&options.out)
        .with_context(|| format!("failed to make '{}'", options.out.display()))?;

    let cache = Cache::open()?;
    let mkfs = find_mkfs(&cache, &manifest, options)?;
    let source = find_source(&cache, &manifest, &target, options)?;
    let kernel = Available::scan(source.modules(), matches!(source, Source::Debian(_)))?;
    let parts = Parts {
        manifest: &manifest,
        target: &target,
        source: &source,
        programs: &programs,
        kernel: &kernel,
        debug: options.debug,
    };

    let scratch = tempfile::tempdir_in(&options.out).context("failed to make a scratch directory")?;
    let directory = scratch.path().join("root");
    fs::create_dir(&directory).context("failed to make the tree's directory")?;
    let mut tree = Tree::new(&directory)?;
    rootfs::fill(&mut tree, &parts)?;
    let kernel_image = source.kernel(kernel.release());
    tree.came_from(kernel_image.clone());
    let boot = boot::Files::find(&source, &target, options.boot_files.as_deref())?;
    if let Some(loader) = boot.loader() {
        tree.came_from(loader.to_owned());
    }
    let built = options.packages.as_deref().map(buildroot::read).transpose()?.unwrap_or_default();
    let packages = source.packages_of(tree.origins());
    let identity = identify(&tree, &parts, &boot, versions(&packages, &built));
    let sbom = describe_content(&identity, &packages, &built, &programs)?;
    add_descriptions(&mut tree, &identity, &sbom)?;

    let mut artifacts = Artifacts { out: &options.out, names: Vec::new() };
    let kernel_bytes = source::read(&kernel_image)?;
    artifacts.write(output::KERNEL, &kernel_bytes)?;
    let date = date(&source, &tree)?;
    let compression = if options.small { erofs::SMALL } else { erofs::QUICK };
    let root = artifacts.make(output::ROOT, |partial| {
        erofs::write(&mkfs, tree.root(), partial, compression, identity.id("root"), date)
    })?;
    partitions::check_size(&target.partitions, &root)?;
    let root_hash = artifacts.add_hashes(&root, &identity)?;
    let initramfs = make_initramfs(&parts, &root_hash)?;
    artifacts.write(output::INITRAMFS, &initramfs)?;
    artifacts.add_netboot(&target, &kernel_bytes, &initramfs, &root)?;
    let boot_files = boot.given().to_vec();
    let boot = boot.with_system(&target, Slot::A, kernel_bytes, initramfs);
    let content = partitions::Content {
        target: &target,
        build: &identity.build,
        boot: &boot,
        root: &root,
        hashes: &options.out.join(output::VERITY),
        root_hash,
    };
    artifacts.make(output::DISK, |partial| partitions::write(&content, partial))?;
    artifacts.write(sbom::FILE, &sbom)?;

    let mut used: Vec<&Package> =
        packages.iter().map(|(package, _)| *package).chain(&mkfs.packages).collect();
    used.sort();
    used.dedup();
    let lock = Lock {
        version: Lock::VERSION,
        target: identity.target.name.clone(),
        release: VERSION.to_owned(),
        build: identity.build.clone(),
        debug: identity.debug,
        origin: source.origin(),
        compression: compression.name().to_owned(),
        kernel: identity.kernel.to_owned(),
        root_hash: root_hash.to_string(),
        outputs: artifacts.outputs()?,
        components: components::of(&tree, &root)?,
        programs: lock::Program::all(&programs)?,
        boot_files: boot_files.into_iter().map(|(path, sha256)| lock::Program { path, sha256 }).collect(),
        packages: used
            .into_iter()
            .map(lock::Package::from)
            .chain(built.iter().map(lock::Package::from))
            .collect(),
    };
    lock.write(&options.out)?;
    report(&lock);
    eprintln!("built in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Debian's, whatever the root file system is made of, unless one is given: always the same one, so always the same bytes.
fn find_mkfs(cache: &Cache, manifest: &Manifest, options: &Options) -> anyhow::Result<Tool> {
    if let Some(program) = &options.mkfs {
        return Tool::of_host(program);
    }
    let archive = Archive::open(cache, &manifest.archive, Tool::ARCHITECTURE, options.refresh())?;
    let tool = manifest.tools.get("mkfs-erofs").context("debian.toml has no tool mkfs-erofs")?;
    Tool::prepare(&archive, tool)
}

fn find_source(
    cache: &Cache,
    manifest: &Manifest,
    target: &Target,
    options: &Options,
) -> anyhow::Result<Source> {
    if let Some((tree, kernel)) = options.tree.as_ref().zip(options.kernel.as_ref()) {
        return Source::tree(tree, kernel);
    }
    let archive = Archive::open(cache, &manifest.archive, &target.debian_architecture, options.refresh())?;
    Source::debian(&archive, manifest, target, options.debug)
}

/// Name and version of each package.
fn versions<'a>(packages: &[(&'a Package, &Path)], built: &'a [Built]) -> Vec<(&'a str, &'a str)> {
    let debian = packages.iter().map(|(package, _)| (&*package.name, &*package.version));
    debian.chain(built.iter().map(|built| (&*built.name, &*built.version))).collect()
}

/// The image's date, below which no machine's clock begins: `SOURCE_DATE_EPOCH` (reproducible-builds.org), else that of the newest file
/// of a package in it. Never when it was built: the same content has the same date.
fn date(source: &Source, tree: &Tree) -> anyhow::Result<u64> {
    match std::env::var(DATE_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{DATE_VARIABLE}={text} is no number of seconds")),
        Err(_) => Ok(source.newest_of(tree.origins())),
    }
}

/// The build is named after what is in it, so the same content has the same name wherever it is built.
fn identify<'a>(
    tree: &Tree,
    parts: &Parts<'a>,
    boot: &boot::Files,
    packages: Vec<(&'a str, &'a str)>,
) -> Identity<'a> {
    let release = parts.kernel.release();
    let mut text = format!("{} {release} {} {}", parts.target.name, parts.debug, tree.digest());
    for (path, digest) in boot.given() {
        text.push_str(&format!("\n{path} {digest}"));
    }
    let mut build = digest::of_bytes(text.as_bytes());
    build.truncate(BUILD_DIGITS);
    Identity { target: parts.target, build, debug: parts.debug, kernel: release, packages }
}

fn describe_content(
    identity: &Identity<'_>,
    packages: &[(&Package, &Path)],
    built: &[Built],
    programs: &Programs,
) -> anyhow::Result<Vec<u8>> {
    if programs.crates.is_none() {
        eprintln!(
            "warning: no crates.txt beside the binaries (`./just build` writes it): the SBOM lacks their crates"
        );
    }
    sbom::write(identity, packages, built, programs.crates.as_deref().unwrap_or_default())
}

fn add_descriptions(tree: &mut Tree, identity: &Identity<'_>, sbom: &[u8]) -> anyhow::Result<()> {
    let os_release = identity.os_release();
    tree.file("configuration", Path::new("/usr/lib/os-release"), os_release.as_bytes(), Kind::Data)?;
    let path = Path::new("/usr/share/skerry").join(sbom::FILE);
    tree.file("bill of materials", &path, sbom, Kind::Data)
}

fn make_initramfs(parts: &Parts<'_>, root_hash: &RootHash) -> anyhow::Result<Vec<u8>> {
    let kernel = parts.kernel;
    let selection = kernel.select(&parts.manifest.kernel.initramfs_modules(parts.target))?;
    let mut initramfs = Initramfs::default();
    initramfs.program("init", &source::read(&parts.programs.init)?);
    initramfs.file(ROOT_HASH_PATH, format!("{root_hash}\n").as_bytes());
    initramfs.link("lib", "usr/lib");
    for directory in ["dev", "proc", "run", "sys", "sysroot"] {
        initramfs.directory(directory);
    }
    let directory = format!("usr/lib/modules/{}", kernel.release());
    for (path, bytes) in selection.files() {
        initramfs.file(&format!("{directory}/{}", path.display()), bytes);
    }
    for (name, bytes) in rootfs::module_indexes(kernel, &selection)? {
        initramfs.file(&format!("{directory}/{name}"), &bytes);
    }
    eprintln!("initramfs: {} modules", selection.len());
    initramfs.finish().context("failed to compress the initramfs")
}

// === impl Artifacts ===

impl Artifacts<'_> {
    /// Writes a file.
    fn write(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        self.make(name, |partial| {
            fs::write(partial, bytes).with_context(|| format!("failed to write '{}'", partial.display()))
        })
    }

    /// Has a file written, and notes its name.
    fn make(
        &mut self,
        name: &str,
        write: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let path = self.out.join(name);
        replace(&path, write)?;
        self.names.push(name.to_owned());
        Ok(path)
    }

    /// Hashes the root file system.
    fn add_hashes(&mut self, root: &Path, identity: &Identity<'_>) -> anyhow::Result<RootHash> {
        let mut data =
            fs::File::open(root).with_context(|| format!("failed to open '{}'", root.display()))?;
        let tree = verity::build(&mut data, identity.id("verity"), VERITY_SALT)
            .with_context(|| format!("failed to hash '{}'", root.display()))?;
        self.write(output::VERITY, &tree.bytes)?;
        self.write(output::ROOT_HASH, format!("{}\n", tree.root).as_bytes())?;
        Ok(tree.root)
    }

    /// What a machine without disks boots: the kernel, and one initramfs with the root file system inside.
    fn add_netboot(
        &mut self,
        target: &Target,
        kernel: &[u8],
        initramfs: &[u8],
        root: &Path,
    ) -> anyhow::Result<()> {
        let directory = self.out.join(output::NETBOOT);
        fs::create_dir_all(&directory)
            .with_context(|| format!("failed to make '{}'", directory.display()))?;
        // The kernel unpacks one archive after the other. The second is compressed inside.
        let mut inside = Initramfs::default();
        inside.file(ROOT_PATH, &source::read(root)?);
        let mut whole = initramfs.to_vec();
        whole.extend(inside.finish_uncompressed().context("failed to pack the root file system")?);
        self.write(&format!("{}/{}", output::NETBOOT, output::KERNEL), kernel)?;
        self.write(&format!("{}/{}", output::NETBOOT, output::INITRAMFS), &whole)?;
        let script = boot::ipxe_script(target);
        self.write(&format!("{}/{}", output::NETBOOT, output::NETBOOT_SCRIPT), script.as_bytes())?;
        Ok(())
    }

    /// What was written, with the digest of each file.
    fn outputs(&self) -> anyhow::Result<Vec<lock::Output>> {
        let describe = |name: &String| {
            let path = self.out.join(name);
            let failed = || format!("failed to read '{}'", path.display());
            let bytes = fs::metadata(&path).with_context(failed)?.len();
            let sha256 = digest::of_file(&path).with_context(failed)?;
            Ok(lock::Output { name: name.clone(), bytes, sha256 })
        };
        self.names.iter().map(describe).collect()
    }
}

/// Prints where the bytes are.
fn report(lock: &Lock) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell when the output is closed.
    let _ = write_report(&mut out, lock);
}

fn write_report(out: &mut impl Write, lock: &Lock) -> std::io::Result<()> {
    components::list(out, &lock.components)?;
    writeln!(out, "{:<24}{:>12}  sha256", "output", "bytes")?;
    for output in &lock.outputs {
        writeln!(out, "  {:<22}{:>12}  {}", output.name, output.bytes, output.sha256)?;
    }
    writeln!(out, "build {}, root hash {}", lock.build, lock.root_hash)
}
