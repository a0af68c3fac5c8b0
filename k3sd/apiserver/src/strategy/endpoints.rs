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
const MAX_HINTS: usize = 8;

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
    } else {
        endpoints.items().for_each(|endpoint| one_endpoint(&endpoint, kind.str(), &mut faults));
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
        let app = port.get("appProtocol");
        if app.is_set() {
            faults.name(&app, |name, _| names::qualified_name(name));
        }
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
                let mapped = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
                if ip.is_ok_and(|ip| ip.is_ipv4() == (kind == "IPv4") && !mapped(ip)) {
                    check::endpoint_ip(address.str(), address.path(), &mut faults.0);
                } else {
                    let example = if kind == "IPv4" { "10.9.8.7" } else { "2001:db8::ffff" };
                    faults.invalid(&address, format!("must be a valid {kind} address, (e.g. {example})"));
                }
            }
            "FQDN" => domain(&address, faults),
            _ => {}
        }
    }
    if endpoint.get("nodeName").is_set() {
        faults.name(&endpoint.get("nodeName"), names::dns1123_subdomain);
    }
    // "" is a name here, and a wrong one.
    let hostname = endpoint.get("hostname");
    if hostname.is_set() {
        faults.name(&hostname, names::dns1123_label);
    }
    hints(&endpoint.get("hints"), faults);
}

/// Upstream's `IsFullyQualifiedDomainName`.
fn domain(address: &Node<'_>, faults: &mut Faults) {
    if address.str().is_empty() {
        faults.required(address, "");
        return;
    }
    let name = address.str().strip_suffix('.').unwrap_or(address.str());
    let details = names::dns1123_subdomain(name, false);
    let detail = if !details.is_empty() {
        details.join(",")
    } else if name.contains('.') {
        return;
    } else {
        "should be a domain with at least two segments separated by dots".to_owned()
    };
    faults.push(FieldError::invalid(address.path(), name, detail));
}

/// For which zones and nodes an endpoint is meant.
fn hints(hints: &Node<'_>, faults: &mut Faults) {
    for list in ["forZones", "forNodes"] {
        let targets = hints.get(list);
        if targets.len() > MAX_HINTS {
            faults.push(FieldError::too_many(targets.path(), targets.len(), MAX_HINTS));
            continue;
        }
        let mut seen = HashSet::new();
        for target in targets.items() {
            let name = target.get("name");
            if !seen.insert(name.str()) {
                faults.duplicate(&name);
            }
            if name.str().is_empty() {
                faults.required(&name, "");
            } else if list == "forZones" {
                faults.name(&name, |name, _| names::label_value(name));
            } else {
                faults.name(&name, names::dns1123_subdomain);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::World;

    #[test]
    fn an_address_of_one_family_does_not_pass_for_one_of_the_other() {
        let slice = json!({ "metadata": { "name": "x" }, "addressType": "IPv6",
            "endpoints": [{ "addresses": ["::ffff:127.0.0.1", "10.0.0.1"] }] });
        let refused = World::new().create("discovery.k8s.io", "endpointslices", slice).unwrap_err().texts();
        assert_eq!(
            refused,
            [
                "endpoints[0].addresses[0]: Invalid value: \"::ffff:127.0.0.1\": must be a valid IPv6 address, (e.g. 2001:db8::ffff)",
                "endpoints[0].addresses[1]: Invalid value: \"10.0.0.1\": must be a valid IPv6 address, (e.g. 2001:db8::ffff)",
            ]
        );
    }

    #[test]
    fn slices_hold_addresses_of_their_type_and_hints_once() {
        let slice = json!({ "metadata": { "name": "x" }, "addressType": "FQDN", "endpoints": [
            { "addresses": ["local", "a.b."], "hostname": "a.b", "nodeName": "n",
              "hints": { "forZones": [{ "name": "z" }, { "name": "z" }, { "name": "" }] } }],
            "ports": [{ "name": "a", "appProtocol": "x/y/z" }] });
        let refused = World::new().create("discovery.k8s.io", "endpointslices", slice).unwrap_err().texts();
        assert_eq!(
            refused[..4],
            [
                "endpoints[0].addresses[0]: Invalid value: \"local\": should be a domain with at least two segments separated by dots",
                "endpoints[0].hostname: Invalid value: \"a.b\": must not contain dots",
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"z\"",
                "endpoints[0].hints.forZones[2].name: Required value",
            ]
        );
        assert!(
            refused[4].starts_with("ports[0].appProtocol: Invalid value: \"x/y/z\": a qualified name must")
        );
    }
}
