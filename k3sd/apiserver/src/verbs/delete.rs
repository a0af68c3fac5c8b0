//! DELETE an object: at once, after a grace period, or when its last finalizer goes.

use bytes::Bytes;
use datastore::Revision;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

use crate::admission::{Notes, Operation, Review};
use crate::options::{DeleteOptions, Propagation};
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::server::Shared;
use crate::strategy::{Context, Graceful};
use crate::verbs::create;
use crate::verbs::update::{Current, Target};
use crate::{codec, decode, errors, negotiate, present};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 50;

/// How a deletion ended.
#[derive(Debug)]
pub(crate) struct Deleted {
    /// The object's last or present state.
    pub bytes: Bytes,
    pub uid: String,
    /// False when the object is still there, waiting.
    pub gone: bool,
}

pub(crate) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = read_options(&mut call).await?;
    let target = Target::of(&call);
    let deleted = delete(&call.shared, target, &options).await?;
    if deleted.gone && !returns_object(&target) {
        let resource = &call.entry.resource;
        let status = Status::deleted(&resource.group, &resource.plural, target.name, &deleted.uid);
        return Ok(respond::value(StatusCode::OK, accepted.encoding, &status.to_value()));
    }
    let cascading = options.orphan_dependents == Some(false);
    let code = if !deleted.gone && cascading { StatusCode::ACCEPTED } else { StatusCode::OK };
    present::object(&call.entry, accepted, &call.query, code, &deleted.bytes)
}

/// Options from the body, if there is one, and the query.
pub(crate) async fn read_options(call: &mut Call) -> Result<DeleteOptions, Status> {
    let body = call.read_body().await?;
    if body.is_empty() {
        return DeleteOptions::parse(&call.query, None);
    }
    let (value, _) = decode::parse(&body, &negotiate::content_type(&call.headers), ("v1", "DeleteOptions"))?;
    DeleteOptions::parse(&call.query, Some(&value))
}

/// Kinds whose deletion answers with the object, not with a Status (upstream's `ReturnDeletedObject`).
fn returns_object(target: &Target<'_>) -> bool {
    let resource = &target.entry.resource;
    resource.group.is_empty()
        && matches!(
            resource.plural.as_str(),
            "pods"
                | "services"
                | "serviceaccounts"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
        )
}

/// What one attempt at a deletion comes to.
enum Step {
    /// It waits already; nothing to write.
    Waits,
    /// Write this, and the object waits.
    Mark(Value),
    /// Remove it.
    Remove,
}

/// Delete one object.
pub(crate) async fn delete(
    shared: &Shared,
    target: Target<'_>,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let entry = target.entry;
    let cx = shared.context(entry, target.user, target.namespace, "", options.dry_run);
    let mut current = Current::read(shared, &target).await?;
    for _ in 0..ATTEMPTS {
        check_preconditions(&target, options, &current)?;
        let review = Review {
            cx: &cx,
            operation: Operation::Delete,
            name: target.name,
            old: Some(&current.object),
            shared,
            notes: &Notes::default(),
            trail: None,
        };
        shared.admission.validate(&review, &Value::Null).await?;
        entry.strategy.check_delete(&cx, &current.object)?;
        let uid = meta::uid(&current.object).to_owned();
        let step = step(&cx, &target, options, &current.object);
        let done = match step {
            Step::Waits => return Ok(Deleted { bytes: current.bytes, uid, gone: false }),
            Step::Mark(object) if options.dry_run => {
                return Ok(Deleted { bytes: codec::encode(&object), uid, gone: false });
            }
            Step::Remove if options.dry_run => return Ok(Deleted { bytes: current.bytes, uid, gone: true }),
            Step::Mark(object) => mark(shared, &target, &object, current.revision).await,
            Step::Remove => remove(shared, &target, &current).await,
        };
        match done {
            Ok((bytes, gone)) => return Ok(Deleted { bytes, uid, gone }),
            Err(datastore::Error::Conflict { current: found, .. }) => {
                current = Current::reread(shared, &target, found).await?;
            }
            Err(error) => return Err(errors::store(&error, &entry.resource, target.name)),
        }
    }
    Err(errors::modified(&entry.resource, target.name))
}

fn check_preconditions(
    target: &Target<'_>,
    options: &DeleteOptions,
    current: &Current,
) -> Result<(), Status> {
    let uid = meta::uid(&current.object);
    if let Some(wanted) = &options.uid
        && wanted != uid
    {
        return Err(target.conflict(&format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
        )));
    }
    if let Some(wanted) = &options.resource_version
        && *wanted != current.revision.to_string()
    {
        return Err(target.conflict(&format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {}",
            current.revision
        )));
    }
    Ok(())
}

