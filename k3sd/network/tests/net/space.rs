//! Network namespaces for tests, and small TCP servers and clients that live in them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use network::netlink::Namespace;
use nix::sched::{CloneFlags, unshare};

const LIMIT: Duration = Duration::from_secs(3);

/// Runs `test` in a fresh namespace that plays the node. Says why when that is not possible.
pub(crate) fn on_a_node(test: impl FnOnce() + Send) {
    if let Err(reason) = possible() {
        eprintln!("skipped: {reason}");
        return;
    }
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tried above");
        ip("link set lo up");
        test();
    };
    thread::scope(|scope| {
        if let Err(panic) = scope.spawn(body).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn possible() -> Result<(), String> {
    let unshared = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join().expect("does not panic");
    unshared.map_err(|error| format!("needs root to make network namespaces ({error})"))?;
    for program in ["nft", "ip"] {
        let found = Command::new(program).arg("-V").output();
        found.map_err(|error| format!("needs '{program}' ({error})"))?;
    }
    Ok(())
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is there");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `nft` in the calling thread's namespace.
pub(crate) fn nft(arguments: &str) -> String {
    let output = Command::new("nft").args(arguments.split(' ')).output().expect("nft is there");
    assert!(output.status.success(), "nft {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("nft prints text")
}

/// A namespace that lives as long as this value: a thread sits in it.
pub(crate) struct Space {
    path: PathBuf,
    leave: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Space {
    pub(crate) fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let (leave, left) = mpsc::channel::<()>();
        let sit = move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("the test got here");
            let myself = std::fs::read_link("/proc/thread-self").expect("proc is mounted");
            tell.send(Path::new("/proc").join(myself).join("ns/net")).expect("somebody waits");
            // Ends when the other side is dropped.
            let _ = left.recv();
        };
        let thread = thread::spawn(sit);
        Self { path: told.recv().expect("the thread tells"), leave: Some(leave), thread: Some(thread) }
    }

    /// A path by which other processes can open it, too.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        Namespace::open(&self.path()).expect("open").enter(work).expect("root")
    }

    /// A server in here: answers every connection with `name` and the client's address, and hangs up.
    pub(crate) fn serve(&self, address: &str, name: &'static str) {
        let listener = self.enter(|| TcpListener::bind(address)).expect(address);
        serve(listener, name);
    }

    /// A UDP server in here: answers every datagram with `name`.
    pub(crate) fn answer_datagrams(&self, address: &str, name: &'static str) {
        let socket = self.enter(|| UdpSocket::bind(address)).expect(address);
        thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), client);
            }
        });
    }

    /// Connects from in here.
    pub(crate) fn get(&self, address: &str) -> Result<Answer, String> {
        self.enter(|| get(address))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.leave.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) server: String,
    pub(crate) client: SocketAddr,
}

/// Serves on a listener until the process ends.
pub(crate) fn serve(listener: TcpListener, name: &'static str) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().expect("connected");
            let _ = write!(stream, "{name} {peer}");
        }
    });
}

/// Connects from the calling thread's namespace.
pub(crate) fn get(address: &str) -> Result<Answer, String> {
    let target: SocketAddr = address.parse().expect(address);
    let mut stream = TcpStream::connect_timeout(&target, LIMIT).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(LIMIT)).expect("not zero");
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let (server, client) = text.split_once(' ').ok_or_else(|| format!("odd answer '{text}'"))?;
    Ok(Answer { server: server.to_owned(), client: client.parse().expect("an address") })
}
