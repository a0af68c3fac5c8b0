//! The listener: accept, handshake, HTTP/1.1 or HTTP/2, and an orderly end.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::authn::Peer;
use crate::body::BoxError;
use crate::body::gather::Gathered;
use crate::pipeline;
use crate::server::{ApiServer, Shared};
use crate::tls;

use self::turn::Turns;

mod turn;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of an HTTP/1.1 request may take, counted from the end of the one before it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests in flight may take after the listener has closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Upstream's `--http2-max-streams-per-connection` default is 250; watches of many kinds share one connection.
const MAX_STREAMS: u32 = 1000;
/// How often an HTTP/2 client is asked whether it is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

impl ApiServer {
    /// Accept connections until `cancel`, then let requests in flight finish, within limits. Fails when the watch cache has lost the
    /// datastore: what is served would be old from then on.
    pub async fn serve(&self, listener: TcpListener, cancel: CancellationToken) -> io::Result<()> {
        let closing = CancellationToken::new();
        let acceptor = TlsAcceptor::from(self.shared.tls.config.clone());
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
                    let address = peer.ip();
                    let (shared, acceptor) = (self.shared.clone(), acceptor.clone());
                    let task = connection(shared, acceptor, stream, address, closing.clone());
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
        closing.cancel();
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
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

async fn connection(
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: IpAddr,
    closing: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "failed to set TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake timed out"),
    };
    let handshake = stream.get_ref().1;
    let peer = Peer::Network { address, shown: shared.tls.judge(handshake.peer_certificates()) };
    let http2 = handshake.alpn_protocol() == Some(tls::HTTP2);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let (shared, peer) = (shared.clone(), peer.clone());
        async move {
            let response = pipeline::handle(shared, peer, request).await;
            Ok::<_, std::convert::Infallible>(response.map(Gathered::new))
        }
    });
    // What TLS has agreed on: to find it out from the first bytes would have no time limit.
    let served = if http2 {
        let stream = Turns::new(stream);
        let mut connection = pin!(http2_server().serve_connection(TokioIo::new(stream.clone()), service));
        let served = async {
            tokio::select! {
                served = connection.as_mut() => served,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        turn::drive(served, &stream).await
    } else {
        let stream = TokioIo::new(stream);
        let mut connection = pin!(http1_server().serve_connection(stream, service).with_upgrades());
        tokio::select! {
            served = connection.as_mut() => served,
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
        .map_err(BoxError::from)
    };
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}

fn http1_server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
}

fn http2_server() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL);
    builder
}
