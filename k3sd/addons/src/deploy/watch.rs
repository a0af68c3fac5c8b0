//! Tells which paths below some directories change, by inotify.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::net::unix::pipe;
use tracing::warn;

/// Files that are copied together are handled together.
const GATHER: Duration = Duration::from_millis(50);
/// Room for a few hundred events; the longest single one is 272 bytes.
const BUFFER_BYTES: usize = 16 << 10;

/// The watched directories. It keeps what it has seen until it is asked, so waiting for changes can be cancelled.
pub(super) struct Watch {
    /// Not a pipe, but read like one, and so the safe way to wait for a descriptor.
    descriptor: pipe::Receiver,
    directories: HashMap<i32, PathBuf>,
    seen: BTreeSet<PathBuf>,
    buffer: Vec<u8>,
}

/// `struct inotify_event` of inotify(7).
struct Event<'a> {
    watch: i32,
    flags: ReadFlags,
    name: &'a OsStr,
}

impl Watch {
    pub(super) fn new() -> anyhow::Result<Self> {
        let open = || -> io::Result<pipe::Receiver> {
            let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            pipe::Receiver::from_owned_fd_unchecked(descriptor)
        };
        let descriptor = open().context("failed to watch manifest directories")?;
        let buffer = vec![0; BUFFER_BYTES];
        Ok(Self { descriptor, directories: HashMap::new(), seen: BTreeSet::new(), buffer })
    }

    /// Watches a directory (not what is below its directories) from now on. Doing so again changes nothing.
    pub(super) fn add(&mut self, directory: &Path) {
        // A file that is being written is told when it is closed; a created entry only if it is complete by that.
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.descriptor, directory, flags) {
            Ok(watch) => {
                self.directories.insert(watch, directory.to_owned());
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => {
                warn!(path = %directory.display(), error = %error, "changes of this directory go unseen")
            }
        }
    }

    /// Waits for changes: the paths of files and directories that came, changed or went. A path stands for all below it.
    pub(super) async fn changes(&mut self) -> anyhow::Result<BTreeSet<PathBuf>> {
        loop {
            let readable = self.descriptor.readable();
            if self.seen.is_empty() {
                readable.await?;
            } else if tokio::time::timeout(GATHER, readable).await.is_err() {
                return Ok(std::mem::take(&mut self.seen));
            }
            self.read().context("failed to read changes of manifest directories")?;
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let length = match self.descriptor.try_read(&mut self.buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let buffer = std::mem::take(&mut self.buffer);
        for event in events(&buffer[..length]) {
            self.note(&event);
        }
        self.buffer = buffer;
        Ok(())
    }

    fn note(&mut self, event: &Event<'_>) {
        if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            // What happened is lost: everything may have changed.
            self.seen.insert(PathBuf::from("/"));
            return;
        }
        if event.flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&event.watch);
            return;
        }
        let Some(directory) = self.directories.get(&event.watch) else { return };
        let path = directory.join(event.name);
        let created = event.flags.contains(ReadFlags::CREATE);
        if created && !event.flags.contains(ReadFlags::ISDIR) && !is_link(&path) {
            return;
        }
        self.seen.insert(path);
    }
}

/// Takes a buffer apart: each event is a watch, flags, a cookie and a length (32 bits each, native order), and a name of
/// that length, filled up with zero bytes.
fn events(mut buffer: &[u8]) -> Vec<Event<'_>> {
    let mut events = Vec::new();
    while let Some((header, rest)) = buffer.split_first_chunk::<16>() {
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::try_from(word(12)).unwrap_or(usize::MAX).min(rest.len());
        let (name, next) = rest.split_at(length);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        events.push(Event {
            watch: word(0).cast_signed(),
            flags: ReadFlags::from_bits_retain(word(4)),
            name: OsStr::from_bytes(name),
        });
        buffer = next;
    }
    events
}

/// Symbolic links and further hard links are complete when they are made, and nobody writes to them.
fn is_link(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}
