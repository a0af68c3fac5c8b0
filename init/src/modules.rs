//! Kernel modules: which one drives a device, what it depends on, and getting it into the kernel.
//!
//! depmod wrote three tables beside the modules: `modules.alias` (patterns for what devices call themselves),
//! `modules.dep` (files a module needs first) and `modules.builtin` (what needs no loading). Modules are raw `.ko` files in the
//! initramfs and may be packed (`.ko.xz`, `.ko.zst`, `.ko.gz`) in the root; the kernel is asked to unpack those itself. If it cannot, we do, for `xz`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// `MODULE_INIT_COMPRESSED_FILE` (include/uapi/linux/module.h).
const KERNEL_DECOMPRESSES: i32 = 4;
/// Modules the root wants besides those that drive devices, one name per line.
pub(crate) const WANTED_LIST: &str = "/usr/lib/modules-load.d/skerry.conf";
/// The words that select the roles below, and the name under which the kernel calls the last.
pub(crate) const COLDPLUG_ROLE: &str = "coldplug";
pub(crate) const WANTED_ROLE: &str = "load-wanted";
pub(crate) const HOTPLUG_ROLE: &str = "modprobe";
/// The word that selects the role of loading one module with parameters.
pub(crate) const LOAD_ROLE: &str = "load-module";
/// The kernel asks for modules by running this program; the link leads to PID 1's binary, whichever stage it is.
const HELPER: &str = "/run/skerry/modprobe";
const NO_PARAMETERS: &CStr = c"";

/// Why a module is not in the kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// depmod's table knows no such module.
    #[error("no module {0} in this kernel's tree")]
    Unknown(String),
    /// The file could not be read or unpacked.
    #[error("failed to read {path}")]
    Read {
        /// The module file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused it.
    #[error("the kernel refused {path}: {source}")]
    Refused {
        /// The module file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// depmod's tables of the running kernel.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    root: PathBuf,
    /// Module name to its file and the files it needs first, in loading order.
    files: BTreeMap<String, Vec<String>>,
    aliases: Vec<(String, String)>,
    builtin: HashSet<String>,
    loaded: HashSet<String>,
}

impl Tables {
    /// Reads the tables of the running kernel; absent ones count as empty (a kernel without modules is fine).
    pub(crate) fn read() -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let root = ["/lib/modules", "/usr/lib/modules"]
            .iter()
            .map(|base| Path::new(base).join(&release))
            .find(|path| path.is_dir())
            .unwrap_or_default();
        let table = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
        Self {
            files: parse_dep(&table("modules.dep")),
            aliases: parse_alias(&table("modules.alias")),
            builtin: table("modules.builtin").lines().map(module_name).collect(),
            loaded: HashSet::new(),
            root,
        }
    }

    /// The modules that drive a device which calls itself `modalias`.
    pub(crate) fn matching(&self, modalias: &str) -> Vec<&str> {
        self.aliases
            .iter()
            .filter(|(pattern, _)| glob(pattern.as_bytes(), modalias.as_bytes()))
            .map(|(_, module)| module.as_str())
            .collect()
    }

    /// Loads `name` with everything it needs. Loaded and built-in modules are fine.
    pub(crate) fn load(&mut self, name: &str) -> Result<(), Error> {
        self.load_with(name, NO_PARAMETERS)
    }

    /// The same with parameters for the module itself.
    fn load_with(&mut self, name: &str, parameters: &CStr) -> Result<(), Error> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) || self.loaded.contains(&name) {
            return Ok(());
        }
        let files = self.files.get(&name).cloned().ok_or_else(|| Error::Unknown(name.clone()))?;
        for file in files {
            let module = module_name(&file);
            let parameters = if module == name { parameters } else { NO_PARAMETERS };
            if self.loaded.insert(module) {
                insert(&self.root.join(&file), parameters)?;
            }
        }
        Ok(())
    }

    /// Loads what `word` names: a module, or what an alias of that text stands for.
    pub(crate) fn load_named(&mut self, word: &str) -> Result<(), Error> {
        let name = word.replace('-', "_");
        if self.files.contains_key(&name) || self.builtin.contains(&name) {
            return self.load(&name);
        }
        let modules: Vec<String> = self.matching(word).into_iter().map(str::to_owned).collect();
        if modules.is_empty() {
            return Err(Error::Unknown(word.to_owned()));
        }
        modules.iter().try_for_each(|module| self.load(module))
    }

    /// Loads drivers for every device there is, again for the devices those drivers bring, until no new one appears.
    pub(crate) fn coldplug(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let fresh: Vec<_> =
                device_aliases().into_iter().filter(|alias| seen.insert(alias.clone())).collect();
            if fresh.is_empty() {
                return errors;
            }
            for alias in fresh {
                let modules: Vec<String> = self.matching(&alias).into_iter().map(str::to_owned).collect();
                errors.extend(modules.iter().filter_map(|module| self.load(module).err()));
            }
        }
    }
}

