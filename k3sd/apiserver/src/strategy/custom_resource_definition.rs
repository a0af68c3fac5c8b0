//! Definitions of custom resources (upstream's `apiextensions-apiserver/pkg/apis/apiextensions/validation`).
//!
//! Upstream looks at them in a form in which what all versions have in common stands beside them: with one version a fault in its
//! schema is at `spec.validation`, not at `spec.versions[0].schema`. Faults are named like that here, too.
//!
//! Not looked at: the syntax of CEL rules and of regular expressions, and whether defaults obey their own schema.

mod schema;

use std::collections::BTreeSet;

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::check::{child, list, set_default, text};
use super::walk::{Faults, Node};
use super::{Context, Strategy, webhook_client};
use crate::names;

const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_SELECTABLE_FIELDS: usize = 8;
const MAX_WARNING: usize = 256;

pub(super) struct CustomResourceDefinition;

impl Strategy for CustomResourceDefinition {
    fn default(&self, object: &mut Value) {
        let kind = text(object, "/spec/names/kind").to_owned();
        let spec = child(object, "spec");
        let names = meta::child_mut(spec, "names");
        set_default(names, "singular", kind.to_lowercase());
        if !kind.is_empty() {
            set_default(names, "listKind", format!("{kind}List"));
        }
        set_default(spec, "conversion", json!({ "strategy": "None" }));
        let webhook = spec.get_mut("conversion").and_then(|conversion| conversion.get_mut("webhook"));
        webhook_client::default_port(webhook.and_then(|webhook| webhook.get_mut("clientConfig")));
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({});
        store_version(object);
    }

    fn prepare_update(&self, _cx: &Context<'_>, object: &mut Value, _old: &Value) {
        store_version(object);
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let names = Node::root(object).at("spec.names");
        let required = format!("{}.{}", names.get("plural").str(), text(object, "/spec/group"));
        if meta::name(object) != required {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            faults.push(FieldError::invalid("metadata.name", meta::name(object), detail));
        }
        validate(object, &mut faults);
        approval(object, None, &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource == "status" {
            validate_names(&Node::root(object).at("status.acceptedNames"), &mut faults);
            return faults.0;
        }
        validate(object, &mut faults);
        let (spec, before) = (Node::root(object).get("spec"), Node::root(old).get("spec"));
        let mut fixed = vec!["group", "names.plural"];
        if is_established(old) {
            fixed.extend(["scope", "names.kind"]);
        }
        for field in fixed {
            faults.immutable(&spec.at(field), &before.at(field));
        }
        approval(object, Some(old), &mut faults);
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, _cx: &Context<'_>, object: &Value, old: Option<&Value>) -> Vec<String> {
        let all = |object: &Value| -> BTreeSet<String> {
            let schemas = Node::root(object).at("spec.versions");
            schemas
                .items()
                .flat_map(|version| schema::set_warnings(&version.at("schema.openAPIV3Schema")))
                .collect()
        };
        let known = old.map(all).unwrap_or_default();
        all(object).difference(&known).cloned().collect()
    }
}

/// Note the version that objects are stored in from here on.
fn store_version(object: &mut Value) {
    let versions = list(object, "/spec/versions");
    let Some(name) = versions.iter().find(|v| v["storage"] == true).map(|v| v["name"].clone()) else {
        return;
    };
    if !list(object, "/status/storedVersions").contains(&name) {
        let status = child(object, "status");
        match status.get_mut("storedVersions").and_then(Value::as_array_mut) {
            Some(stored) => stored.push(name),
            None => {
                status.insert("storedVersions".to_owned(), json!([name]));
            }
        }
    }
}

fn is_established(object: &Value) -> bool {
    list(object, "/status/conditions").iter().any(|c| c["type"] == "Established" && c["status"] == "True")
}

fn validate(object: &Value, faults: &mut Faults) {
    let spec = Node::root(object).get("spec");
    let group = spec.get("group");
    let details = names::dns1123_subdomain(group.str(), false);
    if group.str().is_empty() {
        faults.required(&group, "");
    } else if !details.is_empty() {
        faults.invalid(&group, details.join(","));
    } else if !group.str().contains('.') {
        faults.invalid(&group, "should be a domain with at least one dot");
    }
    faults.one_of(&spec.get("scope"), &["Cluster", "Namespaced"]);
    versions(&spec, faults);
    let names = spec.get("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        if names.get(field).str().is_empty() {
            faults.required(&names.get(field), "");
        }
    }
    validate_names(&names, faults);
    conversion(&spec.get("conversion"), faults);
    stored_versions(object, faults);
    let preserve = spec.get("preserveUnknownFields");
    if preserve.bool() {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        faults.invalid(&preserve, detail);
    }
}