/// Upstream's `rest.BeforeDelete` and `updateForGracefulDeletionAndFinalizers`.
fn step(cx: &Context<'_>, target: &Target<'_>, options: &DeleteOptions, current: &Value) -> Step {
    let strategy = &target.entry.strategy;
    let mut object = current.clone();
    let graceful = match (meta::deletion_timestamp(current), meta::deletion_grace_period_seconds(current)) {
        (Some(since), Some(before)) if before > 0 || options.grace_seconds.is_none() => {
            match options.grace_seconds {
                Some(seconds) if seconds < before => {
                    shorten(&mut object, since, before, seconds);
                    Some(seconds)
                }
                _ if before == 0 => None,
                _ => return Step::Waits,
            }
        }
        (Some(_), _) => None,
        (None, _) => match strategy.graceful_delete(cx, current, options.grace_seconds) {
            Graceful::Immediate => None,
            Graceful::Seconds(seconds) => {
                mark_deleting(&mut object, seconds);
                Some(seconds)
            }
        },
    };
    update_finalizers(target, options, &mut object);
    let pending = meta::finalizers(&object).next().is_some() || strategy.holds_deletion(&object);
    match graceful {
        Some(seconds) if pending || seconds > 0 => {
            strategy.mark_deleted(&mut object);
            Step::Mark(object)
        }
        None if pending => {
            if meta::deletion_timestamp(&object).is_none() {
                mark_deleting(&mut object, 0);
            }
            strategy.mark_deleted(&mut object);
            if object == *current { Step::Waits } else { Step::Mark(object) }
        }
        _ => Step::Remove,
    }
}

fn mark_deleting(object: &mut Value, grace_seconds: i64) {
    let at = Timestamp::now() + SignedDuration::from_secs(grace_seconds);
    meta::set_deletion(object, &meta::time_text(at), grace_seconds);
    // Being deleted changes what controllers do, so it counts as a change of what is wanted.
    let generation = meta::generation(object);
    if generation > 0 {
        meta::set_generation(object, generation + 1);
    }
}

/// A running grace period may only become shorter.
fn shorten(object: &mut Value, since: &str, before: i64, seconds: i64) {
    let ends = since.parse::<Timestamp>().unwrap_or_else(|_| Timestamp::now());
    let ends = ends - SignedDuration::from_secs(before) + SignedDuration::from_secs(seconds);
    meta::set_deletion(object, &meta::time_text(ends), seconds);
}

/// The garbage collector's finalizers, as the propagation policy asks (upstream's `deletionFinalizersForGarbageCollection`).
fn update_finalizers(target: &Target<'_>, options: &DeleteOptions, object: &mut Value) {
    let before: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
    let has = |name: &str| before.iter().any(|finalizer| finalizer == name);
    let (orphan, foreground) = match options.effective_propagation() {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), has(FOREGROUND)),
        None => (target.entry.strategy.orphans_by_default(), false),
    };
    let mut after: Vec<String> =
        before.iter().filter(|name| *name != ORPHAN && *name != FOREGROUND).cloned().collect();
    if orphan {
        after.push(ORPHAN.to_owned());
    }
    if foreground {
        after.push(FOREGROUND.to_owned());
    }
    if after.len() != before.len() || after.iter().any(|name| !has(name)) {
        meta::set_finalizers(object, after);
    }
}

async fn mark(
    shared: &Shared,
    target: &Target<'_>,
    object: &Value,
    revision: i64,
) -> Result<(Bytes, bool), datastore::Error> {
    let entry = target.entry;
    let key = entry.store_key(target.namespace, target.name);
    let stored = create::encode_stored(entry, object);
    let ttl = entry.strategy.ttl(object);
    let revision = shared.datastore.update(&key, stored.clone(), Revision(revision), ttl).await?;
    Ok((create::served(entry, object, &stored, revision.0), false))
}

async fn remove(
    shared: &Shared,
    target: &Target<'_>,
    current: &Current,
) -> Result<(Bytes, bool), datastore::Error> {
    let key = target.entry.store_key(target.namespace, target.name);
    let (revision, _) = shared.datastore.delete(&key, Some(Revision(current.revision))).await?;
    let mut last = current.object.clone();
    meta::set_resource_version(&mut last, &revision.0.to_string());
    Ok((codec::encode(&last), true))
}
