//! What a machine is made of, and the way from there to a running one.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::Command;

use crate::accelerator::Accelerator;
use crate::arch::{Arch, Firmware};
use crate::command_line::{Boot, Drive, Lan, Machine, SYSTEM_DRIVE, UserNetwork};
use crate::console::{Console, Echo};
use crate::drives::{Disk, STATE_BYTES, State};
use crate::error::Error;
use crate::forward::Forward;
use crate::image::Image;
use crate::netboot;
use crate::vm::{API_PORT, Vm, start};
use crate::volume::Volume;

/// Enough for the control plane, containerd and a few pods.
pub(crate) const DEFAULT_MEMORY_MIB: u32 = 1024;

/// The kernel counts timer interrupts as it starts and panics when they are late, which is no fault of a machine that a busy host
/// emulates (kernel-parameters: `no_timer_check`). Under KVM it leaves that out by itself.
const TIMER_WORD: &str = "no_timer_check";
/// What every kernel is told: the console shows its errors and leaves its other news to the log; after a panic it
/// resets, which ends QEMU.
const KERNEL_WORDS: &str = "loglevel=4 panic=5";
/// What a machine is when nobody says what it is.
const IDENTITY_WORDS: &str = "skerry.role=server skerry.hostname=skerry";
/// The credential that holds a configuration.
const CONFIG_CREDENTIAL: &str = "skerry.config";
/// Where firmware configuration carries credentials (systemd.exec(5)).
const CREDENTIALS: &str = "opt/io.systemd.credentials/";
/// What systemd-boot adds to the command line of its entries (smbios-type-11(7), since systemd 256).
const LOADER_WORDS: &str = "io.systemd.boot.kernel-cmdline-extra=";

/// How a machine gets to its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// QEMU loads kernel and initramfs; the image's disk is there to read, and state has a disk of its own. The fastest.
    Kernel,
    /// UEFI firmware boots the whole disk, a copy of the image's, with the state on it.
    Uefi,
    /// QEMU loads the kernel and the initramfs that has the root inside. No disk but the state's.
    Netboot,
    /// The same two files, by DHCP and TFTP, through iPXE.
    Pxe,
}

/// What a machine is made of. Every method replaces a default or adds something.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    image: Image,
    start: Start,
    arch: Option<Arch>,
    memory_mib: u32,
    cpus: Option<u32>,
    append: Vec<String>,
    unconfigured: bool,
    state: State,
    disk_bytes: Option<u64>,
    system_disk: Option<PathBuf>,
    disks: Vec<Disk>,
    volumes: Vec<Volume>,
    smbios: Vec<String>,
    fw_cfg: Vec<(String, Vec<u8>)>,
    forwards: Vec<Forward>,
    number: u8,
    lan: Option<Lan>,
    restarts: bool,
    extra: Vec<String>,
    name: String,
    echo: Echo,
}

// === impl Builder ===

impl Builder {
    pub(crate) fn new(path: &Path) -> Self {
        let image = Image::at(path);
        let start = match image {
            Image::Directory(_) => Start::Kernel,
            Image::Disk(_) => Start::Uefi,
        };
        Self {
            image,
            start,
            arch: None,
            memory_mib: DEFAULT_MEMORY_MIB,
            cpus: None,
            append: Vec::new(),
            unconfigured: false,
            state: State::default(),
            disk_bytes: None,
            system_disk: None,
            disks: Vec::new(),
            volumes: Vec::new(),
            smbios: Vec::new(),
            fw_cfg: Vec::new(),
            forwards: vec![Forward { host: None, guest: API_PORT }],
            number: 1,
            lan: None,
            restarts: false,
            extra: Vec::new(),
            name: String::new(),
            echo: Echo::default(),
        }
    }

