//! Walking an object while validating it: a value together with its path, and the list that faults go into.

use machinery::quantity::Quantity;
use machinery::schema::{self};
use machinery::selector::LabelSelector;
use machinery::status::FieldError;
use serde_json::{Map, Value};

use crate::names;

/// A value and where it is. Absent fields are `null`, so that a walk never has to stop.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    value: &'a Value,
    path: String,
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults(pub(crate) Vec<FieldError>);

static NULL: Value = Value::Null;

const CONDITION_REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
    alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
    'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

// === impl Node ===

impl<'a> Node<'a> {
    /// The whole object.
    pub(crate) fn root(object: &'a Value) -> Self {
        Self { value: object, path: String::new() }
    }

    /// A field.
    pub(crate) fn get(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { value: self.value.get(name).unwrap_or(&NULL), path }
    }

    /// A field below others: `at("template.spec")`.
    pub(crate) fn at(&self, path: &str) -> Self {
        path.split('.').fold(self.clone(), |node, name| node.get(name))
    }

    /// The same value under another path.
    pub(crate) fn renamed(&self, path: &str) -> Self {
        Self { value: self.value, path: path.to_owned() }
    }

    /// The value under a key of a map, written `path[key]` as upstream does.
    pub(crate) fn key(&self, key: &str) -> Self {
        Self { value: self.value.get(key).unwrap_or(&NULL), path: format!("{}[{key}]", self.path) }
    }

    /// The elements of a list; none if it is absent.
    pub(crate) fn items(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let path = self.path.clone();
        let items = self.value.as_array().map_or(&[] as &[Value], Vec::as_slice);
        items.iter().enumerate().map(move |(at, value)| Node { value, path: format!("{path}[{at}]") })
    }

    /// The entries of a map; none if it is absent.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    /// The path as text.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The value; `null` if absent.
    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    /// A string; empty if absent.
    pub(crate) fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// A whole number.
    pub(crate) fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// A boolean; false if absent.
    pub(crate) fn bool(&self) -> bool {
        self.value.as_bool().unwrap_or(false)
    }

    /// An object.
    pub(crate) fn object(&self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    /// Number of elements of a list.
    pub(crate) fn len(&self) -> usize {
        self.value.as_array().map_or(0, Vec::len)
    }

    /// Whether the field is there.
    pub(crate) fn is_set(&self) -> bool {
        !self.value.is_null()
    }
}

// === impl Faults ===

impl Faults {
    /// Notes a fault.
    pub(crate) fn push(&mut self, fault: FieldError) {
        self.0.push(fault);
    }

    /// The value is wrong.
    pub(crate) fn invalid(&mut self, node: &Node<'_>, detail: impl Into<String>) {
        self.push(FieldError::invalid(node.path(), node.value().clone(), detail));
    }

    /// The value is missing.
    pub(crate) fn required(&mut self, node: &Node<'_>, detail: &str) {
        self.push(FieldError::required(node.path(), detail));
    }

    /// The field may not be set.
    pub(crate) fn forbidden(&mut self, node: &Node<'_>, detail: impl Into<String>) {
        self.push(FieldError::forbidden(node.path(), detail));
    }

    /// The value occurred before.
    pub(crate) fn duplicate(&mut self, node: &Node<'_>) {
        self.push(FieldError::duplicate(node.path(), node.value().clone()));
    }

    /// A string that must be one of some, and must be there.
    pub(crate) fn one_of(&mut self, node: &Node<'_>, supported: &[&str]) {
        if node.str().is_empty() {
            self.required(node, "");
        } else {
            self.one_of_if_set(node, supported);
        }
    }

    /// A string that must be one of some, if it is there.
    pub(crate) fn one_of_if_set(&mut self, node: &Node<'_>, supported: &[&str]) {
        if !node.str().is_empty() && !supported.contains(&node.str()) {
            self.push(FieldError::not_supported(node.path(), node.str(), supported));
        }
    }

