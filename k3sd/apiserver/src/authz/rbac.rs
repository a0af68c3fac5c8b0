//! Role-based access control: the rules that a user's bindings lead to, evaluated over the watch cache
//! (upstream's `plugin/pkg/auth/authorizer/rbac`).

use std::ops::ControlFlow;

use machinery::meta;
use serde_json::Value;

use crate::authz::Attributes;
use crate::registry::Registry;
use crate::user::UserInfo;

const GROUP: &str = "rbac.authorization.k8s.io";
const ALL: &str = "*";

/// True if some rule allows it.
pub(crate) fn allowed(objects: &Registry, user: &UserInfo, attributes: &Attributes) -> bool {
    let mut found = false;
    visit_rules(objects, user, &attributes.namespace, &mut |rule| {
        if allows(rule, attributes) {
            found = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    found
}

/// Every rule that applies to the user, cluster-wide ones first, then those of the namespace.
pub(crate) fn visit_rules(
    objects: &Registry,
    user: &UserInfo,
    namespace: &str,
    visit: &mut dyn FnMut(&Value) -> ControlFlow<()>,
) {
    let tables = objects.tables();
    let mut scopes = vec![("clusterrolebindings", "")];
    if !namespace.is_empty() {
        scopes.push(("rolebindings", namespace));
    }
    for (plural, scope) in scopes {
        let Some(cache) = tables.find_any(GROUP, plural).and_then(|entry| entry.cache.clone()) else {
            continue;
        };
        let prefix = if scope.is_empty() { String::new() } else { format!("{scope}/") };
        for (_, object) in cache.page(&prefix, None, 0, |_, _| true).items {
            let Ok(binding) = object.decode() else { continue };
            if !binds(&binding, user, scope) {
                continue;
            }
            let Some(role) = role_of(objects, &binding, scope) else { continue };
            for rule in array(&role, "rules") {
                if visit(rule).is_break() {
                    return;
                }
            }
        }
    }
}

fn role_of(objects: &Registry, binding: &Value, namespace: &str) -> Option<Value> {
    let text = |field: &str| binding.pointer(&format!("/roleRef/{field}")).and_then(Value::as_str);
    match text("kind")? {
        "ClusterRole" => objects.object(GROUP, "clusterroles", "", text("name")?),
        "Role" => objects.object(GROUP, "roles", namespace, text("name")?),
        _ => None,
    }
}

/// True if one of the binding's subjects is the user.
fn binds(binding: &Value, user: &UserInfo, namespace: &str) -> bool {
    array(binding, "subjects").iter().any(|subject| {
        let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or_default();
        match text("kind") {
            "User" => text("name") == user.name,
            "Group" => user.in_group(text("name")),
            "ServiceAccount" => {
                let place = if text("namespace").is_empty() { namespace } else { text("namespace") };
                let account = user.name.strip_prefix("system:serviceaccount:");
                account.and_then(|account| account.split_once(':')) == Some((place, text("name")))
            }
            _ => false,
        }
    })
}

/// True if the rule covers what is wanted.
pub(crate) fn allows(rule: &Value, attributes: &Attributes) -> bool {
    let has = |field: &str, wanted: &str| {
        array(rule, field).iter().filter_map(Value::as_str).any(|own| own == ALL || own == wanted)
    };
    if !has("verbs", &attributes.verb) {
        return false;
    }
    if !attributes.is_resource {
        return array(rule, "nonResourceURLs").iter().filter_map(Value::as_str).any(|own| {
            own == ALL
                || own == attributes.path
                || own.strip_suffix(ALL).is_some_and(|prefix| attributes.path.starts_with(prefix))
        });
    }
    let names = array(rule, "resourceNames");
    has("apiGroups", &attributes.group)
        && covers_resource(rule, attributes)
        && (names.is_empty() || names.iter().any(|name| name.as_str() == Some(attributes.name.as_str())))
}

fn covers_resource(rule: &Value, attributes: &Attributes) -> bool {
    let path = attributes.resource_path();
    array(rule, "resources").iter().filter_map(Value::as_str).any(|own| {
        own == ALL
            || own == path
            || (!attributes.subresource.is_empty()
                && own.strip_prefix("*/") == Some(attributes.subresource.as_str()))
    })
}

fn array<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The rules that a ClusterRole's `aggregationRule` collects, or `None` if it has no such rule.
pub(crate) fn aggregated(objects: &Registry, role: &Value) -> Option<Vec<Value>> {
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors")?.as_array()?;
    let selectors: Vec<_> = selectors
        .iter()
        .filter_map(|selector| machinery::selector::LabelSelector::from_value(Some(selector)).ok())
        .collect();
    let mut rules: Vec<Value> = Vec::new();
    objects.for_each(GROUP, "clusterroles", "", |other| {
        if meta::name(&other) == meta::name(role) {
            return;
        }
        if selectors.iter().any(|selector| selector.matches(meta::labels(&other))) {
            for rule in array(&other, "rules") {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    });
    Some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        let rule = json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments", "*/scale"], "resourceNames": ["web"]});
        assert!(allows(&rule, &wants("get", "deployments", "", "web")));
        assert!(allows(&rule, &wants("get", "statefulsets", "scale", "web")));
        assert!(!allows(&rule, &wants("get", "deployments", "status", "web")));
        assert!(!allows(&rule, &wants("get", "deployments", "", "other")));
        assert!(!allows(&rule, &wants("update", "deployments", "", "web")));
        let paths = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]});
        let path = |path: &str| Attributes {
            verb: "get".to_owned(),
            path: path.to_owned(),
            ..Attributes::default()
        };
        assert!(allows(&paths, &path("/apis/apps")));
        assert!(!allows(&paths, &path("/healthz/etcd")));
    }
}
