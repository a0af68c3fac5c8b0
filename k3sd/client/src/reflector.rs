//! The list-watch state machine that keeps one store equal to what the server has.
//!
//! ```text
//!            ┌────────────── 410 Gone ───────────────┐
//!            ▼                                       │
//!         ┌───────┐  initial events   ┌─────────┐    │
//!   ─────▶│ Start │──────────────────▶│Watching │────┤
//!         └───────┘ to their bookmark └─────────┘    │
//!            │ server cannot             ▲    │ ended or failed
//!            ▼                           │    ▼
//!         ┌────────┐  last page      ┌────────┐
//!         │ Paging │────────────────▶│ Resume │──── 410 Gone ─▶ Start
//!         └────────┘                 └────────┘
//! ```
//!
//! A watch always starts at the revision of the list before it or of the last event, so that nothing is missed; a failure
//! waits (with jitter) and goes on from where it was. The store keeps serving what it had meanwhile, and is replaced only
//! by a complete list. Behaviour follows client-go's reflector (`tools/cache/reflector.go`, v1.36), with streaming lists
//! (KEP-3157) first and paged lists as the fallback.

mod frames;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rand::Rng;
use serde::Deserialize;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::frames::{EventKind, Events, Frame};
use crate::{
    Backoff, request, scan,
    store::{Objects, Store},
    stored::Entry,
};

/// Delays between failed attempts; upstream's are 0.8 s to 30 s, but an in-process server answers at once.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(30);
/// How long a watch is asked to last, at random between this and twice this, as client-go does.
const WATCH_TIMEOUT: Duration = Duration::from_secs(300);
/// How much later than asked for a watch may end before it is given up as dead.
const WATCH_GRACE: Duration = Duration::from_secs(30);
/// A watch that ends sooner than this without any event counts as a failure, so that it is not repeated at once.
const SHORT_WATCH: Duration = Duration::from_secs(1);
/// Objects in a page of the paged list.
const PAGE: usize = 500;

/// What a reflector lists and watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) path: String,
    field_selector: Option<String>,
}

pub(crate) struct Reflector {
    client: kube::Client,
    source: Source,
    store: Arc<Store>,
    share_frames: bool,
    /// Whether the server is believed to send initial events in a watch.
    streaming: bool,
    backoff: Backoff,
}

enum State {
    /// Nothing is known: everything must be fetched.
    Start,
    /// A list in pages is under way; the objects so far, and the token of the next page.
    Paging { objects: Objects, next: String },
    /// All is known up to this revision, and no watch is open.
    Resume { revision: String },
    /// All is known up to this revision, and changes after it arrive.
    Watching { revision: String, watch: Watch },
}

