//! Whether QEMU can use the processor's virtualisation here (KVM) or must translate (TCG).
//!
//! `/dev/kvm` being there says little: in nested or sandboxed machines it opens and then fails, or runs a little and then
//! fails. So a guest is really started. First a firmware of a few instructions, which sorts out most hosts in a blink; then
//! the image's own kernel, up to our first program in it. The verdict on the kernel is kept until the host boots again.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::arch::Arch;
use crate::error::Error;
use crate::image::Kernel;

/// Firmware starts in a blink under either accelerator; this is for a host that swaps.
const FIRMWARE_LIMIT: Duration = Duration::from_secs(20);
/// A kernel on a real processor is through in two seconds; one that takes this long gains nothing over translation.
const KERNEL_LIMIT: Duration = Duration::from_secs(40);

/// What PID 1 says first: the kernel has started, memory works, a program runs.
const FIRST_WORDS: &str = "skerry: init started";

/// The firmware ends in the 16 bytes that the processor executes first.
const FIRMWARE_BYTES: usize = 64 * 1024;

/// Written by the firmware to QEMU's exit device, which ends QEMU with twice that plus one.
const EXIT_VALUE: u8 = 0x2a;
const EXIT_STATUS: i32 = (EXIT_VALUE as i32) * 2 + 1;

/// Differs after every start of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The device without which there is no KVM.
const DEVICE: &str = "/dev/kvm";

/// How the guest's instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By translation: 20 to 50 times slower.
    Tcg,
}

impl Accelerator {
    /// What `SKERRY_ACCEL` says, else what works. Found out once per process.
    ///
    /// # Errors
    /// When `SKERRY_ACCEL` says nonsense, or QEMU is not there.
    pub(crate) async fn detect(arch: Arch, kernel: Option<&Kernel>, version: u32) -> Result<Self, Error> {
        match env::var("SKERRY_ACCEL").as_deref() {
            Ok("kvm") => return Ok(Self::Kvm),
            Ok("tcg") => return Ok(Self::Tcg),
            Ok("") | Err(_) => {}
            Ok(other) => return Err(Error::UnknownAccelerator(other.to_owned())),
        }
        if arch != Arch::host() {
            return Ok(Self::Tcg);
        }
        static FOUND: OnceCell<Accelerator> = OnceCell::const_new();
        FOUND.get_or_try_init(|| Self::probe(arch, kernel, version)).await.copied()
    }

    async fn probe(arch: Arch, kernel: Option<&Kernel>, version: u32) -> Result<Self, Error> {
        match fs::File::options().read(true).write(true).open(DEVICE) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Tcg),
            Err(error) => {
                eprintln!(
                    "qemu: {DEVICE} cannot be used ({error}): every instruction is translated, which is slow"
                );
                return Ok(Self::Tcg);
            }
        }
        // The firmware is of this family's instructions.
        if arch == Arch::X86_64 && !runs_firmware(Self::Kvm).await? {
            return Ok(Self::Tcg);
        }
        // Without a kernel to try, the firmware's word counts, for this run.
        let Some(kernel) = kernel else { return Ok(Self::Kvm) };
        let verdict = Verdict::of_this_boot(version, kernel);
        let runs = match verdict.read() {
            Some(known) => known,
            None => {
                let runs = runs_kernel(arch, kernel).await?;
                verdict.write(runs);
                runs
            }
        };
        Ok(if runs { Self::Kvm } else { Self::Tcg })
    }

    /// The name QEMU knows it by.
    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What was found out, in a file that names what it holds for.
struct Verdict {
    path: Option<PathBuf>,
    holds_for: String,
}

impl Verdict {
    /// A kernel or initramfs that does not start says nothing about the next.
    fn of_this_boot(version: u32, kernel: &Kernel) -> Self {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let stamp = |path: &Path| {
            let metadata = fs::metadata(path).ok()?;
            let made = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            Some(format!("{}-{}", metadata.len(), made.as_millis()))
        };
        let stamps = [&kernel.kernel, &kernel.initramfs].map(|path| stamp(path).unwrap_or_default());
        let cache = env::var_os("SKERRY_CACHE").map(PathBuf::from).or_else(|| {
            let base = env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
            Some(base.join("skerry"))
        });
        Self {
            path: cache.map(|cache| cache.join("kvm")),
            holds_for: format!("boot {} qemu {version} kernel {}", boot.trim(), stamps.join(" ")),
        }
    }

    fn read(&self) -> Option<bool> {
        let text = fs::read_to_string(self.path.as_ref()?).ok()?;
        match text.trim_end().strip_prefix(&self.holds_for)? {
            " works" => Some(true),
            " fails" => Some(false),
            _ => None,
        }
    }

