//! The one answer type for everything that is not an object: `metav1.Status`, and the field errors it carries.
//!
//! Constructors give code, reason, message and details together, word for word as upstream's `apimachinery/pkg/api/errors`
//! and `pkg/util/validation/field` do, because clients decide by reason and people search for the messages.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::kinds::qualified;

/// An answer that is not an object: nearly always an error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status; 0 leaves it out, as upstream does on success.
    pub code: u16,
    /// Machine-readable reason. `None` for success.
    pub reason: Option<Reason>,
    /// Text for people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
}

/// Why a request failed, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs, reason = "the names are the API's")]
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    ServiceUnavailable,
    StoreReadError,
}

/// The object or field a [`Status`] is about.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Object name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Plural resource name, or kind for invalid objects, as upstream.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Object uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The single faults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again; 0 says nothing.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

/// One fault of several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Machine-readable reason.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// One fault that validation found.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Path, such as `spec.containers[0].name`.
    pub field: String,
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// The value at fault. `None` leaves it out of the message.
    pub bad_value: Option<Value>,
    /// What would be right.
    pub detail: String,
}

/// Classes of [`FieldError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the API's")]
pub enum FieldErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TooFew,
    TypeInvalid,
    Internal,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

// === impl Status ===

impl Status {
    fn failure(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason: Some(reason), message: message.into(), details: None }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = group.to_owned();
        details.kind = kind.to_owned();
        details.name = name.to_owned();
        self
    }

    fn cause(mut self, reason: &str, message: &str) -> Self {
        let cause = Cause { reason: reason.to_owned(), message: message.to_owned(), ..Cause::default() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// The answer to a delete that removed the object at once.
    pub fn deleted(group: &str, plural: &str, name: &str, uid: &str) -> Self {
        let mut status =
            Self { code: 0, reason: None, message: String::new(), details: None }.about(group, plural, name);
        status.details.get_or_insert_default().uid = uid.to_owned();
        status
    }

    /// A plain success.
    pub fn success(message: impl Into<String>) -> Self {
        Self { code: 200, reason: None, message: message.into(), details: None }
    }

    /// 404: no such object.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Self::failure(404, Reason::NotFound, format!("{} \"{name}\" not found", qualified(group, plural)))
            .about(group, plural, name)
    }

    /// 404: no such path or resource.
    pub fn unknown_path() -> Self {
        let mut status =
            Self::failure(404, Reason::NotFound, "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// 409: the name is taken.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        Self::failure(
            409,
            Reason::AlreadyExists,
            format!("{} \"{name}\" already exists", qualified(group, plural)),
        )
        .about(group, plural, name)
    }

    /// 409: `detail` says what stands in the way.
    pub fn conflict(group: &str, plural: &str, name: &str, detail: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {detail}", qualified(group, plural));
        Self::failure(409, Reason::Conflict, message).about(group, plural, name)
    }

    /// 409: the object changed since the caller read it.
    pub fn modified(group: &str, plural: &str, name: &str) -> Self {
        let detail =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, detail)
    }

    /// 409: a server-side apply would take fields from others, each of which is a cause.
    pub fn apply_conflict(causes: Vec<Cause>, message: String) -> Self {
        let mut status = Self::failure(409, Reason::Conflict, message);
        status.details.get_or_insert_default().causes = causes;
        status
    }

    /// 500 without a reason: what upstream makes of errors that it has no better word for.
    pub fn unknown_failure(message: impl Into<String>) -> Self {
        Self { code: 500, reason: None, message: message.into(), details: None }
    }

    /// 422: validation found faults.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        for error in &errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let what = match texts.len() {
            0 => String::new(),
            1 => format!(": {}", texts[0]),
            _ => format!(": [{}]", texts.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid{what}", qualified(group, kind));
        let mut status = Self::failure(422, Reason::Invalid, message).about(group, kind, name);
        status.details.get_or_insert_default().causes = errors.iter().map(FieldError::cause).collect();
        status
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, Reason::BadRequest, message)
    }

    /// 422: understood, but it cannot be done to this object.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::failure(422, Reason::Invalid, message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, Reason::Unauthorized, "Unauthorized")
    }

    /// 403. An empty `name` means the whole resource.
    pub fn forbidden(group: &str, plural: &str, name: &str, detail: &str) -> Self {
        let what = qualified(group, plural);
        let message = match (plural.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {detail}"),
            (_, true) => format!("{what} is forbidden: {detail}"),
            (_, false) => format!("{what} \"{name}\" is forbidden: {detail}"),
        };
        Self::failure(403, Reason::Forbidden, message).about(group, plural, name)
    }

    /// 410: gone for good.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, Reason::Gone, message)
    }

    /// 410: the revision asked for is no longer kept; list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, Reason::Expired, message)
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut status = Self::failure(405, Reason::MethodNotAllowed, message);
        status.details = Some(Box::default());
        status
    }

    /// 406: none of the accepted media types can be produced.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::failure(406, Reason::NotAcceptable, message)
    }

    /// 415: the body is in a format that the endpoint does not read.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, Reason::UnsupportedMediaType, message)
    }

    /// 413: the body is too large.
    pub fn too_large(detail: &str) -> Self {
        Self::failure(413, Reason::RequestEntityTooLarge, format!("Request entity too large: {detail}"))
    }

    /// 500: our fault.
    pub fn internal(error: impl fmt::Display) -> Self {
        let text = error.to_string();
        Self::failure(500, Reason::InternalError, format!("Internal error occurred: {text}")).cause("", &text)
    }

    /// 504: not done in time.
    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::failure(504, Reason::Timeout, format!("Timeout: {message}")).retry_after(1)
    }

    /// 504: the server cannot answer now, a repeat may succeed.
    pub fn server_timeout(group: &str, plural: &str, verb: &str) -> Self {
        let message = format!(
            "The {verb} operation against {} could not be completed at this time, please try again.",
            qualified(group, plural)
        );
        Self::failure(504, Reason::ServerTimeout, message).about(group, plural, verb).retry_after(1)
    }

    /// 504: the revision asked for has not been reached yet.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self::failure(504, Reason::Timeout, message)
            .cause("ResourceVersionTooLarge", "Too large resource version")
            .retry_after(1)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, Reason::TooManyRequests, message).retry_after(retry_after_seconds)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, Reason::ServiceUnavailable, message)
    }

    /// Whether the request succeeded.
    pub fn is_success(&self) -> bool {
        self.reason.is_none() && self.code < 400
    }

    /// As JSON.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", "Status")?;
        map.serialize_entry("apiVersion", "v1")?;
        map.serialize_entry("metadata", &serde_json::Map::new())?;
        map.serialize_entry("status", if self.is_success() { "Success" } else { "Failure" })?;
        if !self.message.is_empty() {
            map.serialize_entry("message", &self.message)?;
        }
        if let Some(reason) = self.reason {
            map.serialize_entry("reason", &reason)?;
        }
        if let Some(details) = &self.details {
            map.serialize_entry("details", details)?;
        }
        if self.code != 0 {
            map.serialize_entry("code", &self.code)?;
        }
        map.end()
    }
}