fn versions(spec: &Node<'_>, faults: &mut Faults) {
    let versions = spec.get("versions");
    for version in versions.items() {
        let schema = version.at("schema.openAPIV3Schema");
        if !schema.is_set() {
            faults.required(&schema, "");
        }
    }
    let mut seen = BTreeSet::new();
    for version in versions.items() {
        let name = version.get("name");
        let details = names::dns1035_label(name.str(), false);
        if !details.is_empty() {
            faults.push(FieldError::invalid(name.path(), name.str(), details.join(",")));
        }
        deprecation(&version, faults);
        seen.insert(name.str());
    }
    for (field, beside) in [
        ("schema", "validation"),
        ("subresources", "subresources"),
        ("additionalPrinterColumns", "additionalPrinterColumns"),
        ("selectableFields", "selectableFields"),
    ] {
        let first = versions.items().next().map(|version| version.get(field));
        let same = |first: &Node<'_>| versions.items().all(|v| v.get(field).value() == first.value());
        match first {
            Some(first) if same(&first) => {
                let all = versions.items().next();
                let status = all.is_some_and(|version| version.at("subresources.status").is_set());
                per_version(field, &first.renamed(&format!("{}.{beside}", spec.path())), status, faults);
            }
            _ => {
                for version in versions.items() {
                    let status = version.at("subresources.status").is_set();
                    per_version(field, &version.get(field), status, faults);
                }
            }
        }
    }
    if seen.len() != versions.len() {
        faults.invalid(&versions, "must contain unique version names");
    }
    if versions.items().filter(|version| version.get("storage").bool()).count() != 1 {
        faults.invalid(&versions, "must have exactly one version marked as storage version");
    }
}

fn per_version(field: &str, node: &Node<'_>, has_status: bool, faults: &mut Faults) {
    match field {
        "schema" => schema::validate(&node.get("openAPIV3Schema"), has_status, faults),
        "subresources" => scale(&node.get("scale"), faults),
        "additionalPrinterColumns" => node.items().for_each(|one| column(&one, faults)),
        _ => selectable_fields(node, faults),
    }
}

fn deprecation(version: &Node<'_>, faults: &mut Faults) {
    let warning = version.get("deprecationWarning");
    if !warning.is_set() {
        return;
    }
    if !version.get("deprecated").bool() {
        faults.invalid(&warning, "can only be set for deprecated versions");
        return;
    }
    if warning.str().len() > MAX_WARNING {
        faults.invalid(&warning, "must be <= 256 characters long");
    }
    if warning.str().is_empty() {
        faults.invalid(&warning, "must not be an empty string");
    }
    if let Some((at, _)) = warning.str().char_indices().find(|(_, c)| c.is_control()) {
        let rule = "must only contain printable UTF-8 characters";
        faults.invalid(&warning, format!("{rule}; non-printable character found at index {at}"));
    }
}

