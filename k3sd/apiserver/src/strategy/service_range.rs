//! Ranges of service addresses and the addresses in them (upstream's `ValidateServiceCIDR` and `ValidateIPAddress`).

use std::net::IpAddr;

use ipnet::IpNet;
use machinery::meta;
use machinery::status::{FieldError, Status};
use serde_json::Value;

use super::check::text;
use super::walk::{Faults, Node};
use super::{Context, SelectableField, Strategy};
use crate::addresses;
use crate::allocator::{Allocators, Reservation, service_ips};
use crate::names;

pub(super) struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate_cidrs(&Node::root(object).at("spec.cidrs"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource != "status" {
            let (cidrs, before) = (Node::root(object).at("spec.cidrs"), Node::root(old).at("spec.cidrs"));
            validate_change(&cidrs, &before, &mut faults);
        }
        faults.0
    }
}

fn validate_cidrs(cidrs: &Node<'_>, faults: &mut Faults) {
    if cidrs.len() == 0 {
        faults.required(cidrs, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        faults.invalid(cidrs, "may only hold up to 2 values");
        return;
    }
    cidrs.items().for_each(|cidr| validate_cidr(&cidr, faults));
    let families: Vec<bool> = cidrs
        .items()
        .filter_map(|cidr| cidr.str().parse::<IpNet>().ok())
        .map(|net| net.addr().is_ipv4())
        .collect();
    if let [first, second] = families.as_slice()
        && first == second
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        faults.invalid(cidrs, detail);
    }
}

/// Upstream's `IsValidCIDR`: a network, written in the one way there is.
fn validate_cidr(cidr: &Node<'_>, faults: &mut Faults) {
    let Ok(net) = cidr.str().parse::<IpNet>() else {
        faults.invalid(cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        return;
    };
    let mapped = matches!(net.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    if mapped {
        faults.invalid(cidr, "must not have an IPv4-mapped IPv6 address");
    } else if net.addr() != net.network() {
        faults.invalid(cidr, "must not have bits set beyond the prefix length");
    } else if net.to_string() != cidr.str() {
        faults.invalid(cidr, format!("must be in canonical form ({:?})", net.to_string()));
    }
}

/// Ranges stay; one of the other family may be added.
fn validate_change(cidrs: &Node<'_>, before: &Node<'_>, faults: &mut Faults) {
    const FIXED: &str = "field is immutable";
    match (before.len(), cidrs.len()) {
        (old, new) if old == new || (old, new) == (1, 2) => {
            for (cidr, before) in cidrs.items().zip(before.items()) {
                if cidr.str() != before.str() {
                    faults.invalid(&cidr, FIXED);
                }
            }
            if old != new {
                validate_cidrs(cidrs, faults);
            }
        }
        _ => faults.invalid(cidrs, FIXED),
    }
}

pub(super) struct IpAddress;

impl Strategy for IpAddress {
    /// The address of a service is named for that service only; any other is nobody's from here on.
    fn begin_create(&self, cx: &Context<'_>, object: &mut Value) -> Result<Reservation, Status> {
        let name = meta::name(object);
        let Ok(ip) = name.parse::<IpAddr>() else { return Ok(Reservation::none()) };
        // The allocator's own never take an address: they say which service has it, and come too late if that is gone again.
        let is_allocators = addresses::owner_of(object).is_some();
        if !is_allocators && let Some(named) = cx.allocators.service_ips.name(ip) {
            return Ok(named);
        }
        let is_taken = cx.allocators.service_ips.is_taken(ip);
        if is_allocators && !is_taken {
            return Err(Status::not_found("", "services", text(object, "/spec/parentRef/name")));
        }
        if is_taken && !is_of_its_service(cx, object, ip) {
            return Err(Status::already_exists(&cx.resource.group, &cx.resource.plural, name));
        }
        Ok(Reservation::none())
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let parent = Node::root(object).at("spec.parentRef");
        if !parent.is_set() {
            faults.required(&parent, "");
            return faults.0;
        }
        if !parent.get("group").str().is_empty() {
            faults.name(&parent.get("group"), names::dns1123_subdomain);
        }
        faults.required_name(&parent.get("resource"), names::path_segment);
        faults.required_name(&parent.get("name"), names::path_segment);
        faults.name(&parent.get("namespace"), names::path_segment);
        faults.0
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let (parent, before) =
            (Node::root(object).at("spec.parentRef"), Node::root(old).at("spec.parentRef"));
        faults.immutable(&parent, &before);
        faults.0
    }

    /// An address in the one way it is written.
    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        let detail = match name.parse::<IpAddr>() {
            Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned(),
            Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
                "must not be an IPv4-mapped IPv6 address".to_owned()
            }
            Ok(ip) if ip.to_string() != name => format!("must be in canonical form ({:?})", ip.to_string()),
            Ok(_) => return Vec::new(),
        };
        vec![detail]
    }

    fn after_delete(&self, allocators: &Allocators, last: &[u8]) {
        let Ok(last) = serde_json::from_slice::<Value>(last) else { return };
        if let Ok(ip) = meta::name(&last).parse() {
            allocators.service_ips.unname(ip);
        }
        // If the service is still there, somebody else took its name away.
        if text(&last, "/spec/parentRef/resource") == "services" {
            let (namespace, name) =
                (text(&last, "/spec/parentRef/namespace"), text(&last, "/spec/parentRef/name"));
            allocators.touched.add(&format!("{namespace}/{name}"));
        }
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 4] = [
            SelectableField::text("spec.parentRef.group", &["spec", "parentRef", "group"]),
            SelectableField::text("spec.parentRef.resource", &["spec", "parentRef", "resource"]),
            SelectableField::text("spec.parentRef.namespace", &["spec", "parentRef", "namespace"]),
            SelectableField::text("spec.parentRef.name", &["spec", "parentRef", "name"]),
        ];
        &FIELDS
    }
}

