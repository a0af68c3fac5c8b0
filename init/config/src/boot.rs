//! `[boot]`: what is needed before any document can be read.

use std::time::Duration;

use crate::read::At;

/// What is needed before any document can be read; so it may stand only in the image's defaults and on the kernel command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Boot {
    /// Where the root filesystem is.
    pub root: RootSource,
    /// Where STATE may be.
    pub state: StatePolicy,
    /// The hardware watchdog, if there is one.
    pub watchdog: Watchdog,
    /// Whether an image that was built with a debug shell starts it.
    pub debug: bool,
}

/// Which block device holds the root filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RootSource {
    /// The one that fits, or the image in the initramfs.
    #[default]
    Auto,
    /// The EROFS with this volume label.
    Label(String),
    /// The partition with this GUID, in lower case.
    PartUuid(String),
    /// This device.
    Device(String),
}

/// Where STATE may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StatePolicy {
    /// A labelled or blank disk, else memory.
    #[default]
    Auto,
    /// A disk, whatever time it takes to appear.
    Disk,
    /// Memory, even if a disk is there.
    Ram,
    /// As `Auto`, and a damaged file system is repaired at the cost of what is damaged.
    Repair,
}

/// Within what time PID 1 must ping the hardware watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watchdog {
    /// No watchdog is started.
    Off,
    /// This time.
    Within(Duration),
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::Within(Duration::from_secs(60))
    }
}

impl Boot {
    pub(crate) fn read(at: At<'_>) -> Self {
        let mut boot = Self::default();
        let Some(fields) = at.fields(&["root", "state", "watchdog", "debug"]) else { return boot };
        if let Some(at) = fields.get("root") {
            boot.root = at.parsed("auto, LABEL=name, PARTUUID=guid or /dev/name", root).unwrap_or_default();
        }
        if let Some(at) = fields.get("state") {
            let choices = [
                ("auto", StatePolicy::Auto),
                ("disk", StatePolicy::Disk),
                ("ram", StatePolicy::Ram),
                ("repair", StatePolicy::Repair),
            ];
            boot.state = at.choice(&choices).unwrap_or_default();
        }
        if let Some(at) = fields.get("watchdog") {
            boot.watchdog = at.parsed("off, or seconds from 10 to 3600", watchdog).unwrap_or_default();
        }
        boot.debug = fields.get("debug").and_then(|at| at.boolean()).unwrap_or_default();
        boot
    }
}

fn watchdog(text: &str) -> Option<Watchdog> {
    match text {
        "off" => Some(Watchdog::Off),
        seconds => match seconds.parse() {
            Ok(seconds @ 10..=3600) => Some(Watchdog::Within(Duration::from_secs(seconds))),
            _ => None,
        },
    }
}

fn root(text: &str) -> Option<RootSource> {
    match text.split_once('=') {
        _ if text == "auto" => Some(RootSource::Auto),
        _ if text.starts_with("/dev/") => Some(RootSource::Device(text.to_owned())),
        Some(("LABEL", label)) if !label.is_empty() => Some(RootSource::Label(label.to_owned())),
        Some(("PARTUUID", guid)) if guid.len() == 36 => Some(RootSource::PartUuid(guid.to_ascii_lowercase())),
        _ => None,
    }
}
