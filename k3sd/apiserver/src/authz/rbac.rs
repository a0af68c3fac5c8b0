//! Role-based access control: the rules that a user's bindings lead to (upstream's `plugin/pkg/auth/authorizer/rbac`).
//!
//! Roles and bindings are read from the watch cache into an [`Index`] of plain rules, which is built again when one of them has
//! changed; a decision is then a walk over a few short lists.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use machinery::meta;
use machinery::selector::LabelSelector;
use serde_json::{Value, json};

use crate::authz::Attributes;
use crate::registry::Registry;
use crate::user::UserInfo;

/// The API group of what is enforced here.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
const ALL: &str = "*";
const RESOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// The authorizer.
#[derive(Debug, Default)]
pub(crate) struct Rbac {
    current: RwLock<Arc<Index>>,
}

/// What roles and bindings come to, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Revisions of the newest changes of the four resources.
    versions: [i64; RESOURCES.len()],
    cluster: Vec<Binding>,
    /// By namespace.
    namespaced: HashMap<String, Vec<Binding>>,
}

#[derive(Debug)]
struct Binding {
    /// Which binding of which role, as reasons put it.
    source: String,
    subjects: Vec<Subject>,
    rules: Arc<[Rule]>,
}

#[derive(Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount {
        /// As users are named.
        user: String,
        /// As `name/namespace`.
        shown: String,
    },
}

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    paths: Vec<String>,
}

impl Rbac {
    /// True if some rule allows it.
    pub(crate) fn allowed(&self, objects: &Registry, user: &UserInfo, attributes: &Attributes) -> bool {
        self.allowing(objects, user, attributes).is_some()
    }

    /// What allows it: the binding and whom it binds.
    pub(super) fn allowing(
        &self,
        objects: &Registry,
        user: &UserInfo,
        attributes: &Attributes,
    ) -> Option<String> {
        let index = self.index(objects);
        index.bindings(&attributes.namespace).find_map(|binding| {
            let subject = binding.subject_of(user)?;
            let allowed = binding.rules.iter().any(|rule| rule.allows(attributes));
            allowed.then(|| format!("{} to {subject}", binding.source))
        })
    }

    /// Every rule that applies to the user, in the API's form.
    pub(crate) fn rules(&self, objects: &Registry, user: &UserInfo, namespace: &str) -> Vec<Value> {
        self.index(objects).rules(user, namespace).map(Rule::to_value).collect()
    }

    /// Of some rules in the API's form, the parts that no rule of the user covers: one verb on one resource (or path) each.
    pub(crate) fn missing(
        &self,
        objects: &Registry,
        user: &UserInfo,
        namespace: &str,
        rules: &[Value],
    ) -> Vec<Value> {
        let index = self.index(objects);
        let parts = rules.iter().flat_map(|rule| Rule::from_value(rule).parts());
        parts
            .filter(|part| !index.rules(user, namespace).any(|own| own.allows(part)))
            .map(|part| Rule::of_part(&part).to_value())
            .collect()
    }

    /// The rules of a role in the API's form, with those it aggregates.
    pub(crate) fn rules_of(objects: &Registry, role: &Value) -> Vec<Value> {
        let mut cluster_roles = Vec::new();
        if role.get("aggregationRule").is_some_and(Value::is_object) {
            objects.for_each(GROUP, "clusterroles", "", |role| cluster_roles.push(role));
        }
        rules_of(role, &cluster_roles).iter().map(Rule::to_value).collect()
    }

    /// The index as of the caches' newest changes.
    fn index(&self, objects: &Registry) -> Arc<Index> {
        let versions = RESOURCES.map(|plural| objects.last_modified(GROUP, plural));
        {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if current.versions == versions {
                return current.clone();
            }
        }
        let fresh = Arc::new(Index::build(objects, versions));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        fresh
    }
}

