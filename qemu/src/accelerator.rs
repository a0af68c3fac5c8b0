//! Whether QEMU can use the processor's virtualisation here (KVM) or must translate (TCG).
//!
//! `/dev/kvm` being there says little: in nested or sandboxed machines it opens and then fails. So a virtual machine
//! is really started, with a firmware of a few instructions that ends QEMU with a known status.

use std::env;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::error::Error;

/// The emulator.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// Firmware starts in a blink under either accelerator; this is for a host that swaps.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// The firmware ends in the 16 bytes that the processor executes first.
const FIRMWARE_BYTES: usize = 64 * 1024;

/// Written by the firmware to QEMU's exit device, which ends QEMU with twice that plus one.
const EXIT_VALUE: u8 = 0x2a;
const EXIT_STATUS: i32 = (EXIT_VALUE as i32) * 2 + 1;

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
    pub async fn detect() -> Result<Self, Error> {
        static FOUND: OnceCell<Accelerator> = OnceCell::const_new();
        FOUND
            .get_or_try_init(|| async {
                match env::var("SKERRY_ACCEL").as_deref() {
                    Ok("kvm") => Ok(Self::Kvm),
                    Ok("tcg") => Ok(Self::Tcg),
                    Ok("") | Err(_) => Self::probe().await,
                    Ok(other) => Err(Error::UnknownAccelerator(other.to_owned())),
                }
            })
            .await
            .copied()
    }

    async fn probe() -> Result<Self, Error> {
        let usable = Path::new("/dev/kvm").exists() && runs(Self::Kvm).await?;
        Ok(if usable { Self::Kvm } else { Self::Tcg })
    }

    /// The name QEMU knows it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Runs the probe firmware and tells whether it got to its end.
async fn runs(accelerator: Accelerator) -> Result<bool, Error> {
    let scratch = tempfile::tempdir().map_err(Error::host("make a scratch directory"))?;
    let firmware = scratch.path().join("probe.bin");
    tokio::fs::write(&firmware, probe_firmware()).await.map_err(Error::host("write the probe firmware"))?;
    let child = Command::new(PROGRAM)
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-m",
            "32",
            "-machine",
            "q35",
            "-accel",
            accelerator.name(),
        ])
        .args(["-cpu", if accelerator == Accelerator::Kvm { "host" } else { "max" }])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios"])
        .arg(&firmware)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::ProgramMissing(PROGRAM));
        }
        other => other.map_err(Error::host("start QEMU"))?,
    };
    match timeout(PROBE_LIMIT, child.wait()).await {
        Ok(status) => Ok(status.map_err(Error::host("wait for QEMU"))?.code() == Some(EXIT_STATUS)),
        Err(_) => Ok(false),
    }
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
        match runs(Accelerator::Tcg).await {
            Ok(ran) => assert!(ran),
            Err(Error::ProgramMissing(_)) => eprintln!("skipped: no QEMU here"),
            Err(error) => panic!("{error}"),
        }
    }
}