    /// Every message of a name rule becomes a fault.
    pub(crate) fn name(&mut self, node: &Node<'_>, rule: fn(&str, bool) -> Vec<String>) {
        for detail in rule(node.str(), false) {
            self.invalid(node, detail);
        }
    }

    /// A name that must be there.
    pub(crate) fn required_name(&mut self, node: &Node<'_>, rule: fn(&str, bool) -> Vec<String>) {
        if node.str().is_empty() {
            self.required(node, "");
        } else {
            self.name(node, rule);
        }
    }

    /// Upstream's `IsDomainPrefixedPath`: such as `acme.io/foo`.
    pub(crate) fn domain_prefixed_path(&mut self, node: &Node<'_>) {
        const HTTP_PATH: &str =
            "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        if node.str().is_empty() {
            self.required(node, "");
            return;
        }
        let (host, path) = node.str().split_once('/').unwrap_or(("", ""));
        if host.is_empty() || path.is_empty() {
            self.invalid(node, "must be a domain-prefixed path (such as \"acme.io/foo\")");
            return;
        }
        for detail in names::dns1123_subdomain(host, false) {
            self.push(FieldError::invalid(node.path(), host, detail));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
        if !path.chars().all(allowed) {
            self.push(FieldError::invalid(node.path(), path, HTTP_PATH));
        }
    }

    /// A number that may be absent, but not below zero.
    pub(crate) fn non_negative(&mut self, node: &Node<'_>) {
        if node.int().is_some_and(|n| n < 0) {
            self.invalid(node, "must be greater than or equal to 0");
        }
    }

    /// A number that may be absent, but not outside a range.
    pub(crate) fn in_range(&mut self, node: &Node<'_>, low: i64, high: i64) {
        if node.int().is_some_and(|n| !(low..=high).contains(&n)) {
            self.invalid(node, format!("must be between {low} and {high}, inclusive"));
        }
    }

    /// A map of labels.
    pub(crate) fn labels(&mut self, node: &Node<'_>) {
        for (key, value) in node.entries() {
            for detail in names::qualified_name(key) {
                self.push(FieldError::invalid(node.path(), key, detail));
            }
            let value = value.as_str().unwrap_or_default();
            for detail in names::label_value(value) {
                self.push(FieldError::invalid(node.path(), value, detail));
            }
        }
    }

    /// Labels and annotations of a template.
    pub(crate) fn template_metadata(&mut self, template: &Node<'_>) {
        self.labels(&template.at("metadata.labels"));
        let annotations = template.at("metadata.annotations");
        for (key, _) in annotations.entries() {
            for detail in names::qualified_name(&key.to_ascii_lowercase()) {
                self.push(FieldError::invalid(annotations.path(), key, detail));
            }
        }
    }

