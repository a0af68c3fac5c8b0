//! `/var/log/skerry/SOURCE.log`: the ring on disk, for who asked for it in the configuration.
//!
//! Flash wears out, so this is off unless wanted, lines are gathered before they are written, and every source has two files of
//! bounded size: the current one and the one before (`SOURCE.log.1`). Files are open only while they are written, so that they never
//! keep the disk from being unmounted.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::ring::Filter;
use super::server::format_line;
use super::{inner, newest};
use crate::board::{Board, Condition};

const DIRECTORY: &str = "/var/log/skerry";
/// Lines are gathered for this long.
const GATHER: Duration = Duration::from_secs(5);
/// Lines written at once.
const PORTION: usize = 256;
/// Bytes that one source may take, in both its files.
const SHARE: u64 = 8 << 20;

/// Writes lines as they come, for ever. Owned by the main task; ends only on error.
pub(crate) async fn run(board: Board) -> io::Result<()> {
    board.watch().wait_for(|facts| facts.holds(Condition::State)).await.map_err(io::Error::other)?;
    fs::create_dir_all(DIRECTORY)?;
    let mut news = newest();
    let mut after = 0;
    loop {
        after = write_new(Path::new(DIRECTORY), after, SHARE)?;
        news.changed().await.map_err(io::Error::other)?;
        tokio::time::sleep(GATHER).await;
        news.mark_unchanged();
    }
}

/// Appends the lines after number `after`; returns the number of the last. A file may grow to half of `share` before the next is begun.
fn write_new(dir: &Path, mut after: u64, share: u64) -> io::Result<u64> {
    loop {
        let (texts, last) = gather(after);
        let Some(last) = last else { return Ok(after) };
        for (source, text) in texts {
            append(dir, &source, &text, share / 2)?;
        }
        after = last;
    }
}

/// The text of the next lines by source, and the number of the last of them.
fn gather(after: u64) -> (BTreeMap<String, String>, Option<u64>) {
    let inner = inner();
    let lines = inner.ring.read(&Filter::default(), after, PORTION);
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (source, line) in &lines {
        texts.entry((*source).to_owned()).or_default().push_str(&format_line(source, line));
    }
    (texts, lines.last().map(|(_, line)| line.number))
}

fn append(dir: &Path, source: &str, text: &str, limit: u64) -> io::Result<()> {
    let name = source.replace('/', "-");
    let path = dir.join(format!("{name}.log"));
    let len = fs::metadata(&path).map_or(0, |meta| meta.len());
    if len > 0 && len + text.len() as u64 > limit {
        fs::rename(&path, dir.join(format!("{name}.log.1")))?;
    }
    OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Level;

    #[test]
    fn files_hold_what_came_and_never_more_than_their_share() {
        let dir = tempfile::tempdir().unwrap();
        let mut after = *newest().borrow();
        for round in 0..20 {
            for number in 0..10 {
                crate::logs::record(
                    "disk/test",
                    Level::Info,
                    &format!("round {round} line {number} {:050}", 0),
                );
            }
            after = write_new(dir.path(), after, 4096).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (new, old) = (read("disk-test.log"), read("disk-test.log.1"));
        assert!(new.len() <= 2048 && old.len() <= 2048, "{} {}", new.len(), old.len());
        assert!(new.trim_end().ends_with(&format!("round 19 line 9 {:050}", 0)));
    }
}
