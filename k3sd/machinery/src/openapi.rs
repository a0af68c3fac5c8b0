//! OpenAPI documents of what is served: version 3 as an index and one document per group version, version 2 as one document.
//!
//! They are built when asked for, from the same two tables as everything else: the kinds and the schema. kubectl needs them for
//! `explain`, to learn which requests validate fields (`fieldValidation` on PATCH), and for the merge keys of `apply`.
//!
//! Left out: descriptions and required fields, which the schema table does not hold.

mod definitions;
mod paths;
mod protobuf;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use crate::kinds::Resource;
use crate::schema::Schema;

pub use protobuf::encode as v2_protobuf;

/// The media type of an answer with [`v2_protobuf`]. Clients ask for `...spec.v2@v1.0+protobuf`, but `@` is no character of
/// media types, so kube-openapi answers with a dot, and clients refuse anything else.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The two versions write the same facts differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

/// `GET /openapi/v3`: where the document of each group version is. The hash in each address changes with its document, so that
/// clients may keep documents for ever.
pub fn v3_index<'a>(resources: impl Iterator<Item = &'a Resource>, version: &str) -> Value {
    let mut hashers: std::collections::BTreeMap<String, DefaultHasher> = Default::default();
    for resource in resources {
        let hasher = hashers.entry(root(&resource.group, &resource.version)).or_default();
        (version, &resource.plural, &resource.kind, &resource.verbs, resource.subresources.len())
            .hash(hasher);
    }
    let paths: Map<String, Value> = hashers
        .into_iter()
        .map(|(root, hasher)| {
            let address = format!("/openapi/v3/{root}?hash={:016X}", hasher.finish());
            (root, json!({ "serverRelativeURL": address }))
        })
        .collect();
    json!({ "paths": paths })
}

/// `GET /openapi/v3/apis/GROUP/VERSION`: the document of one group version, of which `resources` are all.
pub fn v3(resources: &[&Resource], schema: &Schema, version: &str) -> Value {
    let paths: Map<String, Value> =
        resources.iter().flat_map(|resource| paths::of(resource, Dialect::V3)).collect();
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": version },
        "paths": paths,
        "components": {
            "schemas": definitions::of(resources, schema, Dialect::V3),
            "securitySchemes": { "BearerToken": { "type": "apiKey", "name": "authorization", "in": "header",
                "description": "Bearer Token authentication" } },
        },
    })
}

/// `GET /openapi/v2`: everything in one document.
pub fn v2(resources: &[&Resource], schema: &Schema, version: &str) -> Value {
    let paths: Map<String, Value> =
        resources.iter().flat_map(|resource| paths::of(resource, Dialect::V2)).collect();
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": version },
        "paths": paths,
        "definitions": definitions::of(resources, schema, Dialect::V2),
        "securityDefinitions": { "BearerToken": { "type": "apiKey", "name": "authorization", "in": "header",
            "description": "Bearer Token authentication" } },
        "security": [{ "BearerToken": [] }],
    })
}

/// `api/v1` or `apis/GROUP/VERSION`.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The types that a resource's paths mention.
fn types_of(resource: &Resource) -> BTreeSet<String> {
    let mut types = BTreeSet::from([resource.type_name.clone()]);
    types.extend(resource.subresources.iter().filter_map(|s| kind_type(&s.group, &s.version, &s.kind)));
    types
}

/// The schema type of a kind that is only reached as a subresource.
fn kind_type(group: &str, version: &str, kind: &str) -> Option<String> {
    if kind.ends_with("Options") {
        // Query parameters of streams; no JSON is exchanged.
        return None;
    }
    let package = match group {
        "" => "core",
        "autoscaling" | "policy" => group,
        "authentication.k8s.io" => "authentication",
        _ => return None,
    };
    Some(format!("api.{package}.{version}.{kind}"))
}

#[cfg(test)]
mod tests;
