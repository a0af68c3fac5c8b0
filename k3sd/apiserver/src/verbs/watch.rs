//! Watch: follow the ring of changes of one cache, as a stream of frames around the cached bytes.
//!
//! States: the objects that exist (when no version was given, or `sendInitialEvents`), the bookmark that ends them, then changes
//! as they come, with a bookmark every minute. The stream ends at its timeout, or when it is too slow.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::StatusCode;
use machinery::protobuf;
use machinery::status::Status;
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::body::{Body, BoxError};
use crate::cache::feed::Feed;
use crate::cache::{Change, ChangeKind, Cursor, Object, TooOld};
use crate::codec;
use crate::errors;
use crate::negotiate::{self, Accepted, Encoding, Shape};
use crate::options::{Freshness, ListOptions};
use crate::pipeline::Call;
use crate::present;
use crate::registry::Entry;
use crate::request::Query;
use crate::respond::{self, Response};
use crate::verbs::list;

/// Upstream's `--min-request-timeout`: watches without a timeout last this long to twice this long.
const MIN_TIMEOUT_SECONDS: u64 = 1800;
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Changes taken under one lock.
const BATCH: usize = 100;
/// Room for this many frames is kept while there are none.
const KEPT: usize = 8;

pub(crate) async fn run(call: Call) -> Result<Response, Status> {
    let accepted = accepted(&call)?;
    let mut options = ListOptions::parse(&call.query)?;
    if call.info.has_name() {
        let term = format!("metadata.name={}", call.info.name);
        options.fields = machinery::selector::FieldSelector::parse(&term).map_err(Status::internal)?;
    }
    list::check_fields(&call.entry, &options)?;
    check_initial(&options)?;
    let cache = call.entry.cache.clone().ok_or_else(Status::method_not_allowed)?;
    let pulse = cache.subscribe();
    let mut watcher = Watcher {
        entry: call.entry.clone(),
        feed: call.shared.feed.clone(),
        cancel: call.shared.cancel.clone(),
        accepted,
        query: call.query.clone(),
        prefix: call.cache_prefix(),
        deadline: Box::pin(tokio::time::sleep(timeout(&options))),
        bookmarks: bookmarks(),
        headers_sent: false,
        out: VecDeque::new(),
        after: 0,
        cursor: None,
        pulse,
        options,
    };
    watcher.begin(&call).await?;
    let body = stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next().await?;
        Some((Ok::<_, BoxError>(chunk), watcher))
    });
    let media_type = match accepted.encoding {
        Encoding::Protobuf => protobuf::WATCH_MEDIA_TYPE,
        _ => "application/json",
    };
    Ok(respond::response(StatusCode::OK, media_type, Body::stream(body)))
}

/// Streams are JSON, or protobuf of kinds that have it.
fn accepted(call: &Call) -> Result<Accepted, Status> {
    let mut accepted = negotiate::accept(&call.headers)?;
    if accepted.encoding == Encoding::Yaml || accepted.shape == Shape::Aggregated {
        return Err(Status::not_acceptable(&["application/json", protobuf::WATCH_MEDIA_TYPE]));
    }
    let resource = &call.entry.resource;
    if accepted.shape == Shape::Whole && !protobuf::knows(&resource.api_version(), &resource.kind) {
        accepted.encoding = Encoding::Json;
    }
    Ok(accepted)
}

