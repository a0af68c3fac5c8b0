//! Exec, attach and port forwarding: the runtime gives a URL of its streaming server, the request goes there with
//! its headers as they came, and after the upgrade bytes flow both ways untouched.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use k8s_cri::v1 as cri;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tracing::debug;

use super::{Body, Query, Refusal, find_container, find_pod, respond};
use crate::agent::Agent;
use crate::runtime::{Container, State};

/// How long a command of `/run` may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

pub(super) async fn exec(
    agent: &Agent,
    request: Request<Incoming>,
    namespace: &str,
    name: &str,
    container: &str,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(&request);
    let made = running(agent, namespace, name, container).await?;
    let streams = Streams::of(&query)?;
    let ask = cri::ExecRequest {
        container_id: made.id,
        cmd: query.all("command"),
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let url = agent.cri().exec(ask).await.map_err(|error| Refusal::internal(error.message))?;
    join(request, &url).await
}

pub(super) async fn attach(
    agent: &Agent,
    request: Request<Incoming>,
    namespace: &str,
    name: &str,
    container: &str,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(&request);
    let made = running(agent, namespace, name, container).await?;
    let streams = Streams::of(&query)?;
    let ask = cri::AttachRequest {
        container_id: made.id,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let url = agent.cri().attach(ask).await.map_err(|error| Refusal::internal(error.message))?;
    join(request, &url).await
}

pub(super) async fn port_forward(
    agent: &Agent,
    request: Request<Incoming>,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, Refusal> {
    let pod = find_pod(agent, namespace, name)?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let sandbox = agent.runtime.ready_sandbox(&uid).await.map_err(Refusal::internal)?;
    let pod_sandbox_id = sandbox.ok_or_else(|| Refusal::internal(format!("pod not found (\"{name}\")")))?;
    // WebSocket clients name the ports in the query, SPDY clients in their streams.
    let ports = Query::of(&request).all("port");
    let port = ports.iter().flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok()).collect();
    let ask = cri::PortForwardRequest { pod_sandbox_id, port };
    let url = agent.cri().port_forward(ask).await.map_err(|error| Refusal::internal(error.message))?;
    join(request, &url).await
}

/// `/run`: a command to its end, its output as the answer.
pub(super) async fn run(
    agent: &Agent,
    request: &Request<Incoming>,
    namespace: &str,
    name: &str,
    container: &str,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(request);
    let command = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let made = running(agent, namespace, name, container).await?;
    let reply = agent.cri().exec_sync(&made.id, command, RUN_TIMEOUT).await;
    let reply = reply.map_err(|error| Refusal::internal(error.message))?;
    let mut output = reply.stdout;
    output.extend(reply.stderr);
    let text = String::from_utf8_lossy(&output).into_owned();
    if reply.exit_code != 0 {
        let text = format!("command exited with {}: {text}", reply.exit_code);
        return Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    Ok(respond(StatusCode::OK, "text/plain; charset=utf-8", text))
}

/// The container, when it runs. The refusal is upstream's; kubectl takes a text with a colon for YAML.
async fn running(agent: &Agent, namespace: &str, name: &str, container: &str) -> Result<Container, Refusal> {
    let made = find_container(agent, namespace, name, container, false).await.ok();
    made.filter(|made| made.state == State::Running)
        .ok_or_else(|| Refusal::internal(format!("container not found (\"{container}\")")))
}

/// Which streams a client wants; upstream's `pkg/kubelet/.../remotecommand/httpstream.go`.
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn of(query: &Query) -> Result<Self, Refusal> {
        // The kubelet's own names, and the API's, which some clients use here as well.
        let any = |names: [&str; 2]| names.iter().any(|name| query.is_set(name));
        let tty = query.is_set("tty");
        let streams = Self {
            stdin: any(["input", "stdin"]),
            stdout: any(["output", "stdout"]),
            // A terminal has one output only.
            stderr: any(["error", "stderr"]) && !tty,
            tty,
        };
        if !streams.stdin && !streams.stdout && !streams.stderr {
            return Err(Refusal::bad("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(streams)
    }
}

/// Sends the request on to `url`. After `101 Switching Protocols` the connections are joined until either ends.
async fn join(mut request: Request<Incoming>, url: &str) -> Result<Response<Body>, Refusal> {
    let uri: Uri = url.parse().map_err(Refusal::internal)?;
    let authority =
        uri.authority().ok_or_else(|| Refusal::internal("the runtime gave a URL without a host"))?;
    let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await.map_err(
        |error| Refusal(StatusCode::BAD_GATEWAY, format!("streaming server {authority}: {error}")),
    )?;
    stream.set_nodelay(true).map_err(Refusal::internal)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Refusal::internal)?;
    // Owned by the exchange below: it ends with either side's connection.
    let connection = tokio::spawn(connection.with_upgrades());
    let client_side = hyper::upgrade::on(&mut request);
    let onward = onward(&request, &uri).map_err(Refusal::internal)?;
    let response = sender.send_request(onward).await.map_err(Refusal::internal)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| body.map_err(std::io::Error::other).boxed()));
    }
    let mut answer = Response::new(Empty::<Bytes>::new().map_err(|never| match never {}).boxed());
    *answer.status_mut() = response.status();
    answer.headers_mut().extend(headers(response.headers()));
    let runtime_side = hyper::upgrade::on(response);
    tokio::spawn(async move {
        splice(client_side, runtime_side).await;
        connection.abort();
    });
    Ok(answer)
}

/// The same request for the streaming server: its path, all headers, no body.
fn onward(request: &Request<Incoming>, uri: &Uri) -> Result<Request<Empty<Bytes>>, http::Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = Request::builder().method(request.method()).uri(path).body(Empty::new())?;
    onward.headers_mut().extend(headers(request.headers()));
    if let Some(authority) = uri.authority() {
        onward.headers_mut().insert(http::header::HOST, http::HeaderValue::try_from(authority.as_str())?);
    }
    Ok(onward)
}

/// All headers in their order, repeated ones included.
fn headers(from: &HeaderMap) -> HeaderMap {
    from.clone()
}

async fn splice(client_side: OnUpgrade, runtime_side: OnUpgrade) {
    let (client_side, runtime_side) = match tokio::try_join!(client_side, runtime_side) {
        Ok(both) => both,
        Err(error) => {
            debug!(%error, "stream not joined");
            return;
        }
    };
    let io = |upgraded: Upgraded| TokioIo::new(upgraded);
    if let Err(error) = copy_bidirectional(&mut io(client_side), &mut io(runtime_side)).await {
        debug!(%error, "stream ended");
    }
}
