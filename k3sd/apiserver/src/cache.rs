//! The watch cache: every stored object of one resource, as the bytes that are served, and the recent changes to them.
//!
//! Reads never touch the datastore. One task, the [`feed`], receives every change in revision order and applies it to
//! the cache of its key's prefix; lists take references under a read lock, and watchers follow the ring of changes at
//! their own pace ([`Cursor`]). A watcher that falls out of the ring is closed, so it can slow down nobody.
//!
//! ```text
//! datastore ── events ──> feed ──> Cache { objects, ring } ──> get, list
//!                          │                └── pulse ───────> watchers (each with a Cursor into the ring)
//!                          └── progress (revision up to which every cache is complete)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::codec;
use crate::strategy::SelectableField;

mod extract;
pub(crate) mod feed;
mod selectable;

use self::selectable::Selectable;

/// Changes younger than this stay in the ring, so that a client that lost its connection can go on where it was.
const RING_AGE: Duration = Duration::from_secs(75);
/// This many changes stay however old they are.
const RING_KEEP: usize = 100;
/// More than this many do not stay however young they are.
const RING_MAX: usize = 100_000;

/// Nor more than this of states that nothing else holds any more: the objects that were replaced or deleted. What exists costs nothing here.
const RING_MAX_BYTES: usize = 32 << 20;

/// One stored object at one revision: what is sent, and beside it what selectors ask about.
#[derive(Debug)]
pub(crate) struct Object {
    /// The bytes to serve, `resourceVersion` included.
    pub bytes: Bytes,
    /// The revision of the write that made it.
    pub revision: i64,
    /// Its labels, and the values of the kind's selectable fields.
    pub selectable: Selectable,
}

impl Object {
    /// The decoded object.
    pub(crate) fn decode(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(&self.bytes)
    }
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One change. For a deletion `object` is the last state, with the revision of the deletion.
#[derive(Debug)]
pub(crate) struct Change {
    pub kind: ChangeKind,
    /// `namespace/name` or `name`.
    pub key: Arc<str>,
    pub object: Arc<Object>,
    pub previous: Option<Arc<Object>>,
    at: Instant,
}

impl Change {
    /// What it keeps of the past: the state before, and the last one of what is gone.
    fn past_bytes(&self) -> usize {
        let last = if self.kind == ChangeKind::Deleted { self.object.bytes.len() } else { 0 };
        self.previous.as_ref().map_or(0, |previous| previous.bytes.len()) + last
    }
}

/// Where a watcher is in the ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor(u64);

/// The watcher wants changes that are no longer known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooOld {
    /// The oldest revision a watch may start from.
    pub oldest: i64,
}

/// The cache of one resource.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Datastore prefix, with a slash at the end.
    prefix: String,
    fields: &'static [SelectableField],
    state: RwLock<State>,
    /// Sequence number after the newest change: wakes the watchers.
    pulse: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    ring: VecDeque<Arc<Change>>,
    /// Sequence number of the ring's front.
    front: u64,
    /// Bytes of objects that only the ring holds.
    past_bytes: usize,
    /// All changes after this revision are in the ring.
    complete_after: i64,
    /// The newest change applied.
    last_modified: i64,
}

/// A part of the cache at one moment.
pub(crate) struct Page {
    pub items: Vec<(Arc<str>, Arc<Object>)>,
    /// The newest change the page shows.
    pub revision: i64,
    /// Key after which the next page starts, and how many objects are left (of the unfiltered rest).
    pub next: Option<(Arc<str>, usize)>,
    /// Cursor from which a watch continues without a gap.
    pub cursor: Cursor,
}

