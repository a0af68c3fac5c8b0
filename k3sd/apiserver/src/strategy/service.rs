//! Services: types and their fields, cluster addresses, node ports (upstream's `pkg/registry/core/service`).

mod allocate;
mod families;
mod validate;

use std::net::IpAddr;

use machinery::status::{FieldError, Status};
use serde_json::{Map, Value};

use super::check::{self, child, list, number, set_default, text};
use super::{Context, SelectableField, Strategy};
use crate::allocator::{Allocators, Reservation};
use crate::names;

/// Upstream's `DefaultClientIPServiceAffinitySeconds`.
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) struct Service;

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        let spec = child(object, "spec");
        set_default(spec, "type", "ClusterIP");
        set_default(spec, "sessionAffinity", "None");
        default_affinity(spec);
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            default_port(port);
        }
        let kind = spec["type"].as_str().unwrap_or_default().to_owned();
        let external_ips =
            spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external_ips) {
            set_default(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
    }

    fn begin_create(&self, cx: &Context<'_>, object: &mut Value) -> Result<Reservation, Status> {
        normalize_cluster_ips(object, None);
        families::fill(cx, object, None)?;
        allocate::for_create(cx, object)
    }

    fn begin_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) -> Result<Reservation, Status> {
        keep_allocated(object, old);
        drop_what_the_type_lost(object, old);
        normalize_cluster_ips(object, Some(old));
        families::fill(cx, object, Some(old))?;
        // What is wrong by itself is refused before anything is taken for it.
        if !validate::update(cx, object, old).is_empty() {
            return Ok(Reservation::none());
        }
        allocate::for_update(cx, object, old)
    }

    fn validate_create(&self, cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate::create(cx, object)
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return validate::status(object);
        }
        validate::update(cx, object, old)
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1035_label(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn after_update(&self, cx: &Context<'_>, object: &Value, old: &Value) {
        allocate::release_unused(cx, object, old);
    }

    fn after_delete(&self, allocators: &Allocators, last: &[u8]) {
        // What cannot be read was not adopted either.
        if let Ok(last) = serde_json::from_slice(last) {
            allocate::release_all(allocators, &last);
        }
    }

    fn after_write(&self, allocators: &Allocators, key: &str) {
        allocators.touched.add(key);
    }

    fn addresses(&self, object: &Value) -> Vec<IpAddr> {
        allocate::addresses(object).collect()
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 2] = [
            SelectableField::text("spec.clusterIP", &["spec", "clusterIP"]),
            SelectableField::text("spec.type", &["spec", "type"]),
        ];
        &FIELDS
    }
}

fn default_affinity(spec: &mut Map<String, Value>) {
    match spec["sessionAffinity"].as_str() {
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        Some("ClientIP") => {
            let config = machinery::meta::child_mut(spec, "sessionAffinityConfig");
            let client = machinery::meta::child_mut(config, "clientIP");
            set_default(client, "timeoutSeconds", AFFINITY_SECONDS);
        }
        _ => {}
    }
}

fn default_port(port: &mut Value) {
    let number = port.get("port").cloned().unwrap_or_default();
    let Some(port) = port.as_object_mut() else { return };
    set_default(port, "protocol", "TCP");
    set_default(port, "targetPort", number.clone());
    if port["targetPort"] == 0 {
        port.insert("targetPort".to_owned(), number);
    }
}

// === what the type of a service needs ===

fn kind(service: &Value) -> &str {
    text(service, "/spec/type")
}

fn needs_cluster_ip(service: &Value) -> bool {
    matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn is_headless(service: &Value) -> bool {
    text(service, "/spec/clusterIP") == "None"
}

/// Whether the ports may have node ports.
fn may_have_node_ports(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

/// Whether ports without a node port get one.
fn gets_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true)
        }
        _ => false,
    }
}

/// Whether load balancers outside ask each node for its health on a port of its own.
fn needs_health_check_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

/// `clusterIPs`, from which `clusterIP` is the first.
fn cluster_ips(service: &Value) -> Vec<&str> {
    list(service, "/spec/clusterIPs").iter().filter_map(Value::as_str).collect()
}

