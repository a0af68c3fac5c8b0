//! The web server: a fixed set of threads that accept from one listener, and an orderly end on SIGTERM.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{Shutdown, shutdown};

use crate::identity::Identity;

/// Requests answered at one time; more wait in the kernel's queue.
const WORKERS: usize = 4;

/// How long a client may take to send its request or to take its page.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest request head that is read; what is longer is answered 431.
const MAX_HEAD_BYTES: u64 = 16 * 1024;

struct Server {
    identity: Identity,
    requests: AtomicU64,
    stopping: AtomicBool,
}

struct Response {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

/// Serves on `address` until SIGTERM or SIGINT; requests that have begun are finished first.
pub(crate) fn run(address: &str) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Before any thread is made: threads inherit the mask, so that the signals reach only the wait below.
    signals.thread_block()?;

    let listener = TcpListener::bind(address)?;
    let server = Arc::new(Server {
        identity: Identity::from_environment(),
        requests: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
    });
    println!(
        "demo {} listening on {} as pod {}",
        env!("CARGO_PKG_VERSION"),
        listener.local_addr()?,
        server.identity.pod
    );

    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| server.accept_loop(&listener));
        }
        let signal = wait_for_one_of(&signals);
        server.stopping.store(true, Ordering::SeqCst);
        // Ends every accept() that waits, and refuses new connections.
        let stopped = shutdown(listener.as_raw_fd(), Shutdown::Both);
        println!("demo stopping on {signal} after {} requests", server.requests.load(Ordering::SeqCst));
        stopped.map_err(Into::into)
    })
}

fn wait_for_one_of(signals: &SigSet) -> Signal {
    loop {
        if let Ok(signal) = signals.wait() {
            return signal;
        }
    }
}

// === impl Server ===

impl Server {
    fn accept_loop(&self, listener: &TcpListener) {
        while !self.stopping.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A client that hangs up is no fault of ours.
                    let _ = self.answer(&stream);
                }
                Err(error) if self.stopping.load(Ordering::SeqCst) => drop(error),
                Err(error) => {
                    eprintln!("demo: failed to accept a connection: {error}");
                    // Out of descriptors or memory: let others give some back.
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn answer(&self, stream: &TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
        stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
        let Some(request_line) = read_head(stream)? else {
            return write_response(stream, &plain("431 Request Header Fields Too Large", "too long\n"), true);
        };
        let mut words = request_line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let response = self.route(method, path);
        if path != "/healthz" {
            println!("{method} {path} {}", response.status);
        }
        write_response(stream, &response, method != "HEAD")
    }

    fn route(&self, method: &str, path: &str) -> Response {
        if !matches!(method, "GET" | "HEAD") {
            return plain("405 Method Not Allowed", "only GET and HEAD\n");
        }
        match path {
            // Probes are not visits.
            "/healthz" if self.stopping.load(Ordering::SeqCst) => {
                plain("503 Service Unavailable", "stopping\n")
            }
            "/healthz" => plain("200 OK", "ok\n"),
            "/" => plain("200 OK", &self.page(self.requests.fetch_add(1, Ordering::SeqCst) + 1)),
            _ => plain("404 Not Found", "no such page\n"),
        }
    }

    fn page(&self, request: u64) -> String {
        let identity = &self.identity;
        let unknown = "unknown".to_owned();
        format!(
            "Hello from Skerry.\n\n\
             node:      {}\n\
             pod:       {}\n\
             namespace: {}\n\
             address:   {}\n\
             version:   {}\n\
             request:   {request}\n",
            identity.node.as_ref().unwrap_or(&unknown),
            identity.pod,
            identity.namespace.as_ref().unwrap_or(&unknown),
            identity.address.as_ref().unwrap_or(&unknown),
            env!("CARGO_PKG_VERSION"),
        )
    }
}

/// Reads up to the empty line and returns the first line, or `None` when the head is too long.
fn read_head(stream: &TcpStream) -> Result<Option<String>> {
    let mut reader = BufReader::new(stream.take(MAX_HEAD_BYTES));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" || line == "\n" {
            return Ok(Some(first));
        }
    }
}

fn write_response(mut stream: &TcpStream, response: &Response, with_body: bool) -> Result<()> {
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        response.status,
        response.content_type,
        response.body.len()
    );
    stream.write_all(head.as_bytes())?;
    if with_body {
        stream.write_all(response.body.as_bytes())?;
    }
    stream.flush()
}

fn plain(status: &'static str, body: &str) -> Response {
    Response { status, content_type: "text/plain; charset=utf-8", body: body.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            identity: Identity {
                node: Some("skerry".into()),
                namespace: Some("default".into()),
                pod: "demo-1".into(),
                address: None,
            },
            requests: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    #[test]
    fn the_page_names_node_and_pod_and_counts_visits_but_not_probes() {
        let server = server();
        assert_eq!(server.route("GET", "/healthz").body, "ok\n");
        let first = server.route("GET", "/").body;
        assert!(first.contains("node:      skerry\n") && first.contains("pod:       demo-1\n"), "{first}");
        assert!(first.contains("request:   1\n"), "{first}");
        assert!(server.route("GET", "/").body.contains("request:   2\n"));
    }

    #[test]
    fn a_stopping_server_is_not_healthy() {
        let server = server();
        server.stopping.store(true, Ordering::SeqCst);
        assert!(server.route("GET", "/healthz").status.starts_with("503"));
    }
}