fn check_initial(options: &ListOptions) -> Result<(), Status> {
    let forbidden =
        |detail: &str| Status::bad_request(format!("ListOptions.meta.k8s.io \"\" is invalid: {detail}"));
    match (options.send_initial_events, options.version_match.as_deref()) {
        (Some(_), Some("NotOlderThan")) | (None, None) => {}
        (Some(_), _) => {
            return Err(forbidden(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        (None, Some(_)) => {
            return Err(forbidden(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
    }
    Ok(())
}

fn timeout(options: &ListOptions) -> Duration {
    options.timeout.unwrap_or_else(|| {
        Duration::from_secs(rand::rng().random_range(MIN_TIMEOUT_SECONDS..2 * MIN_TIMEOUT_SECONDS))
    })
}

fn bookmarks() -> Interval {
    let first = Instant::now() + BOOKMARK_INTERVAL.mul_f64(rand::rng().random_range(0.75..1.0));
    let mut interval = tokio::time::interval_at(first, BOOKMARK_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

struct Watcher {
    entry: Arc<Entry>,
    feed: Feed,
    cancel: CancellationToken,
    accepted: Accepted,
    query: Query,
    options: ListOptions,
    /// `namespace/` or "".
    prefix: String,
    deadline: Pin<Box<Sleep>>,
    bookmarks: Interval,
    headers_sent: bool,
    /// Frames ready to go.
    out: VecDeque<Bytes>,
    /// Changes up to this revision are not for this watcher: it knows them, though the cache may not yet.
    after: i64,
    /// `None` once the stream ends after what is in `out`.
    cursor: Option<Cursor>,
    pulse: Receiver<u64>,
}

impl Watcher {
    /// Find the place to start from, and what to send before.
    async fn begin(&mut self, call: &Call) -> Result<(), Status> {
        let initial = match (self.options.send_initial_events, self.options.freshness) {
            (Some(wanted), _) => wanted,
            (None, Freshness::MostRecent | Freshness::Any) => true,
            (None, _) => false,
        };
        match self.options.freshness {
            Freshness::MostRecent => call.shared.fresh().await?,
            Freshness::NotOlderThan(version) if initial => {
                call.shared.feed.wait(version).await.map_err(crate::errors::not_fresh)?;
            }
            _ => {}
        }
        if initial {
            self.send_existing();
        } else {
            let from = match self.options.freshness {
                Freshness::NotOlderThan(version) | Freshness::Exact(version) => version,
                Freshness::MostRecent | Freshness::Any => self.feed.revision(),
            };
            let cache = self.entry.cache.clone().ok_or_else(Status::method_not_allowed)?;
            match cache.cursor_after(from) {
                Ok(cursor) => {
                    self.after = from;
                    self.cursor = Some(cursor);
                }
                Err(too_old) => self.expire(from, too_old),
            }
        }
        Ok(())
    }

    fn send_existing(&mut self) {
        let Some(cache) = self.entry.cache.clone() else { return };
        let progress = self.feed.revision();
        let page = cache.page(&self.prefix, None, 0, |key, object| {
            list::selected(&self.entry, &self.options, key, object)
        });
        for (_, object) in &page.items {
            self.push(ChangeKind::Added, object);
        }
        self.cursor = Some(page.cursor);
        if self.options.send_initial_events == Some(true) && self.options.bookmarks {
            self.bookmark(progress.max(page.revision), true);
        }
    }

    /// The next chunk, or `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.out.pop_front() {
                return Some(chunk);
            }
            self.cursor?;
            if !self.follow() {
                continue;
            }
            // The first frames may have been every object there is.
            self.out.shrink_to(KEPT);
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                () = self.deadline.as_mut() => return self.finish(),
                changed = self.pulse.changed() => changed.ok()?,
                _ = self.bookmarks.tick(), if self.options.bookmarks => self.mark(),
            }
        }
    }

    /// Take in what has changed. True when there was nothing and it is time to wait.
    fn follow(&mut self) -> bool {
        let Some(cache) = self.entry.cache.clone() else { return true };
        let Some(mut cursor) = self.cursor else { return true };
        // Seen before reading, so that a change between reading and waiting wakes us.
        self.pulse.mark_unchanged();
        match cache.changes(&mut cursor, BATCH) {
            Ok(changes) => {
                self.cursor = Some(cursor);
                for change in &changes {
                    self.take(change);
                }
                changes.is_empty()
            }
            Err(too_old) => {
                self.expire(0, too_old);
                false
            }
        }
    }

    /// Turn a change into what this watcher must see of it: an object that starts or stops matching is added or deleted.
    fn take(&mut self, change: &Change) {
        if !change.key.starts_with(&self.prefix) || change.object.revision <= self.after {
            return;
        }
        let matches = |object: &Object| list::selected(&self.entry, &self.options, &change.key, object);
        let before = change.previous.as_deref().is_some_and(matches);
        let now = change.kind != ChangeKind::Deleted && matches(&change.object);
        match (before, now) {
            (false, false) => {}
            (false, true) => self.push(ChangeKind::Added, &change.object.clone()),
            (true, true) => self.push(ChangeKind::Modified, &change.object.clone()),
            (true, false) if change.kind == ChangeKind::Deleted => {
                self.push(ChangeKind::Deleted, &change.object.clone())
            }
            (true, false) => {
                if let Some(previous) = &change.previous {
                    // The last matching state, with the revision that ended it.
                    let bytes = codec::replace_revision(&previous.bytes, change.object.revision);
                    let gone =
                        Object { bytes, revision: change.object.revision, selectable: Default::default() };
                    self.push(ChangeKind::Deleted, &gone);
                }
            }
        }
    }

    fn push(&mut self, kind: ChangeKind, object: &Object) {
        let event = match kind {
            ChangeKind::Added => "ADDED",
            ChangeKind::Modified => "MODIFIED",
            ChangeKind::Deleted => "DELETED",
        };
        let bytes = self.shape(present::served(&self.entry, object));
        self.frame(event, bytes);
    }

    fn shape(&mut self, bytes: Bytes) -> Bytes {
        if self.accepted.shape == Shape::Whole {
            return bytes;
        }
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(object) => codec::encode(&self.shape_value(object)),
            // Not an object: it goes as it is.
            Err(_) => bytes,
        }
    }

    /// Tables name their columns once per stream.
    fn shape_value(&mut self, object: Value) -> Value {
        let headers = !std::mem::replace(&mut self.headers_sent, true);
        match present::shaped(&self.entry, self.accepted.shape, &self.query, &object, headers) {
            Ok(shaped) => shaped,
            Err(_) => object,
        }
    }

    fn frame(&mut self, event: &'static str, object: Bytes) {
        if self.accepted.encoding == Encoding::Protobuf {
            return self.protobuf_frame(event, &object);
        }
        let head = match event {
            "ADDED" => "{\"type\":\"ADDED\",\"object\":",
            "MODIFIED" => "{\"type\":\"MODIFIED\",\"object\":",
            "DELETED" => "{\"type\":\"DELETED\",\"object\":",
            "BOOKMARK" => "{\"type\":\"BOOKMARK\",\"object\":",
            _ => "{\"type\":\"ERROR\",\"object\":",
        };
        self.out.push_back(Bytes::from_static(head.as_bytes()));
        self.out.push_back(object);
        self.out.push_back(Bytes::from_static(b"}\n"));
    }

    /// An object that cannot be written becomes an error, so that the client does not go on as if it had seen it.
    fn protobuf_frame(&mut self, event: &'static str, object: &[u8]) {
        let frame = serde_json::from_slice::<Value>(object)
            .map_err(|error| error.to_string())
            .and_then(|object| protobuf::watch_frame(event, &object).map_err(|error| errors::chain(&error)))
            .or_else(|error| {
                warn!(resource = self.entry.resource.plural, error, "failed to write an event in protobuf");
                protobuf::watch_frame("ERROR", &Status::internal(error).to_value())
            });
        self.out.extend(frame.ok().map(Bytes::from));
    }

    /// A bookmark at a revision that everything sent so far is complete for.
    fn mark(&mut self) {
        // Progress is read first: every change up to it is in the ring by now.
        let progress = self.feed.revision();
        if self.follow() {
            self.bookmark(progress.max(self.after), false);
        }
    }

    fn bookmark(&mut self, revision: i64, ends_initial: bool) {
        let resource = &self.entry.resource;
        let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if ends_initial {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let mut object =
            json!({ "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata });
        if self.accepted.shape != Shape::Whole {
            object = self.shape_value(object);
        }
        if self.accepted.shape == Shape::Table {
            object["rows"] = json!([]);
        }
        self.frame("BOOKMARK", codec::encode(&object));
    }

    /// Upstream sends a last bookmark before it ends a watch in time.
    fn finish(&mut self) -> Option<Bytes> {
        if self.options.bookmarks && self.cursor.is_some() {
            self.mark();
        }
        self.cursor = None;
        self.out.pop_front()
    }

    /// The start is not known any more: say so in the stream and end it.
    fn expire(&mut self, from: i64, too_old: TooOld) {
        let status = Status::expired(format!("too old resource version: {from} ({})", too_old.oldest));
        let bytes = Bytes::from(serde_json::to_vec(&status).unwrap_or_default());
        self.frame("ERROR", bytes);
        self.cursor = None;
    }
}
