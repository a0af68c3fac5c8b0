//! The paths of a resource and the operations on each.

use serde_json::{Map, Value, json};

use super::definitions::{gvk, list_name, name, reference};
use super::{Dialect, kind_type, root};
use crate::kinds::{Resource, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Query parameters with their types.
type Query = &'static [(&'static str, &'static str)];

const PRETTY: Query = &[("pretty", "string")];
const WRITE: Query =
    &[("pretty", "string"), ("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: Query = &[
    ("pretty", "string"),
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const DELETE: Query = &[
    ("pretty", "string"),
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: Query = &[
    ("pretty", "string"),
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

/// Every path of a resource, with its operations.
pub(super) fn of(resource: &Resource, dialect: Dialect) -> Vec<(String, Value)> {
    let root = root(&resource.group, &resource.version);
    let plural = &resource.plural;
    let scope = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
    let collection = format!("/{root}/{scope}{plural}");
    let item = format!("{collection}/{{name}}");
    let mut paths = vec![
        (collection.clone(), Item::new(resource, dialect, &collection).collection()),
        (item.clone(), Item::new(resource, dialect, &item).object()),
    ];
    if resource.namespaced && resource.has_verb("list") {
        let all = format!("/{root}/{plural}");
        paths.push((all.clone(), Item::new(resource, dialect, &all).across_namespaces()));
    }
    for sub in &resource.subresources {
        let path = format!("{item}/{}", sub.name);
        let item = Item {
            sub: Some(&sub.name),
            kind: (&sub.group, &sub.version, &sub.kind),
            body: body_of(resource, sub),
            ..Item::new(resource, dialect, &path)
        };
        paths.push((path, item.subresource(&sub.verbs)));
    }
    paths.retain(|(_, item)| item.as_object().is_some_and(|item| item.keys().any(|key| key != "parameters")));
    paths
}

/// The definition that a subresource exchanges; none for streams.
fn body_of(resource: &Resource, sub: &Subresource) -> Option<String> {
    if sub.name == "log" || sub.kind.ends_with("Options") {
        return None;
    }
    let own = || resource.type_name.clone();
    Some(name(&kind_type(&sub.group, &sub.version, &sub.kind).unwrap_or_else(own)))
}

/// One path while it is being written.
struct Item<'a> {
    resource: &'a Resource,
    dialect: Dialect,
    sub: Option<&'a str>,
    kind: (&'a str, &'a str, &'a str),
    /// Definition of what the operations take and give; none: text.
    body: Option<String>,
    /// Names in braces.
    variables: Vec<&'static str>,
}

impl<'a> Item<'a> {
    fn new(resource: &'a Resource, dialect: Dialect, path: &str) -> Self {
        let variables = ["namespace", "name"].into_iter().filter(|v| path.contains(&format!("{{{v}}}")));
        Self {
            resource,
            dialect,
            sub: None,
            kind: (&resource.group, &resource.version, &resource.kind),
            body: Some(name(&resource.type_name)),
            variables: variables.collect(),
        }
    }

    fn collection(&self) -> Value {
        let has = |verb| self.resource.has_verb(verb);
        let mut item = self.with_variables();
        if has("list") {
            item.insert(
                "get".to_owned(),
                self.operation("list", "list", LIST, Some(&list_name(self.resource))),
            );
        }
        if has("create") {
            item.insert("post".to_owned(), self.with_body("create", "post", WRITE));
        }
        if has("deletecollection") {
            let status = format!("{META}.Status");
            let delete = self.operation("deleteCollection", "deletecollection", DELETE, Some(&status));
            item.insert("delete".to_owned(), delete);
        }
        item.into()
    }

    fn object(&self) -> Value {
        let mut item = self.with_variables();
        let verbs: Vec<&str> = self.resource.verbs.iter().map(String::as_str).collect();
        self.object_operations(&mut item, &verbs);
        item.into()
    }

    fn subresource(&self, verbs: &[String]) -> Value {
        let mut item = self.with_variables();
        let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
        self.object_operations(&mut item, &verbs);
        if verbs.contains(&"create") {
            item.insert("post".to_owned(), self.with_body("create", "post", WRITE));
        }
        item.into()
    }

    fn object_operations(&self, item: &mut Map<String, Value>, verbs: &[&str]) {
        if verbs.contains(&"get") {
            item.insert("get".to_owned(), self.operation("read", "get", PRETTY, self.body.as_deref()));
        }
        if verbs.contains(&"update") {
            item.insert("put".to_owned(), self.with_body("replace", "put", WRITE));
        }
        if verbs.contains(&"patch") {
            item.insert("patch".to_owned(), self.patch());
        }
        if verbs.contains(&"delete") {
            let delete = self.operation("delete", "delete", DELETE, Some(&format!("{META}.Status")));
            let options = format!("{META}.DeleteOptions");
            item.insert("delete".to_owned(), self.attach(delete, &options, &["*/*"], false));
        }
    }

    fn across_namespaces(&self) -> Value {
        let mut operation = self.operation("list", "list", LIST, Some(&list_name(self.resource)));
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        operation["operationId"] = format!("{}ForAllNamespaces", id.replace("Namespaced", "")).into();
        json!({ "get": operation })
    }

    fn with_body(&self, verb: &str, action: &str, query: Query) -> Value {
        let operation = self.operation(verb, action, query, self.body.as_deref());
        match &self.body {
            Some(body) => self.attach(operation, body, &["*/*"], true),
            None => operation,
        }
    }

    fn patch(&self) -> Value {
        let operation = self.operation("patch", "patch", PATCH, self.body.as_deref());
        self.attach(operation, &format!("{META}.Patch"), &PATCH_TYPES, true)
    }

    fn operation(&self, verb: &str, action: &str, query: Query, answer: Option<&str>) -> Value {
        let (group, version, kind) = self.kind;
        let parameters: Vec<Value> =
            query.iter().map(|(name, kind)| self.parameter(name, "query", kind)).collect();
        let schema = answer.map_or_else(|| json!({ "type": "string" }), |name| reference(name, self.dialect));
        let ok = match self.dialect {
            Dialect::V2 => json!({ "description": "OK", "schema": schema }),
            Dialect::V3 => {
                json!({ "description": "OK", "content": { "application/json": { "schema": schema } } })
            }
        };
        let mut operation = json!({
            "operationId": self.operation_id(verb),
            "tags": [tag(&self.resource.group, &self.resource.version)],
            "parameters": parameters,
            "responses": { "200": ok, "401": { "description": "Unauthorized" } },
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(group, version, kind),
        });
        if self.dialect == Dialect::V2 {
            operation["produces"] = json!(["application/json", "application/yaml"]);
            operation["consumes"] = json!(["*/*"]);
        }
        operation
    }

    /// Adds the request body.
    fn attach(&self, mut operation: Value, body: &str, media_types: &[&str], required: bool) -> Value {
        let schema = reference(body, self.dialect);
        match self.dialect {
            Dialect::V2 => {
                operation["consumes"] = json!(media_types);
                if let Some(parameters) = operation["parameters"].as_array_mut() {
                    parameters.push(
                        json!({ "name": "body", "in": "body", "required": required, "schema": schema }),
                    );
                }
            }
            Dialect::V3 => {
                let content: Map<String, Value> = media_types
                    .iter()
                    .map(|media_type| ((*media_type).to_owned(), json!({ "schema": schema })))
                    .collect();
                operation["requestBody"] = json!({ "content": content, "required": required });
            }
        }
        operation
    }

    fn with_variables(&self) -> Map<String, Value> {
        let parameters: Vec<Value> =
            self.variables.iter().map(|name| self.parameter(name, "path", "string")).collect();
        if parameters.is_empty() {
            return Map::new();
        }
        Map::from_iter([("parameters".to_owned(), parameters.into())])
    }

    fn parameter(&self, name: &str, place: &str, kind: &str) -> Value {
        let mut parameter = json!({ "name": name, "in": place, "uniqueItems": true });
        match self.dialect {
            Dialect::V2 => parameter["type"] = kind.into(),
            Dialect::V3 => {
                parameter["schema"] = json!({ "type": kind, "uniqueItems": true });
                parameter.as_object_mut().map(|map| map.remove("uniqueItems"));
            }
        }
        if place == "path" {
            parameter["required"] = true.into();
        }
        parameter
    }

    /// `readCoreV1NamespacedPodStatus`.
    fn operation_id(&self, verb: &str) -> String {
        let Resource { group, version, kind, namespaced, .. } = self.resource;
        let scope = if *namespaced { "Namespaced" } else { "" };
        let (verb, scope) = match verb {
            "deleteCollection" => ("delete", format!("Collection{scope}")),
            verb => (verb, scope.to_owned()),
        };
        let tag: String = tag(group, version).split('_').map(capitalize).collect();
        let sub: String = self.sub.map(capitalize).unwrap_or_default();
        format!("{verb}{tag}{scope}{kind}{sub}")
    }
}

/// `core_v1`, `rbacAuthorization_v1`.
fn tag(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    let mut words = group.split('.');
    let first = words.next().unwrap_or_default().to_owned();
    let rest: String = words.map(capitalize).collect();
    format!("{first}{rest}_{version}")
}

fn capitalize(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