    /// A verdict that cannot be kept is found out again next time.
    fn write(&self, works: bool) {
        let Some(path) = &self.path else { return };
        let verdict = if works { "works" } else { "fails" };
        let _ = path.parent().map(fs::create_dir_all);
        let _ = fs::write(path, format!("{} {verdict}\n", self.holds_for));
    }
}

/// A machine without anything.
fn bare(arch: Arch, accelerator: Accelerator) -> Command {
    let mut command = Command::new(arch.program());
    command
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-machine", arch.board()])
        .args(["-accel", accelerator.name(), "-cpu", arch.cpu(accelerator, 0)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

fn spawn(arch: Arch, command: &mut Command) -> Result<Child, Error> {
    command.spawn().map_err(|error| arch.missing(error))
}

/// Runs the probe firmware and tells whether it got to its end.
async fn runs_firmware(accelerator: Accelerator) -> Result<bool, Error> {
    let scratch = tempfile::tempdir().map_err(Error::host("make a scratch directory"))?;
    let firmware = scratch.path().join("probe.bin");
    tokio::fs::write(&firmware, probe_firmware()).await.map_err(Error::host("write the probe firmware"))?;
    let mut command = bare(Arch::X86_64, accelerator);
    command.args(["-m", "32", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios"]).arg(&firmware);
    let mut child = spawn(Arch::X86_64, &mut command)?;
    match timeout(FIRMWARE_LIMIT, child.wait()).await {
        Ok(status) => Ok(status.map_err(Error::host("wait for QEMU"))?.code() == Some(EXIT_STATUS)),
        Err(_) => Ok(false),
    }
}

/// Boots the kernel under KVM and tells whether it got to our first program.
async fn runs_kernel(arch: Arch, kernel: &Kernel) -> Result<bool, Error> {
    let mut command = bare(arch, Accelerator::Kvm);
    command
        .args(["-m", "512", "-smp", "2", "-serial", "stdio"])
        .args(["-append", &format!("console={} panic=-1", arch.console()), "-kernel"])
        .arg(&kernel.kernel)
        .arg("-initrd")
        .arg(&kernel.initramfs)
        .stdout(Stdio::piped());
    let mut child = spawn(arch, &mut command)?;
    let Some(output) = child.stdout.take() else { return Ok(false) };
    // The machine ends with `child`.
    Ok(timeout(KERNEL_LIMIT, says(output, FIRST_WORDS)).await.unwrap_or(false))
}

/// Whether `text` comes before the end.
async fn says(output: impl AsyncRead + Unpin, text: &str) -> bool {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(length) if length > 0) {
        if String::from_utf8_lossy(&line).contains(text) {
            return true;
        }
        line.clear();
    }
    false
}

/// `mov al, EXIT_VALUE; out 0xf4, al; hlt; jmp` to the `hlt`, at the processor's first instruction.
fn probe_firmware() -> Vec<u8> {
    const HLT: u8 = 0xf4;
    let mut firmware = vec![HLT; FIRMWARE_BYTES];
    let code = [0xb0, EXIT_VALUE, 0xe6, 0xf4, HLT, 0xeb, 0xfd];
    let start = FIRMWARE_BYTES - 16;
    firmware[start..start + code.len()].copy_from_slice(&code);
    firmware
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_probe_firmware_runs_to_its_end_where_translation_works() {
        match runs_firmware(Accelerator::Tcg).await {
            Ok(ran) => assert!(ran),
            Err(Error::ProgramMissing { .. }) => eprintln!("skipped: no QEMU here"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_verdict_holds_for_one_boot_of_the_host_and_one_qemu() {
        let scratch = tempfile::tempdir().unwrap();
        let path = Some(scratch.path().join("new/kvm"));
        let verdict = |holds_for: &str| Verdict { path: path.clone(), holds_for: holds_for.to_owned() };
        assert_eq!(verdict("boot a qemu 7").read(), None);
        verdict("boot a qemu 7").write(false);
        assert_eq!(verdict("boot a qemu 7").read(), Some(false));
        assert_eq!(verdict("boot b qemu 7").read(), None);
        assert_eq!(verdict("boot a qemu 10").read(), None);
        verdict("boot a qemu 7").write(true);
        assert_eq!(verdict("boot a qemu 7").read(), Some(true));
    }

    #[tokio::test]
    async fn only_the_words_themselves_count() {
        assert!(says(&b"a\r\n[ 1.0] skerry: init started at 0.5s\r\n"[..], FIRST_WORDS).await);
        assert!(!says(&b"Kernel panic\n"[..], FIRST_WORDS).await);
    }
}