fn column(column: &Node<'_>, faults: &mut Faults) {
    let (kind, format, path) = (column.get("type"), column.get("format"), column.get("jsonPath"));
    if column.get("name").str().is_empty() {
        faults.required(&column.get("name"), "");
    }
    let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.str().is_empty() {
        faults.required(&kind, &detail);
    } else if !COLUMN_TYPES.contains(&kind.str()) {
        faults.invalid(&kind, detail);
    }
    if !format.str().is_empty() && !COLUMN_FORMATS.contains(&format.str()) {
        faults.invalid(&format, format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    // The path is upstream's.
    let field = column.get("JSONPath").path().to_owned();
    if path.str().is_empty() {
        faults.push(FieldError::required(field, ""));
    } else {
        simple_path(&path.renamed(&field), faults);
    }
}

fn simple_path(path: &Node<'_>, faults: &mut Faults) -> bool {
    if !path.str().starts_with('.') {
        faults.invalid(path, "must be a simple json path starting with .");
    }
    path.str().starts_with('.')
}

fn scale(scale: &Node<'_>, faults: &mut Faults) {
    if !scale.is_set() {
        return;
    }
    for (field, root) in [("specReplicasPath", "spec"), ("statusReplicasPath", "status")] {
        let path = scale.get(field);
        if path.str().is_empty() {
            faults.required(&path, "");
        } else if simple_path(&path, faults) && !path.str().starts_with(&format!(".{root}.")) {
            faults.invalid(&path, format!("should be a json path under .{root}"));
        }
    }
    let path = scale.get("labelSelectorPath");
    let inside = [".spec.", ".status."].iter().any(|root| path.str().starts_with(root));
    if !path.str().is_empty() && simple_path(&path, faults) && !inside {
        faults.invalid(&path, "should be a json path under either .spec or .status");
    }
}

fn selectable_fields(fields: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        if path.str().is_empty() {
            faults.required(&path, "");
            continue;
        }
        if path.str() == ".metadata" || path.str().starts_with(".metadata.") {
            faults.invalid(&path, "must not point to fields in metadata");
        }
        if !seen.insert(path.str()) {
            faults.duplicate(&path);
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        faults.push(FieldError::too_many(fields.path(), seen.len(), MAX_SELECTABLE_FIELDS));
    }
}

fn validate_names(names: &Node<'_>, faults: &mut Faults) {
    let mut label = |node: &Node<'_>, mixed: bool| {
        let text = if mixed { node.str().to_lowercase() } else { node.str().to_owned() };
        let details = names::dns1035_label(&text, false);
        if !details.is_empty() {
            let may = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            faults.invalid(node, format!("{may}{}", details.join(",")));
        }
    };
    for (field, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let node = names.get(field);
        if !node.str().is_empty() {
            label(&node, mixed);
        }
    }
    names.get("shortNames").items().for_each(|name| label(&name, false));
    names.get("categories").items().for_each(|name| label(&name, false));
    let (kind, plural) = (names.get("kind"), names.get("listKind"));
    if !kind.str().is_empty() && kind.str() == plural.str() {
        faults.invalid(&plural, "kind and listKind may not be the same");
    }
}

/// Paths are those of upstream's internal form, in which the client configuration stands beside the strategy.
fn conversion(conversion: &Node<'_>, faults: &mut Faults) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.get("strategy");
    faults.one_of(&strategy, &["None", "Webhook"]);
    let (webhook, at) = (conversion.get("webhook"), conversion.path());
    let config = webhook.get("clientConfig").renamed(&format!("{at}.webhookClientConfig"));
    let versions = webhook.get("conversionReviewVersions").renamed(&format!("{at}.conversionReviewVersions"));
    if strategy.str() == "Webhook" {
        if config.is_set() {
            webhook_client::validate(&config, faults);
        } else {
            faults.required(&config, "required when strategy is set to Webhook");
        }
        webhook_client::review_versions(&versions, "", true, faults);
        return;
    }
    for (node, is_there) in [(&config, config.is_set()), (&versions, versions.len() > 0)] {
        if is_there {
            faults.forbidden(node, "should not be set when strategy is not set to Webhook");
        }
    }
}

fn stored_versions(object: &Value, faults: &mut Faults) {
    let stored = Node::root(object).at("status.storedVersions");
    if stored.len() == 0 {
        faults.invalid(&stored, "must have at least one stored version");
        return;
    }
    let versions = Node::root(object).at("spec.versions");
    let has = |name: &str| stored.items().any(|stored| stored.str() == name);
    for version in versions.items().filter(|version| version.get("storage").bool()) {
        let name = version.get("name").str();
        if !has(name) {
            faults.invalid(&stored, format!("must have the storage version {name}"));
        }
    }
    for version in stored.items() {
        let name = version.str();
        if !versions.items().any(|served| served.get("name").str() == name) {
            faults.invalid(
                &version,
                format!(
                    "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                     until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                     status.storedVersions"
                ),
            );
        }
    }
}

/// Groups of Kubernetes itself need somebody's word.
fn approval(object: &Value, old: Option<&Value>, faults: &mut Faults) {
    let group = text(object, "/spec/group");
    let guarded = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let word = |object: &Value| meta::annotation(object, APPROVAL).unwrap_or_default().to_owned();
    let given = word(object);
    let is_url = |text: &str| {
        text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty())
    };
    let state = |text: &str| (text.is_empty(), text.starts_with("unapproved"), is_url(text));
    if !guarded || old.is_some_and(|old| state(&word(old)) == state(&given)) {
        return;
    }
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let field = format!("metadata.annotations[{APPROVAL}]");
    match state(&given) {
        (true, ..) => {
            let detail = format!("protected groups must have approval annotation {APPROVAL:?}, {SEE}");
            faults.push(FieldError::required(field, detail));
        }
        (_, false, false) => {
            let detail = format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \
                 \"unapproved\", {SEE}"
            );
            faults.push(FieldError::invalid(field, given, detail));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
