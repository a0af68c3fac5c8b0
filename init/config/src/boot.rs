//! `[boot]`: what is needed before any document can be read.

use crate::read::At;

/// What is needed before any document can be read; so it may stand only in the image's defaults and on the kernel command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Boot {
    /// Where the root filesystem is.
    pub root: RootSource,
    /// Where STATE may be.
    pub state: StatePolicy,
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
}

impl Boot {
    pub(crate) fn read(at: At<'_>) -> Self {
        let mut boot = Self::default();
        let Some(fields) = at.fields(&["root", "state", "debug"]) else { return boot };
        if let Some(at) = fields.get("root") {
            boot.root = at.parsed("auto, LABEL=name or /dev/name", root).unwrap_or_default();
        }
        if let Some(at) = fields.get("state") {
            let choices =
                [("auto", StatePolicy::Auto), ("disk", StatePolicy::Disk), ("ram", StatePolicy::Ram)];
            boot.state = at.choice(&choices).unwrap_or_default();
        }
        boot.debug = fields.get("debug").and_then(|at| at.boolean()).unwrap_or_default();
        boot
    }
}

fn root(text: &str) -> Option<RootSource> {
    match text.split_once('=') {
        _ if text == "auto" => Some(RootSource::Auto),
        _ if text.starts_with("/dev/") => Some(RootSource::Device(text.to_owned())),
        Some(("LABEL", label)) if !label.is_empty() => Some(RootSource::Label(label.to_owned())),
        _ => None,
    }
}