struct Watch {
    events: Events,
    started: Instant,
    deadline: Instant,
    received: bool,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the revision is no longer available")]
    Expired,
    #[error("the server cannot stream the initial list")]
    NoStreaming,
    #[error("the watch ended at once without an event")]
    ShortWatch,
    #[error("the watch was silent for too long")]
    Silent,
    #[error("the server refused: {0}")]
    Refused(Box<kube::core::Status>),
    #[error("the request failed")]
    Transport(#[from] kube::Error),
    #[error("the response cannot be read")]
    Malformed(#[from] scan::Malformed),
    #[error("an object in the response cannot be read")]
    Object(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct ListHead {
    metadata: ListMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

// === impl Source ===

impl Source {
    pub(crate) fn new(path: String) -> Self {
        Self { path, field_selector: None }
    }

    pub(crate) fn fields(mut self, selector: &str) -> Self {
        self.field_selector = Some(selector.to_owned());
        self
    }

    fn uri(&self, query: &[(&str, &str)]) -> String {
        let mut uri = self.path.clone();
        let selector = self.field_selector.as_deref().map(|selector| ("fieldSelector", selector));
        for (index, (name, value)) in query.iter().copied().chain(selector).enumerate() {
            uri.push(if index == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            uri.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        uri
    }
}

// === impl Reflector ===

impl Reflector {
    pub(crate) fn new(client: kube::Client, source: Source, store: Arc<Store>, share_frames: bool) -> Self {
        let backoff = Backoff::new(FIRST_DELAY, MAX_DELAY);
        Self { client, source, store, share_frames, streaming: true, backoff }
    }

    /// Runs for ever; it is ended by dropping it.
    pub(crate) async fn run(mut self) {
        let mut state = State::Start;
        loop {
            let retry = state.after_failure();
            state = match self.step(state).await {
                Ok(next) => next,
                Err(Error::Expired) => {
                    info!("revision expired, listing again");
                    State::Start
                }
                Err(Error::NoStreaming) => {
                    debug!("server does not stream lists");
                    self.streaming = false;
                    State::Start
                }
                Err(error) => {
                    let delay = self.backoff.next_delay();
                    warn!(error = %Chain(&error), retry_in = ?delay, "list-watch failed");
                    tokio::time::sleep(delay).await;
                    retry
                }
            };
        }
    }

    async fn step(&mut self, state: State) -> Result<State, Error> {
        match state {
            State::Start if self.streaming => self.initial_events().await,
            State::Start => self.page(Objects::new(), "").await,
            State::Paging { objects, next } => self.page(objects, &next).await,
            State::Resume { revision } => {
                let query = [("resourceVersion", revision.as_str())];
                let watch = self.open_watch(&query).await?;
                Ok(State::Watching { revision, watch })
            }
            State::Watching { revision, watch } => self.receive(revision, watch).await,
        }
    }

    /// A watch that begins with the present objects, up to the bookmark that says they are complete.
    async fn initial_events(&mut self) -> Result<State, Error> {
        let query = [("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")];
        let mut watch = self.open_watch(&query).await?;
        let mut objects = Objects::new();
        loop {
            let Some(frame) = watch.next().await? else { return Err(Error::ShortWatch) };
            match frame.kind {
                EventKind::Added | EventKind::Modified => {
                    let entry = Arc::new(Entry::parse(frame.object)?);
                    objects.insert(entry.key.clone(), entry);
                }
                EventKind::Deleted => {
                    objects.remove(&Entry::parse(frame.object)?.key);
                }
                EventKind::Bookmark => {
                    let revision = Entry::parse(frame.object.clone())?;
                    if frame.ends_initial_events() {
                        self.store.replace(objects, revision.revision());
                        self.backoff.reset();
                        return Ok(State::Watching { revision: revision.resource_version.into(), watch });
                    }
                }
                EventKind::Error => return Err(watch_error(&frame)),
            }
        }
    }

    /// One page of a list.
    async fn page(&mut self, mut objects: Objects, token: &str) -> Result<State, Error> {
        let limit = PAGE.to_string();
        let mut query = vec![("limit", limit.as_str())];
        if !token.is_empty() {
            query.push(("continue", token));
        }
        let response = self.get(&query).await?;
        let body = response.into_body().collect().await?.to_bytes();
        let head: ListHead = serde_json::from_slice(&body)?;
        if let Some(items) = scan::member(&body, "items")? {
            for item in scan::elements(&body, items)? {
                // A copy of the exact size: a slice would keep the whole page alive.
                let entry = Arc::new(Entry::parse(Bytes::copy_from_slice(&body[item]))?);
                objects.insert(entry.key.clone(), entry);
            }
        }
        if !head.metadata.next.is_empty() {
            return Ok(State::Paging { objects, next: head.metadata.next });
        }
        let revision = head.metadata.resource_version;
        self.store.replace(objects, revision.parse().unwrap_or(0));
        self.backoff.reset();
        Ok(State::Resume { revision })
    }

    /// Applies one event of an open watch.
    async fn receive(&mut self, mut revision: String, mut watch: Watch) -> Result<State, Error> {
        let Some(frame) = watch.next().await? else {
            let short = !watch.received && watch.started.elapsed() < SHORT_WATCH;
            return if short { Err(Error::ShortWatch) } else { Ok(State::Resume { revision }) };
        };
        if frame.kind == EventKind::Error {
            return Err(watch_error(&frame));
        }
        let entry = Entry::parse(frame.object)?;
        if !entry.resource_version.is_empty() {
            revision.replace_range(.., &entry.resource_version);
        }
        match frame.kind {
            EventKind::Added | EventKind::Modified => self.store.put(entry),
            EventKind::Deleted => self.store.remove(&entry),
            EventKind::Bookmark | EventKind::Error => self.store.observe(entry.revision()),
        }
        self.backoff.reset();
        Ok(State::Watching { revision, watch })
    }

    async fn open_watch(&self, query: &[(&str, &str)]) -> Result<Watch, Error> {
        let limit = WATCH_TIMEOUT.mul_f64(1.0 + rand::rng().random_range(0.0..1.0));
        let seconds = limit.as_secs().to_string();
        let mut all = vec![("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", &seconds)];
        all.extend_from_slice(query);
        let response = self.get(&all).await?;
        let started = Instant::now();
        let events = Events::new(response.into_body(), self.share_frames);
        Ok(Watch { events, started, deadline: started + limit + WATCH_GRACE, received: false })
    }

    async fn get(&self, query: &[(&str, &str)]) -> Result<http::Response<kube::client::Body>, Error> {
        let uri = self.source.uri(query);
        let response = self.client.send(request::get(&uri)?).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = request::status_of(response).await?;
        let initial_events = query.iter().any(|(name, _)| *name == "sendInitialEvents");
        Err(match StatusCode::from_u16(status.code) {
            Ok(StatusCode::GONE) => Error::Expired,
            Ok(StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) if initial_events => {
                Error::NoStreaming
            }
            _ => Error::Refused(status),
        })
    }
}

// === impl State ===

impl State {
    /// Where to go on if a step from here fails for a passing reason.
    fn after_failure(&self) -> State {
        match self {
            // A continue token may be what failed; the objects so far are cheap to fetch again.
            State::Start | State::Paging { .. } => State::Start,
            State::Resume { revision } | State::Watching { revision, .. } => {
                State::Resume { revision: revision.clone() }
            }
        }
    }
}

// === impl Watch ===

impl Watch {
    async fn next(&mut self) -> Result<Option<Frame>, Error> {
        let frame =
            tokio::time::timeout_at(self.deadline, self.events.next()).await.map_err(|_| Error::Silent)??;
        self.received |= frame.is_some();
        Ok(frame)
    }
}

fn watch_error(frame: &Frame) -> Error {
    match serde_json::from_slice::<kube::core::Status>(&frame.object) {
        Ok(status) if status.code == StatusCode::GONE.as_u16() => Error::Expired,
        Ok(status) => Error::Refused(Box::new(status)),
        Err(error) => Error::Object(error),
    }
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
