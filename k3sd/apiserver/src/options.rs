//! Options of the verbs, from the query and (for deletes) the body.

use std::time::Duration;

use machinery::apply::managed;
use machinery::schema::FieldValidation;
use machinery::selector::{FieldSelector, LabelSelector};
use machinery::status::{FieldError, Status};
use serde_json::Value;

use crate::audit::Trail;
use crate::pipeline::Call;
use crate::request::Query;

/// Create, update and patch options.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
    pub ownership: Ownership,
    /// The audit log's record of the request.
    pub trail: Option<Trail>,
}

/// How a write keeps the object's `managedFields`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// As they are: the server itself writes on somebody's behalf.
    #[default]
    Keep,
    /// This manager owns what changes.
    Manager(String),
    /// The object brings them along, as a server-side apply has made them.
    Given,
}

/// What kind of write the options are for. Upstream has a type for each, and its name in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Create,
    Update,
    Patch,
    Apply,
}

impl Write {
    fn options(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
        }
    }
}

impl WriteOptions {
    /// The options of a request whose writer is remembered as the owner of what it writes.
    pub(crate) fn of(call: &Call, write: Write) -> Result<Self, Status> {
        let options = Self::parse(&call.query, write)?;
        let manager = call.query.get("fieldManager").map_or_else(|| default_manager(call), str::to_owned);
        let ownership = if write == Write::Apply { Ownership::Given } else { Ownership::Manager(manager) };
        Ok(Self { ownership, trail: call.trail.clone(), ..options })
    }

    /// The options of a request that writes nothing, or not as its caller.
    pub(crate) fn parse(query: &Query, write: Write) -> Result<Self, Status> {
        let mut faults = Vec::new();
        let manager = query.get("fieldManager").unwrap_or_default();
        if write == Write::Apply && manager.is_empty() {
            faults.push(FieldError::required("fieldManager", "is required for apply patch"));
        }
        if write == Write::Patch && query.get("force").is_some() {
            faults.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
        }
        faults.extend(manager_faults("fieldManager", manager));
        let dry_run = dry_run(query.all("dryRun"), &mut faults);
        let validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                let known = ["", "Ignore", "Strict", "Warn"];
                faults.push(FieldError::not_supported("fieldValidation", other, &known));
                FieldValidation::Warn
            }
        };
        if !faults.is_empty() {
            return Err(Status::invalid("meta.k8s.io", write.options(), "", faults));
        }
        Ok(Self { dry_run, validation, ..Self::default() })
    }
}

/// What is wrong with the name of a field manager.
pub(crate) fn manager_faults(path: &str, name: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if name.len() > managed::MANAGER_MAX_BYTES {
        faults.push(FieldError::too_long(path, managed::MANAGER_MAX_BYTES));
    }
    faults.extend(managed::unprintable(name).into_iter().map(|fault| FieldError::invalid(path, name, fault)));
    faults
}

/// The manager of a request that names none: the program that makes it. Components of this process send no `User-Agent`, but are
/// who they are.
fn default_manager(call: &Call) -> String {
    let agent = call.headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    match (agent, call.user.name.strip_prefix("system:")) {
        (Some(agent), _) => managed::manager_from_user_agent(agent),
        (None, Some(name)) if name.starts_with("node:") => "kubelet".to_owned(),
        (None, Some(name)) => managed::manager_from_user_agent(name),
        (None, None) => String::new(),
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, faults: &mut Vec<FieldError>) -> bool {
    let mut dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            faults.push(FieldError::not_supported("dryRun", value, &["All"]));
        }
        dry = true;
    }
    dry
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Everything written before the request (resourceVersion unset).
    MostRecent,
    /// Whatever is in memory (resourceVersion 0).
    Any,
    /// At least this revision.
    NotOlderThan(i64),
    /// Exactly this revision.
    Exact(i64),
}

/// List, watch and deletecollection options.
#[derive(Debug, Clone)]
pub(crate) struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub freshness: Freshness,
    /// 0: everything.
    pub limit: usize,
    pub continue_token: Option<String>,
    pub timeout: Option<Duration>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
    pub version_match: Option<String>,
}

impl ListOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        let labels = query.get("labelSelector").unwrap_or_default();
        let fields = query.get("fieldSelector").unwrap_or_default();
        let limit = number(query, "limit")?.unwrap_or(0);
        Ok(Self {
            labels: LabelSelector::parse(labels)
                .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?,
            fields: FieldSelector::parse(fields).map_err(|error| Status::bad_request(error.to_string()))?,
            freshness: freshness(query)?,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.get("continue").map(str::to_owned),
            timeout: number(query, "timeoutSeconds")?
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.get("sendInitialEvents").map(|value| !matches!(value, "false" | "0")),
            version_match: query.get("resourceVersionMatch").map(str::to_owned),
        })
    }
}

