//! What the client wants to read (`Accept`) and what it sent (`Content-Type`).

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use machinery::protobuf;
use machinery::status::Status;

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    /// For kinds that have it; others are written in JSON.
    Protobuf,
}

/// What of the objects is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects.
    Whole,
    /// A `meta.k8s.io/v1 Table` made by the server.
    Table,
    /// Only their metadata.
    Metadata,
    /// Discovery documents in one piece.
    Aggregated,
}

/// The outcome of content negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub encoding: Encoding,
    pub shape: Shape,
}

impl Accepted {
    /// Plain JSON.
    pub(crate) const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::Whole };
}

/// The first thing in `Accept` that can be served. No header means JSON.
pub(crate) fn accept(headers: &HeaderMap) -> Result<Accepted, Status> {
    let mut any = false;
    for header in headers.get_all(ACCEPT) {
        for item in header.to_str().unwrap_or_default().split(',') {
            any = true;
            if let Some(accepted) = accept_one(item) {
                return Ok(accepted);
            }
        }
    }
    if any { Err(not_acceptable()) } else { Ok(Accepted::JSON) }
}

fn accept_one(item: &str) -> Option<Accepted> {
    let mut parts = item.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" | "" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        protobuf::MEDIA_TYPE => Encoding::Protobuf,
        _ => return None,
    };
    let (mut shape, mut version, mut group) = (None, "", "");
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key.trim() {
            "as" => shape = Some(value.trim()),
            "v" => version = value.trim(),
            "g" => group = value.trim(),
            _ => {}
        }
    }
    let shape = match (shape, group, version) {
        (None, ..) => Shape::Whole,
        (Some("Table"), "meta.k8s.io", "v1") => Shape::Table,
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), "meta.k8s.io", "v1") => Shape::Metadata,
        (Some("APIGroupDiscoveryList"), "apidiscovery.k8s.io", "v2") => Shape::Aggregated,
        _ => return None,
    };
    // Upstream has no tables in protobuf, and clients ask for discovery in JSON.
    let written = encoding != Encoding::Protobuf || matches!(shape, Shape::Whole | Shape::Metadata);
    written.then_some(Accepted { encoding, shape })
}

/// How errors are written: as answers are, if that can be told. YAML is for answers only.
pub(crate) fn errors(headers: &HeaderMap) -> Encoding {
    match accept(headers) {
        Ok(Accepted { encoding: Encoding::Protobuf, .. }) => Encoding::Protobuf,
        _ => Encoding::Json,
    }
}

fn not_acceptable() -> Status {
    Status::not_acceptable(&["application/json", "application/yaml", protobuf::MEDIA_TYPE])
}

/// The media type of a request body, without parameters, in lower case. No header means JSON.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())])
    }

    #[test]
    fn the_first_servable_type_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(&headers(kubectl)).unwrap().shape, Shape::Table);
        let client_go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accept(&headers(client_go)).unwrap().encoding, Encoding::Protobuf);
        let tables = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(accept(&headers(tables)).unwrap(), Accepted::JSON);
        assert_eq!(accept(&headers("application/yaml")).unwrap().encoding, Encoding::Yaml);
        assert_eq!(accept(&HeaderMap::new()).unwrap(), Accepted::JSON);
        assert!(accept(&headers("application/cbor")).is_err());
    }
}