/// True if the service that the object names as its parent has this address.
fn is_of_its_service(cx: &Context<'_>, object: &Value, ip: IpAddr) -> bool {
    let field = |name: &str| text(object, &format!("/spec/parentRef/{name}")).to_owned();
    field("resource") == "services"
        && cx
            .objects
            .object("", "services", &field("namespace"), &field("name"))
            .is_some_and(|service| service_ips(&service).contains(&ip))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::World;
    use super::*;

    const GROUP: &str = "networking.k8s.io";

    fn range(cidrs: Value) -> Value {
        json!({ "metadata": { "name": "x" }, "spec": { "cidrs": cidrs } })
    }

    fn address(name: &str) -> Value {
        json!({ "metadata": { "name": name }, "spec": { "parentRef": { "resource": "gateways", "name": "g" } } })
    }

    #[test]
    fn ranges_are_networks_of_one_family_each() {
        let refused = |cidrs: Value| {
            World::new().create(GROUP, "servicecidrs", range(cidrs)).expect_err("refused").texts()
        };
        assert_eq!(refused(json!([])), ["spec.cidrs: Required value: at least one CIDR required"]);
        assert_eq!(
            refused(json!(["10.0.0.1/24", "x"])),
            [
                "spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length",
                "spec.cidrs[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ]
        );
        assert_eq!(
            refused(json!(["FD00::/112"])),
            ["spec.cidrs[0]: Invalid value: \"FD00::/112\": must be in canonical form (\"fd00::/112\")"]
        );
        assert_eq!(
            refused(json!(["10.0.0.0/24", "10.1.0.0/24"])),
            [
                "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one IP for each IP family, \
                 i.e 192.168.0.0/24 and 2001:db8::/64"
            ]
        );
        assert_eq!(
            refused(json!(["a", "b", "c"])),
            ["spec.cidrs: Invalid value: [\"a\",\"b\",\"c\"]: may only hold up to 2 values"]
        );
    }

    #[test]
    fn a_range_stays_and_may_get_one_of_the_other_family() {
        let world = World::new();
        let old = range(json!(["10.0.0.0/24"]));
        let change = |cidrs: Value| {
            world
                .update(GROUP, "servicecidrs", &old, |object| object["spec"]["cidrs"] = cidrs)
                .map_err(|refusal| refusal.texts())
        };
        assert!(change(json!(["10.0.0.0/24", "fd00::/112"])).is_ok());
        assert_eq!(
            change(json!(["10.1.0.0/24"])).expect_err("fixed"),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable"]
        );
        assert_eq!(
            change(json!([])).expect_err("fixed"),
            ["spec.cidrs: Invalid value: []: field is immutable"]
        );
    }

    #[test]
    fn addresses_are_written_in_one_way_and_have_a_parent() {
        let refused =
            |object: Value| World::new().create(GROUP, "ipaddresses", object).expect_err("refused").texts();
        assert_eq!(
            refused(address("FD00::1")),
            ["metadata.name: Invalid value: \"FD00::1\": must be in canonical form (\"fd00::1\")"]
        );
        assert_eq!(
            refused(address("::ffff:10.0.0.1")),
            ["metadata.name: Invalid value: \"::ffff:10.0.0.1\": must not be an IPv4-mapped IPv6 address"]
        );
        assert_eq!(
            refused(json!({ "metadata": { "name": "10.0.0.1" }, "spec": {} })),
            ["spec.parentRef: Required value"]
        );
        assert_eq!(
            refused(
                json!({ "metadata": { "name": "10.0.0.1" }, "spec": { "parentRef": { "namespace": "a/b" } } })
            ),
            [
                "spec.parentRef.resource: Required value",
                "spec.parentRef.name: Required value",
                "spec.parentRef.namespace: Invalid value: \"a/b\": may not contain '/'",
            ]
        );
    }

    #[test]
    fn an_address_that_somebody_named_is_given_to_no_service() {
        let world = World::with_ranges(&["10.43.0.0/30"], 30_000..=30_010);
        let named = world.create(GROUP, "ipaddresses", address("10.43.0.1")).expect("valid");
        let service = |ip: &str| {
            let spec = json!({ "clusterIP": ip, "ports": [{ "port": 80 }] });
            world.create("", "services", json!({ "metadata": { "name": "s" }, "spec": spec }))
        };
        let refused = service("10.43.0.1").expect_err("taken").texts();
        assert!(
            refused[0].ends_with("failed to allocate IP 10.43.0.1: provided IP is already allocated"),
            "{refused:?}"
        );
        assert_eq!(service("").expect("the other one")["spec"]["clusterIP"], "10.43.0.2");
        let refused =
            world.create(GROUP, "ipaddresses", address("10.43.0.2")).expect_err("the service's").texts();
        assert!(refused[0].ends_with("already exists"), "{refused:?}");
        world.delete(GROUP, "ipaddresses", &named);
        assert!(service("10.43.0.1").is_ok());
    }
}
