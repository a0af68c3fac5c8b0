//! journald's native socket, so that programs which know it (`tracing-journald` in k3sd) log with levels and fields.
//!
//! One datagram is one entry; an entry that is too big for one comes as a sealed memory file whose descriptor is all that
//! is sent ("Native Journal Protocol" of systemd).

mod entry;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::SealFlags;

use self::entry::Entry;
use super::record;
use crate::cgroup;
use crate::datagram::{Datagram, Socket};
use crate::services;

/// Where programs look for it.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The biggest entry taken.
const MAX_ENTRY: usize = 1 << 20;
/// Anything less, and the sender could change the file under our eyes, or keep us waiting for its content.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Receives entries for ever. Owned by the main task; ends only on error.
pub(crate) async fn run() -> io::Result<()> {
    serve(Path::new(SOCKET)).await
}

async fn serve(path: &Path) -> io::Result<()> {
    // Open to every user, as journald's is; a pod sees it only if it is given the host's /run.
    let socket = Socket::bind(path, 0o666, MAX_ENTRY)?;
    loop {
        let datagram = socket.receive().await?;
        if let Some((sender, entry)) = read(datagram) {
            record(&source(sender, &entry), entry.level, &entry.text());
        }
    }
}

/// The entry of a datagram, if it is one by the protocol.
fn read(datagram: Datagram) -> Option<(i32, Entry)> {
    let Datagram { bytes, sender, files } = datagram;
    let entry = match (bytes.is_empty(), files.len()) {
        (false, 0) => Entry::parse(&bytes),
        (true, 1) => Entry::parse(&content(files.into_iter().next()?)?),
        _ => None,
    };
    Some((sender, entry?))
}

/// What a sealed memory file holds.
fn content(file: OwnedFd) -> Option<Vec<u8>> {
    // Only memory files have seals, so this also rules out files that block.
    if !rustix::fs::fcntl_get_seals(&file).ok()?.contains(SEALS) {
        return None;
    }
    let mut file = File::from(file);
    let len = usize::try_from(file.metadata().ok()?.len()).ok().filter(|len| *len <= MAX_ENTRY)?;
    // Its offset is wherever the sender left it.
    io::Seek::rewind(&mut file).ok()?;
    let mut bytes = Vec::with_capacity(len);
    file.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A service is known by its control group. Anyone else goes by the name he gives, marked, so that it is nobody else's.
fn source(sender: i32, entry: &Entry) -> String {
    if let Some(name) = cgroup::of(sender).and_then(|group| services::name_of_group(&group)) {
        return name.to_owned();
    }
    let comm = || std::fs::read_to_string(format!("/proc/{sender}/comm")).unwrap_or_default();
    let name = entry.identifier.clone().unwrap_or_else(comm);
    let name: String = name.trim().chars().filter(|c| c.is_ascii_graphic()).take(32).collect();
    format!("journal/{}", if name.is_empty() { "unknown" } else { &name })
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};

    use super::*;
    use crate::config::Level;
    use crate::logs::ring::Filter;
    use crate::testing::{alone, has_root};

    fn kept(source: &str) -> Vec<(Level, String)> {
        let filter = Filter { source: Some(source.to_owned()), ..Filter::default() };
        let inner = crate::logs::inner();
        inner.ring.read(&filter, 0, 99).iter().map(|(_, line)| (line.level, line.text.to_string())).collect()
    }

    fn memory_file(bytes: &[u8], seals: SealFlags) -> OwnedFd {
        let file = memfd_create("entry", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, bytes).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    }

    fn send_file(client: &UnixDatagram, path: &Path, file: &OwnedFd) {
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        let address = SocketAddrUnix::new(path).unwrap();
        sendmsg_addr(client, &address, &[IoSlice::new(b"")], &mut control, SendFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn entries_come_by_datagram_and_by_sealed_memory_file_and_nothing_else_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal/socket");
        let bound = path.clone();
        let serving = tokio::spawn(async move { serve(&bound).await });
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(b"", &path).unwrap();
        client.send_to(b"no entry", &path).unwrap();
        client.send_to(b"PRIORITY=3\nSYSLOG_IDENTIFIER=unit test\nMESSAGE=small\n", &path).unwrap();
        let big = "x".repeat(300 << 10);
        let text = format!("PRIORITY=7\nSYSLOG_IDENTIFIER=unit test\nMESSAGE={big}\n");
        send_file(&client, &path, &memory_file(text.as_bytes(), SealFlags::SEAL | SealFlags::WRITE));
        send_file(&client, &path, &memory_file(text.as_bytes(), SEALS));
        client.send_to(b"SYSLOG_IDENTIFIER=unit test\nMESSAGE=last\n", &path).unwrap();
        let all = async {
            while kept("journal/unittest").len() < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), all).await.unwrap();
        let lines = kept("journal/unittest");
        assert_eq!(lines[0], (Level::Error, "small".to_owned()));
        assert!(lines[1].0 == Level::Debug && big.starts_with(&lines[1].1) && lines[1].1.len() > 1000);
        assert_eq!(lines[2], (Level::Info, "last".to_owned()));
        serving.abort();
    }

    /// The library knows no other place than journald's own, so this runs where `/run` is its own.
    #[test]
    fn what_tracing_journald_sends_is_understood() {
        if has_root() {
            alone("logs::journal::tests::library").passes();
        }
    }

    #[tokio::test]
    #[ignore = "started by another test, as a process of its own"]
    async fn library() {
        use nix::mount::{MsFlags, mount};
        use tracing_subscriber::prelude::*;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        // The library may use another thread's view of the files, so all is done on this one.
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                tokio::task::spawn_local(run());
                while !Path::new(SOCKET).exists() {
                    tokio::task::yield_now().await;
                }
                let layer = tracing_journald::layer().unwrap().with_syslog_identifier("library".to_owned());
                let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
                let _span = tracing::info_span!("pod", name = "a").entered();
                tracing::warn!(target: "kubelet", error = "not there", attempt = 2, "failed to start");
                tracing::error!(target: "kubelet", "{}", "x".repeat(400 << 10));
                drop(guard);
                let all = async {
                    while kept("journal/library").len() < 2 {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(5), all).await.unwrap();
            })
            .await;
        let lines = kept("journal/library");
        let expected = "kubelet: failed to start name=a error=\"not there\" attempt=2";
        assert_eq!(lines[0], (Level::Warn, expected.to_owned()));
        assert!(lines[1].0 == Level::Error && lines[1].1.contains("kubelet: xxx"), "a memory file");
    }
}
