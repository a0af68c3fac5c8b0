//! Which requests an admission webhook or policy is about: rules, match conditions, match resources
//! (upstream's `pkg/apis/admissionregistration/validation`). The syntax of CEL expressions is not looked at here.

use std::collections::BTreeSet;

use machinery::status::FieldError;
use serde_json::{Map, Value, json};

use super::check::set_default;
use super::walk::{Faults, Node, default, objects_in};
use crate::names;

pub(super) const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
pub(super) const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const MAX_CONDITIONS: usize = 64;

/// Rules are about objects in namespaces and outside alike.
pub(super) fn default_rules(holder: &mut Map<String, Value>, list: &str) {
    for rule in objects_in(holder, list) {
        set_default(rule, "scope", "*");
    }
}

/// Upstream's `SetDefaults_MatchResources`.
pub(super) fn default_match_resources(resources: &mut Map<String, Value>) {
    set_default(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", json!({}));
    default(resources, "objectSelector", json!({}));
    default_rules(resources, "resourceRules");
    default_rules(resources, "excludeResourceRules");
}

/// One rule with its operations.
pub(super) fn rule(rule: &Node<'_>, faults: &mut Faults) {
    let operations = rule.get("operations");
    required_list(&operations, faults);
    alone(&operations, "operations", faults);
    for operation in operations.items() {
        if !OPERATIONS.contains(&operation.str()) {
            faults.push(FieldError::not_supported(operation.path(), operation.str(), &OPERATIONS));
        }
    }
    let (groups, versions) = (rule.get("apiGroups"), rule.get("apiVersions"));
    required_list(&groups, faults);
    alone(&groups, "API groups", faults);
    required_list(&versions, faults);
    alone(&versions, "API versions", faults);
    for version in versions.items().filter(|version| version.str().is_empty()) {
        faults.required(&version, "");
    }
    resources(&rule.get("resources"), faults);
    let scope = rule.get("scope");
    if scope.is_set() && !SCOPES.contains(&scope.str()) {
        faults.push(FieldError::not_supported(scope.path(), scope.str(), &SCOPES));
    }
}

fn required_list(list: &Node<'_>, faults: &mut Faults) {
    if list.len() == 0 {
        faults.required(list, "");
    }
}

/// `*` goes with nothing else.
fn alone(list: &Node<'_>, what: &str, faults: &mut Faults) {
    if list.len() > 1 && list.items().any(|item| item.str() == "*") {
        faults.invalid(list, format!("if '*' is present, must not specify other {what}"));
    }
}

fn resources(list: &Node<'_>, faults: &mut Faults) {
    required_list(list, faults);
    let (mut all_of, mut each_with) = (BTreeSet::new(), BTreeSet::new());
    let (mut everything, mut star, mut plain) = (false, false, false);
    for item in list.items() {
        let text = item.str();
        if text.is_empty() {
            faults.required(&item, "");
            continue;
        }
        everything |= text == "*/*";
        star |= text == "*";
        let Some((resource, sub)) = text.split_once('/') else {
            // As upstream has it: what the last one says counts.
            plain = text != "*";
            continue;
        };
        if all_of.contains(resource) {
            faults.invalid(&item, format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if each_with.contains(sub) {
            faults.invalid(&item, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            all_of.insert(resource);
        }
        if resource == "*" {
            each_with.insert(sub);
        }
    }
    if list.len() > 1 && everything {
        faults.invalid(list, "if '*/*' is present, must not specify other resources");
    }
    if star && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        faults.invalid(list, detail);
    }
}

/// Conditions that a request must meet; not looked at again while they stay as they are.
pub(super) fn match_conditions(conditions: &Node<'_>, faults: &mut Faults) {
    if conditions.len() > MAX_CONDITIONS {
        faults.push(FieldError::too_many(conditions.path(), conditions.len(), MAX_CONDITIONS));
    }
    let mut seen = BTreeSet::new();
    for condition in conditions.items() {
        let (expression, name) = (condition.get("expression"), condition.get("name"));
        if expression.str().trim().is_empty() {
            faults.required(&expression, "");
        }
        if name.str().is_empty() {
            faults.required(&name, "");
            continue;
        }
        for detail in names::qualified_name(name.str()) {
            faults.invalid(&name, detail);
        }
        if !seen.insert(name.str()) {
            faults.duplicate(&name);
        }
    }
}

/// What a policy or its binding is about.
pub(super) fn match_resources(resources: &Node<'_>, faults: &mut Faults) {
    if !resources.is_set() {
        return;
    }
    faults.one_of(&resources.get("matchPolicy"), &MATCH_POLICIES);
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = resources.get(field);
        if selector.is_set() {
            faults.label_selector(&selector);
        } else {
            faults.required(&selector, "");
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for named in resources.get(list).items() {
            let mut seen = BTreeSet::new();
            for name in named.get("resourceNames").items() {
                faults.name(&name, names::path_segment);
                if !seen.insert(name.str()) {
                    faults.duplicate(&name);
                }
            }
            rule(&named, faults);
        }
    }
}
