//! Discovery: what groups, versions and resources there are, one by one and in one piece.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use machinery::kinds::Subresource;
use machinery::status::Status;
use serde_json::{Value, json};

use crate::negotiate::{Accepted, Shape};
use crate::registry::{Entry, Tables, Version};
use crate::respond::{self, Response};
use crate::server::Shared;

/// Answer a path below `/api` or `/apis`, or `/`.
pub(crate) fn answer(shared: &Arc<Shared>, path: &[&str], accepted: Accepted) -> Result<Response, Status> {
    let tables = shared.registry.tables();
    let aggregated = accepted.shape == Shape::Aggregated;
    let document = match path {
        ["api"] if aggregated => return Ok(aggregated_response(&tables, true)),
        ["apis"] if aggregated => return Ok(aggregated_response(&tables, false)),
        ["api"] => legacy_versions(shared),
        ["apis"] => group_list(&tables),
        ["api", version] => resource_list("", version, &tables)?,
        ["apis", group] => named_groups(&tables)
            .find(|(name, _)| name == group)
            .map(|(name, versions)| with_kind(group_document(name, versions), "APIGroup"))
            .ok_or_else(Status::unknown_path)?,
        ["apis", group, version] => resource_list(group, version, &tables)?,
        [""] => root(&tables),
        _ => return Err(Status::unknown_path()),
    };
    Ok(respond::value(StatusCode::OK, accepted.encoding, &document))
}

fn named_groups(tables: &Tables) -> impl Iterator<Item = (&str, &BTreeMap<String, Version>)> {
    tables.groups().filter(|(group, _)| !group.is_empty())
}

fn with_kind(mut document: Value, kind: &str) -> Value {
    document["kind"] = kind.into();
    document["apiVersion"] = "v1".into();
    document
}

fn legacy_versions(shared: &Shared) -> Value {
    let address = std::net::SocketAddr::new(shared.config.advertise_address, shared.config.advertise_port);
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address.to_string() }],
    })
}

fn group_list(tables: &Tables) -> Value {
    let groups: Vec<Value> =
        named_groups(tables).map(|(group, versions)| group_document(group, versions)).collect();
    with_kind(json!({ "groups": groups }), "APIGroupList")
}

/// Versions of a group, the preferred one first.
fn ordered(versions: &BTreeMap<String, Version>) -> Vec<(&String, &Version)> {
    let mut ordered: Vec<_> = versions.iter().collect();
    ordered.sort_by_key(|(version, _)| std::cmp::Reverse(priority(version)));
    ordered
}

/// Upstream's version order: GA before beta before alpha, then by number, highest first.
fn priority(version: &str) -> (u8, u32, u32) {
    let digits =
        |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let major = digits(rest);
    let stage = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    match stage {
        "" => (3, major, 0),
        _ if stage.starts_with("beta") => (2, major, digits(&stage[4..])),
        _ if stage.starts_with("alpha") => (1, major, digits(&stage[5..])),
        _ => (0, 0, 0),
    }
}

fn group_document(group: &str, versions: &BTreeMap<String, Version>) -> Value {
    let documents: Vec<Value> = ordered(versions)
        .into_iter()
        .map(|(version, _)| json!({ "groupVersion": format!("{group}/{version}"), "version": version }))
        .collect();
    json!({ "name": group, "versions": documents, "preferredVersion": documents.first() })
}

fn resource_list(group: &str, version: &str, tables: &Tables) -> Result<Value, Status> {
    let entries = tables.version(group, version).ok_or_else(Status::unknown_path)?;
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut resources = Vec::new();
    for entry in entries.values() {
        resources.push(resource_document(entry));
        resources.extend(entry.resource.subresources.iter().map(|sub| subresource_document(entry, sub)));
    }
    Ok(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn resource_document(entry: &Entry) -> Value {
    let resource = &entry.resource;
    let mut document = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        document["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        document["categories"] = json!(resource.categories);
    }
    document
}

fn subresource_document(entry: &Entry, subresource: &Subresource) -> Value {
    let resource = &entry.resource;
    let mut document = json!({
        "name": format!("{}/{}", resource.plural, subresource.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": subresource.kind,
        "verbs": subresource.verbs,
    });
    if subresource.group != resource.group || subresource.version != resource.version {
        document["group"] = subresource.group.as_str().into();
        document["version"] = subresource.version.as_str().into();
    }
    document
}

/// Everything in one document: `apidiscovery.k8s.io/v2`.
fn aggregated_response(tables: &Tables, core: bool) -> Response {
    let items: Vec<Value> = tables
        .groups()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| aggregated_group(group, versions))
        .collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    let bytes = crate::codec::encode(&document);
    respond::response(
        StatusCode::OK,
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        bytes,
    )
}

fn aggregated_group(group: &str, versions: &BTreeMap<String, Version>) -> Value {
    let metadata = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
    let versions: Vec<Value> = ordered(versions)
        .into_iter()
        .map(|(version, entries)| {
            let resources: Vec<Value> = entries.values().map(|entry| aggregated_resource(entry)).collect();
            json!({ "version": version, "resources": resources, "freshness": "Current" })
        })
        .collect();
    json!({ "metadata": metadata, "versions": versions })
}

fn aggregated_resource(entry: &Entry) -> Value {
    let resource = &entry.resource;
    let kind =
        |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let mut document = json!({
        "resource": resource.plural,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        document["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        document["categories"] = json!(resource.categories);
    }
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": kind(&sub.group, &sub.version, &sub.kind),
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        document["subresources"] = json!(subresources);
    }
    document
}

/// `/`: the paths there are.
fn root(tables: &Tables) -> Value {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for (group, versions) in named_groups(tables) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.keys().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.sort();
    json!({ "paths": paths })
}
