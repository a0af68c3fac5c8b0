//! Ingresses, their classes, and network policies (upstream's `pkg/apis/networking/validation`).

use std::net::IpAddr;

use ipnet::IpNet;
use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::check::{self, child, list, set_default, text};
use super::walk::{Faults, Node};
use super::{Context, Strategy};
use crate::names;

/// How a class was named before there was a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const MAX_CONTROLLER_LENGTH: usize = 250;
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

pub(super) struct Ingress;

impl Strategy for Ingress {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        ingress(&Node::root(object).get("spec"), &Leniency::default(), &mut faults);
        let (class, old_way) =
            (text(object, "/spec/ingressClassName"), meta::annotation(object, CLASS_ANNOTATION));
        if let Some(old_way) = old_way
            && check::is_set(object, "/spec/ingressClassName")
            && old_way != class
        {
            faults.push(FieldError::invalid(
                format!("annotations.{CLASS_ANNOTATION}"),
                old_way,
                "must match `ingressClassName` when both are specified",
            ));
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource == "status" {
            load_balancer(&Node::root(object).at("status.loadBalancer.ingress"), &mut faults);
        } else {
            ingress(&Node::root(object).get("spec"), &Leniency::of(old), &mut faults);
        }
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// What an update may keep as it is, because what is stored has it.
#[derive(Default)]
struct Leniency {
    secret_names: bool,
    wildcard_rules: bool,
}

impl Leniency {
    fn of(old: &Value) -> Self {
        let spec = Node::root(old).get("spec");
        Self {
            secret_names: spec.get("tls").items().any(|tls| {
                let name = tls.get("secretName").str();
                !name.is_empty() && !names::dns1123_subdomain(name, false).is_empty()
            }),
            wildcard_rules: spec.get("rules").items().any(|rule| {
                let mut faults = Faults::default();
                rule_value(&rule, &mut faults);
                rule.get("host").str().contains('*') && !faults.0.is_empty()
            }),
        }
    }
}

fn ingress(spec: &Node<'_>, lenient: &Leniency, faults: &mut Faults) {
    let (backend, rules) = (spec.get("defaultBackend"), spec.get("rules"));
    if !backend.is_set() && rules.len() == 0 {
        let detail = "either `defaultBackend` or `rules` must be specified";
        faults.push(FieldError::invalid(spec.path(), rules.value().clone(), detail));
    }
    if backend.is_set() {
        validate_backend(&backend, faults);
    }
    for rule in rules.items() {
        let name = rule.get("host");
        if name.str().parse::<IpAddr>().is_ok() {
            faults.invalid(&name, "must be a DNS name, not an IP address");
        }
        if !name.str().is_empty() {
            host(&name, faults);
        }
        if !name.str().contains('*') || !lenient.wildcard_rules {
            rule_value(&rule, faults);
        }
    }
    for tls in spec.get("tls").items() {
        tls.get("hosts").items().for_each(|name| host(&name, faults));
        let secret = tls.get("secretName");
        if !secret.str().is_empty() && !lenient.secret_names {
            faults.name(&secret, names::dns1123_subdomain);
        }
    }
    if spec.get("ingressClassName").is_set() {
        faults.name(&spec.get("ingressClassName"), names::dns1123_subdomain);
    }
}

fn host(name: &Node<'_>, faults: &mut Faults) {
    if name.str().contains('*') {
        faults.name(name, names::wildcard_dns1123_subdomain);
    } else {
        faults.name(name, names::dns1123_subdomain);
    }
}

fn rule_value(rule: &Node<'_>, faults: &mut Faults) {
    let paths = rule.at("http.paths");
    if rule.get("http").is_set() && paths.len() == 0 {
        faults.required(&paths, "");
    }
    paths.items().for_each(|path| one_path(&path, faults));
}

fn one_path(path: &Node<'_>, faults: &mut Faults) {
    let (text, kind) = (path.get("path"), path.get("pathType"));
    if !kind.is_set() {
        faults.required(&kind, "pathType must be specified");
        return;
    }
    match kind.str() {
        "Exact" | "Prefix" => strict_path(&text, faults),
        "ImplementationSpecific" if text.str().is_empty() || text.str().starts_with('/') => {}
        "ImplementationSpecific" => faults.invalid(&text, "must be an absolute path"),
        _ => faults.push(FieldError::not_supported(kind.path(), kind.str(), &PATH_TYPES)),
    }
    validate_backend(&path.get("backend"), faults);
}

fn strict_path(path: &Node<'_>, faults: &mut Faults) {
    let text = path.str();
    if !text.starts_with('/') {
        faults.push(FieldError::invalid(path.path(), text, "must be an absolute path"));
    }
    for bad in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|bad| text.contains(bad)) {
        faults.invalid(path, format!("must not contain '{bad}'"));
    }
    for bad in ["/..", "/."].into_iter().filter(|bad| text.ends_with(bad)) {
        faults.invalid(path, format!("cannot end with '{bad}'"));
    }
}

fn validate_backend(backend: &Node<'_>, faults: &mut Faults) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    let mut refuse = |detail: &str| faults.push(FieldError::invalid(backend.path(), "", detail));
    match (service.is_set(), resource.is_set()) {
        (true, true) => refuse("cannot set both resource and service backends"),
        (false, false) => refuse("resource or service backend is required"),
        (false, true) => reference(&resource, faults),
        (true, false) => {
            faults.required_name(&service.get("name"), names::dns1035_label);
            let (name, number) = (service.at("port.name"), service.at("port.number"));
            match (name.str(), number.int().unwrap_or(0)) {
                ("", 0) => faults.required(backend, "port name or number is required"),
                ("", port) => check::port(port, number.path(), &mut faults.0),
                (_, 0) => faults.name(&name, names::port_name),
                _ => faults.push(FieldError::invalid(
                    backend.path(),
                    "",
                    "cannot set both port name & port number",
                )),
            }
        }
    }
}

/// An object named by kind, of any group.
fn reference(reference: &Node<'_>, faults: &mut Faults) {
    let group = reference.get("apiGroup");
    if group.is_set() {
        faults.name(&group, names::dns1123_subdomain);
    }
    faults.required_name(&reference.get("kind"), names::path_segment);
    faults.required_name(&reference.get("name"), names::path_segment);
}

/// Where traffic enters, as the controller reports it.
fn load_balancer(points: &Node<'_>, faults: &mut Faults) {
    for point in points.items() {
        let (ip, name) = (point.get("ip"), point.get("hostname"));
        if !ip.str().is_empty() {
            check::ip(ip.str(), ip.path(), &mut faults.0);
        }
        if !name.str().is_empty() {
            faults.name(&name, names::dns1123_subdomain);
            if name.str().parse::<IpAddr>().is_ok() {
                faults.invalid(&name, "must be a DNS name, not an IP address");
            }
        }
    }
}

pub(super) struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if check::is_set(object, "/spec/parameters") {
            let parameters = machinery::meta::child_mut(child(object, "spec"), "parameters");
            set_default(parameters, "scope", "Cluster");
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        class(&Node::root(object).get("spec"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Vec::new();
        check::immutable(object, old, "/spec/controller", &mut faults);
        faults.extend(self.validate_create(cx, object));
        faults
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn class(spec: &Node<'_>, faults: &mut Faults) {
    let controller = spec.get("controller");
    if controller.str().len() > MAX_CONTROLLER_LENGTH {
        faults.push(FieldError::too_long(controller.path(), MAX_CONTROLLER_LENGTH));
    }
    faults.domain_prefixed_path(&controller);
    let parameters = spec.get("parameters");
    if !parameters.is_set() {
        return;
    }
    reference(&parameters, faults);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    faults.one_of(&scope, &["Cluster", "Namespace"]);
    match (scope.str(), namespace.is_set()) {
        ("Namespace", false) => faults.required(&namespace, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", true) => faults.name(&namespace, names::dns1123_label),
        ("Cluster", true) => faults.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'"),
        _ => {}
    }
}

pub(super) struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    /// A policy is about what comes in, and about what goes out if it says anything of that.
    fn default(&self, object: &mut Value) {
        if list(object, "/spec/policyTypes").is_empty() {
            let egress = !list(object, "/spec/egress").is_empty();
            let kinds = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            child(object, "spec").insert("policyTypes".to_owned(), kinds);
        }
        for direction in ["ingress", "egress"] {
            let rules = object.pointer_mut(&format!("/spec/{direction}")).and_then(Value::as_array_mut);
            for rule in rules.into_iter().flatten() {
                for port in rule.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(port) = port.as_object_mut() {
                        set_default(port, "protocol", "TCP");
                    }
                }
            }
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        faults.label_selector(&spec.get("podSelector"));
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.get(direction).items() {
                for port in rule.get("ports").items() {
                    policy_port(&port, &mut faults);
                }
                for peer in rule.get(peers).items() {
                    policy_peer(&peer, &mut faults);
                }
            }
        }
        let kinds = spec.get("policyTypes");
        if kinds.len() > 2 {
            faults.invalid(&kinds, "may not specify more than two policyTypes");
            return faults.0;
        }
        for kind in kinds.items().filter(|kind| !matches!(kind.str(), "Egress" | "Ingress")) {
            faults.push(FieldError::not_supported(kind.path(), kind.str(), &["Egress", "Ingress"]));
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_create(cx, object)
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn policy_port(port: &Node<'_>, faults: &mut Faults) {
    faults.one_of_if_set(&port.get("protocol"), &["TCP", "UDP", "SCTP"]);
    let (first, last) = (port.get("port"), port.get("endPort"));
    if let Some(number) = first.int() {
        check::port(number, first.path(), &mut faults.0);
        if let Some(end) = last.int() {
            if end < number {
                let detail = "must be greater than or equal to `port`";
                faults.push(FieldError::invalid(last.path(), number, detail));
            }
            check::port(end, last.path(), &mut faults.0);
        }
    } else if first.is_set() {
        if last.is_set() {
            faults.invalid(&last, "may not be specified when `port` is non-numeric");
        }
        faults.name(&first, names::port_name);
    } else if last.is_set() {
        faults.required(&first, "must be specified if `endPort` is specified");
    }
}

fn policy_peer(peer: &Node<'_>, faults: &mut Faults) {
    let (pods, namespaces, block) =
        (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    if !pods.is_set() && !namespaces.is_set() && !block.is_set() {
        faults.required(peer, "must specify a peer");
    }
    if block.is_set() && (pods.is_set() || namespaces.is_set()) {
        faults.forbidden(peer, "may not specify both ipBlock and another peer");
    }
    faults.label_selector(&pods);
    faults.label_selector(&namespaces);
    if block.is_set() {
        ip_block(&block, faults);
    }
}

fn ip_block(block: &Node<'_>, faults: &mut Faults) {
    let cidr = block.get("cidr");
    if cidr.str().is_empty() {
        faults.required(&cidr, "");
        return;
    }
    check::cidr(cidr.str(), cidr.path(), &mut faults.0);
    let Ok(outer) = cidr.str().parse::<IpNet>() else { return };
    for except in block.get("except").items() {
        check::cidr(except.str(), except.path(), &mut faults.0);
        let Ok(inner) = except.str().parse::<IpNet>() else { continue };
        if !outer.contains(&inner.addr()) || outer.prefix_len() >= inner.prefix_len() {
            faults.invalid(&except, "must be a strict subset of `cidr`");
        }
    }
}
