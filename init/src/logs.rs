//! What services write: kept line by line in a bounded ring, and shown on the console with the service's name before it.
//!
//! The console is slow, so it gets lines of a wanted importance at a bounded rate; the ring gets all, and its end is shown when
//! a service fails.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

use crate::config::Level;
use crate::console;
use crate::services::Service;

/// Bytes of text kept per service.
const RING_LEN: usize = 64 << 10;
/// A longer line is cut.
const MAX_LINE: usize = 2 << 10;
/// Lines a service may show at once, and per second after that.
const BURST: u32 = 300;
const PER_SECOND: u32 = 50;
/// Lines shown when a service fails, if they had not been shown, and how old they may be to have to do with it.
const LAST_WORDS: usize = 20;
const LAST_WORDS_AGE: Duration = Duration::from_secs(5);

/// The log of one service; clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Inner>>);

struct Inner {
    service: &'static str,
    threshold: Level,
    info_counts_as: Level,
    ring: Ring,
    rate: Rate,
    suppressed: u32,
}

impl Log {
    /// An empty log of `service`, of which lines at least as important as `threshold` are shown.
    pub(crate) fn new(service: &Service, threshold: Level) -> Self {
        let inner = Inner {
            service: service.name,
            threshold,
            info_counts_as: service.info_counts_as,
            ring: Ring::default(),
            rate: Rate::new(Instant::now()),
            suppressed: 0,
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Takes lines from `pipe` until every process has closed the other end.
    pub(crate) async fn follow(self, pipe: pipe::Receiver) -> io::Result<()> {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            if read_line(&mut reader, &mut line).await? == 0 {
                return Ok(());
            }
            self.line(String::from_utf8_lossy(&line).trim_end());
        }
    }

    /// Shows the last lines that were not worth showing when they came, for whoever wants to know why a service failed.
    pub(crate) fn show_last_words(&self) {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in inner.ring.last_words(Instant::now()) {
            console::write(&format!("[{}] {line}\n", inner.service));
        }
    }

    fn line(&self, text: &str) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let level = match level_of(text) {
            Level::Info => inner.info_counts_as,
            level => level,
        };
        let wanted = level <= inner.threshold;
        let allowed = wanted && inner.rate.allow(Instant::now());
        if allowed && std::mem::take(&mut inner.suppressed) > 0 {
            console::write(&format!("[{}] (some lines were not shown: too many at once)\n", inner.service));
        }
        if allowed {
            console::write(&format!("[{}] {text}\n", inner.service));
        } else if wanted {
            inner.suppressed += 1;
        }
        inner.ring.push(Line { text: text.to_owned(), shown: allowed, at: Instant::now() });
    }
}

/// Reads up to and including a newline, keeping at most [`MAX_LINE`] bytes; returns how many bytes were there.
async fn read_line(reader: &mut BufReader<pipe::Receiver>, line: &mut Vec<u8>) -> io::Result<usize> {
    let mut total = 0;
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(total);
        }
        let end = buffer.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(buffer.len());
        let room = MAX_LINE.saturating_sub(line.len()).min(taken);
        line.extend_from_slice(&buffer[..room]);
        reader.consume(taken);
        total += taken;
        if end.is_some() {
            return Ok(total);
        }
    }
}

/// The importance a line claims: logfmt's `level=`, or a bare word near its start as tracing and klog-like formats have it. A line
/// that claims nothing was written by hand for someone to read, so it counts as a warning.
fn level_of(line: &str) -> Level {
    let head: Vec<_> = line.split_whitespace().take(4).collect();
    for word in head {
        let word = word.trim_start_matches("level=").trim_matches(['[', ']', '"', ':']);
        match word.to_ascii_lowercase().as_str() {
            "error" | "fatal" | "panic" => return Level::Error,
            "warn" | "warning" => return Level::Warn,
            "info" => return Level::Info,
            "debug" | "trace" => return Level::Debug,
            _ => {}
        }
    }
    Level::Warn
}

/// The last lines, oldest dropped first.
#[derive(Default)]
struct Ring {
    lines: VecDeque<Line>,
    len: usize,
}

struct Line {
    text: String,
    shown: bool,
    at: Instant,
}

impl Ring {
    fn push(&mut self, line: Line) {
        self.len += line.text.len();
        self.lines.push_back(line);
        while self.len > RING_LEN {
            match self.lines.pop_front() {
                Some(dropped) => self.len -= dropped.text.len(),
                None => break,
            }
        }
    }

    fn last_words(&self, now: Instant) -> impl Iterator<Item = &str> {
        let recent =
            move |line: &&Line| !line.shown && now.saturating_duration_since(line.at) < LAST_WORDS_AGE;
        self.lines
            .iter()
            .skip(self.lines.len().saturating_sub(LAST_WORDS))
            .filter(recent)
            .map(|line| line.text.as_str())
    }
}

/// A token bucket.
struct Rate {
    tokens: u32,
    filled: Instant,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now }
    }

    fn allow(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        if passed >= Duration::from_secs(1) {
            let gained = u32::try_from(passed.as_secs()).unwrap_or(u32::MAX).saturating_mul(PER_SECOND);
            self.tokens = self.tokens.saturating_add(gained).min(BURST);
            self.filled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_in_the_formats_our_services_write() {
        let cases = [
            ("time=\"2026-01-01T00:00:00Z\" level=warning msg=\"x\"", Level::Warn),
            ("time=\"2026-01-01T00:00:00Z\" level=info msg=\"error\"", Level::Info),
            ("2026-01-01T00:00:00.0Z  INFO k3sd::server: listening", Level::Info),
            ("2026-01-01T00:00:00.0Z ERROR kubelet: failed", Level::Error),
            ("panic: runtime error", Level::Error),
            ("thread 'main' panicked at", Level::Warn),
        ];
        for (line, level) in cases {
            assert_eq!(level_of(line), level, "{line}");
        }
    }

    #[test]
    fn a_burst_is_cut_and_time_gives_room_again() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        assert_eq!((0..BURST * 2).filter(|_| rate.allow(start)).count(), BURST as usize);
        let later = start + Duration::from_secs(2);
        assert_eq!((0..BURST).filter(|_| rate.allow(later)).count(), 2 * PER_SECOND as usize);
    }

    #[test]
    fn the_ring_drops_the_oldest_lines_and_tells_the_recent_unshown_ones() {
        let start = Instant::now();
        let mut ring = Ring::default();
        for number in 0..2000 {
            ring.push(Line { text: format!("{number:0100}"), shown: false, at: start });
        }
        assert!(ring.len <= RING_LEN && ring.lines.len() == RING_LEN / 100);
        let failed = start + LAST_WORDS_AGE;
        for (text, shown) in [("why", false), ("known", true), ("because", false)] {
            ring.push(Line { text: text.to_owned(), shown, at: failed });
        }
        assert_eq!(ring.last_words(failed).collect::<Vec<_>>(), ["why", "because"]);
    }
}