/// Makes the kernel's own requests for modules come to us.
pub(crate) fn install_helper() {
    // Without it the kernel asks /sbin/modprobe, which is not there; every wanted module is then loaded by name all the same.
    let _ = fs::create_dir_all("/run/skerry");
    let _ = std::os::unix::fs::symlink("/proc/1/exe", HELPER);
    let _ = fs::write("/proc/sys/kernel/modprobe", HELPER);
}

/// `init coldplug`: drivers for every device. Prints one line per failure.
pub(crate) fn coldplug_role() {
    tell(Tables::read().coldplug());
}

/// `init load-wanted`: the modules of [`WANTED_LIST`]. Prints one line per failure.
pub(crate) fn wanted_role() {
    let mut tables = Tables::read();
    let list = fs::read_to_string(WANTED_LIST).unwrap_or_default();
    tell(parse_list(&list).filter_map(|name| tables.load_named(name).err()));
}

fn tell(errors: impl IntoIterator<Item = Error>) {
    for error in errors {
        println!("{error}");
    }
}

/// `init modprobe WORD...`: modules by name or by alias. Options, which the kernel gives, are skipped. True if all are in.
pub(crate) fn modprobe_role(words: &[String]) -> bool {
    let mut tables = Tables::read();
    let words = words.iter().filter(|word| !word.starts_with('-'));
    // Each is tried, whatever became of the one before.
    words.filter(|word| tables.load_named(word).is_err()).count() == 0
}

/// `init load-module NAME [PARAMETERS]`: one module. True if it is in.
pub(crate) fn load_role(words: &[String]) -> bool {
    let name = words.first().map(String::as_str).unwrap_or_default();
    let parameters = CString::new(words.get(1).cloned().unwrap_or_default()).unwrap_or_default();
    match Tables::read().load_with(name, &parameters) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("{error}");
            false
        }
    }
}

/// The names in a `modules-load.d` file: one a line, `#` and `;` begin comments.
pub(crate) fn parse_list(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
}

/// What every device calls itself: those on a bus, and input devices, which are on none. (Walking all of /sys/devices finds
/// no more and takes a second under emulation.)
fn device_aliases() -> BTreeSet<String> {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let buses = below(Path::new("/sys/bus")).map(|bus| bus.join("devices"));
    buses
        .chain(["/sys/class/input".into()])
        .flat_map(|dir| below(&dir).collect::<Vec<_>>())
        .filter_map(|device| fs::read_to_string(device.join("modalias")).ok())
        .map(|text| text.trim().to_owned())
        .filter(|alias| !alias.is_empty())
        .collect()
}

/// How a module file is packed, by its name. The kernel unpacks what it was built for, which is what its modules are packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    /// We can unpack this, too.
    Xz,
    /// Another compression.
    Other,
}

impl Packing {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => Self::Xz,
            Some("gz" | "zst") => Self::Other,
            _ => Self::None,
        }
    }
}

/// Puts one module file into the kernel.
fn insert(path: &Path, parameters: &CStr) -> Result<(), Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let packing = Packing::of(path);
    let flags = if packing == Packing::None { 0 } else { KERNEL_DECOMPRESSES };
    match rustix::system::finit_module(&file, parameters, flags) {
        Ok(()) | Err(Errno::EXIST) => return Ok(()),
        // The kernel cannot unpack this (built without it, or for another compression): unpack here.
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOEXEC) if packing == Packing::Xz => {}
        // No such device: the driver looked and found nothing to drive. That is an answer, not a fault.
        Err(Errno::NODEV) => return Ok(()),
        Err(errno) => return Err(Error::Refused { path: path.to_owned(), source: errno.into() }),
    }
    let mut image = Vec::new();
    lzma_rs::xz_decompress(&mut BufReader::new(file), &mut image)
        .map_err(|error| read(io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}"))))?;
    match rustix::system::init_module(&image, parameters) {
        Ok(()) | Err(Errno::EXIST | Errno::NODEV) => Ok(()),
        Err(errno) => Err(Error::Refused { path: path.to_owned(), source: errno.into() }),
    }
}

/// `kernel/drivers/net/veth.ko.xz` is called `veth`; dashes in file names are underscores in names.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// `a.ko: c.ko b.ko` means that b, then c, then a is loaded.
fn parse_dep(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| {
            let order = needs.split_whitespace().rev().chain([file]).map(str::to_owned).collect();
            (module_name(file), order)
        })
        .collect()
}

