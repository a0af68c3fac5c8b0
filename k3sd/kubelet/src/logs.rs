//! Container logs in CRI's format: reading, following, the last lines.
//!
//! A line is `2026-01-02T03:04:05.678901234Z stdout F text`: time, stream, a tag (`P` when the line goes on in
//! the next entry, `F` when it is full), text.

mod rotate;

use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::inotify::WatchFlags;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, BufReader};
use tokio::sync::mpsc;

pub(crate) use rotate::rotate_forever;

use crate::inotify::Inotify;

/// How often a follower asks whether its container still runs, when the log is silent.
const ALIVE_CHECK: Duration = Duration::from_secs(1);
/// Piece read at once when looking for the last lines from the end.
const TAIL_BLOCK: u64 = 64 << 10;

/// What a reader of logs wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    /// Number of last lines to begin with; `None` for all.
    pub(crate) tail_lines: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) timestamps: bool,
    pub(crate) limit_bytes: Option<u64>,
    /// `stdout`, `stderr`, or both.
    pub(crate) stream: Option<String>,
}

/// One parsed entry.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let (time, stream, tags) = (word()?, word()?, word()?);
    let text = parts.next().unwrap_or_default();
    Some(Entry { time, stream, partial: tags.split(':').next() == Some("P"), text })
}

impl LogOptions {
    /// The bytes a line of the log becomes; nothing when it is not wanted.
    fn render(&self, line: &[u8]) -> Option<Vec<u8>> {
        let entry = parse(line)?;
        if self.stream.as_deref().is_some_and(|wanted| !wanted.eq_ignore_ascii_case(entry.stream)) {
            return None;
        }
        if let Some(since) = self.since {
            let time: Timestamp = entry.time.parse().ok()?;
            if time < since {
                return None;
            }
        }
        let mut out = Vec::with_capacity(line.len());
        if self.timestamps {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
        Some(out)
    }
}

/// Sends the log's text until its end, or while `alive` says so when following. Ends when nobody receives.
pub(crate) async fn read<F: Future<Output = bool>>(
    path: &Path,
    options: &LogOptions,
    alive: impl Fn() -> F,
    out: &mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut log = Log::open(path, options.tail_lines).await?;
    let mut left = options.limit_bytes;
    let mut line = Vec::new();
    let mut ending = false;
    loop {
        while log.next_line(&mut line).await? {
            let Some(mut text) = options.render(&line) else { continue };
            if let Some(left) = &mut left {
                text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= text.len() as u64;
            }
            if out.send(Bytes::from(text)).await.is_err() || left == Some(0) {
                return Ok(());
            }
        }
        if !options.follow || ending {
            return Ok(());
        }
        if !log.reopen_if_rotated().await? {
            // What was written between the last read and the container's end is read in one more round.
            ending = !alive().await;
            if !ending {
                tokio::select! {
                    changed = log.changed() => changed?,
                    () = tokio::time::sleep(ALIVE_CHECK) => {}
                    () = out.closed() => return Ok(()),
                }
            }
        }
    }
}

struct Log {
    path: PathBuf,
    reader: BufReader<File>,
    inode: u64,
    inotify: Inotify,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
}

impl Log {
    async fn open(path: &Path, tail_lines: Option<u64>) -> std::io::Result<Self> {
        let inotify = Inotify::new()?;
        if let Some(dir) = path.parent() {
            inotify.add(dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        }
        let mut file = File::open(path).await?;
        let inode = file.metadata().await?.ino();
        if let Some(lines) = tail_lines {
            let start = tail_start(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file), inode, inotify, begun: Vec::new() })
    }

    /// The next whole line, without its end. False at the end of the file.
    async fn next_line(&mut self, line: &mut Vec<u8>) -> std::io::Result<bool> {
        self.reader.read_until(b'\n', &mut self.begun).await?;
        if self.begun.last() != Some(&b'\n') {
            return Ok(false);
        }
        self.begun.pop();
        std::mem::swap(line, &mut self.begun);
        self.begun.clear();
        Ok(true)
    }

