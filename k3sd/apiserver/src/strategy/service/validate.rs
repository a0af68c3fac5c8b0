//! What may be wrong with a service (upstream's `ValidateService`, `pkg/apis/core/validation/validation.go`).

use std::collections::HashSet;
use std::net::IpAddr;

use machinery::status::FieldError;
use serde_json::{Value, json};

use super::{
    cluster_ips, families, is_headless, kind, may_have_node_ports, needs_cluster_ip, needs_health_check_port,
};
use crate::names;
use crate::strategy::Context;
use crate::strategy::check::{self, Faults, is_set, list, number, one_of, text};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITY_MAX_SECONDS: i64 = 86_400;

pub(super) fn create(cx: &Context<'_>, service: &Value) -> Faults {
    let mut faults = Faults::new();
    one_of(service, "/spec/type", &TYPES, &mut faults);
    by_type(service, &mut faults);
    ports(service, &mut faults);
    check::labels(service, "/spec/selector", &mut faults);
    affinity(service, &mut faults);
    addresses(service, &mut faults);
    ip_families(cx, service, &mut faults);
    traffic(service, &mut faults);
    load_balancer(service, &mut faults);
    faults
}

pub(super) fn update(cx: &Context<'_>, service: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let (now, was) = (cluster_ips(service), cluster_ips(old));
    let needs = needs_cluster_ip(service) && needs_cluster_ip(old);
    if needs && let (Some(before), now) = (was.first(), now.first()) {
        if now != Some(before) {
            let value = service.pointer("/spec/clusterIPs").cloned().unwrap_or_default();
            faults.push(FieldError::invalid("spec.clusterIPs[0]", value, "may not change once set"));
        }
        let (families, before) = (families::given(service), families::given(old));
        if families.first() != before.first() && !before.is_empty() {
            let value = service.pointer("/spec/ipFamilies").cloned().unwrap_or_default();
            faults.push(FieldError::invalid("spec.ipFamilies[0]", value, "may not change once set"));
        }
    }
    if kind(old) == "LoadBalancer" && kind(service) == "LoadBalancer" {
        let class = "/spec/loadBalancerClass";
        if service.pointer(class) != old.pointer(class) {
            let value = service.pointer(class).cloned().unwrap_or_default();
            let detail = "may not change once set";
            faults.push(FieldError::invalid("spec.loadBalancerClass", value, detail));
        }
    }
    faults.extend(create(cx, service));
    faults
}

pub(super) fn status(service: &Value) -> Faults {
    let mut faults = Faults::new();
    let ingress = list(service, "/status/loadBalancer/ingress");
    if !ingress.is_empty() && kind(service) != "LoadBalancer" {
        let field = "status.loadBalancer.ingress";
        faults.push(FieldError::forbidden(field, "may only be used when `spec.type` is \"LoadBalancer\""));
    }
    for (index, ingress) in ingress.iter().enumerate() {
        let ip = text(ingress, "/ip");
        if !ip.is_empty() {
            check::ip(ip, &format!("status.loadBalancer.ingress[{index}].ip"), &mut faults);
        }
    }
    faults
}

fn by_type(service: &Value, faults: &mut Faults) {
    let ports = list(service, "/spec/ports");
    let kind = kind(service);
    if ports.is_empty() && !is_headless(service) && kind != "ExternalName" {
        faults.push(FieldError::required("spec.ports", ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(service) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            faults.push(FieldError::invalid("spec.clusterIPs[0]", "None", detail));
        }
        "ExternalName" => {
            if !cluster_ips(service).is_empty() || !text(service, "/spec/clusterIP").is_empty() {
                faults.push(FieldError::forbidden(
                    "spec.clusterIPs",
                    "may not be set for ExternalName services",
                ));
            }
            for field in ["ipFamilies", "ipFamilyPolicy"] {
                if is_set(service, &format!("/spec/{field}")) {
                    let field = format!("spec.{field}");
                    faults.push(FieldError::forbidden(field, "may not be set for ExternalName services"));
                }
            }
            let name = text(service, "/spec/externalName").trim_end_matches('.');
            if name.is_empty() {
                faults.push(FieldError::required("spec.externalName", ""));
            } else {
                check::named(name, "spec.externalName", names::dns1123_subdomain, faults);
            }
        }
        _ => {}
    }
    if kind != "ExternalName" && matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        let policy = "/spec/internalTrafficPolicy";
        if text(service, policy).is_empty() {
            faults.push(FieldError::required("spec.internalTrafficPolicy", ""));
        }
    }
}

