//! OpenAPI documents, built when they are asked for: clients keep them, so nothing is gained by keeping them here.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use http::{HeaderMap, StatusCode};
use machinery::kinds::Resource;
use machinery::status::Status;
use machinery::{openapi, schema};

use crate::codec;
use crate::request::Query;
use crate::respond::{self, Response};
use crate::server::Shared;

/// `/openapi/v2`, in JSON or in the protobuf that kubectl asks for.
pub(crate) fn v2(shared: &Shared, headers: &HeaderMap) -> Response {
    let tables = shared.registry.tables();
    let resources: Vec<&Resource> = tables.entries().map(|entry| &*entry.resource).collect();
    let document = openapi::v2(&resources, schema::builtin(), &shared.config.version);
    let protobuf = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/com.github.proto-openapi.spec.v2@v1.0+protobuf"));
    if protobuf {
        let bytes = Bytes::from(openapi::v2_protobuf(&document));
        return respond::response(StatusCode::OK, openapi::V2_PROTOBUF, bytes);
    }
    respond::json_bytes(StatusCode::OK, codec::encode(&document))
}

/// `/openapi/v3` (`path` empty) and `/openapi/v3/apis/GROUP/VERSION`.
pub(crate) fn v3(shared: &Shared, path: &[&str], query: &Query) -> Result<Response, Status> {
    let tables = shared.registry.tables();
    let version = &shared.config.version;
    let (group, group_version) = match path {
        [] => {
            let index = openapi::v3_index(tables.entries().map(|entry| &*entry.resource), version);
            return Ok(respond::json_bytes(StatusCode::OK, codec::encode(&index)));
        }
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(Status::unknown_path()),
    };
    let entries = tables.version(group, group_version).ok_or_else(Status::unknown_path)?;
    let resources: Vec<&Resource> = entries.values().map(|entry| &*entry.resource).collect();
    let document = openapi::v3(&resources, schema::builtin(), version);
    let mut response = respond::json_bytes(StatusCode::OK, codec::encode(&document));
    if query.get("hash").is_some() {
        let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
        response.headers_mut().insert(CACHE_CONTROL, forever);
    }
    Ok(response)
}