fn set_cluster_ips(service: &mut Value, ips: &[String]) {
    let spec = child(service, "spec");
    match ips.first() {
        Some(first) => {
            spec.insert("clusterIP".to_owned(), first.as_str().into());
            spec.insert("clusterIPs".to_owned(), ips.to_vec().into());
        }
        None => {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
    }
}

/// Keeps the old `clusterIP` and the new `clusterIPs` in step for clients that know only one of them (upstream's
/// `normalizeClusterIPs`).
fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let ip = text(service, "/spec/clusterIP").to_owned();
    let ips: Vec<String> = cluster_ips(service).into_iter().map(str::to_owned).collect();
    let Some(old) = old else {
        if !ip.is_empty() && ips.is_empty() {
            set_cluster_ips(service, &[ip]);
        }
        return;
    };
    let same_ips = service.pointer("/spec/clusterIPs") == old.pointer("/spec/clusterIPs");
    if text(old, "/spec/clusterIP") == ip || !same_ips {
        return;
    }
    // Only the old field changed: it was cleared, or set anew.
    if ip.is_empty() {
        child(service, "spec").remove("clusterIPs");
    } else {
        let mut ips = ips;
        match ips.first_mut() {
            Some(first) => *first = ip,
            None => ips.push(ip),
        }
        child(service, "spec").insert("clusterIPs".to_owned(), ips.into());
    }
}

/// What was allocated and is not named in the update stays (upstream's `patchAllocatedValues`).
fn keep_allocated(service: &mut Value, old: &Value) {
    if needs_cluster_ip(service) && needs_cluster_ip(old) {
        for field in ["clusterIP", "clusterIPs"] {
            let was = old.pointer(&format!("/spec/{field}")).cloned();
            if text(service, "/spec/clusterIP").is_empty()
                && cluster_ips(service).is_empty()
                && let Some(was) = was
            {
                child(service, "spec").insert(field.to_owned(), was);
            } else if field == "clusterIPs"
                && cluster_ips(service).is_empty()
                && text(service, "/spec/clusterIP") == text(old, "/spec/clusterIP")
                && let Some(was) = old.pointer("/spec/clusterIPs").cloned()
            {
                child(service, "spec").insert("clusterIPs".to_owned(), was);
            }
        }
    }
    if may_have_node_ports(service) && may_have_node_ports(old) {
        keep_node_ports(service, old);
    }
    if needs_health_check_port(service)
        && needs_health_check_port(old)
        && number(service, "/spec/healthCheckNodePort").unwrap_or(0) == 0
        && let Some(port) = number(old, "/spec/healthCheckNodePort")
    {
        child(service, "spec").insert("healthCheckNodePort".to_owned(), port.into());
    }
}

/// Ports are the same if their names are.
fn keep_node_ports(service: &mut Value, old: &Value) {
    let mut used: Vec<i64> =
        list(service, "/spec/ports").iter().filter_map(|port| number(port, "/nodePort")).collect();
    let before: Vec<(String, i64)> = list(old, "/spec/ports")
        .iter()
        .filter_map(|port| Some((text(port, "/name").to_owned(), number(port, "/nodePort")?)))
        .collect();
    let ports = child(service, "spec").get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        if number(port, "/nodePort").unwrap_or(0) != 0 {
            continue;
        }
        let name = text(port, "/name").to_owned();
        let found = before.iter().find(|(before, node_port)| *before == name && !used.contains(node_port));
        if let Some((_, node_port)) = found {
            port["nodePort"] = (*node_port).into();
            used.push(*node_port);
        }
    }
}

/// Fields that the new type cannot have, and that the user left as they were, go (upstream's `dropTypeDependentFields`).
fn drop_what_the_type_lost(service: &mut Value, old: &Value) {
    let same = |service: &Value, field: &str| {
        let pointer = format!("/spec/{field}");
        service.pointer(&pointer) == old.pointer(&pointer)
    };
    let mut lost: Vec<&str> = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(service) {
        if same(service, "clusterIPs") && same(service, "clusterIP") {
            lost.extend(["clusterIP", "clusterIPs"]);
        }
        if same(service, "ipFamilies") && same(service, "ipFamilyPolicy") {
            lost.extend(["ipFamilies", "ipFamilyPolicy"]);
        }
        lost.push("internalTrafficPolicy");
    }
    if needs_health_check_port(old) && !needs_health_check_port(service) {
        lost.push("healthCheckNodePort");
    }
    if kind(old) == "LoadBalancer" && kind(service) != "LoadBalancer" {
        lost.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if may_have_node_ports(old)
        && !may_have_node_ports(service)
        && list(service, "/spec/externalIPs").is_empty()
    {
        lost.push("externalTrafficPolicy");
    }
    lost.retain(|field| same(service, field));
    for field in lost {
        child(service, "spec").remove(field);
    }
    let was: Vec<Option<i64>> = node_ports(old);
    if may_have_node_ports(old) && !may_have_node_ports(service) && node_ports(service) == was {
        let ports = child(service, "spec").get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
    }
}

fn node_ports(service: &Value) -> Vec<Option<i64>> {
    list(service, "/spec/ports")
        .iter()
        .map(|port| check::number(port, "/nodePort").filter(|p| *p != 0))
        .collect()
}

#[cfg(test)]
mod tests;
