//! What differs between the processor families that images are built for.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::accelerator::Accelerator;
use crate::error::Error;

/// Enough of a kernel to find its headers in.
const HEADER_BYTES: u64 = 64 * 1024;

/// Where a PE file says how far its header is away.
const PE_OFFSET: usize = 0x3c;
/// The machines of a PE header (Microsoft's PE format, "Machine Types").
const PE_X86_64: u16 = 0x8664;
const PE_AARCH64: u16 = 0xaa64;

/// A processor family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// Ordinary PCs and servers.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

/// A firmware image for UEFI boots: its code, and its variables' initial content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Firmware {
    pub(crate) code: PathBuf,
    pub(crate) variables: PathBuf,
}

// === impl Arch ===

impl Arch {
    /// Of this host; x86_64 for one that no image exists for, since any host can emulate it.
    pub fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// What a kernel was built for. Both families' kernels are EFI programs, whose header tells.
    pub(crate) fn of_kernel(kernel: &Path) -> Result<Option<Self>, Error> {
        let mut bytes = Vec::new();
        File::open(kernel)
            .and_then(|file| file.take(HEADER_BYTES).read_to_end(&mut bytes))
            .map_err(Error::host(format!("read '{}'", kernel.display())))?;
        Ok(machine_of(&bytes))
    }

    /// The emulator.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// Debian's package with the emulator.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
            Self::Aarch64 => "qemu-system-arm",
        }
    }

    /// Debian's package with the firmware for UEFI boots.
    pub(crate) fn firmware_package(self) -> &'static str {
        match self {
            Self::X86_64 => "ovmf",
            Self::Aarch64 => "qemu-efi-aarch64",
        }
    }

    /// The board. A PC gets no SATA controller: nothing is on it, and the guest would look for half a second.
    pub(crate) fn board(self) -> &'static str {
        match self {
            Self::X86_64 => "q35,sata=off",
            Self::Aarch64 => "virt",
        }
    }

    /// The processor. QEMU 7.2 translates `cmpxchg16b` wrongly under threads: the kernel panics in its allocator in a
    /// quarter of the boots. Five-level paging, protection keys and real pointer authentication cost translation time
    /// and bring nothing here.
    pub(crate) fn cpu(self, accelerator: Accelerator, version: u32) -> &'static str {
        match (accelerator, self) {
            (Accelerator::Kvm, _) => "host",
            (Accelerator::Tcg, Self::X86_64) if version < 8 => "max,la57=off,pku=off,cx16=off",
            (Accelerator::Tcg, Self::X86_64) => "max,la57=off,pku=off",
            (Accelerator::Tcg, Self::Aarch64) => "max,pauth-impdef=on",
        }
    }

    /// The accelerator, as QEMU names it. An emulated x86 runs on one thread: with a thread for each processor, a processor can still
    /// meet the breakpoint that stood where the kernel has since finished patching itself, and it panics with `Oops: int3`.
    /// ARM kernels patch in one write.
    pub(crate) fn accel(self, accelerator: Accelerator) -> &'static str {
        match (accelerator, self) {
            (Accelerator::Kvm, _) => "kvm",
            (Accelerator::Tcg, Self::X86_64) => "tcg,thread=single",
            (Accelerator::Tcg, Self::Aarch64) => "tcg,thread=multi",
        }
    }

    /// How many processors a guest has when nobody says: as many as run at the same time, 2 at most.
    pub(crate) fn cpus(self, accelerator: Accelerator) -> u32 {
        match (accelerator, self) {
            (Accelerator::Tcg, Self::X86_64) => 1,
            _ => 2,
        }
    }

    /// The serial port, as the kernel knows it.
    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0,115200",
            Self::Aarch64 => "ttyAMA0",
        }
    }

    /// The firmware for UEFI boots, where Debian puts it.
    pub(crate) fn firmware(self) -> Result<Firmware, Error> {
        let (code, variables) = match self {
            Self::X86_64 => ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
            Self::Aarch64 => ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
        };
        let firmware = Firmware { code: code.into(), variables: variables.into() };
        for path in [&firmware.code, &firmware.variables] {
            if !path.is_file() {
                return Err(Error::FirmwareMissing { path: path.clone(), package: self.firmware_package() });
            }
        }
        Ok(firmware)
    }

    /// What a process that cannot be started means.
    pub(crate) fn missing(self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound => {
                Error::ProgramMissing { program: self.program(), package: self.package() }
            }
            _ => Error::host("start QEMU")(error),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

/// A text that names no processor family.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not x86_64 or aarch64")]
pub struct UnknownArch(String);

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "x86_64" | "amd64" => Ok(Self::X86_64),
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            other => Err(UnknownArch(other.to_owned())),
        }
    }
}

/// The machine of an EFI program; `None` for bytes that are none.
fn machine_of(bytes: &[u8]) -> Option<Arch> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let header = usize::try_from(word(PE_OFFSET)?).ok()?;
    if !bytes.starts_with(b"MZ") || bytes.get(header..header.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let machine = u16::from_le_bytes(bytes.get(header + 4..header + 6)?.try_into().ok()?);
    match machine {
        PE_X86_64 => Some(Arch::X86_64),
        PE_AARCH64 => Some(Arch::Aarch64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(machine: u16) -> Vec<u8> {
        let mut bytes = vec![0; 0x100];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[PE_OFFSET] = 0x80;
        bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
        bytes[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
        bytes
    }

    #[test]
    fn a_kernel_tells_what_it_was_built_for() {
        assert_eq!(machine_of(&kernel(PE_X86_64)), Some(Arch::X86_64));
        assert_eq!(machine_of(&kernel(PE_AARCH64)), Some(Arch::Aarch64));
        assert_eq!(machine_of(&kernel(0x5064)), None);
    }

    #[test]
    fn what_is_no_kernel_is_of_no_family() {
        assert_eq!(machine_of(b""), None);
        assert_eq!(machine_of(&[0xff; 0x100]), None);
        let mut far = kernel(PE_X86_64);
        far[PE_OFFSET..PE_OFFSET + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(machine_of(&far), None);
    }

    #[test]
    fn an_emulated_x86_runs_on_one_thread() {
        assert_eq!(Arch::X86_64.accel(Accelerator::Tcg), "tcg,thread=single");
        assert_eq!(Arch::X86_64.cpus(Accelerator::Tcg), 1);
        assert_eq!(Arch::X86_64.cpus(Accelerator::Kvm), 2);
        assert_eq!(Arch::Aarch64.cpus(Accelerator::Tcg), 2);
    }

    #[test]
    fn only_an_old_qemu_gets_its_broken_instruction_switched_off() {
        assert!(Arch::X86_64.cpu(Accelerator::Tcg, 7).contains("cx16=off"));
        assert!(!Arch::X86_64.cpu(Accelerator::Tcg, 10).contains("cx16"));
        assert_eq!(Arch::X86_64.cpu(Accelerator::Kvm, 7), "host");
    }
}
