//! Events: short notes about what happened to an object, for people.
//!
//! Follows client-go's event correlator (`tools/record/events_cache.go`): the same note again raises the count of the
//! event there is; many similar notes are combined; and one object's notes are limited in rate. Notes are sent from one
//! task, so that recording never waits; when its queue is full the note is dropped, since events are best effort.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::request::{self, Patch};

/// Notes waiting to be sent; more are dropped. As many as upstream keeps.
const QUEUE: usize = 1000;
/// Notes remembered for folding repeats.
const REMEMBERED: usize = 1024;
/// Different messages for one object and reason within [`SIMILAR_WINDOW`] before they are combined.
const MAX_SIMILAR: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// Notes on one object in a row, and how long one more takes after that.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// Records events in the name of one component. A clone records through the same task.
#[derive(Clone, Debug)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Note {
    object: ObjectReference,
    kind: &'static str,
    reason: String,
    message: String,
    at: Timestamp,
}

/// The one sender: knows what was sent and decides what a note becomes.
struct Sender {
    client: kube::Client,
    source: EventSource,
    sent: Recent<NoteKey, Sent>,
    similar: Recent<SimilarKey, Similar>,
    budgets: Recent<String, Budget>,
}

/// Notes that are repeats of each other.
#[derive(Clone, PartialEq, Eq, Hash)]
struct NoteKey {
    similar: SimilarKey,
    message: String,
}

/// Notes that differ in the message only.
#[derive(Clone, PartialEq, Eq, Hash)]
struct SimilarKey {
    object: String,
    field: String,
    kind: &'static str,
    reason: String,
}

struct Sent {
    path: String,
    count: i32,
}

struct Similar {
    messages: HashSet<String>,
    last: Instant,
}

struct Budget {
    tokens: f64,
    at: Instant,
}

/// A map of bounded size that forgets its oldest entries.
struct Recent<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

// === impl Recorder ===

impl Recorder {
    /// A recorder whose events name `component` (and `host`, if not empty) as their source. Its task ends with `cancel`.
    pub fn new(client: kube::Client, component: &str, host: &str, cancel: CancellationToken) -> Self {
        let (notes, receiver) = mpsc::channel(QUEUE);
        let source = EventSource {
            component: Some(component.to_owned()),
            host: (!host.is_empty()).then(|| host.to_owned()),
        };
        let tasks = TaskTracker::new();
        let sender =
            Sender { client, source, sent: Recent::new(), similar: Recent::new(), budgets: Recent::new() };
        tasks.spawn(async move { cancel.run_until_cancelled(sender.run(receiver)).await });
        Self { notes, tasks }
    }

    /// Notes that `reason` happened to `object`. `kind` is `Normal` or `Warning`.
    pub fn event(
        &self,
        object: &ObjectReference,
        kind: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        let note = Note {
            object: object.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if self.notes.try_send(note).is_err() {
            debug!(reason, "event dropped");
        }
    }

    /// As [`event`](Self::event), about a decoded object.
    pub fn event_for<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(&object.object_ref(&()), kind, reason, message);
    }

    /// Waits until the task has ended, which it does after its token is cancelled.
    pub async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

// === impl Sender ===

impl Sender {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.recv().await {
            if !self.within_budget(&note.object) {
                debug!(reason = note.reason, "event dropped: too many for its object");
                continue;
            }
            let (key, message) = self.combine(&note);
            if let Err(error) = self.send(&note, key, message).await {
                debug!(reason = note.reason, error = %error, "event not recorded");
            }
        }
    }

    /// Takes one from the object's budget.
    fn within_budget(&mut self, object: &ObjectReference) -> bool {
        let now = Instant::now();
        let budget = self.budgets.entry(identity(object), || Budget { tokens: BURST, at: now });
        let gained = now.duration_since(budget.at).as_secs_f64() / REFILL_SECONDS;
        budget.tokens = (budget.tokens + gained).min(BURST);
        budget.at = now;
        let allowed = budget.tokens >= 1.0;
        if allowed {
            budget.tokens -= 1.0;
        }
        allowed
    }

    /// What counts as a repeat of the note, and the message to send.
    fn combine(&mut self, note: &Note) -> (NoteKey, String) {
        let now = Instant::now();
        let key = SimilarKey {
            object: identity(&note.object),
            field: note.object.field_path.clone().unwrap_or_default(),
            kind: note.kind,
            reason: note.reason.clone(),
        };
        let similar = self.similar.entry(key.clone(), || Similar { messages: HashSet::new(), last: now });
        if now.duration_since(similar.last) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.len() < MAX_SIMILAR {
            similar.messages.insert(note.message.clone());
        }
        if similar.messages.len() < MAX_SIMILAR {
            return (NoteKey { similar: key, message: note.message.clone() }, note.message.clone());
        }
        let message = format!("(combined from similar events): {}", note.message);
        (NoteKey { similar: key, message: String::new() }, message)
    }

    async fn send(&mut self, note: &Note, key: NoteKey, message: String) -> Result<(), kube::Error> {
        if let Some(sent) = self.sent.map.get_mut(&key) {
            let count = sent.count + 1;
            let change = serde_json::json!({
                "count": count, "lastTimestamp": Time(note.at), "message": message,
            });
            match request::patch::<serde_json::Value>(&self.client, &sent.path, Patch::Merge, &change).await {
                Ok(_) => {
                    sent.count = count;
                    return Ok(());
                }
                // Events expire: then this is a first one again.
                Err(error) if request::is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let event = self.event(note, message);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let collection = format!("/api/v1/namespaces/{namespace}/events");
        let created: Event = request::create(&self.client, &collection, &event).await?;
        let path = format!("{collection}/{}", created.metadata.name.unwrap_or_default());
        *self.sent.entry(key, || Sent { path: String::new(), count: 1 }) = Sent { path, count: 1 };
        Ok(())
    }

    fn event(&self, note: &Note, message: String) -> Event {
        let object = &note.object;
        let namespace = object.namespace.clone().filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let name = format!("{}.{:x}", object.name.as_deref().unwrap_or_default(), note.at.as_nanosecond());
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
            involved_object: object.clone(),
            type_: Some(note.kind.to_owned()),
            reason: Some(note.reason.clone()),
            message: Some(message),
            source: Some(self.source.clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            first_timestamp: Some(Time(note.at)),
            last_timestamp: Some(Time(note.at)),
            count: Some(1),
            ..Event::default()
        }
    }
}

fn identity(object: &ObjectReference) -> String {
    let part = |part: &Option<String>| part.as_deref().unwrap_or_default().to_owned();
    [&object.kind, &object.namespace, &object.name, &object.uid].map(part).join("/")
}

// === impl Recent ===

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn new() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }

    fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(&key) {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key).or_insert_with(make)
    }
}
