//! `[log]`: what of the log is shown and kept.

use std::collections::BTreeMap;

use crate::read::At;

/// Importance of a log line, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Someone must act.
    Error,
    /// Degraded.
    Warn,
    /// Life events.
    Info,
    /// Everything.
    Debug,
}

/// What of the log is shown and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least important service lines that reach the console.
    pub level: Level,
    /// The same for single services, by name.
    pub services: BTreeMap<String, Level>,
    /// Whether the log is written to STATE as well. It is in memory otherwise, since flash wears out.
    pub disk: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: Level::Info, services: BTreeMap::new(), disk: false }
    }
}

impl Log {
    pub(crate) fn read(at: At<'_>) -> Self {
        let mut log = Self::default();
        let Some(fields) = at.fields(&["level", "services", "disk"]) else { return log };
        log.level = fields.get("level").and_then(|at| level(&at)).unwrap_or(log.level);
        log.disk = fields.get("disk").and_then(|at| at.boolean()).unwrap_or(log.disk);
        if let Some(at) = fields.get("services") {
            let services = at.entries("a table of service names and levels").into_iter();
            log.services = services.filter_map(|(name, at)| Some((name.to_owned(), level(&at)?))).collect();
        }
        log
    }
}

fn level(at: &At<'_>) -> Option<Level> {
    at.choice(&[
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
    ])
}
