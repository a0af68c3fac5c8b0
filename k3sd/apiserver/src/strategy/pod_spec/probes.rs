//! Probes, lifecycle hooks, and the ports they name.

use serde_json::Value;

use crate::names;
use crate::strategy::walk::{Faults, Node};

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

pub(super) fn validate_probes(container: &Node<'_>, faults: &mut Faults) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(name);
        if !probe.is_set() {
            continue;
        }
        validate_handler(&probe, faults);
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            faults.non_negative(&probe.get(field));
        }
        let success = probe.get("successThreshold");
        if name != "readinessProbe" && success.int().is_some_and(|n| n != 1) {
            faults.invalid(&success, "must be 1");
        }
        let grace = probe.get("terminationGracePeriodSeconds");
        if name == "readinessProbe" && grace.is_set() {
            faults.invalid(&grace, "must not be set for readinessProbes");
        } else if grace.int().is_some_and(|n| n <= 0) {
            faults.invalid(&grace, "must be greater than 0");
        }
    }
}

pub(super) fn validate_lifecycle(container: &Node<'_>, faults: &mut Faults) {
    for name in ["postStart", "preStop"] {
        let hook = container.get("lifecycle").get(name);
        if hook.is_set() {
            validate_handler(&hook, faults);
        }
    }
}

fn validate_handler(handler: &Node<'_>, faults: &mut Faults) {
    let mut found = false;
    for name in HANDLERS {
        let action = handler.get(name);
        if !action.is_set() {
            continue;
        }
        if found {
            faults.forbidden(&action, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match name {
            "exec" if action.get("command").len() == 0 => faults.required(&action.get("command"), ""),
            "httpGet" => {
                if action.get("path").str().is_empty() {
                    faults.required(&action.get("path"), "");
                }
                validate_port(&action.get("port"), faults);
                faults.one_of(&action.get("scheme"), &["HTTP", "HTTPS"]);
            }
            "tcpSocket" | "grpc" => validate_port(&action.get("port"), faults),
            "sleep" => faults.non_negative(&action.get("seconds")),
            _ => {}
        }
    }
    if !found {
        faults.required(handler, "must specify a handler type");
    }
}

/// A port number, or the name of one.
fn validate_port(port: &Node<'_>, faults: &mut Faults) {
    match port.value() {
        Value::String(_) => faults.name(port, names::port_name),
        _ => validate_port_number(port, faults),
    }
}

pub(super) fn validate_port_number(port: &Node<'_>, faults: &mut Faults) {
    if !port.int().is_some_and(|n| (1..=65535).contains(&n)) {
        faults.invalid(port, "must be between 1 and 65535, inclusive");
    }
}

/// What is wrong with the name of an environment variable.
pub(super) fn variable_name(name: &str) -> Vec<String> {
    if name.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned(),
    ]
}

/// What is wrong with a key of a config map or secret.
pub(super) fn data_key(key: &str) -> Vec<String> {
    const MAX: usize = 253;
    let mut details = Vec::new();
    if key.len() > MAX {
        details.push(format!("must be no more than {MAX} bytes"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.is_empty() || !key.chars().all(allowed) {
        details.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  \
             or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    if key == "." || key.starts_with("..") {
        details.push(if key.len() <= 2 {
            format!("must not be '{key}'")
        } else {
            "must not start with '..'".to_owned()
        });
    }
    details
}

pub(super) fn validate_reference_name(reference: &Node<'_>, faults: &mut Faults) {
    let name = reference.get("name");
    if name.str().is_empty() {
        faults.required(&name, "");
    } else {
        faults.name(&name, names::dns1123_subdomain);
    }
}
