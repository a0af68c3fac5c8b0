//! Secrets: `stringData` is written into `data`; what each type must hold (upstream's `ValidateSecret`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::meta;
use machinery::status::FieldError;
use serde_json::Value;

use super::check::{child, immutable, members, set_default, text};
use super::config_map::{MAX_BYTES, decoded_len, immutability, key_faults};
use super::{Context, SelectableField, Strategy};

const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

pub(super) struct Secret;

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        set_default(meta::object_mut(object), "type", "Opaque");
        let Some(Value::Object(texts)) = meta::object_mut(object).remove("stringData") else { return };
        let data = child(object, "data");
        for (key, text) in texts {
            let text = text.as_str().unwrap_or_default();
            data.insert(key, STANDARD.encode(text).into());
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Vec::new();
        immutable(object, old, "/type", &mut faults);
        faults.extend(immutability(object, old, &["data"]));
        faults.extend(validate(object));
        faults
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 1] = [SelectableField::text("type", &["type"])];
        &FIELDS
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let mut size = 0;
    for (key, value) in members(object, "/data") {
        let path = format!("data[{key}]");
        faults.extend(
            key_faults(key).into_iter().map(|detail| FieldError::invalid(&path, key.as_str(), detail)),
        );
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > MAX_BYTES {
        faults.push(FieldError::too_long("data", MAX_BYTES));
    }
    by_type(object, &mut faults);
    faults
}

fn by_type(object: &Value, faults: &mut Vec<FieldError>) {
    let has = |key: &str| object.pointer("/data").is_some_and(|data| data.get(key).is_some());
    let mut need = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !has(key)) {
            faults.push(FieldError::required(format!("data[{key}]"), ""));
        }
    };
    match text(object, "/type") {
        "kubernetes.io/dockercfg" => {
            need(&[".dockercfg"]);
            json_object(object, ".dockercfg", faults);
        }
        "kubernetes.io/dockerconfigjson" => {
            need(&[".dockerconfigjson"]);
            json_object(object, ".dockerconfigjson", faults);
        }
        "kubernetes.io/ssh-auth" => need(&["ssh-privatekey"]),
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            faults.push(FieldError::required("data[username]", ""));
            faults.push(FieldError::required("data[password]", ""));
        }
        "kubernetes.io/service-account-token" => {
            let named = meta::annotation(object, SERVICE_ACCOUNT_NAME);
            if named.is_none_or(str::is_empty) {
                let path = format!("metadata.annotations[{SERVICE_ACCOUNT_NAME}]");
                faults.push(FieldError::required(path, ""));
            }
        }
        _ => {}
    }
}

/// Credentials of registries are an object in JSON. What is wrong with it is said without saying what it is.
fn json_object(object: &Value, key: &str, faults: &mut Vec<FieldError>) {
    let Some(held) = object.pointer("/data").and_then(|data| data.get(key)).and_then(Value::as_str) else {
        return;
    };
    let bytes = STANDARD.decode(held).unwrap_or_default();
    // Upstream's words, but for the syntax: there they are this parser's, which repeats nothing of what it read.
    let kind = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(Value::Array(_)) => Ok("array"),
        Ok(Value::String(_)) => Ok("string"),
        Ok(Value::Number(_)) => Ok("number"),
        Ok(Value::Bool(_)) => Ok("bool"),
        Err(error) if error.is_eof() => Err("unexpected end of JSON input".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let detail = match kind {
        Ok(kind) => format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"),
        Err(detail) => detail,
    };
    faults.push(FieldError::invalid(format!("data[{key}]"), "<secret contents redacted>", detail));
}