impl Index {
    fn build(objects: &Registry, versions: [i64; RESOURCES.len()]) -> Self {
        let mut cluster_roles = Vec::new();
        objects.for_each(GROUP, "clusterroles", "", |role| cluster_roles.push(role));
        let clusterwide: HashMap<String, Arc<[Rule]>> = cluster_roles
            .iter()
            .map(|role| (meta::name(role).to_owned(), rules_of(role, &cluster_roles).into()))
            .collect();
        let mut local: HashMap<(String, String), Arc<[Rule]>> = HashMap::new();
        objects.for_each(GROUP, "roles", "", |role| {
            let key = (meta::namespace(&role).unwrap_or_default().to_owned(), meta::name(&role).to_owned());
            local.insert(key, rules_of(&role, &[]).into());
        });
        let find = |binding: &Value, namespace: &str| {
            let text = |field: &str| binding.pointer(&format!("/roleRef/{field}")).and_then(Value::as_str);
            let name = text("name")?;
            match text("kind")? {
                "ClusterRole" => clusterwide.get(name).cloned(),
                "Role" => local.get(&(namespace.to_owned(), name.to_owned())).cloned(),
                _ => None,
            }
        };
        let mut index = Self { versions, ..Self::default() };
        objects.for_each(GROUP, "clusterrolebindings", "", |binding| {
            index.cluster.extend(find(&binding, "").map(|rules| Binding {
                source: source("ClusterRoleBinding", meta::name(&binding), &binding),
                subjects: subjects(&binding, ""),
                rules,
            }));
        });
        objects.for_each(GROUP, "rolebindings", "", |binding| {
            let namespace = meta::namespace(&binding).unwrap_or_default().to_owned();
            if let Some(rules) = find(&binding, &namespace) {
                let name = format!("{}/{namespace}", meta::name(&binding));
                let binding = Binding {
                    source: source("RoleBinding", &name, &binding),
                    subjects: subjects(&binding, &namespace),
                    rules,
                };
                index.namespaced.entry(namespace).or_default().push(binding);
            }
        });
        index
    }

    /// The rules for a user: those that hold everywhere first, then those of the namespace.
    fn rules<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Rule> {
        self.bindings(namespace)
            .filter(|binding| binding.subject_of(user).is_some())
            .flat_map(|binding| binding.rules.iter())
    }

    fn bindings(&self, namespace: &str) -> impl Iterator<Item = &Binding> {
        let local = self.namespaced.get(namespace).map(Vec::as_slice).unwrap_or_default();
        self.cluster.iter().chain(local)
    }
}

impl Binding {
    /// The subject that the user is, if the binding is for the user.
    fn subject_of(&self, user: &UserInfo) -> Option<&Subject> {
        self.subjects.iter().find(|subject| match subject {
            Subject::User(name) => *name == user.name,
            Subject::ServiceAccount { user: name, .. } => *name == user.name,
            Subject::Group(name) => user.in_group(name),
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "User \"{name}\""),
            Self::Group(name) => write!(f, "Group \"{name}\""),
            Self::ServiceAccount { shown, .. } => write!(f, "ServiceAccount \"{shown}\""),
        }
    }
}

fn source(kind: &str, name: &str, binding: &Value) -> String {
    let text = |field: &str| binding.pointer(&format!("/roleRef/{field}")).and_then(Value::as_str);
    let (role_kind, role) = (text("kind").unwrap_or_default(), text("name").unwrap_or_default());
    format!("{kind} \"{name}\" of {role_kind} \"{role}\"")
}

fn subjects(binding: &Value, namespace: &str) -> Vec<Subject> {
    array(binding, "subjects")
        .iter()
        .filter_map(|subject| {
            let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or_default();
            match text("kind") {
                "User" => Some(Subject::User(text("name").to_owned())),
                "Group" => Some(Subject::Group(text("name").to_owned())),
                "ServiceAccount" => {
                    let place = if text("namespace").is_empty() { namespace } else { text("namespace") };
                    Some(Subject::ServiceAccount {
                        user: format!("system:serviceaccount:{place}:{}", text("name")),
                        shown: format!("{}/{place}", text("name")),
                    })
                }
                _ => None,
            }
        })
        .collect()
}

/// The rules of a role, with those of the cluster roles that it aggregates.
fn rules_of(role: &Value, cluster_roles: &[Value]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = array(role, "rules").iter().map(Rule::from_value).collect();
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
    for selector in selectors.into_iter().flatten() {
        let Ok(selector) = LabelSelector::from_value(Some(selector)) else { continue };
        for other in cluster_roles {
            if meta::name(other) != meta::name(role) && selector.matches(meta::labels(other)) {
                rules.extend(array(other, "rules").iter().map(Rule::from_value));
            }
        }
    }
    rules
}

impl Rule {
    pub(super) fn from_value(value: &Value) -> Self {
        let texts = |field: &str| -> Vec<String> {
            array(value, field).iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            paths: texts("nonResourceURLs"),
        }
    }

