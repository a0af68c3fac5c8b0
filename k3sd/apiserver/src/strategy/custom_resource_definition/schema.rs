//! Schemas of custom resources: what OpenAPI may say here, and that it is structural, so that every value validation is about a field
//! whose type is known (upstream's `ValidateCustomResourceDefinitionOpenAPISchema` and `apiserver/schema/validation.go`).

use std::collections::BTreeSet;

use machinery::status::FieldError;
use serde_json::{Map, Value, json};

use crate::strategy::walk::{Faults, Node};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// Fields that may stand at the root when `status` is a subresource, by upstream's names for them.
const ROOT_FIELDS: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// Where a schema is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Everything that is wrong with the schema of a version.
pub(super) fn validate(schema: &Node<'_>, has_status: bool, faults: &mut Faults) {
    if !schema.is_set() {
        return;
    }
    if has_status {
        root_fields(schema, faults);
    }
    if schema.get("nullable").bool() {
        faults.forbidden(&schema.get("nullable"), "nullable cannot be true at the root");
    }
    let mut structural = Faults::default();
    invariants(schema, Level::Root, &mut structural);
    completeness(schema, schema, schema.path(), &mut structural);
    structural.0.sort_by_key(ToString::to_string);
    faults.0.append(&mut structural.0);
    open_api(schema, &Place { root: true, ..Place::default() }, faults);
}

fn root_fields(schema: &Node<'_>, faults: &mut Faults) {
    let kind = schema.get("type");
    if kind.is_set() && kind.str() != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        faults.invalid(&kind, detail);
        return;
    }
    let odd = schema.entries().any(|(field, _)| !ROOT_FIELDS.iter().any(|(known, _)| *known == field));
    if odd {
        let known: Vec<&str> = ROOT_FIELDS.iter().map(|(_, name)| *name).collect();
        let known = known.join(" ");
        let detail = format!(
            "only [{known}] fields are allowed at the root of the schema if the status subresource is enabled"
        );
        faults.invalid(schema, detail);
    }
}

// === structure ===

fn invariants(schema: &Node<'_>, level: Level, faults: &mut Faults) {
    let (kind, items) = (schema.get("type"), schema.get("items"));
    if kind.str() == "array" && !items.is_set() {
        faults.required(&items, "must be specified");
    }
    if items.object().is_some() {
        invariants(&items, Level::Item, faults);
    }
    let properties = schema.get("properties");
    for (name, _) in properties.entries() {
        invariants(&properties.key(name), Level::Field, faults);
    }
    let additional = schema.get("additionalProperties");
    if additional.is_set() && level == Level::Root {
        faults.forbidden(&additional, "must not be used at the root");
    }
    if additional.object().is_some() {
        invariants(&additional, Level::Field, faults);
    }
    extensions(schema, faults);
    junctors(schema, is_int_or_string(&schema.get("anyOf")), first_is_int_or_string(schema), faults);
    type_is_there(schema, level, faults);
    if level == Level::Root || schema.get("x-kubernetes-embedded-resource").bool() {
        for name in ["kind", "apiVersion"] {
            let property = properties.key(name);
            if property.is_set() && property.get("type").str() != "string" {
                let kind = property.get("type");
                faults.push(FieldError::invalid(kind.path(), kind.str(), "must be string"));
            }
        }
        metadata(&properties.key("metadata"), level, faults);
    }
}

fn extensions(schema: &Node<'_>, faults: &mut Faults) {
    let preserve = schema.get("x-kubernetes-preserve-unknown-fields");
    let embedded = schema.get("x-kubernetes-embedded-resource");
    if schema.get("x-kubernetes-int-or-string").bool() {
        for extension in [&preserve, &embedded].into_iter().filter(|extension| extension.bool()) {
            faults.invalid(extension, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    if !embedded.bool() {
        return;
    }
    if schema.get("additionalProperties").is_set() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        faults.forbidden(&schema.get("additionalProperties"), detail);
    }
    if !preserve.bool() && schema.get("properties").entries().next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        faults.required(&schema.get("properties"), detail);
    }
}

fn type_is_there(schema: &Node<'_>, level: Level, faults: &mut Faults) {
    let kind = schema.get("type");
    let flag = |name: &str| schema.get(name).bool();
    if flag("x-kubernetes-embedded-resource") && kind.str() != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if kind.str().is_empty() {
            faults.required(&kind, detail);
        } else {
            faults.invalid(&kind, detail);
        }
    } else if kind.str().is_empty()
        && !flag("x-kubernetes-int-or-string")
        && !flag("x-kubernetes-preserve-unknown-fields")
    {
        let place = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        faults.required(&kind, &format!("must not be empty {place}"));
    }
    if level == Level::Root && !matches!(kind.str(), "" | "object") {
        faults.invalid(&kind, "must be object at the root");
    }
}

