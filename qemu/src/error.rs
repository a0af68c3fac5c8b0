//! What can go wrong with a virtual machine.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

/// Why a virtual machine did not do what was asked.
#[derive(Debug, Error)]
pub enum Error {
    /// A program of the host is missing.
    #[error("'{0}' is not installed (Debian: apt-get install qemu-system-x86)")]
    ProgramMissing(&'static str),
    /// The image is not complete.
    #[error("there is no '{}': build the image first (`./just image`)", .0.display())]
    ImageFileMissing(PathBuf),
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
    /// QEMU ended while something was still expected of it.
    #[error("QEMU ended ({status}) before {waited_for}; last console lines:\n{console}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// What was expected.
        waited_for: String,
        /// The end of the console.
        console: String,
    },
    /// Something expected did not happen in time.
    #[error("{waited_for} did not happen within {limit:?}; last console lines:\n{console}")]
    Deadline {
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

impl Error {
    /// For `map_err`: wraps an [`io::Error`] with what was attempted.
    pub(crate) fn host(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Host { action, source }
    }
}