    fn to_value(&self) -> Value {
        if !self.paths.is_empty() {
            return json!({ "verbs": self.verbs, "nonResourceURLs": self.paths });
        }
        let mut value = json!({ "verbs": self.verbs, "apiGroups": self.groups, "resources": self.resources });
        if !self.names.is_empty() {
            value["resourceNames"] = json!(self.names);
        }
        value
    }

    /// The rule taken apart: every verb on every resource by every name, or on every path.
    fn parts(&self) -> Vec<Attributes> {
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for path in &self.paths {
                parts.push(Attributes { verb: verb.clone(), path: path.clone(), ..Attributes::default() });
            }
            for (group, resource) in
                self.groups.iter().flat_map(|g| self.resources.iter().map(move |r| (g, r)))
            {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let part = Attributes {
                    verb: verb.clone(),
                    is_resource: true,
                    group: group.clone(),
                    resource: resource.to_owned(),
                    subresource: subresource.to_owned(),
                    ..Attributes::default()
                };
                if self.names.is_empty() {
                    parts.push(part);
                } else {
                    parts.extend(
                        self.names.iter().map(|name| Attributes { name: name.clone(), ..part.clone() }),
                    );
                }
            }
        }
        parts
    }

    /// The rule that is just this part.
    fn of_part(part: &Attributes) -> Self {
        let verbs = vec![part.verb.clone()];
        if !part.is_resource {
            return Self { verbs, paths: vec![part.path.clone()], ..Self::default() };
        }
        let names = if part.name.is_empty() { Vec::new() } else { vec![part.name.clone()] };
        let resources = vec![part.resource_path()];
        Self { verbs, groups: vec![part.group.clone()], resources, names, paths: Vec::new() }
    }

    /// True if the rule covers what is wanted.
    pub(super) fn allows(&self, wanted: &Attributes) -> bool {
        if !has(&self.verbs, &wanted.verb) {
            return false;
        }
        if !wanted.is_resource {
            return self.paths.iter().any(|own| {
                own == ALL
                    || *own == wanted.path
                    || own.strip_suffix(ALL).is_some_and(|prefix| wanted.path.starts_with(prefix))
            });
        }
        has(&self.groups, &wanted.group)
            && self.covers_resource(wanted)
            && (self.names.is_empty() || self.names.contains(&wanted.name))
    }

    fn covers_resource(&self, wanted: &Attributes) -> bool {
        self.resources.iter().any(|own| match own.split_once('/') {
            _ if own == ALL => true,
            None => wanted.subresource.is_empty() && *own == wanted.resource,
            Some((resource, subresource)) => {
                (resource == ALL || resource == wanted.resource)
                    && !wanted.subresource.is_empty()
                    && subresource == wanted.subresource
            }
        })
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == ALL || own == wanted)
}

fn array<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(verb: &str, resource: &str, subresource: &str, name: &str) -> Attributes {
        Attributes {
            verb: verb.to_owned(),
            is_resource: true,
            group: "apps".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_rule_covers_exactly_its_verbs_resources_and_names() {
        let rule = Rule::from_value(
            &json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments", "*/scale"], "resourceNames": ["web"]}),
        );
        assert!(rule.allows(&wants("get", "deployments", "", "web")));
        assert!(rule.allows(&wants("get", "statefulsets", "scale", "web")));
        assert!(!rule.allows(&wants("get", "deployments", "status", "web")));
        assert!(!rule.allows(&wants("get", "deployments", "", "other")));
        assert!(!rule.allows(&wants("update", "deployments", "", "web")));
        let paths = Rule::from_value(&json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]}));
        let path = |path: &str| Attributes {
            verb: "get".to_owned(),
            path: path.to_owned(),
            ..Attributes::default()
        };
        assert!(paths.allows(&path("/apis/apps")));
        assert!(!paths.allows(&path("/healthz/etcd")));
    }

    #[test]
    fn an_aggregating_role_has_the_rules_of_those_it_selects() {
        let admin = json!({"metadata": {"name": "admin"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "admin"}}]}});
        let part = json!({"metadata": {"name": "part", "labels": {"to": "admin"}}, "rules": [{"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"]}]});
        let rules = rules_of(&admin, &[admin.clone(), part]);
        assert!(rules.iter().any(|rule| rule.allows(&wants("get", "deployments", "", ""))));
    }
}
