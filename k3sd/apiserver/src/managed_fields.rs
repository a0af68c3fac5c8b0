//! `metadata.managedFields` of stored objects: which part of a request's object goes into them, and how they come to agree with it.
//!
//! The bookkeeping itself is `machinery::apply`. Here is what it has to be told: the versions a kind is served in, and which fields
//! a request does not write, whatever it says (upstream's `GetResetFields`).
//!
//! An object's owners are noted after defaults and before admission, as upstream does: what admission and the server itself add
//! belongs to nobody.

use std::sync::Arc;

use machinery::apply::managed::{self, Managed};
use machinery::apply::{Applied, Applying, FieldManager, Reset, Versions};
use machinery::kinds::{self, Resource};
use machinery::schema::{self, TypeRef};
use machinery::status::{FieldError, Status};
use machinery::{convert, meta};
use serde_json::Value;

use crate::options::{Ownership, manager_faults};
use crate::registry::Entry;

/// Longest name of a subresource in an entry.
const SUBRESOURCE_MAX_BYTES: usize = 256;

/// A server-side apply: the configuration, and how it is to be applied.
#[derive(Debug)]
pub(crate) struct Application {
    pub config: Value,
    pub manager: String,
    pub force: bool,
}

/// The versions of a kind that this server serves.
struct Served<'a>(&'a Resource);

impl Served<'_> {
    /// The resource of the same objects in another version.
    fn sibling(&self, api_version: &str) -> Option<&'static Arc<Resource>> {
        kinds::builtin()
            .iter()
            .find(|other| other.storage_prefix == self.0.storage_prefix && other.api_version() == api_version)
    }
}

impl Versions for Served<'_> {
    fn type_of(&self, api_version: &str) -> Option<TypeRef<'_>> {
        if api_version == self.0.api_version() {
            return schema::builtin().get(&self.0.type_name);
        }
        schema::builtin().get(&self.sibling(api_version)?.type_name)
    }

    fn convert(&self, object: &Value, to: &str) -> Option<Value> {
        // What comes from another version's own merge may be in any: its header says which.
        let from = meta::api_version(object);
        let from = if from == self.0.api_version() { self.0 } else { self.sibling(from)? };
        let to = self.sibling(to)?;
        let mut object = object.clone();
        convert::to_storage(from, &mut object);
        convert::from_storage(to, &mut object);
        Some(object)
    }
}

/// What requests to a subresource do not write.
fn reset(resource: &Resource, subresource: &str) -> Reset<'static> {
    match subresource {
        "" if resource.subresource("status").is_some() => Reset::These(&[&["status"]]),
        "" => Reset::Nothing,
        "status" => Reset::AllBut(&[&["metadata"], &["status"]]),
        "finalize" => Reset::AllBut(&[&["spec", "finalizers"]]),
        "approval" => Reset::AllBut(&[&["status", "conditions"]]),
        "ephemeralcontainers" => Reset::AllBut(&[&["spec", "ephemeralContainers"]]),
        "resize" => Reset::AllBut(&[&["spec", "containers"], &["spec", "initContainers"]]),
        _ => Reset::Nothing,
    }
}

fn with_manager<T>(resource: &Resource, subresource: &str, work: impl FnOnce(&FieldManager<'_>) -> T) -> T {
    let (versions, api_version) = (Served(resource), resource.api_version());
    work(&FieldManager {
        versions: &versions,
        api_version: &api_version,
        subresource,
        reset: reset(resource, subresource),
    })
}

/// Brings an object's entries up to date with what a write changes. `object` has the entries that the request sent, which a client
/// may use to correct or to forget them.
pub(crate) fn track(
    entry: &Entry,
    ownership: &Ownership,
    subresource: &str,
    object: &mut Value,
    old: Option<&Value>,
) {
    let manager = match ownership {
        Ownership::Given => return,
        Ownership::Keep => {
            put(object, old.and_then(entries).cloned());
            return;
        }
        Ownership::Manager(manager) => manager,
    };
    let sent = take(object).filter(|_| subresource.is_empty());
    let managed = before(sent, old);
    // What nobody was remembered for is not remembered from now on either, until somebody applies.
    if old.is_some() && managed.entries.is_empty() {
        return;
    }
    let managed = with_manager(&entry.resource, subresource, |fields| {
        fields.update(old, object, managed, manager, &meta::now())
    });
    put(object, managed.encode());
}

/// The entries to begin with: those the client sent, if they mean anything, else those of the stored object.
fn before(sent: Option<Value>, old: Option<&Value>) -> Managed {
    let stored = old.and_then(entries);
    let sent = sent.filter(|sent| Some(sent) != stored && !sent.is_null());
    match sent {
        Some(sent) if managed::is_reset(&sent) => return Managed::default(),
        Some(sent) => {
            if let Ok(managed) = Managed::decode_foreign(sent)
                && !managed.entries.is_empty()
            {
                return managed;
            }
        }
        None => {}
    }
    Managed::decode(stored.cloned()).unwrap_or_default()
}

/// The outcome of a server-side apply to an object, or to none: with its entries.
pub(crate) fn apply(
    resource: &Resource,
    subresource: &str,
    live: Option<&Value>,
    application: &Application,
) -> Result<Value, Status> {
    let Application { config, manager, force } = application;
    let how = Applying { manager, force: *force, now: &meta::now() };
    let Applied { mut object, managed } =
        with_manager(resource, subresource, |fields| fields.apply(live, config, how))?;
    put(&mut object, managed.encode());
    Ok(object)
}

/// True if two objects differ in nothing but the times of their entries. Such a write is none.
pub(crate) fn same_but_for_times(a: &Value, b: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        let entries = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
        entries.into_iter().flatten().filter_map(Value::as_object_mut).for_each(|entry| {
            entry.remove("time");
        });
        object
    };
    a.get("spec") == b.get("spec") && without(a) == without(b)
}

/// What is wrong with an object's entries.
pub(crate) fn validate(object: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for (index, entry) in entries(object).and_then(Value::as_array).into_iter().flatten().enumerate() {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
        let path = format!("metadata.managedFields[{index}]");
        faults.extend(manager_faults(&format!("{path}.manager"), text("manager")));
        if text("subresource").len() > SUBRESOURCE_MAX_BYTES {
            faults.push(FieldError::too_long(format!("{path}.subresource"), SUBRESOURCE_MAX_BYTES));
        }
    }
    faults
}

/// An empty list asks to forget all entries. It would not survive decoding, where what is empty is dropped, so it becomes the other
/// form of the same wish.
pub(crate) fn keep_reset(object: &mut Value) {
    if let Some(Value::Array(entries)) = object.pointer_mut("/metadata/managedFields")
        && entries.is_empty()
    {
        entries.push(serde_json::json!({}));
    }
}

pub(crate) fn entries(object: &Value) -> Option<&Value> {
    meta::metadata(object)?.get("managedFields")
}

fn take(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

pub(crate) fn put(object: &mut Value, entries: Option<Value>) {
    let metadata = meta::metadata_mut(object);
    match entries {
        Some(entries) => metadata.insert("managedFields".to_owned(), entries),
        None => metadata.remove("managedFields"),
    };
}