/// `alias PATTERN MODULE`.
fn parse_alias(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("alias")).then_some(())?;
            Some((words.next()?.to_owned(), words.next()?.replace('-', "_")))
        })
        .collect()
}

/// fnmatch without flags: `*`, `?` and `[...]` with ranges and `!`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last star: just behind it in the pattern, one byte later in the text.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match match_one(&pattern[p..], text[t]) {
            _ if pattern.get(p) == Some(&b'*') => {
                p += 1;
                retry = Some((p, t + 1));
            }
            Some(used) => {
                p += used;
                t += 1;
            }
            None => match retry {
                Some((after_star, next)) => {
                    p = after_star;
                    t = next;
                    retry = Some((after_star, next + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// If the pattern's first element matches `byte`: how many bytes long that element is.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => match_set(pattern, byte),
        literal => (literal == byte).then_some(1),
    }
}

fn match_set(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = pattern.get(1) == Some(&b'!');
    let start = if negated { 2 } else { 1 };
    // A bracket right at the start is a member, not the end.
    let end = start + 1 + pattern.get(start + 1..)?.iter().position(|&b| b == b']')?;
    let set = &pattern[start..end];
    let mut at = 0;
    let mut found = false;
    while at < set.len() {
        if set.get(at + 1) == Some(&b'-') && at + 2 < set.len() {
            found |= (set[at]..=set[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= set[at] == byte;
            at += 1;
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_kernel_means_them() {
        let cases: &[(&str, &str, bool)] = &[
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000001v*", "virtio:d00000002v00001AF4", false),
            (
                "pci:v00008086d*sv*sd*bc01sc06i01*",
                "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
                true,
            ),
            (
                "pci:v00008086d*sv*sd*bc01sc06i01*",
                "pci:v00008086d00002922sv00001AF4sd00001100bc02sc00i00",
                false,
            ),
            ("usb:v1D6Bp000[0-3]d*", "usb:v1D6Bp0002d0602", true),
            ("usb:v1D6Bp000[!0-3]d*", "usb:v1D6Bp0002d0602", false),
            ("acpi*:LNXPWRBN:*", "acpi:LNXPWRBN:", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("fs-overlay", "fs-overlay", true),
            ("*a*b", "xxaxxbxxb", true),
            ("a[", "a[", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), *expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let files = parse_dep(
            "kernel/net/nf-nat.ko.xz: kernel/net/nf_conntrack.ko.xz kernel/lib/crc.ko\nkernel/lib/crc.ko:\n",
        );
        assert_eq!(
            files["nf_nat"],
            ["kernel/lib/crc.ko", "kernel/net/nf_conntrack.ko.xz", "kernel/net/nf-nat.ko.xz"]
        );
        assert_eq!(files["crc"], ["kernel/lib/crc.ko"]);
    }

    #[test]
    fn aliases_name_modules_with_underscores() {
        let tables = Tables {
            aliases: parse_alias(
                "# comment\nalias virtio:d00000002v* virtio-blk\nalias fs-overlay overlay\n",
            ),
            ..Tables::default()
        };
        assert_eq!(tables.matching("virtio:d00000002v00001AF4"), ["virtio_blk"]);
        assert_eq!(tables.matching("fs-overlay"), ["overlay"]);
    }

    #[test]
    fn an_unknown_name_is_an_error_and_a_built_in_one_is_not() {
        let mut tables = Tables { builtin: HashSet::from(["ext4".to_owned()]), ..Tables::default() };
        assert!(tables.load_named("ext4").is_ok());
        assert!(matches!(tables.load_named("nosuch"), Err(Error::Unknown(name)) if name == "nosuch"));
    }

    #[test]
    fn modules_of_every_compression_are_known_by_their_names() {
        let packing = |name| Packing::of(Path::new(name));
        assert_eq!(packing("kernel/net/nf-nat.ko"), Packing::None);
        assert_eq!(packing("kernel/net/nf-nat.ko.xz"), Packing::Xz);
        for name in ["kernel/net/nf-nat.ko.zst", "kernel/net/nf-nat.ko.gz"] {
            assert_eq!((packing(name), &*module_name(name)), (Packing::Other, "nf_nat"));
        }
    }

    #[test]
    fn a_list_skips_blank_lines_and_comments() {
        assert_eq!(
            parse_list("# x\n\noverlay\n br_netfilter \n;y\n").collect::<Vec<_>>(),
            ["overlay", "br_netfilter"]
        );
    }
}