/// Of metadata a schema may speak of the names only.
fn metadata(schema: &Node<'_>, level: Level, faults: &mut Faults) {
    if !schema.is_set() {
        return;
    }
    let kind = schema.get("type");
    if kind.str() != "object" {
        faults.push(FieldError::invalid(kind.path(), kind.str(), "must be object"));
    }
    let only_names = schema.entries().all(|(field, value)| match field {
        "type" | "default" => true,
        "properties" => value
            .as_object()
            .is_none_or(|names| names.keys().all(|name| matches!(name.as_str(), "name" | "generateName"))),
        // Descriptions are dropped before upstream compares.
        "description" => value == "",
        _ => false,
    });
    if level == Level::Root && !only_names {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        faults.forbidden(schema, detail);
    }
}

fn is_int_or_string(any_of: &Node<'_>) -> bool {
    any_of.value() == &json!([{ "type": "integer" }, { "type": "string" }])
}

fn first_is_int_or_string(schema: &Node<'_>) -> bool {
    schema.get("allOf").items().next().is_some_and(|first| is_int_or_string(&first.get("anyOf")))
}

/// The parts of a schema that are validations of the same value.
fn branches<'a>(schema: &Node<'a>) -> Vec<(&'static str, Node<'a>)> {
    let mut found = Vec::new();
    for list in ["anyOf", "allOf", "oneOf"] {
        found.extend(schema.get(list).items().map(|branch| (list, branch)));
    }
    let not = schema.get("not");
    if not.is_set() {
        found.push(("not", not));
    }
    found
}

fn junctors(schema: &Node<'_>, skip_any: bool, skip_first_all: bool, faults: &mut Faults) {
    for (index, (list, branch)) in branches(schema).into_iter().enumerate() {
        if list == "anyOf" && skip_any {
            continue;
        }
        let first_all = list == "allOf" && index == schema.get("anyOf").len();
        nested(&branch, first_all && skip_first_all, faults);
    }
}

/// A validation beside the structure says nothing of structure.
fn nested(schema: &Node<'_>, skip_any: bool, faults: &mut Faults) {
    junctors(schema, skip_any, false, faults);
    let (items, properties) = (schema.get("items"), schema.get("properties"));
    if items.object().is_some() {
        nested(&items, false, faults);
    }
    for (name, _) in properties.entries() {
        nested(&properties.key(name), false, faults);
    }
    for (field, rule) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        let node = schema.get(field);
        let is_set = match (rule, node.value()) {
            (_, Value::Null) => false,
            ("false", value) => value == true,
            ("empty", Value::String(text)) => !text.is_empty(),
            ("empty", Value::Array(items)) => !items.is_empty(),
            _ => true,
        };
        if is_set {
            faults.forbidden(&node, format!("must be {rule} to be structural"));
        }
    }
    if properties.key("metadata").is_set() {
        faults.forbidden(&properties.key("metadata"), "must not be specified in a nested context");
    }
}

/// Every field that a validation speaks of is in the structure, which is at `place`.
fn completeness(validation: &Node<'_>, structure: &Node<'_>, place: &str, faults: &mut Faults) {
    for (_, branch) in branches(validation) {
        nested_completeness(&branch, structure, place, faults);
    }
}

fn nested_completeness(validation: &Node<'_>, structure: &Node<'_>, place: &str, faults: &mut Faults) {
    if !structure.is_set() {
        let detail = format!("because it is defined in {}", validation.path());
        faults.push(FieldError::required(place, detail));
        return;
    }
    completeness(validation, structure, place, faults);
    let items = validation.get("items");
    if items.object().is_some() {
        nested_completeness(&items, &structure.get("items"), &format!("{place}.items"), faults);
    }
    let (validated, known) = (validation.get("properties"), structure.get("properties"));
    for (name, _) in validated.entries() {
        let place = format!("{place}.properties[{name}]");
        nested_completeness(&validated.key(name), &known.key(name), &place, faults);
    }
}

