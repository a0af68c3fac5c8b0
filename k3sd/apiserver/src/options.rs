//! Options of the verbs, from the query and (for deletes) the body.

use machinery::schema::FieldValidation;
use machinery::selector::{FieldSelector, LabelSelector};
use machinery::status::Status;
use serde_json::Value;
use std::time::Duration;

use crate::request::Query;

/// Create, update and patch options.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { dry_run: false, validation: FieldValidation::Warn }
    }
}

impl WriteOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        let validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "fieldValidation: Unsupported value: \"{other}\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        };
        Ok(Self { dry_run: dry_run(query.all("dryRun"))?, validation })
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, Status> {
    let mut dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(Status::bad_request(format!(
                "dryRun: Unsupported value: \"{value}\": supported values: \"All\""
            )));
        }
        dry = true;
    }
    Ok(dry)
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
        let mut options = Self {
            dry_run: dry_run(query.all("dryRun"))?,
            grace_seconds: number(query, "gracePeriodSeconds")?,
            propagation: query.get("propagationPolicy").map(propagation).transpose()?,
            orphan_dependents: query.get("orphanDependents").map(|value| value == "true"),
            ..Self::default()
        };
        let Some(body) = body else { return options.checked() };
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        if let Some(values) = body.get("dryRun").and_then(Value::as_array) {
            options.dry_run |= dry_run(values.iter().filter_map(Value::as_str))?;
        }
        if let Some(seconds) = body.get("gracePeriodSeconds").and_then(Value::as_i64) {
            options.grace_seconds = Some(seconds);
        }
        if let Some(policy) = text("/propagationPolicy") {
            options.propagation = Some(propagation(&policy)?);
        }
        if let Some(orphan) = body.get("orphanDependents").and_then(Value::as_bool) {
            options.orphan_dependents = Some(orphan);
        }
        options.uid = text("/preconditions/uid");
        options.resource_version = text("/preconditions/resourceVersion");
        options.checked()
    }

    fn checked(self) -> Result<Self, Status> {
        if self.orphan_dependents.is_some() && self.propagation.is_some() {
            return Err(Status::bad_request(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        Ok(self)
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

fn propagation(text: &str) -> Result<Propagation, Status> {
    match text {
        "Orphan" => Ok(Propagation::Orphan),
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        other => Err(Status::bad_request(format!(
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"{other}\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
        ))),
    }
}
