//! Cluster addresses and node ports: taken before the service is stored, given back when it no longer uses them.

use std::net::IpAddr;

use ipnet::IpNet;
use machinery::meta;
use machinery::status::{FieldError, Status};
use serde_json::Value;

use super::{
    cluster_ips, families, gets_node_ports, is_headless, may_have_node_ports, needs_cluster_ip,
    needs_health_check_port, set_cluster_ips,
};
use crate::allocator::{AllocateError, Allocators, Reservation};
use crate::strategy::Context;
use crate::strategy::check::{child, list, number};

pub(super) fn for_create(cx: &Context<'_>, service: &mut Value) -> Result<Reservation, Status> {
    let mut reserved = Reservation::none();
    take_addresses(cx, service, &[], &mut reserved)?;
    take_node_ports(cx, service, &[], &mut reserved)?;
    take_health_check_port(cx, service, None, &mut reserved)?;
    Ok(reserved)
}

pub(super) fn for_update(cx: &Context<'_>, service: &mut Value, old: &Value) -> Result<Reservation, Status> {
    let mut reserved = Reservation::none();
    let held: Vec<String> = addresses(old).map(|ip| ip.to_string()).collect();
    take_addresses(cx, service, &held, &mut reserved)?;
    take_node_ports(cx, service, &ports(old), &mut reserved)?;
    take_health_check_port(cx, service, number(old, "/spec/healthCheckNodePort"), &mut reserved)?;
    Ok(reserved)
}

/// Gives back what only the old object used.
pub(super) fn release_unused(cx: &Context<'_>, service: &Value, old: &Value) {
    let kept: Vec<IpAddr> = addresses(service).collect();
    for ip in addresses(old).filter(|ip| !kept.contains(ip)) {
        cx.allocators.service_ips.release(ip);
    }
    let kept = all_ports(service);
    for port in all_ports(old).into_iter().filter(|port| !kept.contains(port)) {
        cx.allocators.node_ports.release(port);
    }
}

pub(super) fn release_all(allocators: &Allocators, old: &Value) {
    addresses(old).for_each(|ip| allocators.service_ips.release(ip));
    all_ports(old).into_iter().for_each(|port| allocators.node_ports.release(port));
}

// === addresses ===

/// The cluster addresses a service holds.
pub(super) fn addresses(service: &Value) -> impl Iterator<Item = IpAddr> {
    let holds = needs_cluster_ip(service) && !is_headless(service);
    cluster_ips(service).into_iter().filter(move |_| holds).filter_map(|ip| ip.parse().ok())
}

/// One address for each family, in order. `held` are this service's already.
fn take_addresses(
    cx: &Context<'_>,
    service: &mut Value,
    held: &[String],
    reserved: &mut Reservation,
) -> Result<(), Status> {
    if !needs_cluster_ip(service) || is_headless(service) {
        return Ok(());
    }
    let name = meta::name(service).to_owned();
    let wanted: Vec<String> = cluster_ips(service).into_iter().map(str::to_owned).collect();
    let families: Vec<String> = families::given(service).into_iter().map(str::to_owned).collect();
    let ranges = cx.allocators.ranges(cx.objects);
    let mut ips = Vec::new();
    for (index, family) in families.iter().enumerate() {
        match wanted.get(index) {
            Some(ip) if held.contains(ip) => ips.push(ip.clone()),
            Some(ip) => ips.push(take_address(cx, &name, ip, (&wanted, &ranges), reserved)?),
            None => {
                let (ip, taken) = take_any(cx, family, &ranges)
                    .map_err(|error| Status::internal(format!("failed to allocate a serviceIP: {error}")))?;
                reserved.join(taken);
                ips.push(ip.to_string());
            }
        }
    }
    set_cluster_ips(service, &ips);
    Ok(())
}

/// Any address of a family: of the first range that has one left.
fn take_any(
    cx: &Context<'_>,
    family: &str,
    ranges: &[IpNet],
) -> Result<(IpAddr, Reservation), AllocateError> {
    let mut answer = Err(AllocateError::Full);
    for range in ranges.iter().filter(|range| families::of(range.addr()) == family) {
        answer = cx.allocators.service_ips.allocate_next(*range);
        if answer.is_ok() {
            break;
        }
    }
    answer
}

