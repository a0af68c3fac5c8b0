//! The audit log: who asked for what, and what became of it, as lines of JSON (`audit.k8s.io/v1 Event`).
//!
//! ```text
//! authentication ─> Audit::begin ─ RequestReceived ─> verb ── ResponseStarted (streams) ─ ResponseComplete
//!                        │                             │              │
//!                     policy.rs            Trail::saw_request   Trail::finish ──> log.rs
//! ```
//!
//! A [`Trail`] goes with each request that the policy wants recorded. An event that cannot be written is reported in the log and
//! the request goes on, as with upstream's `--audit-log-mode=blocking`.
//!
//! Not done: webhooks, batches, and the stage `Panic`: a panic ends the whole process.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use machinery::protobuf;
use machinery::status::Status;
use serde::Serialize;
use serde_json::{Value, json};

use crate::authn::Peer;
use crate::authz::Decision;
use crate::decode;
use crate::request::RequestInfo;
use crate::respond::Response;
use crate::user::UserInfo;

mod log;
mod policy;

pub use log::LogFile;
pub use policy::PolicyError;

use log::Log;
use policy::{Level, Policy, Stage, Wanted};

/// Longer user agents are cut, as upstream does.
const USER_AGENT_BYTES: usize = 1024;
/// Names the request in its response.
const AUDIT_ID: &str = "audit-id";

/// What an audit log is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file with the policy.
    pub policy: PathBuf,
    /// Where events go.
    pub log: LogFile,
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The log cannot be written.
    #[error("failed to open the audit log '{}'", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The audit log of one server.
#[derive(Debug)]
pub(crate) struct Audit {
    policy: Policy,
    log: Mutex<Log>,
}

/// The record of one request. Clones write to the same.
#[derive(Debug, Clone)]
pub(crate) struct Trail(Arc<Record>);

#[derive(Debug)]
struct Record {
    audit: Arc<Audit>,
    wanted: Wanted,
    long_running: bool,
    event: Mutex<Event>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    kind: &'static str,
    api_version: &'static str,
    level: Level,
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: Stage,
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: &'static str,
    user: User,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<User>,
    #[serde(rename = "sourceIPs")]
    source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

// === impl Audit ===

impl Audit {
    pub(crate) fn open(settings: &Settings) -> Result<Self, Error> {
        let policy = Policy::read(&settings.policy)?;
        let fail = |source| Error::Log { path: settings.log.path.clone(), source };
        let log = Log::open(settings.log.clone()).map_err(fail)?;
        Ok(Self { policy, log: Mutex::new(log) })
    }

    /// Begins the record of a request, if the policy wants one. `user` is none when authentication has failed.
    pub(crate) fn begin(
        self: &Arc<Self>,
        parts: &Parts,
        info: &RequestInfo,
        peer: &Peer,
        user: Option<&UserInfo>,
    ) -> Option<Trail> {
        let wanted = self.policy.wanted(info, user)?;
        let now = timestamp();
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: wanted.level,
            audit_id: audit_id(&parts.headers),
            stage: Stage::RequestReceived,
            request_uri: parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            verb: info.verb,
            user: user.map(User::from).unwrap_or_default(),
            impersonated_user: None,
            source_ips: source_ips(&parts.headers, peer),
            user_agent: user_agent(&parts.headers),
            object_ref: info.is_resource.then(|| ObjectReference::of(info)),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: now.clone(),
            stage_timestamp: now,
            annotations: BTreeMap::new(),
        };
        let record = Record {
            audit: self.clone(),
            wanted,
            long_running: info.is_long_running(),
            event: Mutex::new(event),
        };
        let trail = Trail(Arc::new(record));
        // Who could not prove an identity has asked for nothing yet.
        if user.is_some() {
            trail.0.write(Stage::RequestReceived);
        }
        Some(trail)
    }

    fn write(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        let written = self.log.lock().unwrap_or_else(PoisonError::into_inner).write(&line);
        if let Err(error) = written {
            tracing::error!(%error, audit_id = event.audit_id, "failed to write an audit event");
        }
    }
}

// === impl Record ===

