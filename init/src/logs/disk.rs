//! `/var/log/skerry/SOURCE.log`: the ring on disk, for who asked for it in the configuration.
//!
//! Flash wears out, so this is off unless wanted, lines are gathered before they are written, and every source has two files of
//! bounded size: the current one and the one before (`SOURCE.log.1`). Files are open only while they are written, so that they never
//! keep the disk from being unmounted.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
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

/// The number of the last line that was dealt with. It outlives the runs of [`run`], so that a new one does not begin again.
pub(crate) type Written = Rc<Cell<u64>>;

/// Writes lines as they come, for ever. Owned by the main task; ends only on error.
pub(crate) async fn run(board: Board, written: Written) -> io::Result<()> {
    board.watch().wait_for(|facts| facts.holds(Condition::State)).await.map_err(io::Error::other)?;
    fs::create_dir_all(DIRECTORY)?;
    let mut news = newest();
    loop {
        write_new(Path::new(DIRECTORY), &written, SHARE)?;
        news.changed().await.map_err(io::Error::other)?;
        tokio::time::sleep(GATHER).await;
        news.mark_unchanged();
    }
}

/// Appends the lines after number `written`. A file may grow to half of `share` before the next is begun. What cannot be written is left
/// out: a disk that is full must not be given the same lines again and again.
fn write_new(dir: &Path, written: &Cell<u64>, share: u64) -> io::Result<()> {
    loop {
        let (texts, last) = gather(written.get());
        let Some(last) = last else { return Ok(()) };
        written.set(last);
        let results: Vec<_> =
            texts.into_iter().map(|(name, text)| append(dir, name.as_str(), &text, share / 2)).collect();
        results.into_iter().collect::<io::Result<()>>()?;
    }
}

/// The text of the next lines by the name of the file they go to, and the number of the last of them.
fn gather(after: u64) -> (BTreeMap<String, String>, Option<u64>) {
    let inner = inner();
    let lines = inner.ring.read(&Filter::default(), after, PORTION);
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (source, line) in &lines {
        texts.entry(file_name(source)).or_default().push_str(&format_line(source, line));
    }
    (texts, lines.last().map(|(_, line)| line.number))
}

/// Sources that name themselves share one file, or there could be any number of files.
fn file_name(source: &str) -> String {
    match source.split_once('/') {
        Some((of_many, _)) => of_many.to_owned(),
        None => source.to_owned(),
    }
}

fn append(dir: &Path, name: &str, text: &str, limit: u64) -> io::Result<()> {
    let path = dir.join(format!("{name}.log"));
    let mut len = fs::metadata(&path).map_or(0, |meta| meta.len());
    if len > 0 && len + text.len() as u64 > limit {
        fs::rename(&path, dir.join(format!("{name}.log.1")))?;
        len = 0;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let written = file.write_all(text.as_bytes());
    if written.is_err() {
        // Rather no line than a part of one.
        let _ = file.set_len(len);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Level;

    #[test]
    fn files_hold_what_came_and_never_more_than_their_share() {
        let dir = tempfile::tempdir().unwrap();
        let written = Cell::new(*newest().borrow());
        for round in 0..20 {
            for number in 0..10 {
                crate::logs::record(
                    "disk-test",
                    Level::Info,
                    &format!("round {round} line {number} {:050}", 0),
                );
            }
            write_new(dir.path(), &written, 4096).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (new, old) = (read("disk-test.log"), read("disk-test.log.1"));
        assert!(new.len() <= 2048 && old.len() <= 2048, "{} {}", new.len(), old.len());
        assert!(new.trim_end().ends_with(&format!("round 19 line 9 {:050}", 0)));
    }

    #[test]
    fn what_could_not_be_written_is_not_tried_for_ever_and_harms_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        // In the way of one file, so that writing it fails.
        fs::create_dir(dir.path().join("disk-bad.log")).unwrap();
        let written = Cell::new(*newest().borrow());
        for source in ["disk-bad", "disk-good"] {
            crate::logs::record(source, Level::Info, "first");
        }
        write_new(dir.path(), &written, SHARE).unwrap_err();
        fs::remove_dir(dir.path().join("disk-bad.log")).unwrap();
        for source in ["disk-bad", "disk-good"] {
            crate::logs::record(source, Level::Info, "second");
        }
        write_new(dir.path(), &written, SHARE).unwrap();
        let lines = |name: &str| {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            text.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(lines("disk-bad.log"), ["second"]);
        assert_eq!(lines("disk-good.log"), ["first", "second"]);
    }

    #[test]
    fn senders_that_name_themselves_make_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let written = Cell::new(*newest().borrow());
        for number in 0..3 {
            crate::logs::record(&format!("many/{number}"), Level::Info, "hello");
        }
        write_new(dir.path(), &written, SHARE).unwrap();
        let text = fs::read_to_string(dir.path().join("many.log")).unwrap();
        assert!((0..3).all(|number| text.contains(&format!(" many/{number} info hello\n"))), "{text}");
        let names = || fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name());
        assert!(names().filter(|name| name.to_string_lossy().starts_with("many")).count() == 1);
    }
}