fn ports(service: &Value, faults: &mut Faults) {
    let ports = list(service, "/spec/ports");
    let (mut named, mut numbered, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        one_port(service, port, &field, ports.len() > 1, faults);
        let name = text(port, "/name");
        if !name.is_empty() && !named.insert(name) {
            faults.push(FieldError::duplicate(format!("{field}.name"), name));
        }
        let (protocol, number_) = (text(port, "/protocol"), number(port, "/port").unwrap_or(0));
        if !numbered.insert((protocol, number_)) {
            faults.push(FieldError::duplicate(
                field.as_str(),
                json!({ "protocol": protocol, "port": number_ }),
            ));
        }
        let node_port = number(port, "/nodePort").unwrap_or(0);
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            faults.push(FieldError::duplicate(format!("{field}.nodePort"), node_port));
        }
    }
}

fn one_port(service: &Value, port: &Value, field: &str, needs_name: bool, faults: &mut Faults) {
    let name = text(port, "/name");
    if !name.is_empty() {
        check::named(name, &format!("{field}.name"), names::dns1123_label, faults);
    } else if needs_name {
        faults.push(FieldError::required(format!("{field}.name"), ""));
    }
    check::port(number(port, "/port").unwrap_or(0), &format!("{field}.port"), faults);
    let protocol = text(port, "/protocol");
    if !PROTOCOLS.contains(&protocol) {
        faults.push(FieldError::not_supported(format!("{field}.protocol"), protocol, &PROTOCOLS));
    }
    match port.get("targetPort") {
        Some(Value::Number(target)) => {
            check::port(target.as_i64().unwrap_or(0), &format!("{field}.targetPort"), faults);
        }
        Some(Value::String(target)) => {
            let field = format!("{field}.targetPort");
            for detail in port_name(target) {
                faults.push(FieldError::invalid(field.as_str(), target.as_str(), detail));
            }
        }
        _ => {}
    }
    if number(port, "/nodePort").unwrap_or(0) != 0 && !may_have_node_ports(service) {
        let detail = format!("may not be used when `type` is '{}'", kind(service));
        faults.push(FieldError::forbidden(format!("{field}.nodePort"), detail));
    }
}

/// Upstream's `IsValidPortName`.
pub(crate) fn port_name(name: &str) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if name.len() > 15 {
        faults.push("must be no more than 15 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        faults.push("must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        faults.push("must not begin or end with a hyphen");
    }
    faults
}

fn affinity(service: &Value, faults: &mut Faults) {
    let affinity = text(service, "/spec/sessionAffinity");
    if affinity.is_empty() {
        faults.push(FieldError::required("spec.sessionAffinity", ""));
    }
    one_of(service, "/spec/sessionAffinity", &["ClientIP", "None"], faults);
    let timeout = number(service, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds");
    if affinity == "ClientIP"
        && let Some(seconds) = timeout.filter(|seconds| !(1..=AFFINITY_MAX_SECONDS).contains(seconds))
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let detail = format!("must be greater than 0 and less than {AFFINITY_MAX_SECONDS}");
        faults.push(FieldError::invalid(field, seconds, detail));
    }
}

