//! `[boot]`: what concerns the boot itself.
//!
//! The root filesystem is found before any document can be read, so only the kernel command line can say where it is. Everything else
//! may stand in any source: it takes effect when that has been read.

use std::time::Duration;

use crate::read::At;
use crate::tree::Value;

/// What concerns the boot itself.
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
            boot.root = root_of(&at).unwrap_or_default();
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
            boot.watchdog = watchdog(&at).unwrap_or_default();
        }
        boot.debug = fields.get("debug").and_then(|at| at.boolean()).unwrap_or_default();
        boot
    }
}

fn watchdog(at: &At<'_>) -> Option<Watchdog> {
    let within = |seconds: u64| {
        let sound = (10..=3600).contains(&seconds);
        sound.then(|| Watchdog::Within(Duration::from_secs(seconds)))
    };
    let allowed = "\"off\", or seconds from 10 to 3600";
    if let Value::Integer(seconds) = at.value() {
        let found = u64::try_from(*seconds).ok().and_then(within);
        if found.is_none() {
            at.wrong(allowed);
        }
        return found;
    }
    at.parsed(allowed, |text| match text {
        "off" => Some(Watchdog::Off),
        seconds => seconds.parse().ok().and_then(within),
    })
}

fn root_of(at: &At<'_>) -> Option<RootSource> {
    if !matches!(at.value(), Value::Words(_)) {
        at.wrong_because(
            "a setting that is needed before this can be read",
            "skerry.root= on the kernel command line, and nowhere else",
        );
        return None;
    }
    at.parsed("auto, LABEL=name, PARTUUID=guid or /dev/name", root)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layer, Resolved, resolve};

    fn document(text: &str) -> Resolved {
        resolve(&[Layer::toml("config.toml", text.as_bytes()).unwrap()])
    }

    #[test]
    fn only_the_command_line_is_early_enough_to_say_where_the_root_is() {
        let told = document("[boot]\nroot = \"/dev/vda2\"").mistakes;
        assert_eq!(told.len(), 1);
        assert_eq!(
            told[0].to_string(),
            "config.toml:2: boot.root: given a setting that is needed before this can be read; allowed: skerry.root= on the kernel command line, and nowhere else"
        );
        let words = resolve(&[Layer::words([("root", Some("/dev/vda2"))])]);
        assert_eq!(words.mistakes, []);
        assert_eq!(words.config.boot.root, RootSource::Device("/dev/vda2".to_owned()));
    }

    #[test]
    fn seconds_may_be_a_number_or_text() {
        let within = |seconds| Watchdog::Within(Duration::from_secs(seconds));
        let cases =
            [("90", Some(within(90))), ("\"90\"", Some(within(90))), ("\"off\"", Some(Watchdog::Off))];
        for (text, expected) in cases.into_iter().chain([("9", None), ("-1", None), ("true", None)]) {
            let resolved = document(&format!("boot.watchdog = {text}"));
            let found = resolved.mistakes.is_empty().then_some(resolved.config.boot.watchdog);
            assert_eq!(found, expected, "{text}");
        }
    }
}
