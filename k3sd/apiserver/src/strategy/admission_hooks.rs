//! Webhook configurations (upstream's `pkg/apis/admissionregistration/validation`).

use std::collections::BTreeSet;

use machinery::status::FieldError;
use serde_json::{Value, json};

use super::check::set_default;
use super::match_rules::{
    FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, default_rules, match_conditions, rule,
};
use super::walk::{Faults, Node, default, objects_in};
use super::{Context, Strategy, webhook_client};
use crate::names;

const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];

/// Validating and mutating configurations differ in one field.
pub(super) struct WebhookConfiguration {
    pub(super) mutating: bool,
}

impl Strategy for WebhookConfiguration {
    fn default(&self, object: &mut Value) {
        let Some(configuration) = object.as_object_mut() else { return };
        for hook in objects_in(configuration, "webhooks") {
            set_default(hook, "failurePolicy", "Fail");
            set_default(hook, "matchPolicy", "Equivalent");
            default(hook, "namespaceSelector", json!({}));
            default(hook, "objectSelector", json!({}));
            default(hook, "timeoutSeconds", 10);
            if self.mutating {
                set_default(hook, "reinvocationPolicy", "Never");
            }
            default_rules(hook, "rules");
            webhook_client::default_port(hook.get_mut("clientConfig"));
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate(object, &Leniency::default(), &mut faults);
        faults.0
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate(object, &Leniency::of(object, old), &mut faults);
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// What an update may keep as it is, because what is stored has it.
#[derive(Default)]
struct Leniency {
    side_effects: bool,
    unknown_versions: bool,
    same_names: bool,
    same_conditions: bool,
}

impl Leniency {
    fn of(object: &Value, old: &Value) -> Self {
        let (hooks, before) = (Node::root(object).get("webhooks"), Node::root(old).get("webhooks"));
        let mut names = BTreeSet::new();
        Self {
            side_effects: before
                .items()
                .any(|hook| !NO_SIDE_EFFECTS.contains(&hook.get("sideEffects").str())),
            unknown_versions: before.items().any(|hook| {
                let versions = hook.get("admissionReviewVersions");
                versions.len() > 0 && !webhook_client::has_known_version(&versions)
            }),
            same_names: !before.items().all(|hook| names.insert(hook.get("name").str())),
            same_conditions: hooks.len() == before.len()
                && hooks.items().zip(before.items()).all(|(hook, before)| {
                    hook.get("matchConditions").value() == before.get("matchConditions").value()
                }),
        }
    }
}

fn validate(object: &Value, lenient: &Leniency, faults: &mut Faults) {
    let mut names = BTreeSet::new();
    for hook in Node::root(object).get("webhooks").items() {
        webhook(&hook, lenient, faults);
        let versions = hook.get("admissionReviewVersions");
        let when_none = "must specify one of v1, v1beta1";
        webhook_client::review_versions(&versions, when_none, !lenient.unknown_versions, faults);
        let name = hook.get("name");
        if !lenient.same_names && !name.str().is_empty() && !names.insert(name.str()) {
            faults.duplicate(&name);
        }
    }
}

fn webhook(hook: &Node<'_>, lenient: &Leniency, faults: &mut Faults) {
    fully_qualified(&hook.get("name"), faults);
    hook.get("rules").items().for_each(|one| rule(&one, faults));
    for (field, allowed) in [
        ("failurePolicy", &FAILURE_POLICIES),
        ("matchPolicy", &MATCH_POLICIES),
        ("reinvocationPolicy", &REINVOCATION_POLICIES),
    ] {
        let policy = hook.get(field);
        if policy.is_set() && !allowed.contains(&policy.str()) {
            faults.push(FieldError::not_supported(policy.path(), policy.str(), allowed));
        }
    }
    let allowed: &[&str] = if lenient.side_effects { &SIDE_EFFECTS } else { &NO_SIDE_EFFECTS };
    let effects = hook.get("sideEffects");
    if !effects.is_set() {
        faults.required(&effects, &format!("must specify one of {}", allowed.join(", ")));
    } else if !allowed.contains(&effects.str()) {
        faults.push(FieldError::not_supported(effects.path(), effects.str(), allowed));
    }
    let timeout = hook.get("timeoutSeconds");
    if timeout.int().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        faults.invalid(&timeout, "the timeout value must be between 1 and 30 seconds");
    }
    faults.label_selector(&hook.get("namespaceSelector"));
    faults.label_selector(&hook.get("objectSelector"));
    webhook_client::validate(&hook.get("clientConfig"), faults);
    if !lenient.same_conditions {
        match_conditions(&hook.get("matchConditions"), faults);
    }
}

/// Upstream's `IsFullyQualifiedName`: a subdomain of three labels at least.
fn fully_qualified(name: &Node<'_>, faults: &mut Faults) {
    if name.str().is_empty() {
        faults.required(name, "");
        return;
    }
    let details = names::dns1123_subdomain(name.str(), false);
    if !details.is_empty() {
        faults.invalid(name, details.join(","));
    } else if name.str().split('.').count() < 3 {
        faults.invalid(name, "should be a domain with at least three segments separated by dots");
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    const GROUP: &str = "admissionregistration.k8s.io";
    const PLURAL: &str = "mutatingwebhookconfigurations";

    fn hook() -> Value {
        json!({ "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": { "service": { "name": "s", "namespace": "n" } },
            "rules": [{ "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"] }] })
    }

    fn configuration(hooks: Value) -> Value {
        json!({ "metadata": { "name": "x" }, "webhooks": hooks })
    }

    fn refused(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut hook = hook();
        change(&mut hook);
        World::new().create(GROUP, PLURAL, configuration(json!([hook]))).expect_err("refused").texts()
    }

    #[test]
    fn a_hook_is_filled_in_as_upstream_does() {
        let made = World::new().create(GROUP, PLURAL, configuration(json!([hook()]))).expect("valid");
        let hook = &made["webhooks"][0];
        assert_eq!(
            (
                &hook["failurePolicy"],
                &hook["matchPolicy"],
                &hook["reinvocationPolicy"],
                &hook["timeoutSeconds"]
            ),
            (&json!("Fail"), &json!("Equivalent"), &json!("Never"), &json!(10))
        );
        assert_eq!((&hook["namespaceSelector"], &hook["objectSelector"]), (&json!({}), &json!({})));
        assert_eq!(
            (&hook["rules"][0]["scope"], &hook["clientConfig"]["service"]["port"]),
            (&json!("*"), &json!(443))
        );
        let plural = "validatingwebhookconfigurations";
        let other = World::new().create(GROUP, plural, configuration(json!([self::hook()]))).expect("valid");
        let other = &other["webhooks"][0];
        assert_eq!((&other["failurePolicy"], &other["timeoutSeconds"]), (&json!("Fail"), &json!(10)));
        assert!(other.get("reinvocationPolicy").is_none(), "validating webhooks are asked once");
    }

    #[test]
    fn names_are_whole_domains_and_occur_once() {
        assert_eq!(
            refused(|hook| hook["name"] = "example.com".into()),
            [
                "webhooks[0].name: Invalid value: \"example.com\": should be a domain with at least three segments separated by dots"
            ]
        );
        let twice = configuration(json!([hook(), hook()]));
        assert_eq!(
            World::new().create(GROUP, PLURAL, twice).expect_err("twice").texts(),
            ["webhooks[1].name: Duplicate value: \"a.example.com\""]
        );
    }

    #[test]
    fn side_effects_versions_and_time_have_their_bounds() {
        assert_eq!(
            refused(|hook| {
                hook["sideEffects"] = "Some".into();
                hook["timeoutSeconds"] = 31.into();
                hook["failurePolicy"] = "Maybe".into();
                hook["admissionReviewVersions"] = json!(["v2", "v2"]);
            }),
            [
                "webhooks[0].failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \"Ignore\"",
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v2\": duplicate version",
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\",\"v2\"]: must include at least one of v1, v1beta1",
            ]
        );
        assert_eq!(
            refused(|hook| {
                hook.as_object_mut().expect("object").remove("sideEffects");
                hook["admissionReviewVersions"] = json!([]);
            }),
            [
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ]
        );
    }

    #[test]
    fn a_webhook_is_reached_in_one_way() {
        let both = json!({ "url": "https://a", "service": { "name": "s", "namespace": "n" } });
        assert_eq!(
            refused(|hook| hook["clientConfig"] = both),
            ["webhooks[0].clientConfig: Required value: exactly one of url or service is required"]
        );
        assert_eq!(
            refused(|hook| hook["clientConfig"] = json!({ "url": "http://u:p@h/a?b#c" })),
            [
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: \
                 https://host[/path]",
                "webhooks[0].clientConfig.url: Invalid value: \"u:p\": user information is not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"c\": fragments are not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"b\": query parameters are not permitted in the URL",
            ]
        );
        assert_eq!(
            refused(|hook| hook["clientConfig"] = json!({ "url": "https://h:x/a?b" })),
            [
                "webhooks[0].clientConfig.url: Required value: url must be a valid URL: parse \"https://h:x/a?b\": invalid port \
                 \":x\" after host; desired format: https://host[/path]"
            ]
        );
        assert_eq!(
            refused(|hook| hook["clientConfig"] =
                json!({ "service": { "name": "s", "port": 70000, "path": "/a//b" } })),
            [
                "webhooks[0].clientConfig.service.namespace: Required value",
                "webhooks[0].clientConfig.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive",
                "webhooks[0].clientConfig.service.path: Invalid value: \"/a//b\": segment[1] may not be empty",
            ]
        );
    }

    #[test]
    fn rules_say_everything_once() {
        assert_eq!(
            refused(
                |hook| hook["rules"] = json!([{ "operations": ["*", "CREATE"], "apiGroups": ["*", "apps"], "apiVersions": [""],
                "resources": ["*/*", "pods/*", "pods/log"], "scope": "World" }])
            ),
            [
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
                "webhooks[0].rules[0].apiGroups: Invalid value: [\"*\",\"apps\"]: if '*' is present, must not specify other API groups",
                "webhooks[0].rules[0].apiVersions[0]: Required value",
                "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/*\": if '*/*' is present, must not specify pods/*",
                "webhooks[0].rules[0].resources[2]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
                "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"pods/*\",\"pods/log\"]: if '*/*' is present, must not \
                 specify other resources",
                "webhooks[0].rules[0].scope: Unsupported value: \"World\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
            ]
        );
    }

    #[test]
    fn what_is_stored_may_stay() {
        let mut old = hook();
        old["sideEffects"] = "Unknown".into();
        let old = configuration(json!([old]));
        let world = World::new();
        assert!(world.update(GROUP, PLURAL, &old, |o| o["webhooks"][0]["timeoutSeconds"] = 3.into()).is_ok());
        let conditions = json!([{ "name": "a", "expression": "" }, { "name": "a", "expression": "true" }]);
        let refused = world.update(GROUP, PLURAL, &old, |o| o["webhooks"][0]["matchConditions"] = conditions);
        assert_eq!(
            refused.expect_err("new conditions").texts(),
            [
                "webhooks[0].matchConditions[0].expression: Required value",
                "webhooks[0].matchConditions[1].name: Duplicate value: \"a\"",
            ]
        );
    }
}