fn number(query: &Query, key: &str) -> Result<Option<i64>, Status> {
    query
        .get(key)
        .map(|text| {
            text.parse().map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))
            })
        })
        .transpose()
}

/// The rules of https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions.
fn freshness(query: &Query) -> Result<Freshness, Status> {
    let version = query.get("resourceVersion");
    let matching = query.get("resourceVersionMatch");
    let parsed = version.map(parse_version).transpose()?;
    let watching = query.flag("watch");
    match (matching, parsed) {
        (None, None) => Ok(Freshness::MostRecent),
        (None, Some(0)) => Ok(Freshness::Any),
        // Upstream: with a limit, an old clients' list at a version means exactly that version.
        (None, Some(version)) if !watching && query.get("limit").is_some() => Ok(Freshness::Exact(version)),
        (None, Some(version)) => Ok(Freshness::NotOlderThan(version)),
        (Some("NotOlderThan"), Some(0)) => Ok(Freshness::Any),
        (Some("NotOlderThan"), Some(version)) => Ok(Freshness::NotOlderThan(version)),
        (Some("NotOlderThan"), None) if query.get("sendInitialEvents").is_some() => Ok(Freshness::MostRecent),
        (Some("Exact"), Some(0)) => {
            Err(invalid_match("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
        }
        (Some("Exact"), Some(version)) => Ok(Freshness::Exact(version)),
        (Some("Exact" | "NotOlderThan"), None) => {
            Err(invalid_match("resourceVersionMatch is forbidden unless resourceVersion is provided"))
        }
        (Some(other), _) => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\", \"\""
        ))),
    }
}

fn invalid_match(detail: &str) -> Status {
    Status::bad_request(format!("resourceVersionMatch: Forbidden: {detail}"))
}

pub(crate) fn parse_version(text: &str) -> Result<i64, Status> {
    text.parse::<i64>().ok().filter(|version| *version >= 0).ok_or_else(|| {
        Status::bad_request(format!("resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"))
    })
}

/// What happens to the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// Delete options.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub dry_run: bool,
    pub grace_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    /// The deprecated `orphanDependents`, as it was sent.
    pub orphan_dependents: Option<bool>,
}

impl DeleteOptions {
    /// From the body when there is one, else from the query.
    pub(crate) fn parse(query: &Query, body: Option<&Value>) -> Result<Self, Status> {
        let mut faults = Vec::new();
        let mut options = Self {
            dry_run: dry_run(query.all("dryRun"), &mut faults),
            grace_seconds: number(query, "gracePeriodSeconds")?,
            orphan_dependents: query.get("orphanDependents").map(|value| value == "true"),
            ..Self::default()
        };
        let mut policy = query.get("propagationPolicy").map(str::to_owned);
        if let Some(body) = body {
            options.take_body(body, &mut policy, &mut faults);
        }
        options.propagation = policy.and_then(|text| propagation(&text, &mut faults));
        if options.orphan_dependents.is_some() && options.propagation.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            let policy = options.propagation.map(|policy| format!("{policy:?}")).unwrap_or_default();
            faults.push(FieldError::invalid("propagationPolicy", policy, detail));
        }
        if faults.is_empty() {
            Ok(options)
        } else {
            Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", faults))
        }
    }

    fn take_body(&mut self, body: &Value, policy: &mut Option<String>, faults: &mut Vec<FieldError>) {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        if let Some(values) = body.get("dryRun").and_then(Value::as_array) {
            self.dry_run |= dry_run(values.iter().filter_map(Value::as_str), faults);
        }
        if let Some(seconds) = body.get("gracePeriodSeconds").and_then(Value::as_i64) {
            self.grace_seconds = Some(seconds);
        }
        if let Some(given) = text("/propagationPolicy") {
            *policy = Some(given);
        }
        if let Some(orphan) = body.get("orphanDependents").and_then(Value::as_bool) {
            self.orphan_dependents = Some(orphan);
        }
        self.uid = text("/preconditions/uid");
        self.resource_version = text("/preconditions/resourceVersion");
    }

    /// The policy after the deprecated option is taken into account.
    pub(crate) fn effective_propagation(&self) -> Option<Propagation> {
        self.propagation.or(match self.orphan_dependents {
            Some(true) => Some(Propagation::Orphan),
            Some(false) => Some(Propagation::Background),
            None => None,
        })
    }
}

fn propagation(text: &str, faults: &mut Vec<FieldError>) -> Option<Propagation> {
    match text {
        "Orphan" => Some(Propagation::Orphan),
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        other => {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            faults.push(FieldError::not_supported("propagationPolicy", other, &known));
            None
        }
    }
}
