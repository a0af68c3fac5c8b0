//! Clients that are wrong about who they are, slow, or not listening: the others must not notice.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Server, authority, leaf, leaf_until};

const NAMESPACES: &str = "/api/v1/namespaces";

type Certificate = (String, rcgen::KeyPair);

/// A connection that speaks HTTP/1.1 as the test writes it.
async fn connect(server: &Server, certificate: Option<Certificate>) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(server.ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match certificate {
        Some((pem, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// The status of one request, with these headers.
async fn status(server: &Server, certificate: Option<Certificate>, path: &str, headers: &str) -> u16 {
    let mut stream = connect(server, certificate).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Not all servers close TLS in order, and the answer's first line is enough.
    let _cut_short = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_certificate_that_does_not_hold_is_unauthorized_and_a_token_beside_it_counts() {
    let server = Server::start().await;
    let masters = Some("system:masters");
    let good = leaf(&server.ca, "admin", masters);
    assert_eq!(status(&server, Some(good), NAMESPACES, "").await, 200);
    let foreign = || leaf(&authority(), "admin", masters);
    assert_eq!(status(&server, Some(foreign()), NAMESPACES, "").await, 401, "of another cluster");
    let expired = leaf_until(&server.ca, "admin", masters, 2001);
    assert_eq!(status(&server, Some(expired), NAMESPACES, "").await, 401, "run out");
    // Whoever claims to be somebody and is not does not pass for nobody.
    assert_eq!(status(&server, None, "/livez", "").await, 200);
    assert_eq!(status(&server, Some(foreign()), "/livez", "").await, 401);

    let token = server.token("default", "walker").await;
    let bearer = format!("authorization: Bearer {token}\r\n");
    let known = status(&server, Some(foreign()), NAMESPACES, &bearer).await;
    assert_eq!(known, 403, "known by its token, and not allowed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stall_are_cut_off_and_hold_up_nobody() {
    const STALLED: usize = 50;
    let server = Server::start().await;
    let mut stalled: Vec<Box<dyn AsyncRead>> = Vec::new();
    for _ in 0..STALLED {
        stalled.push(Box::new(TcpStream::connect(server.address).await.unwrap()));
        stalled.push(Box::new(connect(&server, None).await));
        let mut half = connect(&server, None).await;
        half.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").await.unwrap();
        stalled.push(Box::new(half));
    }
    let admin = leaf(&server.ca, "admin", Some("system:masters"));
    let answered =
        tokio::time::timeout(Duration::from_secs(10), status(&server, Some(admin), NAMESPACES, ""));
    assert_eq!(answered.await.expect("an answer beside them"), 200);
    for stream in &mut stalled {
        // The end may come as an answer (408), as an error or in silence; what counts is that it comes.
        let ended = stream.read_all();
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("an end");
    }
    server.stop().await;
}

/// What all stalled connections have.
trait AsyncRead: Send {
    fn read_all(&mut self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

impl<S: tokio::io::AsyncRead + Unpin + Send> AsyncRead for S {
    fn read_all(&mut self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let _ended = self.read_to_end(&mut Vec::new()).await;
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_nobody_reads_holds_up_neither_writers_nor_other_watches() {
    const WRITES: usize = 300;
    let server = Server::start().await;
    let admin = || Some(leaf(&server.ca, "admin", Some("system:masters")));
    let watch = "GET /api/v1/namespaces/default/configmaps?watch=1 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut silent = connect(&server, admin()).await;
    silent.write_all(watch.as_bytes()).await.unwrap();
    let mut reading = connect(&server, admin()).await;
    reading.write_all(watch.as_bytes()).await.unwrap();
    // Far more than the buffers of a connection hold.
    let padding = "x".repeat(100_000);
    let path = "/api/v1/namespaces/default/configmaps";
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        let last = format!("\"name\":\"c-{}\"", WRITES - 1);
        let mut buffer = vec![0; 1 << 16];
        while !String::from_utf8_lossy(&seen).contains(&last) {
            let read = reading.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the watch goes on");
            // A name that two reads share is in what is kept of the first.
            let keep = seen.len().min(100);
            seen = [&seen[seen.len() - keep..], &buffer[..read]].concat();
        }
    });
    for number in 0..WRITES {
        let object = json!({"metadata": {"name": format!("c-{number}")}, "data": {"a": padding}});
        let (status, body) = server.call(Method::POST, path, object).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
    tokio::time::timeout(Duration::from_secs(60), reader)
        .await
        .expect("the other watch gets it all")
        .unwrap();
    drop(silent);
    server.stop().await;
}
