//! Config maps: keys, size, immutability (upstream's `ValidateConfigMap`). Secrets share the rules.

use machinery::status::FieldError;
use serde_json::Value;

use super::check::members;
use super::{Context, Strategy};

/// Upstream's `MaxSecretSize`: all values together.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

pub(super) struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = immutability(object, old, &["data", "binaryData"]);
        faults.extend(validate(object));
        faults
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in members(object, &format!("/{field}")) {
            let path = format!("{field}[{key}]");
            faults.extend(
                key_faults(key).into_iter().map(|detail| FieldError::invalid(&path, key.as_str(), detail)),
            );
            size +=
                value.as_str().map_or(0, |text| if field == "data" { text.len() } else { decoded_len(text) });
            if field == "data" && object.pointer("/binaryData").and_then(|binary| binary.get(key)).is_some() {
                faults.push(FieldError::invalid(
                    path,
                    key.as_str(),
                    "duplicate of key present in binaryData",
                ));
            }
        }
    }
    if size > MAX_BYTES {
        faults.push(FieldError::too_long("", MAX_BYTES));
    }
    faults
}

/// An object marked `immutable` stays so, with what it holds.
pub(super) fn immutability(object: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    const DETAIL: &str = "field is immutable when `immutable` is set";
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    if object.get("immutable") != Some(&Value::Bool(true)) {
        faults.push(FieldError::forbidden("immutable", DETAIL));
    }
    for field in fields.iter().filter(|field| object.get(**field) != old.get(**field)) {
        faults.push(FieldError::forbidden(*field, DETAIL));
    }
    faults
}

/// Upstream's `IsConfigMapKey`: a file name.
pub(super) fn key_faults(key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if key.len() > 253 {
        faults.push("must be no more than 253 characters".to_owned());
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.is_empty() || !key.chars().all(is_plain) {
        faults.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".to_owned());
    }
    match key {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        key if key.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// Bytes that some base64 stands for.
pub(super) fn decoded_len(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}
