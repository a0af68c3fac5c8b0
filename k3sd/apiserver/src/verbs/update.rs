//! PUT an object, and the read-change-write loop that every change of a stored object goes through.

use std::sync::Arc;

use bytes::Bytes;
use datastore::Revision;
use http::StatusCode;
use machinery::meta;
use machinery::status::{FieldError, Status};
use serde_json::Value;

use crate::admission::{Notes, Operation, Review};
use crate::cache::Object;
use crate::decode::{self, Expected};
use crate::options::{Ownership, Write, WriteOptions};
use crate::pipeline::Call;
use crate::registry::Entry;
use crate::respond::{self, Response};
use crate::server::Shared;
use crate::strategy::Context;
use crate::user::UserInfo;
use crate::verbs::create::{self, Written};
use crate::{authz, codec, errors, managed_fields, metadata, negotiate, present};

/// Tries before giving up on an object that others keep changing.
const ATTEMPTS: usize = 50;

/// What is updated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub entry: &'a Arc<Entry>,
    pub user: &'a UserInfo,
    pub namespace: &'a str,
    pub name: &'a str,
    /// "" for the object itself.
    pub subresource: &'a str,
}

impl<'a> Target<'a> {
    pub(crate) fn of(call: &'a Call) -> Self {
        Self {
            entry: &call.entry,
            user: &call.user,
            namespace: &call.info.namespace,
            name: &call.info.name,
            subresource: &call.info.subresource,
        }
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(&self.entry.resource.group, &self.entry.resource.plural, self.name)
    }

    pub(crate) fn conflict(&self, detail: &str) -> Status {
        Status::conflict(&self.entry.resource.group, &self.entry.resource.plural, self.name, detail)
    }
}

pub(crate) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = WriteOptions::of(&call, Write::Update)?;
    let body = call.read_body().await?;
    let media_type = negotiate::content_type(&call.headers);
    let expected = Expected::of(&call.entry.resource);
    let decoded = decode::decode(&body, &media_type, &expected, options.validation)?;
    let target = Target::of(&call);
    let sent = decoded.object;
    match_name(&target, &sent)?;
    let sent_again = |_: &Value| {
        check_version_given(&target, &sent)?;
        Ok(sent.clone())
    };
    let mut written = match change(&call.shared, target, &options, sent_again).await {
        Err(status) if status.code == 404 && may_create(&target, &sent) => {
            authz::authorize_creation(&call)?;
            create::create(&call.shared, &call.entry, &call.user, &call.info.namespace, sent, &options)
                .await?
        }
        other => other?,
    };
    written.warnings.splice(0..0, decoded.warnings);
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = present::object(&call.entry, accepted, &call.query, code, &written.bytes)?;
    respond::warn(&mut response, &written.warnings);
    Ok(response)
}

/// Some kinds are never overwritten blindly.
fn check_version_given(target: &Target<'_>, sent: &Value) -> Result<(), Status> {
    let given = !matches!(meta::resource_version(sent), "" | "0");
    if given || !target.subresource.is_empty() || target.entry.strategy.allow_unconditional_update() {
        return Ok(());
    }
    let fault = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
    create::refuse_invalid(target.entry, target.name, vec![fault])
}

fn may_create(target: &Target<'_>, sent: &Value) -> bool {
    target.subresource.is_empty()
        && target.entry.strategy.allow_create_on_update()
        && matches!(meta::resource_version(sent), "" | "0")
        && meta::uid(sent).is_empty()
}

fn match_name(target: &Target<'_>, object: &Value) -> Result<(), Status> {
    let name = meta::name(object);
    if name.is_empty() {
        let faults = vec![FieldError::required("metadata.name", "name must be provided")];
        return Err(Status::invalid(&target.entry.resource.group, &target.entry.resource.kind, "", faults));
    }
    if name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}

/// A stored object as it is now.
pub(crate) struct Current {
    /// In the shape the entry serves.
    pub object: Value,
    pub bytes: Bytes,
    pub revision: i64,
}

