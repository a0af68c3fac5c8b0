//! The admin kubeconfig, handed out by the guest through a port that only the machine's owner can attach.
//!
//! The guest writes the file to the virtio-serial port [`PORT_NAME`] and ends it with YAML's end-of-document line
//! (`...`); it may do so again later, and the newest whole document counts. The file names the guest's own loopback
//! address, which is put right for the forwarded port here. The serving certificate holds for 127.0.0.1, so nothing
//! has to be trusted blindly.

use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::sync::watch;

/// Name of the virtio-serial port, as `/sys/class/virtio-ports/*/name` shows it in the guest.
pub(crate) const PORT_NAME: &str = "io.skerry.kubeconfig";

/// Ends a document.
const END_OF_DOCUMENT: &str = "...";

/// A kubeconfig is a few kilobytes; a guest that sends this much without an end is not sending one.
const MAX_BYTES: usize = 1024 * 1024;

/// Takes documents from the port until QEMU closes it.
pub(crate) async fn receive(listener: UnixListener, found: watch::Sender<Option<String>>) {
    let Ok((mut stream, _)) = listener.accept().await else { return };
    let mut pending = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        pending.extend_from_slice(&chunk[..length]);
        if let Some((document, rest)) = last_document(&String::from_utf8_lossy(&pending)) {
            found.send_replace(Some(document));
            pending = rest.into_bytes();
        }
        if pending.len() > MAX_BYTES {
            pending.clear();
        }
    }
}

/// The last whole document, and what follows it.
fn last_document(text: &str) -> Option<(String, String)> {
    let mut document = None;
    let mut current = String::new();
    for line in text.split_inclusive('\n') {
        if line.ends_with('\n') && line.trim_end() == END_OF_DOCUMENT {
            document = Some(std::mem::take(&mut current));
        } else {
            current.push_str(line);
        }
    }
    document.map(|document| (document, current))
}

/// Points the kubeconfig at the port of this host that leads to the guest's API server.
pub(crate) fn redirect(kubeconfig: &str, host_port: u16) -> String {
    let mut text = String::with_capacity(kubeconfig.len());
    for line in kubeconfig.lines() {
        match line.find("server: ") {
            Some(at) if line.trim_start().starts_with("server: ") => {
                text.push_str(&line[..at]);
                text.push_str(&format!("server: https://127.0.0.1:{host_port}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_document_counts() {
        assert_eq!(last_document("a: 1\n"), None);
        assert_eq!(last_document("a: 1\n..."), None);
        let (document, rest) = last_document("a: 1\n...\nb: 2\n...\nc: ").unwrap();
        assert_eq!((document.as_str(), rest.as_str()), ("b: 2\n", "c: "));
    }

    #[test]
    fn only_the_server_address_changes() {
        let text = "clusters:\n- cluster:\n    server: https://127.0.0.1:6443\n  name: default\n";
        let expected = "clusters:\n- cluster:\n    server: https://127.0.0.1:4711\n  name: default\n";
        assert_eq!(redirect(text, 4711), expected);
    }
}
