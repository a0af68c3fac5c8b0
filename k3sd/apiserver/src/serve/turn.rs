//! HTTP/2 over TLS that hands the kernel what one turn of a connection writes, rather than each frame.
//!
//! The HTTP/2 library flushes after every frame of data, and most clients allow none above 16 KiB: a list of megabytes would be
//! thousands of calls of the kernel, each of which may wake the client for little. Here a write is encrypted and kept; it goes out
//! when the connection has nothing more to do for now ([`drive`]), or when so much is kept that the TLS library takes no more
//! (64 KiB), which is when a slow client holds the connection up.

use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::body::BoxError;

/// A stream whose flushes do nothing; [`drive`] flushes. The connection and its driver share it, and both are one task: nobody ever
/// waits for the lock.
#[derive(Debug)]
pub(super) struct Turns<S>(Arc<Mutex<TlsStream<S>>>);

impl<S> Turns<S> {
    pub(super) fn new(stream: TlsStream<S>) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    fn lock(&self) -> MutexGuard<'_, TlsStream<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Clone for Turns<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Runs `connection`, which reads and writes `stream`, to its end, and sends at the end of each turn what it wrote.
pub(super) async fn drive<S, E>(
    connection: impl Future<Output = Result<(), E>>,
    stream: &Turns<S>,
) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Into<BoxError>,
{
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        let turn = connection.as_mut().poll(cx).map_err(Into::into);
        // Pending wakes this task when the client takes more.
        match Pin::new(&mut *stream.lock()).poll_flush(cx) {
            Poll::Ready(Err(error)) if turn.is_pending() => Poll::Ready(Err(error.into())),
            _ => turn,
        }
    })
    .await
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Turns<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Turns<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.lock();
        loop {
            let written = stream.get_mut().1.writer().write_vectored(data)?;
            if written > 0 || data.iter().all(|part| part.is_empty()) {
                return Poll::Ready(Ok(written));
            }
            ready!(Pin::new(&mut *stream).poll_flush(cx))?;
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector, client};

    use super::*;

    /// What the kernel would be called for.
    struct Counted {
        stream: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.stream).poll_write(cx, data)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.stream).poll_write_vectored(cx, data)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    /// Both ends of a connection, and the count of the server's writes.
    async fn connected() -> (TlsStream<Counted>, client::TlsStream<DuplexStream>, Arc<AtomicUsize>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = CertificateDer::from(made.cert);
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Room for all that one turn of the first test writes, not for all that the second writes.
        let (near, far) = duplex(256 * 1024);
        let writes = Arc::new(AtomicUsize::new(0));
        let near = Counted { stream: near, writes: writes.clone() };
        let (server, client) = tokio::join!(
            TlsAcceptor::from(Arc::new(server)).accept(near),
            TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("localhost").unwrap(), far),
        );
        writes.store(0, Ordering::Relaxed);
        (server.unwrap(), client.unwrap(), writes)
    }

    #[tokio::test]
    async fn what_is_written_and_flushed_in_one_turn_goes_out_at_once_at_its_end() {
        let (server, mut client, writes) = connected().await;
        let stream = Turns::new(server);
        let mut writer = stream.clone();
        let connection = async {
            for _ in 0..20 {
                writer.write_all(&[b'x'; 1000]).await?;
                writer.flush().await?;
            }
            assert_eq!(writes.load(Ordering::Relaxed), 0, "sent before the end of the turn");
            // Waits for the client.
            writer.read_u8().await.map(drop)
        };
        let reading = async {
            let mut received = vec![0; 20_000];
            client.read_exact(&mut received).await.unwrap();
            assert_eq!(writes.load(Ordering::Relaxed), 1);
            client.write_all(b"!").await.unwrap();
            client.flush().await.unwrap();
        };
        let (driven, ()) = tokio::join!(drive(connection, &stream), reading);
        driven.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_gets_everything_and_holds_the_connection_up_meanwhile() {
        const ALL: usize = 3_000_000;
        let (server, mut client, _) = connected().await;
        let stream = Turns::new(server);
        let mut writer = stream.clone();
        let written = AtomicUsize::new(0);
        let connection = async {
            for _ in 0..ALL / 1000 {
                writer.write_all(&[b'x'; 1000]).await?;
                written.fetch_add(1000, Ordering::Relaxed);
            }
            writer.shutdown().await
        };
        let reading = async {
            tokio::task::yield_now().await;
            let ahead = written.load(Ordering::Relaxed);
            assert!(ahead < 500_000, "{ahead} bytes are kept for a client that has read none");
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap();
            received.len()
        };
        let (driven, received) = tokio::join!(drive(connection, &stream), reading);
        driven.unwrap();
        assert_eq!(received, ALL);
    }
}
