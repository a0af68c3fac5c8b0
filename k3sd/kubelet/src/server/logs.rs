//! `/containerLogs`: the text of one container's log.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::{Body, Query, Refusal, find_container};
use crate::agent::Agent;
use crate::logs::{LogOptions, read};
use crate::runtime::State;

/// Lines on their way to a client; the reader waits for a slow one.
const LINES_IN_FLIGHT: usize = 64;

pub(super) async fn container_logs(
    agent: Arc<Agent>,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let options = options(query)?;
    let made = find_container(&agent, namespace, name, container, query.is_set("previous")).await?;
    let path = PathBuf::from(&made.log_path);
    if !path.exists() {
        let text =
            format!("failed to open log of container \"{container}\" in pod \"{name}\": it has no log");
        return Err(Refusal::not_found(text));
    }
    let (sender, receiver) = mpsc::channel(LINES_IN_FLIGHT);
    let reading = tokio::spawn(async move {
        let alive = || async {
            let status = agent.cri().container_status(&made.id).await;
            status.is_ok_and(|status| status.state() == k8s_cri::v1::ContainerState::ContainerRunning)
        };
        // One that has ended already is not asked about.
        let follow = options.follow && made.state == State::Running;
        let options = LogOptions { follow, ..options };
        if let Err(error) = read(&path, &options, alive, &sender).await {
            debug!(log = %path.display(), %error, "log not read to its end");
        }
    });
    Ok(streamed(receiver, AbortOnDropHandle::new(reading)))
}

/// A body that carries the text as it comes, and ends its reader when the client goes.
fn streamed(receiver: mpsc::Receiver<Bytes>, reader: AbortOnDropHandle<()>) -> Response<Body> {
    let frames = ReceiverStream::new(receiver).map(move |bytes| {
        let _owned = &reader;
        Ok::<_, std::io::Error>(Frame::data(bytes))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn options(query: &Query) -> Result<LogOptions, Refusal> {
    let since_seconds: Option<i64> = query.number("sinceSeconds")?;
    let since_time = match query.get("sinceTime").filter(|text| !text.is_empty()) {
        Some(text) => Some(
            text.parse::<Timestamp>().map_err(|_| Refusal::bad(format!("invalid sinceTime: {text:?}")))?,
        ),
        None => None,
    };
    let since = since_seconds.map(|seconds| {
        let now = Timestamp::now();
        now.checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now)
    });
    Ok(LogOptions {
        follow: query.is_set("follow"),
        tail_lines: query.number("tailLines")?,
        since: since.or(since_time),
        timestamps: query.is_set("timestamps"),
        limit_bytes: query.number("limitBytes")?,
        stream: query
            .get("stream")
            .filter(|stream| !stream.is_empty() && *stream != "All")
            .map(str::to_owned),
    })
}