// === what OpenAPI may say ===

/// What holds for all schemas below one.
#[derive(Clone, Default)]
struct Place {
    root: bool,
    /// Inside of `metadata`, `kind` or `apiVersion` of a resource.
    in_meta: bool,
    /// Why there may be no defaults.
    no_defaults: Option<String>,
}

impl Place {
    fn below(&self) -> Self {
        Self { root: false, ..self.clone() }
    }
}

fn open_api(schema: &Node<'_>, place: &Place, faults: &mut Faults) {
    if schema.object().is_none() {
        return;
    }
    unsupported(schema, place, faults);
    if schema.get("uniqueItems").bool() {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        faults.forbidden(&schema.get("uniqueItems"), detail);
    }
    let (properties, additional) = (schema.get("properties"), schema.get("additionalProperties"));
    let closed = additional.is_set() && additional.value() != true;
    if closed && properties.entries().next().is_some() {
        faults.forbidden(&additional, "additionalProperties and properties are mutual exclusive");
    }
    let mut inside = place.below();
    if place.in_meta {
        inside.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
    }
    open_api(&additional, &inside, faults);
    for (name, _) in properties.entries() {
        let mut inside = place.below();
        let resource = place.root || schema.get("x-kubernetes-embedded-resource").bool();
        if resource && matches!(name, "metadata" | "kind" | "apiVersion") {
            inside.in_meta = true;
            if place.root {
                inside.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        open_api(&properties.key(name), &inside, faults);
    }
    for (_, branch) in branches(schema) {
        open_api(&branch, &place.below(), faults);
    }
    open_api(&schema.get("items"), &place.below(), faults);
    let preserve = schema.get("x-kubernetes-preserve-unknown-fields");
    if preserve.value() == false {
        faults.invalid(&preserve, "must be true or undefined");
    }
    merge_types(schema, faults);
    rules(&schema.get("x-kubernetes-validations"), faults);
}

fn unsupported(schema: &Node<'_>, place: &Place, faults: &mut Faults) {
    let kind = schema.get("type");
    if !kind.str().is_empty() && !TYPES.contains(&kind.str()) {
        faults.push(FieldError::not_supported(kind.path(), kind.str(), &TYPES));
    }
    let default = schema.get("default");
    if let Some(reason) = place.no_defaults.as_ref().filter(|_| default.is_set()) {
        faults.forbidden(&default, format!("must not be set {reason}"));
    }
    for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let node = schema.get(field);
        let empty = node.object().is_some_and(Map::is_empty) || node.value() == "";
        if node.is_set() && !empty {
            faults.forbidden(&node, format!("{field} is not supported"));
        }
    }
    if kind.str() == "null" {
        faults.forbidden(&kind, "type cannot be set to null, use nullable as an alternative");
    }
    if schema.get("items").len() > 0 {
        faults.forbidden(&schema.get("items"), "items must be a schema object and not an array");
    }
    let embedded = schema.get("x-kubernetes-embedded-resource");
    if place.in_meta && embedded.bool() {
        faults.forbidden(&embedded, "must not be used inside of resource meta");
    }
}

/// How objects and lists are merged by server-side apply.
fn merge_types(schema: &Node<'_>, faults: &mut Faults) {
    let kind = schema.get("type");
    for (extension, needed, known) in [
        ("x-kubernetes-map-type", "object", &["atomic", "granular"] as &[&str]),
        ("x-kubernetes-list-type", "array", &["atomic", "set", "map"]),
    ] {
        let merge = schema.get(extension);
        if !merge.is_set() {
            continue;
        }
        if kind.str() != needed {
            let detail = format!("must be {needed} if {extension} is specified");
            if kind.str().is_empty() {
                faults.required(&kind, &detail);
            } else {
                faults.invalid(&kind, detail);
            }
        }
        if !known.contains(&merge.str()) {
            faults.push(FieldError::not_supported(merge.path(), merge.str(), known));
        }
    }
    let (list, keys) = (schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys"));
    if keys.len() > 0 && !list.is_set() {
        faults.required(&list, "must be map if x-kubernetes-list-map-keys is non-empty");
    } else if keys.len() > 0 && list.str() != "map" {
        faults.invalid(&list, "must be map if x-kubernetes-list-map-keys is non-empty");
    }
    match list.str() {
        "map" => map_keys(schema, &keys, faults),
        "set" => set_items(&schema.get("items"), faults),
        _ => {}
    }
    let nullable = schema.at("items.nullable");
    if matches!(list.str(), "map" | "set") && nullable.bool() {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {}", list.str());
        faults.forbidden(&nullable, detail);
    }
}

fn map_keys(schema: &Node<'_>, keys: &Node<'_>, faults: &mut Faults) {
    let items = schema.get("items");
    if keys.len() == 0 {
        faults.required(keys, "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_set() {
        faults.required(&items, "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    let kind = items.get("type");
    if kind.str() != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        faults.push(FieldError::invalid(kind.path(), kind.str(), detail));
        return;
    }
    let mut seen = BTreeSet::new();
    for key in keys.items() {
        let property = items.get("properties").key(key.str());
        if !property.is_set() {
            faults.invalid(keys, "entries must all be names of item properties");
        } else if matches!(property.get("type").str(), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            let kind = property.get("type");
            faults.push(FieldError::invalid(kind.path(), items.get("type").str(), detail));
        }
        if !seen.insert(key.str()) {
            faults.invalid(keys, "must not contain duplicate entries");
        }
        let required = items.get("required").items().any(|name| name.str() == key.str());
        if property.is_set() && !required && !property.get("default").is_set() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            faults.required(&property.get("default"), detail);
        }
        if property.get("nullable").bool() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            faults.forbidden(&property.get("nullable"), detail);
        }
    }
}

fn set_items(items: &Node<'_>, faults: &mut Faults) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    match items.get("type").str() {
        "array" => {
            let list = items.get("x-kubernetes-list-type");
            if list.is_set() && list.str() != "atomic" {
                faults.invalid(&list, detail);
            }
        }
        "object" => {
            let map = items.get("x-kubernetes-map-type");
            if map.str() != "atomic" {
                faults.invalid(&map, detail);
            }
        }
        _ => {}
    }
}

/// CEL rules: that they are there, and what is said when they fail.
fn rules(rules: &Node<'_>, faults: &mut Faults) {
    for rule in rules.items() {
        let (expression, message) = (rule.get("rule"), rule.get("message"));
        let lines = |node: &Node<'_>| node.str().trim().contains(['\n', '\r']);
        let blank = |node: &Node<'_>| !node.str().is_empty() && node.str().trim().is_empty();
        if expression.str().trim().is_empty() {
            faults.required(&expression, "rule is not specified");
        } else if blank(&message) {
            faults.invalid(&message, "must be non-empty if specified");
        } else if lines(&message) {
            faults.invalid(&message, "must not contain line breaks");
        } else if lines(&expression) && message.str().is_empty() {
            faults.required(&message, "message must be specified if rule contains line breaks");
        }
        if blank(&rule.get("messageExpression")) {
            faults
                .required(&rule.get("messageExpression"), "messageExpression must be non-empty if specified");
        }
        let (reason, path) = (rule.get("reason"), rule.get("fieldPath"));
        if reason.is_set() && !REASONS.contains(&reason.str()) {
            faults.push(FieldError::not_supported(reason.path(), reason.str(), &REASONS));
        }
        if blank(&path) {
            faults.invalid(&path, "must be non-empty if specified");
        }
        if path.str().contains(['\n', '\r']) {
            faults.invalid(&path, "must not contain line breaks");
        }
    }
}

/// Sets of what is no scalar are stored, but nobody can merge them.
pub(super) fn set_warnings(schema: &Node<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let kind = schema.at("items.type").str();
    if schema.get("x-kubernetes-list-type").str() == "set" && matches!(kind, "object" | "array") {
        found.push(format!(
            "x-kubernetes-list-type: set for items of type {kind:?} is not supported by server-side apply or CEL validation rules"
        ));
    }
    let properties = schema.get("properties");
    for (name, _) in properties.entries() {
        found.extend(set_warnings(&properties.key(name)));
    }
    for below in [schema.get("items"), schema.get("additionalProperties")] {
        if below.object().is_some() {
            found.extend(set_warnings(&below));
        }
    }
    found
}
