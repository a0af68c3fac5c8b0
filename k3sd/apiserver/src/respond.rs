//! From results to HTTP: the one place where objects, lists and [`Status`] become responses.

use std::collections::VecDeque;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response as HttpResponse, StatusCode};
use machinery::protobuf;
use machinery::status::Status;
use serde_json::Value;

use crate::body::Body;
use crate::codec;
use crate::negotiate::Encoding;

/// A response.
pub(crate) type Response = HttpResponse<Body>;

/// A response with this body.
pub(crate) fn response(code: StatusCode, media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = HttpResponse::new(body.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Bytes that are JSON already.
pub(crate) fn json_bytes(code: StatusCode, bytes: Bytes) -> Response {
    response(code, "application/json", bytes)
}

/// A value in the encoding that was asked for.
pub(crate) fn value(code: StatusCode, encoding: Encoding, value: &Value) -> Response {
    match encoding {
        Encoding::Json => json_bytes(code, codec::encode(value)),
        Encoding::Yaml => yaml(code, value),
        Encoding::Protobuf => protobuf(code, value),
    }
}

/// Kinds that have no protobuf are written in JSON, which every client reads.
fn protobuf(code: StatusCode, value: &Value) -> Response {
    match protobuf::encode(value) {
        Ok(bytes) => response(code, protobuf::MEDIA_TYPE, Bytes::from(bytes)),
        Err(protobuf::Error::UnknownKind { .. }) => json_bytes(code, codec::encode(value)),
        Err(error) => status(&Status::internal(error.to_string())),
    }
}

fn yaml(code: StatusCode, value: &Value) -> Response {
    match serde_yaml_ng::to_string(value) {
        Ok(text) => response(code, "application/yaml", text),
        Err(error) => status(&Status::internal(error.to_string())),
    }
}

/// Stored bytes in the encoding that was asked for.
pub(crate) fn object_bytes(code: StatusCode, encoding: Encoding, bytes: &Bytes) -> Response {
    match encoding {
        Encoding::Json => json_bytes(code, bytes.clone()),
        Encoding::Yaml | Encoding::Protobuf => match serde_json::from_slice(bytes) {
            Ok(decoded) => value(code, encoding, &decoded),
            Err(error) => status(&Status::internal(error.to_string())),
        },
    }
}

/// A list around objects that are bytes already: nothing is copied.
pub(crate) fn list(head: String, items: impl ExactSizeIterator<Item = Bytes>) -> Response {
    let mut chunks = VecDeque::with_capacity(items.len() * 2 + 2);
    chunks.push_back(Bytes::from(head));
    for (index, item) in items.enumerate() {
        if index > 0 {
            chunks.push_back(Bytes::from_static(b","));
        }
        chunks.push_back(item);
    }
    chunks.push_back(Bytes::from_static(b"]}\n"));
    response(StatusCode::OK, "application/json", Body::chunks(chunks))
}

/// An error (or the success of a delete).
pub(crate) fn status(status: &Status) -> Response {
    status_in(Encoding::Json, status)
}

/// An error in the encoding that was asked for.
pub(crate) fn status_in(encoding: Encoding, status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(code, encoding, &status.to_value());
    if let Some(seconds) =
        status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)
    {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Plain text.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response {
    response(code, "text/plain; charset=utf-8", Body::from(body.into()))
}

/// Add `Warning: 299` headers (RFC 7234 section 5.5, as upstream writes them).
pub(crate) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
