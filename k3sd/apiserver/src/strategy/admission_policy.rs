//! Admission policies, validating and mutating, and what binds them (upstream's `pkg/apis/admissionregistration/validation`).
//! Expressions must be there; whether they are CEL is not looked at.

use std::collections::BTreeSet;

use machinery::meta;
use machinery::status::FieldError;
use serde_json::Value;

use super::check::{child, set_default};
use super::match_rules::{
    FAILURE_POLICIES, REINVOCATION_POLICIES, default_match_resources, match_conditions, match_resources,
};
use super::walk::{Faults, Node, object_at};
use super::{Context, Strategy};
use crate::names;

const MAX_ANNOTATIONS: usize = 20;
const MAX_ANNOTATION_EXPRESSION: usize = 5 * 1024;
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
const PATCH_TYPES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];
/// Words of CEL that are no names.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(super) struct AdmissionPolicy {
    pub(super) mutating: bool,
}

impl Strategy for AdmissionPolicy {
    fn default(&self, object: &mut Value) {
        let spec = child(object, "spec");
        set_default(spec, "failurePolicy", "Fail");
        if let Some(constraints) = spec.get_mut("matchConstraints").and_then(Value::as_object_mut) {
            default_match_resources(constraints);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        self.validate(object, false, &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource == "status" {
            validate_status(&Node::root(object).get("status"), &mut faults);
            return faults.0;
        }
        let same = |field: &str| Node::root(object).at(field).value() == Node::root(old).at(field).value();
        self.validate(object, same("spec.paramKind") && same("spec.matchConditions"), &mut faults);
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl AdmissionPolicy {
    fn validate(&self, object: &Value, same_conditions: bool, faults: &mut Faults) {
        let spec = Node::root(object).get("spec");
        faults.one_of(&spec.get("failurePolicy"), &FAILURE_POLICIES);
        param_kind(&spec.get("paramKind"), faults);
        let constraints = spec.get("matchConstraints");
        if constraints.is_set() {
            match_resources(&constraints, faults);
            if constraints.get("resourceRules").len() == 0 {
                faults.required(&constraints.get("resourceRules"), "");
            }
        } else {
            faults.required(&constraints, "");
        }
        if !same_conditions {
            match_conditions(&spec.get("matchConditions"), faults);
        }
        for variable in spec.get("variables").items() {
            let (name, expression) = (variable.get("name"), variable.get("expression"));
            if name.str().trim().is_empty() {
                faults.required(&name, "name is not specified");
            } else if !is_identifier(name.str()) {
                faults.invalid(&name, "name is not a valid CEL identifier");
            }
            expression_is_there(&expression, "expression is not specified", faults);
        }
        if self.mutating {
            mutations(&spec, faults);
        } else {
            validations(meta::name(object), &spec, faults);
        }
    }
}

fn expression_is_there(expression: &Node<'_>, detail: &str, faults: &mut Faults) {
    if expression.str().trim().is_empty() {
        faults.required(expression, detail);
    }
}

fn is_identifier(name: &str) -> bool {
    let letter = |c: char| c == '_' || c.is_ascii_alphabetic();
    name.starts_with(letter)
        && name.chars().all(|c| letter(c) || c.is_ascii_digit())
        && !RESERVED.contains(&name)
}

fn param_kind(kind: &Node<'_>, faults: &mut Faults) {
    if !kind.is_set() {
        return;
    }
    let (version, name) = (kind.get("apiVersion"), kind.get("kind"));
    let text = version.str();
    let (group, number) = text.split_once('/').unwrap_or(("", text));
    if text.is_empty() {
        faults.required(&version, "");
    } else if number.contains('/') {
        faults.invalid(&version, format!("unexpected GroupVersion string: {text}"));
    } else {
        let details = if group.is_empty() { Vec::new() } else { names::dns1123_subdomain(group, false) };
        if !details.is_empty() {
            faults.push(FieldError::invalid(version.path(), group, details.join(",")));
        }
        let details = names::dns1035_label(number, false);
        if number.is_empty() {
            faults.invalid(&version, "version must be specified");
        } else if !details.is_empty() {
            faults.push(FieldError::invalid(version.path(), number, details.join(",")));
        }
    }
    let details = names::dns1035_label(&name.str().to_lowercase(), false);
    if name.str().is_empty() {
        faults.required(&name, "");
    } else if !details.is_empty() {
        let details = details.join(",");
        faults.invalid(&name, format!("may have mixed case, but should otherwise match: {details}"));
    }
}

fn validations(policy: &str, spec: &Node<'_>, faults: &mut Faults) {
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.len() == 0 && annotations.len() == 0 {
        for list in [&validations, &annotations] {
            faults.required(list, "validations or auditAnnotations must contain at least one item");
        }
        return;
    }
    validations.items().for_each(|validation| one_validation(&validation, faults));
    if annotations.len() > MAX_ANNOTATIONS {
        faults.invalid(&annotations, format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations"));
    }
    let mut keys = BTreeSet::new();
    for annotation in annotations.items() {
        let (key, expression) = (annotation.get("key"), annotation.get("valueExpression"));
        let whole = format!("{policy}/{}", key.str());
        for detail in names::qualified_name(&whole) {
            faults.push(FieldError::invalid(key.path(), whole.as_str(), detail));
        }
        expression_is_there(&expression, "valueExpression is not specified", faults);
        if expression.str().trim().len() > MAX_ANNOTATION_EXPRESSION {
            let detail = format!("must not exceed {MAX_ANNOTATION_EXPRESSION} bytes in length");
            faults.required(&expression, &detail);
        }
        if !keys.insert(key.str()) {
            faults.duplicate(&key);
        }
    }
}

fn one_validation(validation: &Node<'_>, faults: &mut Faults) {
    expression_is_there(&validation.get("expression"), "expression is not specified", faults);
    let (message, expression) = (validation.get("message"), validation.get("messageExpression"));
    if !expression.str().is_empty() && expression.str().trim().is_empty() {
        faults.invalid(&expression, "must be non-empty if specified");
    }
    if !message.str().is_empty() && message.str().trim().is_empty() {
        faults.invalid(&message, "message must be non-empty if specified");
    } else if message.str().trim().contains(['\n', '\r']) {
        faults.invalid(&message, "message must not contain line breaks");
    }
    let reason = validation.get("reason");
    if reason.is_set() && !REASONS.contains(&reason.str()) {
        faults.push(FieldError::not_supported(reason.path(), reason.str(), &REASONS));
    }
}

fn mutations(spec: &Node<'_>, faults: &mut Faults) {
    let mutations = spec.get("mutations");
    if mutations.len() == 0 {
        faults.required(&mutations, "mutations must contain at least one item");
    }
    for mutation in mutations.items() {
        let kind = mutation.get("patchType");
        let (own, other) = match kind.str() {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            _ => {
                faults.one_of(&kind, &PATCH_TYPES);
                continue;
            }
        };
        let (patch, unwanted) = (mutation.get(own), mutation.get(other));
        if patch.is_set() {
            expression_is_there(&patch.get("expression"), "", faults);
        } else {
            faults.required(&patch, &format!("must be specified when patchType is {}", kind.str()));
        }
        if unwanted.is_set() {
            let detail = format!("must not be specified when patchType is {}", kind.str());
            faults.push(FieldError::invalid(unwanted.path(), format!("{{{other}}}"), detail));
        }
    }
    faults.one_of(&spec.get("reinvocationPolicy"), &REINVOCATION_POLICIES);
}

fn validate_status(status: &Node<'_>, faults: &mut Faults) {
    for warning in status.at("typeChecking.expressionWarnings").items() {
        for field in ["warning", "fieldRef"] {
            if warning.get(field).str().trim().is_empty() {
                faults.required(&warning.get(field), "");
            }
        }
    }
    faults.conditions(&status.get("conditions"));
}

pub(super) struct AdmissionPolicyBinding {
    pub(super) mutating: bool,
}

impl Strategy for AdmissionPolicyBinding {
    fn default(&self, object: &mut Value) {
        if let Some(resources) = object_at(object, &["spec", "matchResources"]) {
            default_match_resources(resources);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        faults.required_name(&spec.get("policyName"), names::dns1123_subdomain);
        param_ref(&spec.get("paramRef"), &mut faults);
        match_resources(&spec.get("matchResources"), &mut faults);
        if !self.mutating {
            validation_actions(&spec.get("validationActions"), &mut faults);
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_create(cx, object)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn param_ref(reference: &Node<'_>, faults: &mut Faults) {
    if !reference.is_set() {
        return;
    }
    const EITHER: &str = "name and selector are mutually exclusive";
    let (name, selector) = (reference.get("name"), reference.get("selector"));
    if !name.str().is_empty() {
        faults.name(&name, names::path_segment);
        if selector.is_set() {
            faults.forbidden(&name, EITHER);
        }
    }
    if selector.is_set() {
        faults.label_selector(&selector);
        if !name.str().is_empty() {
            faults.forbidden(&selector, EITHER);
        }
    }
    if name.str().is_empty() && !selector.is_set() {
        faults.required(reference, "one of name or selector must be specified");
    }
    faults.one_of(&reference.get("parameterNotFoundAction"), &["Deny", "Allow"]);
}

fn validation_actions(actions: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for action in actions.items() {
        if !ACTIONS.contains(&action.str()) {
            faults.push(FieldError::not_supported(action.path(), action.str(), &ACTIONS));
        }
        if !seen.insert(action.str()) {
            faults.duplicate(&action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                      response and headers serves no purpose)";
        faults.invalid(actions, detail);
    }
    if seen.is_empty() {
        faults.required(actions, "at least one validation action is required");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::World;
    use super::*;

    const GROUP: &str = "admissionregistration.k8s.io";

    fn spec() -> Value {
        json!({ "matchConstraints": { "resourceRules": [{ "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["pods"] }] }, "validations": [{ "expression": "true" }] })
    }

    fn refused(plural: &str, spec: Value) -> Vec<String> {
        let object = json!({ "metadata": { "name": "x" }, "spec": spec });
        World::new().create(GROUP, plural, object).expect_err("refused").texts()
    }

    fn refused_policy(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut spec = spec();
        change(&mut spec);
        refused("validatingadmissionpolicies", spec)
    }

    #[test]
    fn a_policy_is_filled_in_as_upstream_does() {
        let object = json!({ "metadata": { "name": "x" }, "spec": spec() });
        let made = World::new().create(GROUP, "validatingadmissionpolicies", object).expect("valid");
        assert_eq!(made["spec"]["failurePolicy"], "Fail");
        let constraints = &made["spec"]["matchConstraints"];
        assert_eq!(
            (&constraints["matchPolicy"], &constraints["namespaceSelector"], &constraints["objectSelector"]),
            (&json!("Equivalent"), &json!({}), &json!({}))
        );
        assert_eq!(constraints["resourceRules"][0]["scope"], "*");
    }

    #[test]
    fn a_policy_matches_something_and_says_something() {
        assert_eq!(
            refused("validatingadmissionpolicies", json!({ "failurePolicy": "X", "matchConstraints": {} })),
            [
                "spec.failurePolicy: Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
                "spec.matchConstraints.resourceRules: Required value",
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ]
        );
    }

    #[test]
    fn expressions_names_and_messages_are_there() {
        assert_eq!(
            refused_policy(|spec| {
                spec["paramKind"] = json!({ "apiVersion": "a/b/c", "kind": "K_" });
                spec["variables"] =
                    json!([{ "name": "in", "expression": "1" }, { "name": " ", "expression": "" }]);
                spec["validations"] = json!([{ "expression": " ", "message": "a\nb", "messageExpression": " ", "reason": "Bad" }]);
                spec["auditAnnotations"] =
                    json!([{ "key": "a", "valueExpression": "" }, { "key": "a", "valueExpression": "1" }]);
            }),
            [
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                "spec.paramKind.kind: Invalid value: \"K_\": may have mixed case, but should otherwise match: a DNS-1035 label must \
                 consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an \
                 alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                "spec.variables[0].name: Invalid value: \"in\": name is not a valid CEL identifier",
                "spec.variables[1].name: Required value: name is not specified",
                "spec.variables[1].expression: Required value: expression is not specified",
                "spec.validations[0].expression: Required value: expression is not specified",
                "spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
                "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
                "spec.validations[0].reason: Unsupported value: \"Bad\": supported values: \"Forbidden\", \"Invalid\", \
                 \"RequestEntityTooLarge\"",
                "spec.auditAnnotations[0].valueExpression: Required value: valueExpression is not specified",
                "spec.auditAnnotations[1].key: Duplicate value: \"a\"",
            ]
        );
    }

    #[test]
    fn mutations_have_the_patch_of_their_type() {
        let mut spec = spec();
        spec["mutations"] = json!([
            { "patchType": "JSONPatch", "applyConfiguration": { "expression": "Object{}" } },
            { "patchType": "ApplyConfiguration", "applyConfiguration": { "expression": "" } },
            { "patchType": "Merge" },
        ]);
        assert_eq!(
            refused("mutatingadmissionpolicies", spec),
            [
                "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType \
                 is JSONPatch",
                "spec.mutations[1].applyConfiguration.expression: Required value",
                "spec.mutations[2].patchType: Unsupported value: \"Merge\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
                "spec.reinvocationPolicy: Required value",
            ]
        );
    }

    #[test]
    fn a_binding_names_a_policy_and_what_to_do() {
        assert_eq!(
            refused(
                "validatingadmissionpolicybindings",
                json!({ "policyName": "",
                "paramRef": { "name": "a", "selector": {} }, "validationActions": ["Deny", "Warn", "Deny", "Shout"] })
            ),
            [
                "spec.policyName: Required value",
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.parameterNotFoundAction: Required value",
                "spec.validationActions[2]: Duplicate value: \"Deny\"",
                "spec.validationActions[3]: Unsupported value: \"Shout\": supported values: \"Audit\", \"Deny\", \"Warn\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Deny\",\"Shout\"]: must not contain both Deny and Warn \
                 (repeating the same validation failure information in the API response and headers serves no purpose)",
            ]
        );
        assert_eq!(
            refused("validatingadmissionpolicybindings", json!({ "policyName": "p" })),
            ["spec.validationActions: Required value: at least one validation action is required"]
        );
    }

    #[test]
    fn conditions_of_a_status_are_whole() {
        let object = json!({ "metadata": { "name": "x" }, "spec": spec() });
        let world = World::new();
        let made = world.create(GROUP, "validatingadmissionpolicies", object).expect("valid");
        let refused = world.update_status(GROUP, "validatingadmissionpolicies", &made, |policy| {
            policy["status"] = json!({ "conditions": [{ "type": "Ready", "status": "Yes", "reason": "", "observedGeneration": -1 }] });
        });
        assert_eq!(
            refused.expect_err("incomplete").texts(),
            [
                "status.conditions[0].status: Unsupported value: \"Yes\": supported values: \"False\", \"True\", \"Unknown\"",
                "status.conditions[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
                "status.conditions[0].lastTransitionTime: Required value",
                "status.conditions[0].reason: Required value",
            ]
        );
    }
}