fn take_address(
    cx: &Context<'_>,
    name: &str,
    ip: &str,
    (wanted, ranges): (&[String], &[IpNet]),
    reserved: &mut Reservation,
) -> Result<String, Status> {
    let refuse = |detail: String| {
        let fault = FieldError::invalid("spec.clusterIPs", wanted.to_vec(), detail);
        Status::invalid("", "Service", name, vec![fault])
    };
    let Ok(address) = ip.parse::<IpAddr>() else {
        return Err(refuse("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()));
    };
    let taken = cx.allocators.service_ips.allocate(address, ranges).map_err(|error| match error {
        AllocateError::OutOfRange { range, .. } => refuse(format!(
            "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. \
             The range of valid IPs is {range}"
        )),
        error => refuse(format!("failed to allocate IP {ip}: {error}")),
    })?;
    reserved.join(taken);
    Ok(address.to_string())
}

// === node ports ===

/// The node ports a service holds for its ports.
fn ports(service: &Value) -> Vec<u16> {
    if !may_have_node_ports(service) {
        return Vec::new();
    }
    let numbers = list(service, "/spec/ports").iter().filter_map(|port| number(port, "/nodePort"));
    numbers.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0).collect()
}

fn all_ports(service: &Value) -> Vec<u16> {
    let health = number(service, "/spec/healthCheckNodePort").filter(|_| needs_health_check_port(service));
    let health = health.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    ports(service).into_iter().chain(health).collect()
}

/// A node port for every port that needs one. Ports of one number (TCP and UDP) share a node port unless the user says
/// otherwise (upstream's `initNodePorts`).
fn take_node_ports(
    cx: &Context<'_>,
    service: &mut Value,
    held: &[u16],
    reserved: &mut Reservation,
) -> Result<(), Status> {
    if !may_have_node_ports(service) {
        return Ok(());
    }
    let name = meta::name(service).to_owned();
    let every_port = gets_node_ports(service);
    let mut ours: Vec<u16> = held.to_vec();
    // (port, node port) of what is settled; first all that the user chose.
    let mut settled: Vec<(i64, u16)> = Vec::new();
    for (index, port) in list(service, "/spec/ports").iter().enumerate() {
        let chosen = number(port, "/nodePort").unwrap_or(0);
        if chosen == 0 {
            continue;
        }
        let node_port = u16::try_from(chosen).unwrap_or(0);
        if !ours.contains(&node_port) {
            let taken = cx.allocators.node_ports.allocate(node_port).map_err(|error| {
                let field = format!("spec.ports[{index}].nodePort");
                let fault = FieldError::invalid(field, chosen, error.to_string());
                Status::invalid("", "Service", &name, vec![fault])
            })?;
            reserved.join(taken);
            ours.push(node_port);
        }
        settled.push((number(port, "/port").unwrap_or(0), node_port));
    }
    if !every_port {
        return Ok(());
    }
    let ports = child(service, "spec").get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        if number(port, "/nodePort").unwrap_or(0) != 0 {
            continue;
        }
        let service_port = number(port, "/port").unwrap_or(0);
        let shared = settled.iter().find(|(number, _)| *number == service_port).map(|(_, port)| *port);
        let node_port = match shared {
            Some(node_port) => node_port,
            None => {
                let (node_port, taken) = cx.allocators.node_ports.allocate_next().map_err(full)?;
                reserved.join(taken);
                settled.push((service_port, node_port));
                node_port
            }
        };
        port["nodePort"] = node_port.into();
    }
    Ok(())
}

fn take_health_check_port(
    cx: &Context<'_>,
    service: &mut Value,
    held: Option<i64>,
    reserved: &mut Reservation,
) -> Result<(), Status> {
    if !needs_health_check_port(service) {
        return Ok(());
    }
    let chosen = number(service, "/spec/healthCheckNodePort").unwrap_or(0);
    if chosen != 0 && held == Some(chosen) {
        return Ok(());
    }
    let port = if chosen == 0 {
        let (port, taken) = cx.allocators.node_ports.allocate_next().map_err(full)?;
        reserved.join(taken);
        port
    } else {
        let port = u16::try_from(chosen).unwrap_or(0);
        let taken = cx.allocators.node_ports.allocate(port).map_err(|error| {
            Status::internal(format!("failed to allocate requested HealthCheck NodePort {chosen}: {error}"))
        })?;
        reserved.join(taken);
        port
    };
    child(service, "spec").insert("healthCheckNodePort".to_owned(), port.into());
    Ok(())
}

fn full(error: AllocateError) -> Status {
    Status::internal(format!("failed to allocate a nodePort: {error}"))
}
