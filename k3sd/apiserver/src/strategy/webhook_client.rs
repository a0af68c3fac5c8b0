//! How the API server reaches a webhook: a URL or a service (upstream's `apiserver/pkg/util/webhook/validation.go`). Shared by
//! admission webhooks and the conversion of custom resources.

mod url;

use machinery::status::FieldError;
use serde_json::Value;

use self::url::Url;
use super::check::set_default;
use super::walk::{Faults, Node};
use crate::names;

/// Upstream's `AcceptedAdmissionReviewVersions` and `acceptedConversionReviewVersions`.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const FORM: &str = "; desired format: https://host[/path]";

/// The port of a service, where a client configuration names a service.
pub(super) fn default_port(config: Option<&mut Value>) {
    let service = config.and_then(|config| config.get_mut("service")).and_then(Value::as_object_mut);
    if let Some(service) = service {
        set_default(service, "port", 443);
    }
}

/// One of a URL and a service, and that one right.
pub(super) fn validate(config: &Node<'_>, faults: &mut Faults) {
    let (url, service) = (config.get("url"), config.get("service"));
    if url.is_set() == service.is_set() {
        faults.required(config, "exactly one of url or service is required");
    } else if url.is_set() {
        validate_url(&url, faults);
    } else {
        validate_service(&service, faults);
    }
}

fn validate_url(node: &Node<'_>, faults: &mut Faults) {
    let url = match Url::parse(node.str()) {
        Ok(url) => url,
        Err(error) => {
            faults.required(node, &format!("url must be a valid URL: {error}{FORM}"));
            return;
        }
    };
    let mut refuse = |value: &str, detail: String| {
        faults.push(FieldError::invalid(node.path(), value, detail));
    };
    if url.scheme != "https" {
        refuse(&url.scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host.is_empty() {
        refuse("", format!("host must be specified{FORM}"));
    }
    if let Some(user) = url.user {
        refuse(user, "user information is not permitted in the URL".to_owned());
    }
    if !url.fragment.is_empty() {
        refuse(&url.fragment, "fragments are not permitted in the URL".to_owned());
    }
    if !url.query.is_empty() {
        refuse(url.query, "query parameters are not permitted in the URL".to_owned());
    }
}

fn validate_service(service: &Node<'_>, faults: &mut Faults) {
    for field in ["name", "namespace"] {
        if service.get(field).str().is_empty() {
            faults.required(&service.get(field), "");
        }
    }
    let port = service.get("port");
    if !port.int().is_some_and(|port| (1..=65_535).contains(&port)) {
        faults.invalid(&port, "port is not valid: must be between 1 and 65535, inclusive");
    }
    let path = service.get("path");
    if matches!(path.str(), "" | "/") {
        return;
    }
    if path.str() == "//" {
        faults.invalid(&path, "segment[0] may not be empty");
        return;
    }
    if !path.str().starts_with('/') {
        faults.invalid(&path, "must start with a '/'");
    }
    // Upstream cuts off the first character whatever it is.
    let rest = path.str().char_indices().nth(1).map_or("", |(at, _)| &path.str()[at..]);
    for (index, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            faults.invalid(&path, format!("segment[{index}] may not be empty"));
            continue;
        }
        for detail in names::dns1123_subdomain(step, false) {
            faults.invalid(&path, format!("segment[{index}]: {detail}"));
        }
    }
}

/// Versions of the review that the webhook understands; `when_none` is what to say if there are none.
pub(super) fn review_versions(versions: &Node<'_>, when_none: &str, recognized: bool, faults: &mut Faults) {
    if versions.len() == 0 {
        faults.required(versions, when_none);
        return;
    }
    let mut seen = Vec::new();
    for version in versions.items() {
        if seen.contains(&version.str()) {
            faults.invalid(&version, "duplicate version");
            continue;
        }
        seen.push(version.str());
        faults.name(&version, names::dns1035_label);
    }
    if recognized && !has_known_version(versions) {
        faults.invalid(versions, format!("must include at least one of {}", REVIEW_VERSIONS.join(", ")));
    }
}

/// True if this server speaks one of these versions.
pub(super) fn has_known_version(versions: &Node<'_>) -> bool {
    versions.items().any(|version| REVIEW_VERSIONS.contains(&version.str()))
}
