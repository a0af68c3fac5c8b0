//! Roles and bindings (upstream's `pkg/apis/rbac`): defaults of subjects, the shape of rules, the role that cannot change.

use machinery::status::FieldError;
use serde_json::Value;

use super::check::{child, set_default};
use super::walk::{Faults, Node};
use super::{Context, Strategy};
use crate::names;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and cluster roles.
pub(super) struct Role {
    pub(super) cluster: bool,
}

impl Strategy for Role {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let role = Node::root(object);
        for rule in role.get("rules").items() {
            self.rule(&rule, &mut faults);
        }
        for selector in role.at("aggregationRule.clusterRoleSelectors").items() {
            faults.label_selector(&selector);
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_create(cx, object)
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

impl Role {
    fn rule(&self, rule: &Node<'_>, faults: &mut Faults) {
        if rule.get("verbs").len() == 0 {
            faults.required(&rule.get("verbs"), "verbs must contain at least one value");
        }
        let urls = rule.get("nonResourceURLs");
        if urls.len() > 0 {
            if !self.cluster {
                faults.invalid(&urls, "namespaced rules cannot apply to non-resource URLs");
            }
            let mixed = ["apiGroups", "resources", "resourceNames"].iter().any(|f| rule.get(f).len() > 0);
            if mixed {
                faults.invalid(&urls, "rules cannot apply to both regular resources and non-resource URLs");
            }
            return;
        }
        if rule.get("apiGroups").len() == 0 {
            faults.required(&rule.get("apiGroups"), "resource rules must supply at least one api group");
        }
        if rule.get("resources").len() == 0 {
            faults.required(&rule.get("resources"), "resource rules must supply at least one resource");
        }
    }
}

/// Role bindings and cluster role bindings.
pub(super) struct Binding {
    pub(super) cluster: bool,
}

impl Strategy for Binding {
    fn default(&self, object: &mut Value) {
        set_default(child(object, "roleRef"), "apiGroup", GROUP);
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(subject) = subject.as_object_mut()
                && matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group"))
            {
                set_default(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let binding = Node::root(object);
        let role = binding.get("roleRef");
        if role.get("apiGroup").str() != GROUP {
            faults.push(FieldError::not_supported("roleRef.apiGroup", role.get("apiGroup").str(), &[GROUP]));
        }
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        if !kinds.contains(&role.get("kind").str()) {
            faults.push(FieldError::not_supported("roleRef.kind", role.get("kind").str(), kinds));
        }
        if role.get("name").str().is_empty() {
            faults.required(&role.get("name"), "");
        } else {
            faults.name(&role.get("name"), names::path_segment);
        }
        for subject in binding.get("subjects").items() {
            one_subject(&subject, self.cluster, &mut faults);
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = self.validate_create(cx, object);
        if object.get("roleRef") != old.get("roleRef") {
            let value = object.get("roleRef").cloned().unwrap_or_default();
            faults.push(FieldError::invalid("roleRef", value, "cannot change roleRef"));
        }
        faults
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn one_subject(subject: &Node<'_>, cluster: bool, faults: &mut Faults) {
    let (name, group, kind) = (subject.get("name"), subject.get("apiGroup"), subject.get("kind"));
    if name.str().is_empty() {
        faults.required(&name, "");
    }
    match kind.str() {
        "ServiceAccount" => {
            if !name.str().is_empty() {
                faults.name(&name, names::dns1123_subdomain);
            }
            if !group.str().is_empty() {
                faults.push(FieldError::not_supported(group.path(), group.str(), &[""]));
            }
            if subject.get("namespace").str().is_empty() && cluster {
                faults.required(&subject.get("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group.str() != GROUP {
                faults.push(FieldError::not_supported(group.path(), group.str(), &[GROUP]));
            }
        }
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            faults.push(FieldError::not_supported(kind.path(), other, &kinds));
        }
    }
}
