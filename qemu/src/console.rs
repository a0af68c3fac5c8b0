//! The guest's serial console: kept, waited on, and shown.

use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::watch;
use tokio::time::Instant;

/// A console prints a few thousand lines in a boot; one that floods forgets its oldest.
const MAX_LINES: usize = 100_000;

/// Lines that an error shows.
const TAIL_LINES: usize = 40;

/// Whether console lines are also printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Echo {
    /// Only kept.
    #[default]
    Off,
    /// On standard output, with the seconds since QEMU started.
    Stdout,
}

/// All that the console has said. Clones are the same console.
#[derive(Debug, Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    echo: Echo,
    /// Stands before each line that is printed; empty for a machine that is alone.
    prefix: String,
    lines: Mutex<Lines>,
    /// Number of lines ever seen.
    count: watch::Sender<usize>,
    /// Number of sources that have not ended.
    sources: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Lines {
    /// How many lines have been forgotten.
    dropped: usize,
    kept: std::collections::VecDeque<String>,
}

impl Console {
    pub(crate) fn new(echo: Echo, name: &str) -> Self {
        let shared = Shared {
            started: Instant::now(),
            echo,
            prefix: if name.is_empty() { String::new() } else { format!("{name}| ") },
            lines: Mutex::default(),
            count: watch::Sender::new(0),
            sources: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Everything so far, one line each.
    pub fn text(&self) -> String {
        let lines = self.lines();
        lines.kept.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// Whether a line so far contains `text`.
    pub fn contains(&self, text: &str) -> bool {
        self.lines().kept.iter().any(|line| line.contains(text))
    }

    /// The machine's name with a colon, to begin a message with.
    pub(crate) fn speaker(&self) -> String {
        self.shared.prefix.replace("| ", ": ")
    }

    /// Number of lines so far. With [`crate::Vm::wait_line_after`], "from now on".
    pub fn mark(&self) -> usize {
        *self.shared.count.borrow()
    }

    /// The last lines, for an error.
    pub(crate) fn tail(&self) -> String {
        let lines = self.lines();
        let skip = lines.kept.len().saturating_sub(TAIL_LINES);
        lines.kept.iter().skip(skip).map(|line| format!("  | {line}\n")).collect()
    }

    /// Waits for a line that contains one of `texts`, among those after the first `mark` ones, and tells which of them.
    /// Never ends without one.
    pub async fn wait(&self, mark: usize, texts: &[&str]) -> (usize, String) {
        let mut count = self.shared.count.subscribe();
        let mut next = mark;
        loop {
            {
                let lines = self.lines();
                let skip = next.saturating_sub(lines.dropped);
                let found = lines.kept.iter().skip(skip).find_map(|line| {
                    Some((texts.iter().position(|text| line.contains(text))?, line.clone()))
                });
                if let Some(found) = found {
                    return found;
                }
                next = lines.dropped + lines.kept.len();
            }
            // The sender lives in this same console, so this does not fail; and were it gone, no line would come.
            if count.wait_for(|&seen| seen > next).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes lines from `source` until it ends.
    pub(crate) fn follow(
        &self,
        source: impl AsyncRead + Unpin + Send + 'static,
        prefix: &'static str,
    ) -> impl Future<Output = ()> + Send + 'static {
        // Counted before the future runs, so that `drained` cannot miss it.
        self.shared.sources.send_modify(|open| *open += 1);
        let console = self.clone();
        async move {
            console.take_lines(source, prefix).await;
            console.shared.sources.send_modify(|open| *open -= 1);
        }
    }

    /// Waits until every source has ended and all its lines are here.
    pub(crate) async fn drained(&self) {
        // The sender lives in this same console, so this does not fail.
        let _ = self.shared.sources.subscribe().wait_for(|&open| open == 0).await;
    }

    async fn take_lines(&self, source: impl AsyncRead + Unpin, prefix: &str) {
        let mut reader = BufReader::new(source);
        let mut bytes = Vec::new();
        while read_line(&mut reader, &mut bytes).await {
            self.push(format!("{prefix}{}", clean(&String::from_utf8_lossy(&bytes))));
            bytes.clear();
        }
    }

    fn push(&self, line: String) {
        if self.shared.echo == Echo::Stdout {
            let seconds = self.shared.started.elapsed().as_secs_f64();
            // A closed terminal is no reason to stop the machine.
            let _ = writeln!(std::io::stdout(), "{}[{seconds:8.3}] {line}", self.shared.prefix);
        }
        let mut lines = self.lines();
        lines.kept.push_back(line);
        if lines.kept.len() > MAX_LINES {
            lines.kept.pop_front();
            lines.dropped += 1;
        }
        let count = lines.dropped + lines.kept.len();
        drop(lines);
        self.shared.count.send_replace(count);
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads up to a line's end. False at the end of the source.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> bool {
    matches!(reader.read_until(b'\n', line).await, Ok(length) if length > 0)
}

/// Without line ends, and without the escape sequences that firmware and terminals' users write.
fn clean(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.trim_end_matches(['\r', '\n']).chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => {
                if characters.next() == Some('[') {
                    // Parameters, then one letter.
                    characters.by_ref().find(|next| ('@'..='~').contains(next));
                }
            }
            '\t' => text.push(character),
            _ if character.is_control() => {}
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_line_is_found_whether_it_came_before_or_after_the_wait() {
        let console = Console::new(Echo::Off, "");
        console.push("booting".into());
        assert_eq!(console.wait(0, &["boot"]).await, (0, "booting".into()));
        let waiting = console.clone();
        let waiter = tokio::spawn(async move { waiting.wait(0, &["panic", "ready"]).await });
        console.push("skerry: ready".into());
        assert_eq!(waiter.await.unwrap(), (1, "skerry: ready".into()));
    }

    #[tokio::test]
    async fn lines_before_the_mark_do_not_count() {
        let console = Console::new(Echo::Off, "");
        console.push("ready".into());
        let mark = console.mark();
        assert!(timeout(Duration::from_millis(20), console.wait(mark, &["ready"])).await.is_err());
        console.push("ready again".into());
        assert_eq!(console.wait(mark, &["ready"]).await.1, "ready again");
    }

    #[tokio::test]
    async fn a_source_becomes_lines_without_escape_sequences() {
        let console = Console::new(Echo::Off, "");
        console.follow(&b"\x1bc\x1b[2J\x1b[1;31mred\x1b[0m\r\nlast"[..], "").await;
        assert_eq!(console.text(), "red\nlast\n");
    }
}