    /// A `metav1.LabelSelector`.
    pub(crate) fn label_selector(&mut self, node: &Node<'_>) {
        self.labels(&node.get("matchLabels"));
        for expression in node.get("matchExpressions").items() {
            let (operator, values) = (expression.get("operator"), expression.get("values"));
            match operator.str() {
                "In" | "NotIn" if values.len() == 0 => {
                    self.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if values.len() > 0 => {
                    self.forbidden(
                        &values,
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => self.invalid(&operator, "not a valid selector operator"),
            }
            let key = expression.get("key");
            for detail in names::qualified_name(key.str()) {
                self.invalid(&key, detail);
            }
            for value in values.items() {
                for detail in names::label_value(value.str()) {
                    self.invalid(&value, detail);
                }
            }
        }
    }

    /// The selector of a workload: there, not empty, and matching the labels of its template.
    pub(crate) fn workload_selector(&mut self, spec: &Node<'_>, when_empty: &str) {
        let selector = spec.get("selector");
        if !selector.is_set() {
            self.required(&selector, "");
            return;
        }
        self.label_selector(&selector);
        if selector.get("matchLabels").entries().next().is_none()
            && selector.get("matchExpressions").len() == 0
        {
            self.invalid(&selector, when_empty);
            return;
        }
        let labels = spec.at("template.metadata.labels");
        if LabelSelector::from_value(Some(selector.value())).is_ok_and(|s| !s.matches(labels.object())) {
            let shown = labels.object().cloned().unwrap_or_default();
            self.push(FieldError::invalid(
                labels.path(),
                shown,
                "`selector` does not match template `labels`",
            ));
        }
    }

    /// A number or percentage that is not negative. Absent is fine.
    pub(crate) fn int_or_percent(&mut self, node: &Node<'_>) {
        match node.value() {
            Value::Null => {}
            Value::Number(_) => self.non_negative(node),
            value if percent(value).is_some() => {}
            _ => self.invalid(
                node,
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                 regex used for validation is '[0-9]+%')",
            ),
        }
    }

    /// A field of a stored object that must stay as it is.
    pub(crate) fn immutable(&mut self, new: &Node<'_>, old: &Node<'_>) {
        if new.value() != old.value() {
            self.invalid(new, "field is immutable");
        }
    }

    /// Conditions of a status as most kinds have them (upstream's `metav1validation.ValidateConditions`).
    pub(crate) fn conditions(&mut self, conditions: &Node<'_>) {
        let mut seen = Vec::new();
        for condition in conditions.items() {
            let kind = condition.get("type");
            if seen.contains(&kind.str()) {
                self.push(FieldError::duplicate(condition.path(), kind.str()));
            }
            seen.push(kind.str());
            self.condition(&condition);
        }
    }

    fn condition(&mut self, condition: &Node<'_>) {
        let (kind, generation) = (condition.get("type"), condition.get("observedGeneration"));
        if kind.str().is_empty() {
            self.required(&kind, "is required");
        }
        for detail in names::qualified_name(kind.str()).into_iter().filter(|_| !kind.str().is_empty()) {
            self.invalid(&kind, detail);
        }
        self.one_of(&condition.get("status"), &["False", "True", "Unknown"]);
        if generation.int().is_some_and(|n| n < 0) {
            self.invalid(&generation, "must be greater than or equal to zero");
        }
        if condition.get("lastTransitionTime").str().is_empty() {
            self.required(&condition.get("lastTransitionTime"), "");
        }
        let (reason, message) = (condition.get("reason"), condition.get("message"));
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
        let is_reason = reason.str().starts_with(|c: char| c.is_ascii_alphabetic())
            && reason.str().ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && reason.str().chars().all(inner);
        if reason.str().is_empty() {
            self.required(&reason, "");
        } else if !is_reason {
            self.invalid(&reason, CONDITION_REASON);
        }
        for (text, limit) in [(&reason, 1024), (&message, 32 * 1024)] {
            if text.str().len() > limit {
                self.push(FieldError::too_long(text.path(), limit));
            }
        }
    }

    /// A quantity that is not negative.
    pub(crate) fn non_negative_quantity(&mut self, node: &Node<'_>) {
        if Quantity::from_value(node.value()).is_ok_and(Quantity::is_negative) {
            self.invalid(node, "must be greater than or equal to 0");
        }
    }
}

/// The number of a percentage such as `25%`.
pub(crate) fn percent(value: &Value) -> Option<u64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Sets a field that is absent.
pub(crate) fn default(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if object.get(name).is_none_or(Value::is_null) {
        object.insert(name.to_owned(), value.into());
    }
}

/// Sets a field that is absent, empty or zero: what upstream does where the Go field is no pointer.
pub(crate) fn default_zero(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    let zero = match object.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(n)) => n.as_i64() == Some(0),
        Some(_) => false,
    };
    if zero {
        object.insert(name.to_owned(), value.into());
    }
}

/// A member that is an object, for writing, if it is there.
pub(crate) fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    path.iter().try_fold(value, |value, name| value.get_mut(name))?.as_object_mut()
}

/// The elements of a list that are objects, for writing; none if it is absent.
pub(crate) fn objects_in<'a>(
    object: &'a mut Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> + use<'a> {
    object.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The static defaults of a type that sits below another, filled in after the strategy made the value.
pub(crate) fn fill(type_name: &str, value: &mut Value) {
    schema::apply_static_defaults(schema::builtin(), type_name, value);
}