fn addresses(service: &Value, faults: &mut Faults) {
    let ips = cluster_ips(service);
    let first = text(service, "/spec/clusterIP");
    match ips.first() {
        Some(ip) if *ip != first => {
            faults.push(FieldError::invalid("spec.clusterIPs[0]", *ip, "must match `clusterIP`"));
        }
        _ => {}
    }
    if ips.contains(&"None") && ips.len() > 1 {
        let value = service.pointer("/spec/clusterIPs").cloned().unwrap_or_default();
        faults.push(FieldError::invalid("spec.clusterIPs", value, "'None' must be the first and only value"));
    }
    for (index, ip) in ips.iter().enumerate().filter(|(_, ip)| **ip != "None") {
        check::ip(ip, &format!("spec.clusterIPs[{index}]"), faults);
    }
    if ips.len() > 2 {
        let value = service.pointer("/spec/clusterIPs").cloned().unwrap_or_default();
        faults.push(FieldError::invalid("spec.clusterIPs", value, "may only hold up to 2 values"));
    }
    let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    if let [a, b] = parsed.as_slice()
        && a.is_ipv4() == b.is_ipv4()
    {
        let value = service.pointer("/spec/clusterIPs").cloned().unwrap_or_default();
        let detail = "may specify no more than one IP for each IP family";
        faults.push(FieldError::invalid("spec.clusterIPs", value, detail));
    }
    for (index, ip) in list(service, "/spec/externalIPs").iter().filter_map(Value::as_str).enumerate() {
        check::endpoint_ip(ip, &format!("spec.externalIPs[{index}]"), faults);
    }
}

fn ip_families(cx: &Context<'_>, service: &Value, faults: &mut Faults) {
    let given = families::given(service);
    for (index, family) in given.iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        if !matches!(*family, "IPv4" | "IPv6") {
            faults.push(FieldError::not_supported(field, *family, &["IPv4", "IPv6"]));
        } else if given[..index].contains(family) {
            faults.push(FieldError::duplicate(field, *family));
        }
    }
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    one_of(service, "/spec/ipFamilyPolicy", &policies, faults);
    for (index, ip) in cluster_ips(service).into_iter().enumerate() {
        let Ok(ip) = ip.parse::<IpAddr>() else { continue };
        let expected = given.get(index).copied().or_else(|| families::configured(cx).first().copied());
        if let Some(expected) = expected.filter(|family| *family != families::of(ip)) {
            let detail = format!("expected an {expected} value as indicated by `ipFamilies[{index}]`");
            faults.push(FieldError::invalid(format!("spec.clusterIPs[{index}]"), ip.to_string(), detail));
        }
    }
}

fn traffic(service: &Value, faults: &mut Faults) {
    one_of(service, "/spec/internalTrafficPolicy", &["Cluster", "Local"], faults);
    one_of(service, "/spec/externalTrafficPolicy", &["Cluster", "Local"], faults);
    let distribution = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    one_of(service, "/spec/trafficDistribution", &distribution, faults);
    let external = !list(service, "/spec/externalIPs").is_empty();
    let reachable = may_have_node_ports(service) || (kind(service) == "ClusterIP" && external);
    if !text(service, "/spec/externalTrafficPolicy").is_empty() && !reachable {
        faults.push(FieldError::invalid(
            "spec.externalTrafficPolicy",
            text(service, "/spec/externalTrafficPolicy"),
            "may only be set for externally-accessible services",
        ));
    }
    if number(service, "/spec/healthCheckNodePort").unwrap_or(0) != 0 && !needs_health_check_port(service) {
        faults.push(FieldError::invalid(
            "spec.healthCheckNodePort",
            number(service, "/spec/healthCheckNodePort").unwrap_or(0),
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ));
    }
}

fn load_balancer(service: &Value, faults: &mut Faults) {
    if kind(service) != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if is_set(service, &format!("/spec/{field}")) {
                let detail = "may only be used when `type` is 'LoadBalancer'";
                faults.push(FieldError::forbidden(format!("spec.{field}"), detail));
            }
        }
    }
    let ranges = list(service, "/spec/loadBalancerSourceRanges");
    if !ranges.is_empty() && kind(service) != "LoadBalancer" {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        faults.push(FieldError::forbidden("spec.LoadBalancerSourceRanges", detail));
    }
    for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
        check::cidr(range.trim(), &format!("spec.LoadBalancerSourceRanges[{index}]"), faults);
    }
}