impl Cache {
    /// An empty cache that is complete as of `revision`.
    pub(crate) fn new(prefix: String, fields: &'static [SelectableField], revision: i64) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            ring: VecDeque::new(),
            front: 0,
            past_bytes: 0,
            complete_after: revision,
            last_modified: 0,
        };
        Self { prefix, fields, state: RwLock::new(state), pulse: watch::Sender::new(0) }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn fields(&self) -> &'static [SelectableField] {
        self.fields
    }

    /// The object with this `namespace/name` or `name`.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.read().objects.get(key).cloned()
    }

    /// Revision of the newest change.
    pub(crate) fn last_modified(&self) -> i64 {
        self.read().last_modified
    }

    /// Objects whose key starts with `prefix` and sorts after `after`, that `keep` keeps; at most `limit` (0: all).
    pub(crate) fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        keep: impl Fn(&str, &Object) -> bool,
    ) -> Page {
        let state = self.read();
        let start = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let mut rest = state
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        let mut items = Vec::new();
        let mut next = None;
        while let Some((key, object)) = rest.next() {
            if !keep(key, object) {
                continue;
            }
            items.push((key.clone(), object.clone()));
            if limit > 0 && items.len() == limit {
                next = rest.peek().is_some().then(|| (key.clone(), rest.count()));
                break;
            }
        }
        Page { items, revision: state.last_modified, next, cursor: state.end() }
    }

    /// Where a watch starts that has seen everything up to `revision`.
    pub(crate) fn cursor_after(&self, revision: i64) -> Result<Cursor, TooOld> {
        let state = self.read();
        if revision < state.complete_after {
            return Err(TooOld { oldest: state.complete_after });
        }
        let index = state.ring.partition_point(|change| change.object.revision <= revision);
        Ok(Cursor(state.front + index as u64))
    }

    /// Up to `max` changes from the cursor on, which moves behind them.
    pub(crate) fn changes(&self, cursor: &mut Cursor, max: usize) -> Result<Vec<Arc<Change>>, TooOld> {
        let state = self.read();
        let Some(index) = cursor.0.checked_sub(state.front) else {
            return Err(TooOld { oldest: state.complete_after });
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let changes: Vec<_> = state.ring.iter().skip(index).take(max).cloned().collect();
        cursor.0 += changes.len() as u64;
        Ok(changes)
    }

    /// Becomes ready whenever something changed since the receiver last looked.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.pulse.subscribe()
    }

    /// Take in an object without making it a change: the first fill.
    pub(crate) fn fill(&self, key: &str, stored: &[u8], revision: i64) {
        let object = Arc::new(self.object(stored, revision));
        let mut state = self.write();
        state.last_modified = state.last_modified.max(revision);
        state.objects.insert(key.into(), object);
    }

    /// Apply one event of the datastore. `stored` is the new value, or for a deletion the last one.
    fn apply(&self, key: &str, stored: &[u8], revision: i64, deleted: bool) {
        let object = Arc::new(self.object(stored, revision));
        let mut state = self.write();
        let key: Arc<str> = match state.objects.get_key_value(key) {
            Some((own, _)) => own.clone(),
            None => key.into(),
        };
        let previous = if deleted {
            state.objects.remove(&key)
        } else {
            state.objects.insert(key.clone(), object.clone())
        };
        let kind = match (&previous, deleted) {
            (_, true) => ChangeKind::Deleted,
            (None, false) => ChangeKind::Added,
            (Some(_), false) => ChangeKind::Modified,
        };
        state.last_modified = revision;
        let change = Change { kind, key, object, previous, at: Instant::now() };
        state.past_bytes += change.past_bytes();
        state.ring.push_back(Arc::new(change));
        state.trim();
        let end = state.end().0;
        drop(state);
        self.pulse.send_replace(end);
    }

    /// The object that stored bytes stand for.
    pub(crate) fn object(&self, stored: &[u8], revision: i64) -> Object {
        let selectable = extract::extract(stored, self.fields);
        Object { bytes: codec::with_revision(stored, revision), revision, selectable }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&self) -> Cursor {
        Cursor(self.front + self.ring.len() as u64)
    }

    fn trim(&mut self) {
        while self.ring.len() > RING_KEEP {
            let Some(oldest) = self.ring.front() else { return };
            let fits = self.ring.len() <= RING_MAX && self.past_bytes <= RING_MAX_BYTES;
            if fits && oldest.at.elapsed() < RING_AGE {
                return;
            }
            self.complete_after = oldest.object.revision;
            self.past_bytes -= oldest.past_bytes();
            self.ring.pop_front();
            self.front += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(label: &str) -> Vec<u8> {
        format!(r#"{{"kind":"Pod","metadata":{{"labels":{{"app":"{label}"}}}},"spec":{{"nodeName":"n1"}}}}"#)
            .into_bytes()
    }

    fn cache() -> Cache {
        const FIELDS: &[SelectableField] = &[
            SelectableField::text("spec.nodeName", &["spec", "nodeName"]),
            SelectableField { name: "spec.hostNetwork", path: &["spec", "hostNetwork"], absent: "false" },
        ];
        Cache::new("/registry/pods/".to_owned(), FIELDS, 10)
    }

    #[test]
    fn objects_carry_the_revision_of_their_write_and_what_selectors_need() {
        let cache = cache();
        cache.apply("ns/a", &pod("x"), 11, false);
        let object = cache.get("ns/a").unwrap();
        assert_eq!(object.decode().unwrap()["metadata"]["resourceVersion"], "11");
        assert_eq!(object.selectable.label("app"), Some("x"));
        assert_eq!((object.selectable.field(0), object.selectable.field(1)), (Some("n1"), Some("false")));
    }

    #[test]
    fn a_watch_from_a_revision_sees_exactly_what_came_after() {
        let cache = cache();
        cache.apply("ns/a", &pod("x"), 11, false);
        cache.apply("ns/a", &pod("y"), 13, false);
        cache.apply("ns/a", &pod("y"), 14, true);
        assert_eq!(cache.cursor_after(9).unwrap_err(), TooOld { oldest: 10 });
        let mut cursor = cache.cursor_after(12).unwrap();
        let changes = cache.changes(&mut cursor, 10).unwrap();
        let kinds: Vec<_> = changes.iter().map(|c| (c.kind, c.object.revision)).collect();
        assert_eq!(kinds, [(ChangeKind::Modified, 13), (ChangeKind::Deleted, 14)]);
        assert!(cache.changes(&mut cursor, 10).unwrap().is_empty());
    }

    #[test]
    fn the_past_has_a_limit_and_what_exists_does_not_count() {
        let cache = cache();
        let big = format!(r#"{{"metadata":{{}},"data":"{}"}}"#, "x".repeat(RING_MAX_BYTES / 200));
        for revision in 11..=300 {
            cache.apply(&format!("ns/{revision}"), big.as_bytes(), revision, false);
        }
        assert!(cache.cursor_after(10).is_ok(), "nothing is past yet");
        for revision in 301..=600 {
            cache.apply("ns/11", big.as_bytes(), revision, false);
        }
        let kept = cache.read().ring.len();
        assert!((150..300).contains(&kept), "{kept} changes are kept");
        assert!(cache.cursor_after(10).is_err() && cache.cursor_after(600 - 150).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_falls_out_of_the_ring_is_told_so() {
        let cache = cache();
        let mut slow = cache.cursor_after(10).unwrap();
        for revision in 11..=(11 + RING_KEEP as i64) {
            cache.apply("ns/a", &pod("x"), revision, false);
            tokio::time::advance(RING_AGE).await;
        }
        assert!(cache.changes(&mut slow, 1).is_err());
        assert!(cache.cursor_after(10).is_err());
        assert!(cache.cursor_after(11).is_ok());
    }

    #[test]
    fn pages_continue_after_the_last_key_and_stay_in_their_namespace() {
        let cache = cache();
        for (index, key) in ["a/1", "a/2", "a/3", "b/1"].iter().enumerate() {
            cache.fill(key, &pod("x"), 5 + index as i64);
        }
        let first = cache.page("a/", None, 2, |_, _| true);
        let (after, left) = first.next.unwrap();
        assert_eq!((&*after, left), ("a/2", 1));
        let second = cache.page("a/", Some(&after), 2, |_, _| true);
        assert_eq!(second.items.len(), 1);
        assert!(second.next.is_none());
        assert_eq!(second.revision, 8);
    }
}
