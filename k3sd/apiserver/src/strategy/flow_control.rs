//! Flow schemas and priority levels (upstream's `pkg/apis/flowcontrol/validation`).

use std::collections::BTreeSet;

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::check::child;
use super::walk::{Faults, Node, default, default_zero, object_at};
use super::{Context, Strategy};
use crate::names;

const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that picks queues.
const MAX_HASH_BITS: i64 = 60;
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(super) struct FlowSchema;

impl Strategy for FlowSchema {
    fn default(&self, object: &mut Value) {
        default_zero(child(object, "spec"), "matchingPrecedence", 1000);
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let (name, spec) = (meta::name(object), Node::root(object).get("spec"));
        schema(name, &spec, &mut faults);
        if let Some(fixed) = fixed_schema(name)
            && spec.value() != &fixed
        {
            faults.invalid(&spec, format!("spec of '{name}' must equal the fixed value"));
        }
        condition_types(&Node::root(object).get("status"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        if cx.subresource != "status" {
            return self.validate_create(cx, object);
        }
        let mut faults = Faults::default();
        condition_types(&Node::root(object).get("status"), &mut faults);
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The two schemas that every server has, and that nobody may change.
fn fixed_schema(name: &str) -> Option<Value> {
    let everything = |subjects: Value| {
        json!([{ "subjects": subjects,
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true,
                "namespaces": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }] }])
    };
    let group = |name: &str| json!({ "kind": "Group", "group": { "name": name } });
    match name {
        EXEMPT => Some(json!({ "matchingPrecedence": 1, "priorityLevelConfiguration": { "name": EXEMPT },
            "rules": everything(json!([group("system:masters")])) })),
        CATCH_ALL => Some(json!({ "matchingPrecedence": MAX_PRECEDENCE,
            "priorityLevelConfiguration": { "name": CATCH_ALL }, "distinguisherMethod": { "type": "ByUser" },
            "rules": everything(json!([group("system:unauthenticated"), group("system:authenticated")])) })),
        _ => None,
    }
}

fn schema(name: &str, spec: &Node<'_>, faults: &mut Faults) {
    let precedence = spec.get("matchingPrecedence");
    let number = precedence.int().unwrap_or(0);
    if number <= 0 {
        faults.invalid(&precedence, "must be a positive value");
    }
    if number > MAX_PRECEDENCE {
        faults.invalid(&precedence, format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if number == 1 && name != EXEMPT {
        faults.invalid(&precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = spec.get("distinguisherMethod");
    if method.is_set() && !matches!(method.get("type").str(), "ByUser" | "ByNamespace") {
        let field = method.get("type").path().to_owned();
        faults.push(FieldError::not_supported(field, method.value().clone(), &["ByNamespace", "ByUser"]));
    }
    let level = spec.at("priorityLevelConfiguration.name");
    if level.str().is_empty() {
        faults.required(&level, "must reference a priority level");
    } else {
        faults.name(&level, names::dns1123_subdomain);
    }
    spec.get("rules").items().for_each(|rule| policy_rule(&rule, faults));
}

fn policy_rule(rule: &Node<'_>, faults: &mut Faults) {
    let subjects = rule.get("subjects");
    subjects.items().for_each(|one| subject(&one, faults));
    if subjects.len() == 0 {
        faults.required(&subjects, "subjects must contain at least one value");
    }
    let (resources, others) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
    if resources.len() == 0 && others.len() == 0 {
        faults.required(rule, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    resources.items().for_each(|rule| resource_rule(&rule, faults));
    for other in others.items() {
        verbs(&other.get("verbs"), faults);
        let urls = other.get("nonResourceURLs");
        if urls.len() == 0 {
            faults.required(&urls, "nonResourceURLs must contain at least one value");
        } else if has_star(&urls) {
            alone(&urls, "non-resource URLs", faults);
        } else {
            urls.items().for_each(|url| url_path(&url, faults));
        }
    }
}

fn subject(subject: &Node<'_>, faults: &mut Faults) {
    let kinds = [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];
    let kind = subject.get("kind");
    let Some((_, own)) = kinds.iter().find(|(name, _)| *name == kind.str()) else {
        let allowed = ["Group", "ServiceAccount", "User"];
        faults.push(FieldError::not_supported(kind.path(), kind.str(), &allowed));
        return;
    };
    let holder = subject.get(own);
    if !holder.is_set() {
        faults.required(&holder, &format!("{own} is required when subject kind is '{}'", kind.str()));
    } else {
        let name = holder.get("name");
        if name.str().is_empty() {
            faults.required(&name, "");
        } else if *own == "serviceAccount" && name.str() != "*" {
            faults.name(&name, names::dns1123_subdomain);
        }
        let namespace = holder.get("namespace");
        if *own == "serviceAccount" && namespace.str().is_empty() {
            faults.required(&namespace, "must specify namespace for service account");
        } else if *own == "serviceAccount" {
            faults.name(&namespace, names::dns1123_label);
        }
    }
    for (name, field) in kinds.iter().filter(|(_, field)| field != own) {
        if subject.get(field).is_set() {
            let detail = format!("{field} is forbidden when subject kind is not '{name}'");
            faults.forbidden(&subject.get(field), detail);
        }
    }
}

fn has_star(list: &Node<'_>) -> bool {
    list.items().any(|item| item.str() == "*")
}

fn alone(list: &Node<'_>, what: &str, faults: &mut Faults) {
    if list.len() > 1 && has_star(list) {
        faults.invalid(list, format!("if '*' is present, must not specify other {what}"));
    }
}

fn verbs(verbs: &Node<'_>, faults: &mut Faults) {
    if verbs.len() == 0 {
        faults.required(verbs, "verbs must contain at least one value");
    } else if has_star(verbs) {
        alone(verbs, "verbs", faults);
    } else if !verbs.items().all(|verb| VERBS.contains(&verb.str())) {
        faults.push(FieldError::not_supported(verbs.path(), verbs.value().clone(), &VERBS));
    }
}

fn resource_rule(rule: &Node<'_>, faults: &mut Faults) {
    verbs(&rule.get("verbs"), faults);
    for (field, one, what) in
        [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")]
    {
        let list = rule.get(field);
        if list.len() == 0 {
            faults.required(&list, &format!("resource rules must supply at least one {one}"));
        }
        alone(&list, what, faults);
    }
    let namespaces = rule.get("namespaces");
    if namespaces.len() == 0 && !rule.get("clusterScope").bool() {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        faults.required(&namespaces, detail);
    } else if has_star(&namespaces) {
        alone(&namespaces, "namespaces", faults);
    } else {
        for namespace in namespaces.items() {
            for detail in names::dns1123_label(namespace.str(), false) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {detail}");
                faults.invalid(&namespace, detail);
            }
        }
    }
}

fn url_path(url: &Node<'_>, faults: &mut Faults) {
    let path = url.str();
    let detail = match path {
        "" => "must not be empty",
        "/" => return,
        _ if !path.starts_with('/') => "must start with slash",
        _ if path.contains(' ') => "must not contain white-space",
        _ if path.contains("//") => "must not contain double slash",
        _ if path.matches('*').count() > 1 || (path.contains('*') && !path.ends_with("/*")) => {
            "wildcard can only do suffix matching"
        }
        _ => return,
    };
    faults.push(FieldError::invalid(url.path(), path, detail));
}

fn condition_types(status: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for condition in status.get("conditions").items() {
        let kind = condition.get("type");
        if !seen.insert(kind.str()) {
            faults.duplicate(&kind);
        }
        if kind.str().is_empty() {
            faults.required(&kind, "must not be empty");
        }
    }
}

pub(super) struct PriorityLevelConfiguration;

impl Strategy for PriorityLevelConfiguration {
    fn default(&self, object: &mut Value) {
        if let Some(exempt) = object_at(object, &["spec", "exempt"]) {
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = object_at(object, &["spec", "limited"]) {
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
        }
        if let Some(queuing) = object_at(object, &["spec", "limited", "limitResponse", "queuing"]) {
            default_zero(queuing, "handSize", 8);
            default_zero(queuing, "queues", 64);
            default_zero(queuing, "queueLengthLimit", 50);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let (name, spec) = (meta::name(object), Node::root(object).get("spec"));
        level(name, &spec, &mut faults);
        fixed_level(name, &spec, &mut faults);
        condition_types(&Node::root(object).get("status"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        if cx.subresource != "status" {
            return self.validate_create(cx, object);
        }
        let mut faults = Faults::default();
        condition_types(&Node::root(object).get("status"), &mut faults);
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The two levels that every server has; of one of them the shares may change.
fn fixed_level(name: &str, spec: &Node<'_>, faults: &mut Faults) {
    let catch_all = json!({ "type": "Limited", "limited": { "nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": { "type": "Reject" } } });
    let only_exempt =
        || spec.entries().all(|(field, value)| field == EXEMPT || (field == "type" && value == "Exempt"));
    match name {
        EXEMPT if !only_exempt() => {
            let detail =
                format!("spec of '{name}' except the 'spec.exempt' field must equal the fixed value");
            faults.invalid(spec, detail);
        }
        CATCH_ALL if spec.value() != &catch_all => {
            faults.invalid(spec, format!("spec of '{name}' must equal the fixed value"));
        }
        _ => {}
    }
}

fn level(name: &str, spec: &Node<'_>, faults: &mut Faults) {
    let (kind, exempt, limited) = (spec.get("type"), spec.get("exempt"), spec.get("limited"));
    if (name == EXEMPT) != (kind.str() == "Exempt") {
        let detail = "type must be 'Exempt' if and only if name is 'exempt'";
        faults.push(FieldError::invalid(kind.path(), kind.str(), detail));
    }
    match kind.str() {
        "Exempt" => {
            if limited.is_set() {
                faults.forbidden(&limited, "must be nil if the type is not Limited");
            }
            shares(&exempt, faults);
        }
        "Limited" => {
            if exempt.is_set() {
                faults.forbidden(&exempt, "must be nil if the type is Limited");
            }
            if limited.is_set() {
                shares(&limited, faults);
                response(&limited.get("limitResponse"), faults);
            } else {
                faults.required(&limited, "must not be empty when type is Limited");
            }
        }
        _ => faults.push(FieldError::not_supported(kind.path(), kind.str(), &["Exempt", "Limited"])),
    }
}

fn shares(level: &Node<'_>, faults: &mut Faults) {
    let (own, lend, borrow) = (
        level.get("nominalConcurrencyShares"),
        level.get("lendablePercent"),
        level.get("borrowingLimitPercent"),
    );
    if own.int().is_some_and(|n| n < 0) {
        faults.invalid(&own, "must be a non-negative integer");
    }
    if lend.int().is_some_and(|n| !(0..=100).contains(&n)) {
        faults.invalid(&lend, "must be between 0 and 100, inclusive");
    }
    if borrow.int().is_some_and(|n| n < 0) {
        faults.invalid(&borrow, "if specified, must be a non-negative integer");
    }
}

fn response(response: &Node<'_>, faults: &mut Faults) {
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.str() {
        "Reject" if queuing.is_set() => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            faults.forbidden(&queuing, detail);
        }
        "Queue" if !queuing.is_set() => {
            faults.required(&queuing, "must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => queues(&queuing, faults),
        "Reject" => {}
        _ => faults.push(FieldError::not_supported(kind.path(), kind.str(), &["Queue", "Reject"])),
    }
}

fn queues(queuing: &Node<'_>, faults: &mut Faults) {
    let (length, queues, hand) =
        (queuing.get("queueLengthLimit"), queuing.get("queues"), queuing.get("handSize"));
    let number = |node: &Node<'_>| node.int().unwrap_or(0);
    if number(&length) <= 0 {
        faults.invalid(&length, "must be positive");
    }
    if number(&queues) <= 0 {
        faults.invalid(&queues, "must be positive");
    } else if number(&queues) > MAX_QUEUES {
        faults.invalid(&queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    let (deck, size) = (number(&queues), number(&hand));
    if size <= 0 {
        faults.invalid(&hand, "must be positive");
    } else if size > deck {
        faults.invalid(&hand, format!("should not be greater than queues ({deck})"));
    } else if needs_more_bits(deck, size) {
        faults.invalid(
            &hand,
            format!(
                "required entropy bits of deckSize {deck} and handSize {size} should not be greater than {MAX_HASH_BITS}"
            ),
        );
    }
}

/// True if dealing `size` of `deck` takes more bits than the hash has: `deck^size > 2^60`.
fn needs_more_bits(deck: i64, size: i64) -> bool {
    let mut product: u128 = 1;
    for _ in 0..size {
        product *= u128::from(deck.unsigned_abs());
        if product > 1 << MAX_HASH_BITS {
            return true;
        }
        // One queue needs no bits, however often it is dealt.
        if deck <= 1 {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    const GROUP: &str = "flowcontrol.apiserver.k8s.io";

    fn create(plural: &str, name: &str, spec: Value) -> Result<Value, Vec<String>> {
        let object = json!({ "metadata": { "name": name }, "spec": spec });
        World::new().create(GROUP, plural, object).map_err(|refusal| refusal.texts())
    }

    #[test]
    fn a_schema_leads_to_a_level_and_matches_somebody() {
        let refused = create(
            "flowschemas",
            "x",
            json!({ "matchingPrecedence": 1, "distinguisherMethod": { "type": "ByMood" },
            "rules": [{ "subjects": [{ "kind": "User", "group": { "name": "g" } }, { "kind": "Robot" }] }] }),
        );
        assert_eq!(
            refused.expect_err("refused"),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.distinguisherMethod.type: Unsupported value: {\"type\":\"ByMood\"}: supported values: \"ByNamespace\", \"ByUser\"",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].subjects[1].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ]
        );
    }

    #[test]
    fn rules_of_a_schema_are_whole() {
        let refused = create(
            "flowschemas",
            "x",
            json!({ "priorityLevelConfiguration": { "name": "p" }, "rules": [{
            "subjects": [{ "kind": "ServiceAccount", "serviceAccount": { "name": "*" } }],
            "resourceRules": [{ "verbs": ["*", "get"], "apiGroups": ["*", "a"], "resources": [] }],
            "nonResourceRules": [{ "verbs": ["shout"], "nonResourceURLs": ["a", "/a*", "/a//b", "/*"] }] }] }),
        );
        assert_eq!(
            refused.expect_err("refused"),
            [
                "spec.rules[0].subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account",
                "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups",
                "spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at \
                 least one namespace",
                "spec.rules[0].nonResourceRules[0].verbs: Unsupported value: [\"shout\"]: supported values: \"create\", \"delete\", \
                 \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": wildcard can only do suffix matching",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"/a//b\": must not contain double slash",
            ]
        );
    }

    #[test]
    fn a_level_is_filled_in_as_upstream_does() {
        let made = create(
            "prioritylevelconfigurations",
            "x",
            json!({ "type": "Limited",
            "limited": { "limitResponse": { "type": "Queue", "queuing": {} } } }),
        )
        .expect("valid");
        assert_eq!(
            made["spec"]["limited"],
            json!({ "nominalConcurrencyShares": 30, "lendablePercent": 0,
                "limitResponse": { "type": "Queue", "queuing": { "handSize": 8, "queues": 64, "queueLengthLimit": 50 } } })
        );
    }

    #[test]
    fn queues_are_no_more_than_can_be_dealt_from() {
        let queuing = |queues: i64, hand: i64| {
            create("prioritylevelconfigurations", "x", json!({ "type": "Limited", "limited": { "limitResponse": {
                "type": "Queue", "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": -1 } } } }))
            .expect_err("the length is wrong in any case")
        };
        let length =
            "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive";
        assert_eq!(queuing(64, 10), [length]);
        assert_eq!(
            queuing(64, 11),
            [
                length,
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 11: required entropy bits of deckSize 64 and handSize 11 \
                 should not be greater than 60"
            ]
        );
        assert_eq!(
            queuing(2, 3),
            [
                length,
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 3: should not be greater than queues (2)"
            ]
        );
    }

    #[test]
    fn what_every_server_has_is_fixed() {
        let refused = create("prioritylevelconfigurations", "exempt", json!({ "type": "Limited" }))
            .expect_err("refused");
        assert_eq!(
            refused[0],
            "spec.type: Invalid value: \"Limited\": type must be 'Exempt' if and only if name is 'exempt'"
        );
        assert!(
            refused[2]
                .ends_with("spec of 'exempt' except the 'spec.exempt' field must equal the fixed value")
        );
        let shares = json!({ "type": "Exempt", "exempt": { "nominalConcurrencyShares": 7 } });
        assert!(create("prioritylevelconfigurations", "exempt", shares).is_ok());
        let spec = fixed_schema(CATCH_ALL).expect("one of two");
        assert!(create("flowschemas", CATCH_ALL, spec.clone()).is_ok());
        let mut other = spec;
        other["matchingPrecedence"] = 9999.into();
        let refused = create("flowschemas", CATCH_ALL, other).expect_err("fixed");
        assert!(refused[0].ends_with("spec of 'catch-all' must equal the fixed value"), "{refused:?}");
    }
}
