//! Nobody grants what they do not have: roles may hold, and bindings may give, only what the writer's own rules cover
//! (upstream's `pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased`).
//!
//! The verbs `escalate` (on a role) and `bind` (on the role a binding names) lift the rule, and so does being an administrator.

use std::sync::Arc;

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Review};
use crate::authz::Attributes;
use crate::authz::rbac::Rbac;
use crate::user::MASTERS;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) struct RbacEscalation(pub(super) Arc<Rbac>);

#[async_trait]
impl Plugin for RbacEscalation {
    async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        let writes = matches!(review.operation, Operation::Create | Operation::Update);
        let resource = review.cx.resource;
        if !writes || resource.group != GROUP || review.cx.user.in_group(MASTERS) {
            return Ok(());
        }
        match resource.plural.as_str() {
            "roles" | "clusterroles" => self.role(review, object),
            "rolebindings" | "clusterrolebindings" => self.binding(review, object),
            _ => Ok(()),
        }
    }
}

impl RbacEscalation {
    fn role(&self, review: &Review<'_>, role: &Value) -> Result<(), Status> {
        if review.old.is_some_and(|old| same(old, role, &["rules", "aggregationRule"])) {
            return Ok(());
        }
        let plural = &review.cx.resource.plural;
        if self.may(review, "escalate", plural, meta::name(role)) {
            return Ok(());
        }
        if role.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
            // What it comes to hold is for others to say, so the writer must hold everything.
            let everything = [
                json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }),
                json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }),
            ];
            if !self.missing(review, &everything).is_empty() {
                return Err(review.forbid("must have cluster-admin privileges to use the aggregationRule"));
            }
        }
        let rules = role.get("rules").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        self.refuse(review, self.missing(review, rules))
    }

    fn binding(&self, review: &Review<'_>, binding: &Value) -> Result<(), Status> {
        if review.old.is_some_and(|old| same(old, binding, &["roleRef", "subjects"])) {
            return Ok(());
        }
        let text = |field: &str| {
            let pointer = format!("/roleRef/{field}");
            binding.pointer(&pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (plural, namespace) = match text("kind").as_str() {
            "Role" => ("roles", review.cx.namespace),
            _ => ("clusterroles", ""),
        };
        let name = text("name");
        if self.may(review, "bind", plural, &name) {
            return Ok(());
        }
        let role = review.cx.objects.object(GROUP, plural, namespace, &name);
        let role = role.ok_or_else(|| Status::not_found(GROUP, plural, &name))?;
        self.refuse(review, self.missing(review, &Rbac::rules_of(review.cx.objects, &role)))
    }

    fn may(&self, review: &Review<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let wanted = Attributes {
            verb: verb.to_owned(),
            is_resource: true,
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: review.cx.namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        self.0.allowed(review.cx.objects, review.cx.user, &wanted)
    }

    /// Of these rules, what the writer does not hold.
    fn missing(&self, review: &Review<'_>, rules: &[Value]) -> Vec<Value> {
        self.0.missing(review.cx.objects, review.cx.user, review.cx.namespace, rules)
    }

    fn refuse(&self, review: &Review<'_>, missing: Vec<Value>) -> Result<(), Status> {
        if missing.is_empty() {
            return Ok(());
        }
        let user = review.cx.user;
        let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
        let lines: Vec<String> = missing.iter().map(in_words).collect();
        Err(review.forbid(&format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            groups.join(" "),
            lines.join("\n")
        )))
    }
}

fn same(old: &Value, new: &Value, fields: &[&str]) -> bool {
    fields.iter().all(|field| old.get(field) == new.get(field))
}

/// A rule as upstream's `CompactString` writes it.
fn in_words(rule: &Value) -> String {
    let fields = [
        ("APIGroups", "apiGroups"),
        ("Resources", "resources"),
        ("ResourceNames", "resourceNames"),
        ("NonResourceURLs", "nonResourceURLs"),
        ("Verbs", "verbs"),
    ];
    let parts: Vec<String> = fields
        .into_iter()
        .filter_map(|(title, field)| {
            let texts: Vec<String> = rule
                .get(field)?
                .as_array()?
                .iter()
                .filter_map(Value::as_str)
                .map(|t| format!("{t:?}"))
                .collect();
            (!texts.is_empty()).then(|| format!("{title}:[{}]", texts.join(" ")))
        })
        .collect();
    format!("{{{}}}", parts.join(", "))
}
