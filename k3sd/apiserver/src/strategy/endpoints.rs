//! Endpoints and endpoint slices (upstream's `ValidateEndpoints` and `ValidateEndpointSlice`).

use std::collections::HashSet;
use std::net::IpAddr;

use machinery::status::FieldError;
use serde_json::Value;

use super::check::{self, set_default};
use super::walk::{Faults, Node};
use super::{Context, Strategy};
use crate::names;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_ADDRESSES: usize = 100;
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;

pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        for subset in Node::root(object).get("subsets").items() {
            let (ready, other) = (subset.get("addresses"), subset.get("notReadyAddresses"));
            if ready.len() == 0 && other.len() == 0 {
                faults.required(&subset, "must specify `addresses` or `notReadyAddresses`");
            }
            for address in ready.items().chain(other.items()) {
                let ip = address.get("ip");
                check::endpoint_ip(ip.str(), ip.path(), &mut faults.0);
                if !address.get("hostname").str().is_empty() {
                    faults.name(&address.get("hostname"), names::dns1123_label);
                }
            }
            let needs_name = subset.get("ports").len() > 1;
            for port in subset.get("ports").items() {
                if port.get("name").str().is_empty() {
                    if needs_name {
                        faults.required(&port.get("name"), "");
                    }
                } else {
                    faults.name(&port.get("name"), names::dns1123_label);
                }
                let number = port.get("port");
                check::port(number.int().unwrap_or(0), number.path(), &mut faults.0);
                faults.one_of(&port.get("protocol"), &PROTOCOLS);
            }
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_create(cx, object)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

pub(super) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in object.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(port) = port.as_object_mut() {
                set_default(port, "name", "");
                set_default(port, "protocol", "TCP");
            }
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        slice(object)
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = slice(object);
        check::immutable(object, old, "/addressType", &mut faults);
        faults
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn slice(object: &Value) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let slice = Node::root(object);
    let kind = slice.get("addressType");
    faults.one_of(&kind, &["FQDN", "IPv4", "IPv6"]);
    let endpoints = slice.get("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        faults.push(FieldError::too_many("endpoints", endpoints.len(), MAX_ENDPOINTS));
    }
    for endpoint in endpoints.items() {
        one_endpoint(&endpoint, kind.str(), &mut faults);
    }
    let ports = slice.get("ports");
    if ports.len() > MAX_PORTS {
        faults.push(FieldError::too_many("ports", ports.len(), MAX_PORTS));
    }
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.str().is_empty() {
            faults.name(&name, names::dns1123_label);
        }
        if !seen.insert(name.str()) {
            faults.duplicate(&name);
        }
        faults.one_of(&port.get("protocol"), &PROTOCOLS);
    }
    faults.0
}

fn one_endpoint(endpoint: &Node<'_>, kind: &str, faults: &mut Faults) {
    let addresses = endpoint.get("addresses");
    if addresses.len() == 0 {
        faults.required(&addresses, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        faults.push(FieldError::too_many(addresses.path(), addresses.len(), MAX_ADDRESSES));
    }
    for address in addresses.items() {
        match kind {
            "IPv4" | "IPv6" => {
                let ip = address.str().parse::<IpAddr>();
                if ip.is_ok_and(|ip| ip.is_ipv4() == (kind == "IPv4")) {
                    check::endpoint_ip(address.str(), address.path(), &mut faults.0);
                } else {
                    let example = if kind == "IPv4" { "10.9.8.7" } else { "2001:db8::ffff" };
                    faults.invalid(&address, format!("must be a valid {kind} address, (e.g. {example})"));
                }
            }
            "FQDN" => faults.name(&address, names::dns1123_subdomain),
            _ => {}
        }
    }
    if !endpoint.get("hostname").str().is_empty() {
        faults.name(&endpoint.get("hostname"), names::dns1123_label);
    }
}