    async fn reopen_if_rotated(&mut self) -> std::io::Result<bool> {
        let Ok(metadata) = tokio::fs::metadata(&self.path).await else { return Ok(false) };
        if metadata.ino() == self.inode {
            return Ok(false);
        }
        let file = File::open(&self.path).await?;
        self.inode = file.metadata().await?.ino();
        self.reader = BufReader::new(file);
        self.begun.clear();
        Ok(true)
    }

    async fn changed(&self) -> std::io::Result<()> {
        self.inotify.changed().await
    }
}

/// Where the last `lines` lines begin; the file is searched from its end.
async fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut found = 0;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(TAIL_BLOCK);
        file.seek(SeekFrom::Start(start)).await?;
        block.clear();
        (&mut *file).take(end - start).read_to_end(&mut block).await?;
        for (index, byte) in block.iter().enumerate().rev() {
            // The newline at the very end ends the last line, it does not begin another.
            if *byte == b'\n' && start + index as u64 + 1 < length {
                found += 1;
                if found == lines {
                    return Ok(start + index as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The last `lines` lines of a log as plain text, at most `limit` bytes; empty when it cannot be read.
pub(crate) fn tail_text(path: &Path, lines: usize, limit: usize) -> String {
    use std::io::{Read as _, Seek as _};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BLOCK)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BLOCK).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let Ok(bytes) = read() else { return String::new() };
    let options = LogOptions::default();
    let rendered: Vec<Vec<u8>> =
        bytes.split(|byte| *byte == b'\n').filter_map(|line| options.render(line)).collect();
    let text = rendered[rendered.len().saturating_sub(lines)..].concat();
    String::from_utf8_lossy(&text[text.len().saturating_sub(limit)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
                       2026-01-01T00:00:02.000000000Z stderr P tw\n\
                       2026-01-01T00:00:02.000000001Z stderr F o\n\
                       2026-01-01T00:00:03.000000000Z stdout F three\n";

    async fn text(options: LogOptions) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(100);
        read(&path, &options, || async { false }, &sender).await.unwrap();
        drop(sender);
        let mut all = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn partial_lines_are_joined_and_options_select() {
        let options = LogOptions::default;
        assert_eq!(text(options()).await, "one\ntwo\nthree\n");
        assert_eq!(text(LogOptions { tail_lines: Some(1), ..options() }).await, "three\n");
        assert_eq!(text(LogOptions { tail_lines: Some(0), ..options() }).await, "");
        assert_eq!(text(LogOptions { tail_lines: Some(99), ..options() }).await, "one\ntwo\nthree\n");
        assert_eq!(text(LogOptions { limit_bytes: Some(5), ..options() }).await, "one\nt");
        let since = Some("2026-01-01T00:00:02.5Z".parse().unwrap());
        assert_eq!(text(LogOptions { since, ..options() }).await, "three\n");
        let timestamps = text(LogOptions { timestamps: true, tail_lines: Some(1), ..options() }).await;
        assert_eq!(timestamps, "2026-01-01T00:00:03.000000000Z three\n");
        assert_eq!(text(LogOptions { stream: Some("Stderr".into()), ..options() }).await, "two\n");
    }

    #[tokio::test]
    async fn a_follower_sees_new_lines_rotation_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let alive = Arc::new(AtomicBool::new(true));
        let (sender, mut receiver) = mpsc::channel(100);
        let (reading, flag) = (path.clone(), alive.clone());
        let follower = tokio::spawn(async move {
            let options = LogOptions { follow: true, tail_lines: Some(1), ..LogOptions::default() };
            read(&reading, &options, || async { flag.load(Ordering::SeqCst) }, &sender).await
        });
        assert_eq!(receiver.recv().await.unwrap(), "three\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2026-01-01T00:00:04Z stdout F four\n").unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "four\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, "2026-01-01T00:00:05Z stdout F five\n").unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "five\n");
        alive.store(false, Ordering::SeqCst);
        assert_eq!(receiver.recv().await, None);
        follower.await.unwrap().unwrap();
    }
}