    /// How the machine gets to its kernel; for an image directory [`Start::Kernel`] without this, for a disk
    /// [`Start::Uefi`].
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// The processor family; what the image was built for without this.
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = Some(arch);
        self
    }

    /// Memory of the guest; 1024 MiB without this.
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Processors of the guest. Without this 2, or 1 where an x86 is emulated: such a one runs no two at the same time.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// Adds to the kernel command line. Later words win over earlier ones and over the defaults. They reach a UEFI boot
    /// through systemd-boot, and an iPXE boot through a copy of its script.
    pub fn append(mut self, words: &str) -> Self {
        self.append.push(words.to_owned());
        self
    }

    /// Does not tell the machine by its command line that it is a server named `skerry`. Implied by any configuration that is
    /// given as a volume or as the credential `skerry.config`.
    pub fn unconfigured(mut self) -> Self {
        self.unconfigured = true;
        self
    }

    /// The disk that outlives the machine; a fresh one without this.
    pub fn state(mut self, state: State) -> Self {
        self.state = state;
        self
    }

    /// Size of a disk that is made: of the state's (4 GiB without this), or of the whole disk's copy (4 GiB more than the image).
    /// Has no effect on one that is there already.
    pub fn disk_bytes(mut self, bytes: u64) -> Self {
        self.disk_bytes = Some(bytes);
        self
    }

    /// Attaches this disk, read-only, in the place of the image's own. For [`Start::Kernel`].
    pub fn system_disk(mut self, path: &Path) -> Self {
        self.system_disk = Some(path.to_owned());
        self
    }

    /// One more disk, after those of image and state.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// One more disk, with a FAT volume made of these files.
    pub fn volume(mut self, volume: Volume) -> Self {
        self.volumes.push(volume);
        self
    }

    /// A configuration, as `config.toml` on a volume labelled `CONFIG`.
    pub fn config(self, toml: &str) -> Self {
        self.volume(Volume::config(toml))
    }

    /// A credential, through QEMU's firmware configuration. `skerry.config` is a whole configuration.
    pub fn credential(self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.fw_cfg(&format!("{CREDENTIALS}{name}"), content)
    }

    /// A file of QEMU's firmware configuration, whose name begins with `opt/`.
    pub fn fw_cfg(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.fw_cfg.push((name.to_owned(), content.into()));
        self
    }

    /// A string of SMBIOS's table 11, such as `io.systemd.credential:NAME=TEXT`.
    pub fn smbios(mut self, string: &str) -> Self {
        self.smbios.push(string.to_owned());
        self
    }

    /// Forwards some free port of the host's loopback address to a port of the guest. The API server's is always
    /// forwarded.
    pub fn forward(self, guest: u16) -> Self {
        self.forward_from(Forward { host: None, guest })
    }

    /// Like [`Builder::forward`], with a wish for the host's port. A later one for the same guest port replaces an
    /// earlier one.
    pub fn forward_from(mut self, forward: Forward) -> Self {
        self.forwards.retain(|other| other.guest != forward.guest);
        self.forwards.push(forward);
        self
    }

    /// A second network card, on a network shared with other machines; the machine takes its number from it.
    pub fn lan(mut self, lan: Lan) -> Self {
        self.number = lan.number;
        self.lan = Some(lan);
        self
    }

    /// Lets the guest restart. Without this a restart ends QEMU, as a power-off does.
    pub fn restarts(mut self) -> Self {
        self.restarts = true;
        self
    }

    /// Arguments for QEMU, after all others.
    pub fn qemu_arguments<I: IntoIterator<Item: Into<String>>>(mut self, arguments: I) -> Self {
        self.extra.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// A name that stands before each console line that is printed.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// Whether the console is also printed.
    pub fn echo(mut self, echo: Echo) -> Self {
        self.echo = echo;
        self
    }

    /// Starts QEMU. Returns when it runs, which is before the guest does anything.
    ///
    /// # Errors
    /// When something of the image or of the host is missing, or QEMU refuses.
    pub async fn boot(self) -> Result<Vm, Error> {
        let arch = self.resolve_arch()?;
        let version = major_version(arch).await?;
        let accelerator = Accelerator::detect(arch, self.image.any_kernel().as_ref(), version).await?;
        // Not below the image: a socket's path may have 107 bytes only.
        let scratch = tempfile::Builder::new()
            .prefix("skerry-vm-")
            .tempdir()
            .map_err(Error::host("make a scratch directory"))?;
        let listen = |name: &str| {
            let path = scratch.path().join(name);
            let listener =
                UnixListener::bind(&path).map_err(Error::host(format!("listen on '{}'", path.display())))?;
            Ok((path, listener))
        };
        let (control_socket, control) = listen("control")?;
        let (kubeconfig_socket, kubeconfig) = listen("kubeconfig")?;
        let words = self.words(arch);
        let machine = Machine {
            arch,
            accelerator,
            version,
            memory_mib: self.memory_mib,
            cpus: self.cpus.unwrap_or_else(|| arch.cpus(accelerator)),
            drives: self.drives(scratch.path())?,
            boot: self.boot_from(arch, &words, &scratch)?,
            user: UserNetwork { forwards: choose_ports(&self.forwards)?, number: self.number },
            lan: self.lan,
            smbios: self.smbios_strings(&words),
            fw_cfg: self.fw_cfg_files(scratch.path())?,
            restarts: self.restarts,
            extra: self.extra,
            control_socket,
            kubeconfig_socket,
        };
        start(machine, scratch, Console::new(self.echo, &self.name), control, kubeconfig).await
    }

    /// The family that was asked for, unless the image is for another.
    fn resolve_arch(&self) -> Result<Arch, Error> {
        let built_for = self.image.arch()?;
        match (self.arch, built_for) {
            (Some(wanted), Some(found)) if wanted != found => Err(Error::OtherArch { wanted, found }),
            (wanted, found) => Ok(wanted.or(found).unwrap_or(Arch::host())),
        }
    }

    fn configured(&self) -> bool {
        self.unconfigured
            || !self.volumes.is_empty()
            || self.fw_cfg.iter().any(|(name, _)| name.ends_with(CONFIG_CREDENTIAL))
            || self.smbios.iter().any(|string| string.contains(CONFIG_CREDENTIAL))
    }

    /// The kernel command line.
    fn words(&self, arch: Arch) -> String {
        let console = format!("console={}", arch.console());
        let mut words = vec![console.as_str(), KERNEL_WORDS];
        if arch == Arch::X86_64 {
            words.push(TIMER_WORD);
        }
        if !self.configured() {
            words.push(IDENTITY_WORDS);
        }
        words.extend(self.append.iter().map(String::as_str));
        words.join(" ").trim_end().to_owned()
    }

    fn boot_from(&self, arch: Arch, words: &str, scratch: &TempDir) -> Result<Boot, Error> {
        match self.start {
            Start::Kernel => Ok(Boot::Kernel(self.image.kernel()?, words.to_owned())),
            Start::Netboot => Ok(Boot::Kernel(self.image.netboot()?, words.to_owned())),
            Start::Uefi => {
                let Firmware { code, variables } = arch.firmware()?;
                let own = scratch.path().join("variables");
                fs::copy(&variables, &own).map_err(Error::host("copy the firmware's variables"))?;
                Ok(Boot::Firmware(Firmware { code, variables: own }))
            }
            Start::Pxe => {
                let served = scratch.path().join("tftp");
                netboot::serve(&self.image.netboot_directory()?, &served, words)?;
                Ok(Boot::Network(served))
            }
        }
    }

    /// The image's disk first, then the state's, so that the guest numbers them so; then what was added.
    fn drives(&self, scratch: &Path) -> Result<Vec<Drive>, Error> {
        let mut drives = Vec::new();
        let mut add = |id: String, disk: Disk| {
            drives.push(Drive { id, file: disk.file, read_only: disk.read_only });
        };
        if self.start == Start::Uefi {
            let disk = self.state.prepare_copy(scratch, &self.image.disk()?, self.disk_bytes)?;
            add(SYSTEM_DRIVE.to_owned(), disk);
        } else {
            if self.start == Start::Kernel {
                let file = self.system_disk.clone().map_or_else(|| self.image.disk(), Ok)?;
                add(SYSTEM_DRIVE.to_owned(), Disk { file, read_only: true });
            }
            if let Some(file) = self.state.prepare(scratch, self.disk_bytes.unwrap_or(STATE_BYTES))? {
                add("state".to_owned(), Disk { file, read_only: false });
            }
        }
        for (number, disk) in self.disks.iter().enumerate() {
            add(format!("disk{number}"), disk.clone());
        }
        for (number, volume) in self.volumes.iter().enumerate() {
            let file = scratch.join(format!("volume{number}"));
            volume.write(&file)?;
            add(format!("volume{number}"), Disk { file, read_only: true });
        }
        Ok(drives)
    }

    fn smbios_strings(&self, words: &str) -> Vec<String> {
        let mut strings = self.smbios.clone();
        if self.start == Start::Uefi {
            strings.push(format!("{LOADER_WORDS}{words}"));
        }
        strings
    }

    fn fw_cfg_files(&self, scratch: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
        let write = |(number, (name, content)): (usize, &(String, Vec<u8>))| {
            let path = scratch.join(format!("fw_cfg{number}"));
            fs::write(&path, content).map_err(Error::host(format!("write '{}'", path.display())))?;
            Ok((name.clone(), path))
        };
        self.fw_cfg.iter().enumerate().map(write).collect()
    }
}

