//! `ipFamilies` and `ipFamilyPolicy`: what the user left open follows from the cluster's families (upstream's `initIPFamilyFields`).

use std::net::IpAddr;

use machinery::status::{FieldError, Status};
use serde_json::Value;

use super::{cluster_ips, is_headless, kind, needs_cluster_ip};
use crate::strategy::Context;
use crate::strategy::check::{child, list, text};

/// `IPv4` or `IPv6`.
pub(super) fn of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The families this cluster has service addresses of, the primary first.
pub(super) fn configured(cx: &Context<'_>) -> Vec<&'static str> {
    cx.allocators.service_cidrs.iter().map(|net| of(net.addr())).collect()
}

pub(super) fn given(service: &Value) -> Vec<&str> {
    list(service, "/spec/ipFamilies").iter().filter_map(Value::as_str).collect()
}

/// Fills in policy and families of a service that needs cluster addresses.
pub(super) fn fill(cx: &Context<'_>, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    if !needs_cluster_ip(service) {
        return Ok(());
    }
    let was_same_kind = old.is_some_and(needs_cluster_ip);
    if was_same_kind && let Some(old) = old {
        keep_families(service, old);
    }
    let configured = configured(cx);
    check(service, &configured)?;
    let free = is_headless(service) && !has_selector(service);
    let mut families: Vec<String> = given(service).into_iter().map(str::to_owned).collect();
    // Addresses the user chose say which families are wanted.
    if families.is_empty() {
        let chosen = cluster_ips(service).into_iter().filter_map(|ip| ip.parse().ok());
        families = chosen.map(|ip: IpAddr| of(ip).to_owned()).collect();
    }
    let dual = families.len() > 1 || cluster_ips(service).len() > 1;
    let policy = match text(service, "/spec/ipFamilyPolicy") {
        "" if free || dual => "RequireDualStack",
        "" => "SingleStack",
        policy => policy,
    }
    .to_owned();
    let primary = configured.first().copied().unwrap_or("IPv4");
    if families.is_empty() {
        families.push(primary.to_owned());
    }
    let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
    let wants_other = match policy.as_str() {
        "RequireDualStack" => free || configured.len() > 1,
        "PreferDualStack" => configured.len() > 1,
        _ => false,
    };
    if wants_other && families.len() == 1 {
        families.push(other.to_owned());
    }
    if policy == "SingleStack" && was_same_kind {
        // A change to one family keeps the primary one.
        families.truncate(1);
    }
    let spec = child(service, "spec");
    spec.insert("ipFamilyPolicy".to_owned(), policy.into());
    spec.insert("ipFamilies".to_owned(), families.into());
    Ok(())
}

/// An update that does not speak of families means the ones there are.
fn keep_families(service: &mut Value, old: &Value) {
    for field in ["ipFamilyPolicy", "ipFamilies"] {
        let pointer = format!("/spec/{field}");
        if service.pointer(&pointer).is_none_or(Value::is_null)
            && let Some(was) = old.pointer(&pointer)
        {
            child(service, "spec").insert(field.to_owned(), was.clone());
        }
    }
}

fn check(service: &Value, configured: &[&str]) -> Result<(), Status> {
    let headless_without_selector = is_headless(service) && !has_selector(service);
    let mut faults = Vec::new();
    if !headless_without_selector {
        for (index, family) in given(service).into_iter().enumerate() {
            if matches!(family, "IPv4" | "IPv6") && !configured.contains(&family) {
                let field = format!("spec.ipFamilies[{index}]");
                faults.push(FieldError::invalid(field, family, "not configured on this cluster"));
            }
        }
        if text(service, "/spec/ipFamilyPolicy") == "RequireDualStack" && configured.len() < 2 {
            faults.push(FieldError::invalid(
                "spec.ipFamilyPolicy",
                "RequireDualStack",
                "this cluster is not configured for dual-stack services",
            ));
        }
    }
    if faults.is_empty() || kind(service) == "ExternalName" {
        return Ok(());
    }
    Err(Status::invalid("", "Service", machinery::meta::name(service), faults))
}

fn has_selector(service: &Value) -> bool {
    service.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|selector| !selector.is_empty())
}