impl Current {
    fn decode(entry: &Entry, object: &Object) -> Result<Self, Status> {
        let bytes = present::served(entry, object);
        let decoded = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        Ok(Self { object: decoded, bytes, revision: object.revision })
    }

    /// From the cache, which shows everything written before this call.
    pub(crate) async fn read(shared: &Shared, target: &Target<'_>) -> Result<Self, Status> {
        shared.fresh().await?;
        let cache = target.entry.cache.as_ref().ok_or_else(Status::method_not_allowed)?;
        let found = cache.get(&target.entry.cache_key(target.namespace, target.name));
        Self::decode(target.entry, &*found.ok_or_else(|| target.not_found())?)
    }

    /// From what a failed compare-and-swap found, or the datastore.
    pub(crate) async fn reread(
        shared: &Shared,
        target: &Target<'_>,
        found: Option<datastore::KeyValue>,
    ) -> Result<Self, Status> {
        let cache = target.entry.cache.as_ref().ok_or_else(Status::method_not_allowed)?;
        let found = match found {
            Some(found) => Some(found),
            None => {
                let key = target.entry.store_key(target.namespace, target.name);
                let read = shared.datastore.get(&key, None).await;
                read.map_err(|error| errors::store(&error, &target.entry.resource, target.name))?.1
            }
        };
        let found = found.ok_or_else(|| target.not_found())?;
        Self::decode(target.entry, &cache.object(&found.value, found.mod_revision.0))
    }
}

/// Read, change, check, write; again if somebody else wrote in between. `changed` gets the current object and returns the one the
/// user wants, with the `resourceVersion` the user insists on ("" for none).
pub(crate) async fn change(
    shared: &Shared,
    target: Target<'_>,
    options: &WriteOptions,
    mut changed: impl FnMut(&Value) -> Result<Value, Status> + Send,
) -> Result<Written, Status> {
    let entry = target.entry;
    let cx = shared.context(entry, target.user, target.namespace, target.subresource, options.dry_run);
    let mut current = Current::read(shared, &target).await?;
    for _ in 0..ATTEMPTS {
        let object = changed(&current.object)?;
        check_preconditions(&target, &object, &current)?;
        let insisted =
            matches!(meta::resource_version(&object), version if !version.is_empty() && version != "0");
        let Prepared { object, reservation, warnings, notes } =
            prepare(shared, &cx, &target, options, object, &current.object).await?;
        if is_same(&options.ownership, &object, &current.object) {
            return Ok(Written { bytes: current.bytes, warnings, created: false });
        }
        if options.dry_run {
            return Ok(Written { bytes: codec::encode(&object), warnings, created: false });
        }
        let written = write(shared, &target, &object, &current).await;
        if written.is_err() {
            notes.undo(shared).await;
        }
        match written {
            Ok((bytes, gone)) => {
                // What it had goes back with the deletion; what it would have got, with the reservation.
                if !gone {
                    reservation.keep();
                    entry.strategy.after_update(&cx, &object, &current.object);
                }
                return Ok(Written { bytes, warnings, created: false });
            }
            Err(datastore::Error::Conflict { current: found, .. }) if !insisted => {
                current = Current::reread(shared, &target, found).await?;
            }
            Err(error) => return Err(errors::store(&error, &entry.resource, target.name)),
        }
    }
    Err(errors::modified(&entry.resource, target.name))
}

/// True if there is nothing to write. An apply dates its entry anew even if it changes nothing.
fn is_same(ownership: &Ownership, object: &Value, current: &Value) -> bool {
    object == current
        || (*ownership == Ownership::Given && managed_fields::same_but_for_times(object, current))
}

/// `resourceVersion` and `uid` in the object are what the user saw; both must still be so.
fn check_preconditions(target: &Target<'_>, object: &Value, current: &Current) -> Result<(), Status> {
    let uid = meta::uid(object);
    let current_uid = meta::uid(&current.object);
    if !uid.is_empty() && uid != current_uid {
        return Err(target.conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {current_uid}"
        )));
    }
    match meta::resource_version(object) {
        "" | "0" => Ok(()),
        version if version == current.revision.to_string() => Ok(()),
        _ => Err(errors::modified(&target.entry.resource, target.name)),
    }
}

