//! What can go wrong with a virtual machine.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

use crate::arch::Arch;

/// Why a virtual machine did not do what was asked.
#[derive(Debug, Error)]
pub enum Error {
    /// A program of the host is missing.
    #[error("'{program}' is not installed (Debian: apt-get install {package})")]
    ProgramMissing {
        /// Its name.
        program: &'static str,
        /// Debian's package with it.
        package: &'static str,
    },
    /// The firmware for UEFI boots is missing.
    #[error("there is no UEFI firmware '{}' (Debian: apt-get install {package})", .path.display())]
    FirmwareMissing {
        /// Where it was looked for.
        path: PathBuf,
        /// Debian's package with it.
        package: &'static str,
    },
    /// The image is not complete.
    #[error("there is no '{}': build the image first (`./just image`)", .0.display())]
    ImageFileMissing(PathBuf),
    /// A disk alone cannot be started in the way that was asked for.
    #[error(
        "'{}' is a whole disk, which only boots through UEFI: for other ways name the directory of the image",
        .0.display()
    )]
    NeedsDirectory(PathBuf),
    /// The image is for another processor family.
    #[error(
        "the image is for {found}, not for {wanted}: build one with `image build --target qemu-{wanted}`"
    )]
    OtherArch {
        /// What was asked for.
        wanted: Arch,
        /// What the image's kernel is.
        found: Arch,
    },
    /// `SKERRY_ACCEL` is neither `kvm` nor `tcg`.
    #[error("SKERRY_ACCEL is '{0}', not 'kvm' or 'tcg'")]
    UnknownAccelerator(String),
    /// A file, socket or process of the host could not be used.
    #[error("failed to {action}")]
    Host {
        /// What was attempted.
        action: String,
        /// The cause.
        source: io::Error,
    },
    /// Files that do not make a volume.
    #[error("failed to make the volume '{label}'")]
    Volume {
        /// Its label.
        label: String,
        /// The cause.
        source: disk::fat::Error,
    },
    /// QEMU ended while something was still expected of it.
    #[error(
        "{name}QEMU ended ({status}{}) before {waited_for}; last console lines:\n{console}",
        after(reason)
    )]
    Ended {
        /// The machine's name with a colon, if it has one.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// Why, if QEMU said so before it ended.
        reason: Option<String>,
        /// What was expected.
        waited_for: String,
        /// The end of the console.
        console: String,
    },
    /// Something expected did not happen in time.
    #[error("{name}{waited_for} did not happen within {limit:?}; last console lines:\n{console}")]
    Deadline {
        /// The machine's name with a colon, if it has one.
        name: String,
        /// What was expected.
        waited_for: String,
        /// How long it was waited for.
        limit: Duration,
        /// The end of the console.
        console: String,
    },
    /// QEMU refused a command.
    #[error("QEMU refused '{command}': {answer}")]
    Refused {
        /// The QMP command.
        command: &'static str,
        /// QEMU's reason.
        answer: String,
    },
}

fn after(reason: &Option<String>) -> String {
    reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default()
}

impl Error {
    /// For `map_err`: wraps an [`io::Error`] with what was attempted.
    pub(crate) fn host(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Host { action, source }
    }
}