// === impl FieldError ===

impl FieldError {
    fn new(
        field: impl Into<String>,
        kind: FieldErrorKind,
        bad_value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), kind, bad_value, detail: detail.into() }
    }

    /// A field that must be there is not.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, FieldErrorKind::Required, None, detail)
    }

    /// A value that is not right.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(field, FieldErrorKind::Invalid, Some(value.into()), detail)
    }

    /// A value that occurs twice.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(field, FieldErrorKind::Duplicate, Some(value.into()), "")
    }

    /// A value outside an enumeration, which is shown in the order given.
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        let detail = if list.is_empty() { list } else { format!("supported values: {list}") };
        Self::new(field, FieldErrorKind::NotSupported, Some(value.into()), detail)
    }

    /// A field that may not be set, or not changed.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, FieldErrorKind::Forbidden, None, detail)
    }

    /// A text that is too long.
    pub fn too_long(field: impl Into<String>, max_bytes: usize) -> Self {
        let plural = if max_bytes == 1 { "" } else { "s" };
        Self::new(
            field,
            FieldErrorKind::TooLong,
            None,
            format!("may not be more than {max_bytes} byte{plural}"),
        )
    }

    /// A list that is too long.
    pub fn too_many(field: impl Into<String>, actual: usize, max_items: usize) -> Self {
        let plural = if max_items == 1 { "" } else { "s" };
        let detail = format!("must have at most {max_items} item{plural}");
        Self::new(field, FieldErrorKind::TooMany, Some(actual.into()), detail)
    }

    /// A reference to something that is not there.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(field, FieldErrorKind::NotFound, Some(value.into()), "")
    }

    /// The message without the field.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if let Some(value) = &self.bad_value {
            let value = match value {
                Value::String(s) => format!("{s:?}"),
                other => other.to_string(),
            };
            text.push_str(": ");
            text.push_str(&value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    fn cause(&self) -> Cause {
        Cause { reason: self.kind.reason().to_owned(), message: self.body(), field: self.field.clone() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.body())
        } else {
            write!(f, "{}: {}", self.field, self.body())
        }
    }
}

impl FieldErrorKind {
    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_upstreams() {
        let cases = [
            (Status::not_found("apps", "deployments", "web"), "deployments.apps \"web\" not found"),
            (Status::already_exists("", "pods", "a"), "pods \"a\" already exists"),
            (
                Status::modified("", "pods", "a"),
                "Operation cannot be fulfilled on pods \"a\": the object has been modified; \
                 please apply your changes to the latest version and try again",
            ),
            (Status::forbidden("", "pods", "", "no"), "pods is forbidden: no"),
            (Status::forbidden("apps", "deployments", "a", "no"), "deployments.apps \"a\" is forbidden: no"),
            (Status::too_large("limit is 3145728"), "Request entity too large: limit is 3145728"),
        ];
        for (status, message) in cases {
            assert_eq!(status.to_string(), message);
        }
    }

    #[test]
    fn invalid_lists_every_fault() {
        let errors = vec![
            FieldError::required("spec.containers", ""),
            FieldError::not_supported("spec.restartPolicy", "Maybe", &["Always", "OnFailure", "Never"]),
        ];
        let status = Status::invalid("", "Pod", "a", errors);
        assert_eq!(
            status.to_string(),
            "Pod \"a\" is invalid: [spec.containers: Required value, spec.restartPolicy: Unsupported value: \"Maybe\": \
             supported values: \"Always\", \"OnFailure\", \"Never\"]"
        );
        let value = status.to_value();
        assert_eq!(value["reason"], "Invalid");
        assert_eq!(
            value["details"]["causes"][0],
            json!({"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"})
        );
    }

    #[test]
    fn a_delete_answers_success_without_a_code() {
        assert_eq!(
            Status::deleted("", "pods", "a", "u").to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": "a", "kind": "pods", "uid": "u"}})
        );
    }
}