impl Record {
    fn change(&self, change: impl FnOnce(&mut Event)) {
        change(&mut self.event.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn write(&self, stage: Stage) {
        if self.wanted.omit_stages.contains(&stage) {
            return;
        }
        let mut event = self.event.lock().unwrap_or_else(PoisonError::into_inner);
        event.stage = stage;
        if stage != Stage::RequestReceived {
            event.stage_timestamp = timestamp();
        }
        self.audit.write(&event);
    }

    fn without_managed_fields(&self, mut object: Value) -> Value {
        if self.wanted.omit_managed_fields {
            strip_managed_fields(&mut object);
        }
        object
    }
}

// === impl Trail ===

impl Trail {
    /// The request goes on as somebody else.
    pub(crate) fn acts_as(&self, user: &UserInfo) {
        self.0.change(|event| event.impersonated_user = Some(user.into()));
    }

    /// The answer of authorization.
    pub(crate) fn decided(&self, decision: &Decision) {
        let word = if decision.allowed { "allow" } else { "forbid" };
        self.note("authorization.k8s.io/decision", word.to_owned());
        self.note("authorization.k8s.io/reason", decision.reason.clone());
    }

    /// What a plugin has to say of the request.
    pub(crate) fn note(&self, key: &'static str, value: String) {
        self.0.change(|event| drop(event.annotations.insert(key, value)));
    }

    /// The body of the request. `expected` is the (`apiVersion`, `kind`) that protobuf may leave out.
    pub(crate) fn saw_request(&self, body: &Bytes, media_type: &str, expected: (&str, &str)) {
        if body.is_empty() {
            return;
        }
        let patch = media_type.contains("patch");
        // Patches say nothing of the object; recorded whole or not at all.
        if patch && self.0.wanted.level < Level::Request {
            return;
        }
        let parsed = match media_type {
            _ if media_type.ends_with("yaml") => decode::yaml(body).map(|(value, _)| value).ok(),
            _ if patch => serde_json::from_slice(body).ok(),
            _ => decode::parse(body, media_type, expected).map(|(value, _)| value).ok(),
        };
        // What cannot be read will be refused, and the refusal recorded.
        let Some(object) = parsed else { return };
        self.0.change(|event| {
            if let (false, Some(reference)) = (patch, &mut event.object_ref) {
                reference.complete(&object);
            }
            if self.0.wanted.level >= Level::Request {
                event.request_object = Some(self.0.without_managed_fields(object));
            }
        });
    }

    /// The request was refused, or failed.
    pub(crate) fn failed(&self, status: &Status) {
        self.0.change(|event| event.response_status = Some(response_status(status.to_value(), status.code)));
    }

    /// The request did not say who makes it, or was not believed: all there is to say is said now.
    pub(crate) fn unauthenticated(&self, response: &mut Response) {
        let status = json!({ "message": "Authentication failed" });
        self.0.change(|event| {
            event.response_status = Some(response_status(status, response.status().as_u16()))
        });
        self.0.write(Stage::ResponseStarted);
        self.name_in(response);
    }

    /// The answer is known. What follows of a stream is recorded when it ends.
    pub(crate) fn finish(self, mut response: Response) -> Response {
        self.name_in(&mut response);
        let code = response.status().as_u16();
        let body = if self.0.long_running { None } else { read_back(&response) };
        self.0.change(|event| {
            let is_status = body.as_ref().is_some_and(|body| body["kind"] == "Status");
            if let (true, Some(body), None) = (is_status, &body, &event.response_status) {
                event.response_status = Some(response_status(body.clone(), code));
            }
            event.response_status.get_or_insert_with(|| response_status(json!({}), code));
            if self.0.wanted.level >= Level::RequestResponse {
                event.response_object = body.map(|body| self.0.without_managed_fields(body));
            }
        });
        if !self.0.long_running {
            self.0.write(Stage::ResponseComplete);
            return response;
        }
        self.0.write(Stage::ResponseStarted);
        response.map(|body| body.followed_by(AtEnd(self)))
    }

    fn name_in(&self, response: &mut Response) {
        self.0.change(|event| {
            if let Ok(id) = HeaderValue::from_str(&event.audit_id) {
                response.headers_mut().insert(AUDIT_ID, id);
            }
        });
    }
}

/// Writes the last event of a stream when it is dropped with its body.
struct AtEnd(Trail);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.0.write(Stage::ResponseComplete);
    }
}

// === impl User, ObjectReference ===

impl From<&UserInfo> for User {
    fn from(user: &UserInfo) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

impl ObjectReference {
    fn of(info: &RequestInfo) -> Self {
        Self {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..Self::default()
        }
    }

    /// What the path has not said, from the object in the request.
    fn complete(&mut self, object: &Value) {
        let metadata = &object["metadata"];
        let own = [
            (&mut self.namespace, "namespace"),
            (&mut self.name, "name"),
            (&mut self.uid, "uid"),
            (&mut self.resource_version, "resourceVersion"),
        ];
        for (place, field) in own {
            if place.is_empty() {
                metadata[field].as_str().unwrap_or_default().clone_into(place);
            }
        }
    }
}

/// A `Status` as events show it: without its type, but with the code that was sent.
fn response_status(mut status: Value, code: u16) -> Value {
    if let Some(fields) = status.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
        fields.entry("metadata").or_insert_with(|| json!({}));
        fields.insert("code".to_owned(), code.into());
    }
    status
}

/// The object of an answer that is known as a whole.
fn read_back(response: &Response) -> Option<Value> {
    let bytes = response.body().known()?;
    let media_type = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    match media_type.split(';').next().unwrap_or_default() {
        "application/json" => serde_json::from_slice(&bytes).ok(),
        "application/yaml" => decode::yaml(&bytes).ok().map(|(value, _)| value),
        protobuf::MEDIA_TYPE => protobuf::decode(&bytes, ("", "")).ok(),
        _ => None,
    }
}

/// From an object, or from all of a list or a table.
fn strip_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for (list, inner) in [("items", None), ("rows", Some("object"))] {
        for item in object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            match inner {
                Some(inner) => item.get_mut(inner).into_iter().for_each(strip_managed_fields),
                None => strip_managed_fields(item),
            }
        }
    }
}

fn timestamp() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// The client's own, which lets it find the request again, or a new one.
fn audit_id(headers: &HeaderMap) -> String {
    let given = headers.get(AUDIT_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

fn user_agent(headers: &HeaderMap) -> String {
    let text =
        headers.get(USER_AGENT).map_or(Cow::Borrowed(""), |agent| String::from_utf8_lossy(agent.as_bytes()));
    match text.char_indices().find(|(at, _)| *at >= USER_AGENT_BYTES) {
        Some((end, _)) => format!("{}...TRUNCATED", &text[..end]),
        None => text.into_owned(),
    }
}

/// Whom proxies say they speak for, then who is connected. Only the last is certain.
fn source_ips(headers: &HeaderMap, peer: &Peer) -> Vec<String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let claimed = header("x-forwarded-for").split(',').chain([header("x-real-ip")]);
    let mut all: Vec<String> = Vec::new();
    let addresses = claimed.filter_map(|text| text.trim().parse().ok()).chain([peer.address()]);
    for address in addresses {
        let text = address.to_canonical().to_string();
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all
}
