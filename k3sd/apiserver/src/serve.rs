//! The listener: accept, handshake, HTTP/1.1 or HTTP/2, and an orderly end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::authn::{Peer, certificate_user};
use crate::pipeline;
use crate::server::{ApiServer, Shared};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests in flight may take after the listener has closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Upstream's `--http2-max-streams-per-connection` default is 250; watches of many kinds share one connection.
const MAX_STREAMS: u32 = 1000;

impl ApiServer {
    /// Accept connections until `cancel`, then let requests in flight finish, within limits. Fails when the watch cache has lost the
    /// datastore: what is served would be old from then on.
    pub async fn serve(&self, listener: TcpListener, cancel: CancellationToken) -> io::Result<()> {
        let graceful = GracefulShutdown::new();
        let acceptor = TlsAcceptor::from(self.shared.tls.clone());
        let mut connections = JoinSet::new();
        let mut stale = self.shared.stale.clone();
        let mut outcome = Ok(());
        info!(address = %listener.local_addr()?, "api server listening");
        loop {
            let stream = tokio::select! {
                () = cancel.cancelled() => break,
                Ok(lost) = stale.wait_for(Option::is_some) => {
                    let error = lost.clone().unwrap_or(datastore::Error::Closed);
                    outcome = Err(io::Error::other(error));
                    break;
                }
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match stream {
                Ok((stream, peer)) => {
                    let task = connection(self.shared.clone(), acceptor.clone(), stream, graceful.watcher());
                    connections.spawn(task.instrument(info_span!("connection", %peer)));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: wait for some to come back rather than spin.
                    warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
            warn!(left = connections.len(), "connections cut off at shutdown");
        }
        connections.shutdown().await;
        if self.shared.cancel.is_cancelled() {
            // The server ends with its listener: what it started is over, too.
            self.shared.tasks.close();
            self.shared.tasks.wait().await;
        }
        outcome
    }
}

async fn connection(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream, watcher: Watcher) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "failed to set TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake timed out"),
    };
    let user =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(certificate_user);
    let peer = Peer::Network(user);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let (shared, peer) = (shared.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(pipeline::handle(shared, peer, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        debug!(error = %error, "connection ended");
    }
}
