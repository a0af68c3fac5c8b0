//! Where a run ends by itself: a condition on the console, of the API server, or of a page.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::str::FromStr;
use std::time::Duration;

use qemu::{Error, READY_LINE, Vm};

/// How long a page may take before it is asked for again.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// What a run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Until {
    /// Every service is ready and so is the node.
    Ready,
    /// The API server has handed out its kubeconfig.
    Api,
    /// The console has said this.
    Line(String),
    /// The guest's port answers a request for the path with status 200.
    Page(u16, String),
    /// The machine has powered itself off.
    Off,
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        match (name, value) {
            ("ready", "") => Ok(Self::Ready),
            ("api", "") => Ok(Self::Api),
            ("off", "") => Ok(Self::Off),
            ("line", text) if !text.is_empty() => Ok(Self::Line(text.to_owned())),
            ("page", page) => {
                let (port, path) = page.split_at(page.find('/').unwrap_or(page.len()));
                let port = port.parse().map_err(|_| format!("'{page}' is not PORT/PATH"))?;
                Ok(Self::Page(port, if path.is_empty() { "/".to_owned() } else { path.to_owned() }))
            }
            _ => Err("not ready, api, off, line=TEXT or page=PORT/PATH".to_owned()),
        }
    }
}

// === impl Until ===

impl Until {
    /// The guest's port that has to be forwarded.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Page(port, _) => Some(*port),
            _ => None,
        }
    }

    /// Waits for it.
    pub(crate) async fn wait(&self, vm: &mut Vm, limit: Duration) -> Result<(), Error> {
        match self {
            Self::Ready => vm.wait_line(READY_LINE, limit).await.map(drop),
            Self::Api => vm.kubeconfig(limit).await.map(drop),
            Self::Line(text) => vm.wait_line(text, limit).await.map(drop),
            Self::Page(guest, path) => {
                let port = vm.forwarded(*guest).unwrap_or(*guest);
                let path = path.clone();
                let what = format!("the page {path} on port {guest}");
                vm.wait_until(&what, limit, move || answers(port, &path).then_some(())).await
            }
            Self::Off => vm.wait_off(limit).await,
        }
    }
}

/// Whether a request is answered with status 200.
fn answers(port: u16, path: &str) -> bool {
    let answer = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PAGE_LIMIT))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut status = vec![0; "HTTP/1.0 200".len()];
        stream.read_exact(&mut status)?;
        Ok(status)
    };
    answer().is_ok_and(|status| status.starts_with(b"HTTP/1.") && status.ends_with(b" 200"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn conditions_are_read_from_text() {
        assert_eq!("ready".parse(), Ok(Until::Ready));
        assert_eq!("line=a=b c".parse(), Ok(Until::Line("a=b c".into())));
        assert_eq!("page=30080".parse(), Ok(Until::Page(30080, "/".into())));
        assert_eq!("page=80/a/b".parse(), Ok(Until::Page(80, "/a/b".into())));
        for wrong in ["", "readyy", "ready=1", "line=", "line", "page=x", "page=99999/"] {
            assert!(wrong.parse::<Until>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_status_200_is_an_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            for status in ["503 Not yet", "200 OK"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 256];
                let _ = stream.read(&mut request).unwrap();
                // In one piece: the other side goes away after the status.
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).unwrap();
            }
        });
        assert!(!answers(port, "/"));
        assert!(answers(port, "/"));
        server.join().unwrap();
        assert!(!answers(port, "/"));
    }
}
