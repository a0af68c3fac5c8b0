//! How objects are shown: whole, as metadata only, or as a table, in the encoding that was asked for.

use bytes::Bytes;
use http::StatusCode;
use machinery::status::Status;
use machinery::{meta, table};
use serde_json::{Map, Value, json};

use crate::cache::Object;
use crate::negotiate::{Accepted, Encoding, Shape};
use crate::registry::Entry;
use crate::request::Query;
use crate::respond::{self, Response};

/// Show one object whose bytes are known.
pub(crate) fn object(
    entry: &Entry,
    accepted: Accepted,
    query: &Query,
    code: StatusCode,
    bytes: &Bytes,
) -> Result<Response, Status> {
    if accepted.shape == Shape::Whole {
        return Ok(respond::object_bytes(code, accepted.encoding, bytes));
    }
    let decoded = decode(bytes)?;
    Ok(respond::value(code, accepted.encoding, &shaped(entry, accepted.shape, query, &decoded, true)?))
}

/// One object in another shape than its own. Tables describe their columns if `headers`.
pub(crate) fn shaped(
    entry: &Entry,
    shape: Shape,
    query: &Query,
    object: &Value,
    headers: bool,
) -> Result<Value, Status> {
    match shape {
        Shape::Whole => Ok(object.clone()),
        Shape::Metadata => Ok(partial(object)),
        Shape::Table => {
            let meta = json!({ "resourceVersion": meta::resource_version(object) });
            Ok(table::table(&entry.resource, std::iter::once(object), include(query)?, &meta, headers))
        }
        Shape::Aggregated => Err(Status::not_acceptable(&["application/json", "application/yaml"])),
    }
}

/// What a list says about itself.
pub(crate) struct ListMeta {
    pub revision: i64,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn value(&self) -> Value {
        let mut meta = Map::new();
        meta.insert("resourceVersion".to_owned(), self.revision.to_string().into());
        if let Some(token) = &self.continue_token {
            meta.insert("continue".to_owned(), token.as_str().into());
        }
        if let Some(remaining) = self.remaining {
            meta.insert("remainingItemCount".to_owned(), remaining.into());
        }
        Value::Object(meta)
    }
}

/// Show a list. Whole JSON lists are the cached bytes, with nothing decoded or copied.
pub(crate) fn list(
    entry: &Entry,
    accepted: Accepted,
    query: &Query,
    meta: &ListMeta,
    items: &[Bytes],
) -> Result<Response, Status> {
    let resource = &entry.resource;
    if accepted.shape == Shape::Whole && accepted.encoding == Encoding::Json {
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
            resource.list_kind,
            resource.api_version(),
            meta.value()
        );
        return Ok(respond::list(head, items.iter().cloned()));
    }
    let decoded: Vec<Value> = items.iter().map(decode).collect::<Result<_, _>>()?;
    let shown = match accepted.shape {
        Shape::Whole => json!({
            "kind": resource.list_kind,
            "apiVersion": resource.api_version(),
            "metadata": meta.value(),
            "items": decoded,
        }),
        Shape::Metadata => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": meta.value(),
            "items": decoded.iter().map(partial).collect::<Vec<_>>(),
        }),
        Shape::Table => table::table(resource, decoded.iter(), include(query)?, &meta.value(), true),
        Shape::Aggregated => return Err(Status::not_acceptable(&["application/json", "application/yaml"])),
    };
    Ok(respond::value(StatusCode::OK, accepted.encoding, &shown))
}

/// The bytes to serve for a cached object: its own, or converted for versions that are not stored.
pub(crate) fn served(entry: &Entry, object: &Object) -> Bytes {
    if !entry.converted {
        return object.bytes.clone();
    }
    match object.decode() {
        Ok(mut decoded) => {
            machinery::convert::from_storage(&entry.resource, &mut decoded);
            crate::codec::encode(&decoded)
        }
        // Not an object: what is stored is served.
        Err(_) => object.bytes.clone(),
    }
}

fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

fn include(query: &Query) -> Result<table::IncludeObject, Status> {
    let wanted = query.get("includeObject").unwrap_or_default();
    table::IncludeObject::parse(wanted)
        .ok_or_else(|| Status::bad_request(format!("unrecognized includeObject value: \"{wanted}\"")))
}

fn decode(bytes: &Bytes) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(Status::internal)
}
