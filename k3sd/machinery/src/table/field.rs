//! Reading fields for cells: absent is empty, as in Go's zero values.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::duration;

/// The text at a JSON pointer, empty if there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The text at a JSON pointer, or `absent` if there is none or it is empty.
pub(super) fn text_or<'a>(object: &'a Value, pointer: &str, absent: &'a str) -> &'a str {
    match text(object, pointer) {
        "" => absent,
        text => text,
    }
}

/// The number at a JSON pointer, zero if there is none.
pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The boolean at a JSON pointer, false if there is none.
pub(super) fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a JSON pointer, empty if there is none.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object at a JSON pointer.
pub(super) fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

/// How many entries the object at a JSON pointer has.
pub(super) fn size(object: &Value, pointer: &str) -> usize {
    map(object, pointer).map_or(0, Map::len)
}

/// A number, boolean or text as it reads; `absent` if there is none.
pub(super) fn scalar(object: &Value, pointer: &str, absent: &str) -> String {
    match object.pointer(pointer) {
        None | Some(Value::Null) => absent.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A boolean as Go's printers write one: `True`, `False`, `<unset>`.
pub(super) fn title_flag(object: &Value, pointer: &str) -> &'static str {
    match object.pointer(pointer).and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    }
}

/// The object's name, as a cell.
pub(super) fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

/// The object's age, as a cell.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    duration::since(text(object, "/metadata/creationTimestamp"), now).into()
}

/// The status of a condition in `status.conditions`, if there is such a condition.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind)
}

/// Whether a condition in `status.conditions` is `True`.
pub(super) fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| text(condition, "/status") == "True")
}

/// The texts at `pointer` of every element, with commas.
pub(super) fn join(elements: &[Value], pointer: &str) -> String {
    elements.iter().map(|element| text(element, pointer)).collect::<Vec<_>>().join(",")
}

/// A list of texts, with commas.
pub(super) fn join_texts(elements: &[Value], separator: &str) -> String {
    elements.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(separator)
}

/// `text`, or `absent` if it is empty.
pub(super) fn or(text: String, absent: &str) -> String {
    if text.is_empty() { absent.to_owned() } else { text }
}

/// Labels as `a=1,b=2`; `<none>` if there are none.
pub(super) fn labels(object: &Value, pointer: &str) -> String {
    let pairs: Vec<String> = map(object, pointer)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    or(pairs.join(","), "<none>")
}

/// A `metav1.LabelSelector` in its text form, empty if it selects everything.
pub(super) fn selector(object: &Value, pointer: &str) -> String {
    let Some(selector) = object.pointer(pointer) else { return String::new() };
    let mut terms: Vec<(String, String)> = map(selector, "/matchLabels")
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))))
        .collect();
    for expression in list(selector, "/matchExpressions") {
        let key = text(expression, "/key");
        let mut values: Vec<&str> = list(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let term = match text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.push((key.to_owned(), term));
    }
    terms.sort();
    terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(",")
}

/// The first `max` of some texts with commas, and how many more there are; `absent` if there are none.
pub(super) fn some(texts: impl Iterator<Item = String>, max: usize, absent: &str) -> String {
    let all: Vec<String> = texts.collect();
    let shown = all[..all.len().min(max)].join(",");
    match all.len() {
        0 => absent.to_owned(),
        count if count > max => format!("{shown} + {} more...", count - max),
        _ => shown,
    }
}