/// What may be written.
struct Prepared {
    object: Value,
    reservation: crate::allocator::Reservation,
    warnings: Vec<String>,
    notes: Notes,
}

/// Everything between what the user wants and what may be written.
async fn prepare(
    shared: &Shared,
    cx: &Context<'_>,
    target: &Target<'_>,
    options: &WriteOptions,
    mut object: Value,
    old: &Value,
) -> Result<Prepared, Status> {
    let entry = target.entry;
    let strategy = &entry.strategy;
    metadata::match_namespace(&entry.resource, &mut object, target.namespace)?;
    metadata::prepare_update(&mut object, old);
    let status = target.subresource == "status";
    if status {
        keep_all_but_status(&mut object, old);
    } else if target.subresource.is_empty() && entry.resource.subresource("status").is_some() {
        copy_field(&mut object, old, "status");
    }
    create::apply_defaults(entry, &mut object);
    managed_fields::track(entry, &options.ownership, target.subresource, &mut object, Some(old));
    let notes = Notes::default();
    let review = Review {
        cx,
        operation: Operation::Update,
        name: target.name,
        old: Some(old),
        shared,
        notes: &notes,
        trail: options.trail.as_ref(),
    };
    // What was asked for is a Binding, and has been admitted as that.
    let is_admitted = target.subresource == "binding";
    if !is_admitted {
        shared.admission.mutate(&review, &mut object).await?;
    }
    let reservation = if status {
        strategy.prepare_status_update(cx, &mut object, old);
        crate::allocator::Reservation::none()
    } else {
        let reservation = strategy.begin_update(cx, &mut object, old)?;
        strategy.prepare_update(cx, &mut object, old);
        reservation
    };
    if strategy.has_generation() && !status {
        metadata::bump_generation(&mut object, old);
    }
    meta::set_resource_version(&mut object, meta::resource_version(old));
    let mut faults = metadata::validate(entry, &object);
    faults.extend(metadata::validate_update(&object, old));
    faults.extend(strategy.validate_update(cx, &object, old));
    create::refuse_invalid(entry, target.name, faults)?;
    if !is_admitted {
        shared.admission.validate(&review, &object).await?;
    }
    let mut warnings = strategy.warnings(cx, &object, Some(old));
    warnings.extend(notes.take_warnings());
    Ok(Prepared { object, reservation, warnings, notes })
}

fn keep_all_but_status(object: &mut Value, old: &Value) {
    let mut kept = old.clone();
    for field in ["metadata", "status"] {
        copy_field(&mut kept, object, field);
    }
    *object = kept;
}

fn copy_field(to: &mut Value, from: &Value, field: &str) {
    let Some(map) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// Write the object; or remove it (true), if it was only waiting for its last finalizer.
async fn write(
    shared: &Shared,
    target: &Target<'_>,
    object: &Value,
    current: &Current,
) -> Result<(Bytes, bool), datastore::Error> {
    let entry = target.entry;
    let key = entry.store_key(target.namespace, target.name);
    let expected = Revision(current.revision);
    if is_finished(entry, object, &current.object) {
        let (revision, _) = shared.datastore.delete(&key, Some(expected)).await?;
        let mut last = object.clone();
        meta::set_resource_version(&mut last, &revision.0.to_string());
        return Ok((codec::encode(&last), true));
    }
    let stored = create::encode_stored(entry, object);
    let revision =
        shared.datastore.update(&key, stored.clone(), expected, entry.strategy.ttl(object)).await?;
    Ok((create::served(entry, object, &stored, revision.0), false))
}

/// True when an update took away the last thing that held a deleted object (upstream's `ShouldDeleteDuringUpdate`).
fn is_finished(entry: &Entry, object: &Value, old: &Value) -> bool {
    let held =
        |object: &Value| meta::finalizers(object).next().is_some() || entry.strategy.holds_deletion(object);
    meta::deletion_timestamp(object).is_some()
        && !held(object)
        && held(old)
        && meta::deletion_grace_period_seconds(object).unwrap_or(0) == 0
}