fn choose_ports(forwards: &[Forward]) -> Result<Vec<(u16, u16)>, Error> {
    forwards
        .iter()
        .map(|forward| Ok((forward.choose().map_err(Error::host("find a free port"))?, forward.guest)))
        .collect()
}

/// `QEMU emulator version 7.2.22 (Debian ...)` is 7.
async fn major_version(arch: Arch) -> Result<u32, Error> {
    let output = Command::new(arch.program()).arg("--version").output().await;
    let output = output.map_err(|error| arch.missing(error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split("version ").nth(1).and_then(|rest| rest.split('.').next());
    // An unknown version gets the careful flags of an old one.
    Ok(number.and_then(|number| number.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> Builder {
        Builder::new(Path::new("/x"))
    }

    #[tokio::test]
    async fn an_image_that_is_not_built_is_named() {
        let error = builder().boot().await.unwrap_err();
        assert!(error.to_string().contains("/x/"), "{error}");
    }

    #[test]
    fn one_guest_port_has_one_forward() {
        let builder = builder().forward_from(Forward { host: Some(7), guest: API_PORT });
        assert_eq!(builder.forwards, [Forward { host: Some(7), guest: API_PORT }]);
    }

    #[test]
    fn what_the_caller_appends_comes_last_and_wins() {
        assert!(builder().append("skerry.role=agent").words(Arch::X86_64).ends_with(" skerry.role=agent"));
    }

    #[test]
    fn a_machine_with_a_configuration_is_not_told_what_it_is() {
        assert!(builder().words(Arch::X86_64).contains("skerry.role="));
        for configured in [
            builder().config("[node]"),
            builder().credential(CONFIG_CREDENTIAL, "[node]"),
            builder().smbios("io.systemd.credential:skerry.config=[node]"),
            builder().unconfigured(),
        ] {
            assert!(!configured.words(Arch::X86_64).contains("skerry."), "{configured:?}");
        }
        assert!(builder().credential("other", "x").words(Arch::X86_64).contains("skerry.role="));
    }

    #[test]
    fn the_command_line_reaches_a_uefi_boot_through_its_loader() {
        let words = "console=ttyS0";
        assert!(builder().smbios_strings(words).is_empty());
        assert_eq!(builder().start(Start::Uefi).smbios_strings(words), [format!("{LOADER_WORDS}{words}")]);
    }
}
