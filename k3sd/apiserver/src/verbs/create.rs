//! POST a new object.

use bytes::Bytes;
use http::StatusCode;
use machinery::meta;
use machinery::schema;
use machinery::status::{FieldError, Status};
use serde_json::Value;

use crate::admission::{Notes, Operation, Review};
use crate::decode::{self, Expected};
use crate::options::{Write, WriteOptions};
use crate::pipeline::Call;
use crate::registry::Entry;
use crate::respond::{self, Response};
use crate::server::Shared;
use crate::strategy::Context;
use crate::user::UserInfo;
use crate::{addresses, codec, errors, managed_fields, metadata, negotiate, present};

/// Tries to find a free name for `generateName`, as many as upstream makes.
const NAME_ATTEMPTS: usize = 8;

/// What a write left behind.
#[derive(Debug)]
pub(crate) struct Written {
    /// The bytes to serve.
    pub bytes: Bytes,
    pub warnings: Vec<String>,
    /// True when the write made the object.
    pub created: bool,
}

pub(crate) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = WriteOptions::of(&call, Write::Create)?;
    let body = call.read_body().await?;
    let media_type = negotiate::content_type(&call.headers);
    let expected = Expected::of(&call.entry.resource);
    let decoded = decode::decode(&body, &media_type, &expected, options.validation)?;
    let mut written =
        create(&call.shared, &call.entry, &call.user, &call.info.namespace, decoded.object, &options).await?;
    written.warnings.splice(0..0, decoded.warnings);
    let mut response =
        present::object(&call.entry, accepted, &call.query, StatusCode::CREATED, &written.bytes)?;
    respond::warn(&mut response, &written.warnings);
    Ok(response)
}

/// Create an object that is decoded and conforms to its schema.
pub(crate) async fn create(
    shared: &Shared,
    entry: &Entry,
    user: &UserInfo,
    namespace: &str,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Written, Status> {
    shared.fresh().await?;
    metadata::match_namespace(&entry.resource, &mut object, namespace)?;
    metadata::prepare_create(entry, &mut object)?;
    let cx = shared.context(entry, user, namespace, "", options.dry_run);
    apply_defaults(entry, &mut object);
    managed_fields::track(entry, &options.ownership, "", &mut object, None);
    let name = meta::name(&object).to_owned();
    let notes = Notes::default();
    let review = Review {
        cx: &cx,
        operation: Operation::Create,
        name: &name,
        old: None,
        shared,
        notes: &notes,
        trail: options.trail.as_ref(),
    };
    shared.admission.mutate(&review, &mut object).await?;
    let reservation = entry.strategy.begin_create(&cx, &mut object)?;
    drop_status(entry, &mut object);
    entry.strategy.prepare_create(&cx, &mut object);
    let mut faults = metadata::validate(entry, &object);
    faults.extend(entry.strategy.validate_create(&cx, &object));
    refuse_invalid(entry, &name, faults)?;
    shared.admission.validate(&review, &object).await?;
    let mut warnings = entry.strategy.warnings(&cx, &object, None);
    warnings.extend(notes.take_warnings());
    if options.dry_run {
        dry_run_conflict(entry, namespace, &object)?;
        return Ok(Written { bytes: codec::encode(&object), warnings, created: true });
    }
    let stored = store(shared, &cx, entry, namespace, &mut object).await;
    if stored.is_err() {
        notes.undo(shared).await;
    }
    let bytes = stored?;
    reservation.keep();
    Ok(Written { bytes, warnings, created: true })
}

/// Static defaults of the schema, then those of the kind.
pub(crate) fn apply_defaults(entry: &Entry, object: &mut Value) {
    schema::apply_static_defaults(schema::builtin(), &entry.resource.type_name, object);
    entry.strategy.default(object);
}

fn drop_status(entry: &Entry, object: &mut Value) {
    if entry.resource.subresource("status").is_some()
        && !entry.strategy.keeps_status_on_create()
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
}

/// `Invalid` if there is anything wrong.
pub(crate) fn refuse_invalid(entry: &Entry, name: &str, faults: Vec<FieldError>) -> Result<(), Status> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&entry.resource.group, &entry.resource.kind, name, faults))
}

fn dry_run_conflict(entry: &Entry, namespace: &str, object: &Value) -> Result<(), Status> {
    let name = meta::name(object);
    let taken =
        entry.cache.as_ref().is_some_and(|cache| cache.get(&entry.cache_key(namespace, name)).is_some());
    if taken {
        Err(Status::already_exists(&entry.resource.group, &entry.resource.plural, name))
    } else {
        Ok(())
    }
}

/// Store under the object's name; a generated name that is taken is generated again.
async fn store(
    shared: &Shared,
    cx: &Context<'_>,
    entry: &Entry,
    namespace: &str,
    object: &mut Value,
) -> Result<Bytes, Status> {
    let ttl = entry.strategy.ttl(object);
    for attempt in 1.. {
        let name = meta::name(object).to_owned();
        let stored = encode_stored(entry, object);
        let key = entry.store_key(namespace, &name);
        let write = shared.datastore.create(&key, stored.clone(), ttl);
        let addresses = entry.strategy.addresses(object);
        // A name that is known to be taken is not tried with everything that belongs to it.
        let known =
            || entry.cache.as_ref().is_some_and(|c| c.get(&entry.cache_key(namespace, &name)).is_some());
        let written = if addresses.is_empty() || known() {
            write.await
        } else {
            addresses::store_with(shared, object, &addresses, write).await
        };
        match written {
            Ok(revision) => return Ok(served(entry, object, &stored, revision.0)),
            Err(datastore::Error::Exists { .. })
                if attempt < NAME_ATTEMPTS && was_generated(object, &name) =>
            {
                meta::set_name(object, "");
                metadata::generate_name(object);
                entry.strategy.prepare_create(cx, object);
            }
            Err(error) => return Err(errors::store(&error, &entry.resource, &name)),
        }
    }
    Err(Status::internal("no name was free"))
}

fn was_generated(object: &Value, name: &str) -> bool {
    let base = meta::generate_name(object);
    !base.is_empty() && name.len() > 5 && base.starts_with(&name[..name.len() - 5])
}

/// The bytes to store for an object in its served shape.
pub(crate) fn encode_stored(entry: &Entry, object: &Value) -> Bytes {
    if !entry.converted {
        return codec::encode_stored(object);
    }
    let mut stored = object.clone();
    machinery::convert::to_storage(&entry.resource, &mut stored);
    codec::encode_stored(&stored)
}

/// The bytes to answer with after an object was stored.
pub(crate) fn served(entry: &Entry, object: &Value, stored: &[u8], revision: i64) -> Bytes {
    if !entry.converted {
        return codec::with_revision(stored, revision);
    }
    let mut object = object.clone();
    meta::set_resource_version(&mut object, &revision.to_string());
    codec::encode(&object)
}
