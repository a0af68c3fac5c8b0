//! Everything that is said on this machine: one bounded ring in memory, fed from all sides.
//!
//! ```text
//! stdout and stderr of services (stream) ─┐                       ┌─> console, what is important enough (this file)
//! journald's native socket (journal) ─────┼─> record() ─> ring ───┼─> /run/skerry/log, for who asks (server)
//! the kernel's messages (kmsg) ───────────┤                       └─> /var/log/skerry, if configured (disk)
//! PID 1's own lines (console::say!) ──────┘
//! ```
//!
//! The ring gets all. The console is slow, so it gets the lines of a wanted importance, at a bounded rate; when a service fails, the
//! last lines of it that were not shown follow.

mod client;
mod disk;
mod journal;
mod kmsg;
mod level;
mod rate;
mod ring;
mod server;
mod stream;

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub(crate) use self::client::{ROLE, ask_role};
pub(crate) use self::disk::{Written, run as write_to_disk};
pub(crate) use self::journal::run as serve_journal;
pub(crate) use self::kmsg::run as follow_kernel;
use self::ring::{Line, Ring};
pub(crate) use self::server::run as serve;
pub(crate) use self::stream::follow;
use crate::board::since_kernel_start;
use crate::config::Level;
use crate::console;

/// The name under which PID 1's own lines are kept.
pub(crate) const INIT: &str = "init";
/// The name of the kernel's messages.
const KERNEL: &str = "kernel";
/// Bytes of memory for all lines together.
const CAPACITY: usize = 1 << 20;
/// Lines shown when a service fails, if they had not been shown, and how old they may be to have to do with it.
const LAST_WORDS: usize = 20;
const LAST_WORDS_AGE: Duration = Duration::from_secs(5);

/// What is done with lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The least important lines that the console shows; none means PID 1's own alone.
    pub(crate) console: Option<Level>,
    /// The same for single sources.
    pub(crate) sources: BTreeMap<String, Level>,
}

/// There is one machine, one console and one ring.
static LOGS: LazyLock<Logs> = LazyLock::new(|| Logs {
    inner: Mutex::new(Inner { ring: Ring::new(CAPACITY), settings: Settings::default() }),
    newest: watch::Sender::new(0),
});

struct Logs {
    inner: Mutex<Inner>,
    /// The number of the last line, for those who wait for the next.
    newest: watch::Sender<u64>,
}

struct Inner {
    ring: Ring,
    settings: Settings,
}

/// Chooses what the console shows from now on.
pub(crate) fn configure(settings: Settings) {
    inner().settings = settings;
}

/// Keeps `text` as a line of `source`, and shows it if it is important enough.
pub(crate) fn record(source: &str, level: Level, text: &str) {
    let mut inner = inner();
    let wanted = inner.settings.shows(source, level);
    let pushed = inner.ring.push(source, Line::new(level, text), wanted);
    drop(inner);
    if pushed.some_were_hidden {
        console::write_line(&format!("[{source}] "), "(some lines were not shown: too many at once)");
    }
    if pushed.shown {
        console::write_line(&format!("[{source}] "), text);
    }
    LOGS.newest.send_replace(pushed.number);
}

/// Shows the last lines of `source` that were not worth showing when they came, for whoever wants to know why it failed.
pub(crate) fn show_last_words(source: &str) {
    let words = inner().ring.last_words(source, since_kernel_start(), LAST_WORDS_AGE, LAST_WORDS);
    for text in words {
        console::write_line(&format!("[{source}] "), &text);
    }
}

fn inner() -> MutexGuard<'static, Inner> {
    LOGS.inner.lock().unwrap_or_else(PoisonError::into_inner)
}

fn newest() -> watch::Receiver<u64> {
    LOGS.newest.subscribe()
}

impl Settings {
    /// What the configuration says.
    pub(crate) fn new(config: &node_config::Log) -> Self {
        Self { console: Some(config.level), sources: config.services.clone() }
    }

    /// The kernel writes its messages to the console by itself (`loglevel=`), and PID 1 has written its own.
    fn shows(&self, source: &str, level: Level) -> bool {
        let threshold = self.sources.get(source).copied().or(self.console);
        !matches!(source, KERNEL | INIT) && threshold.is_some_and(|threshold| level <= threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_of_its_own_threshold_overrides_the_general_one() {
        let settings = Settings {
            console: Some(Level::Warn),
            sources: BTreeMap::from([
                ("k3sd".to_owned(), Level::Debug),
                ("containerd".to_owned(), Level::Error),
            ]),
        };
        assert!(settings.shows("k3sd", Level::Debug));
        assert!(!settings.shows("containerd", Level::Warn));
        assert!(settings.shows("shim", Level::Warn) && !settings.shows("shim", Level::Info));
    }

    #[test]
    fn what_is_on_the_console_already_is_not_shown_again() {
        let settings = Settings { console: Some(Level::Debug), ..Settings::default() };
        assert!(!settings.shows(KERNEL, Level::Error) && !settings.shows(INIT, Level::Error));
    }
}
