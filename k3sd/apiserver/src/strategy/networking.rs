//! Ingresses, their classes, and network policies (upstream's `pkg/apis/networking/validation`).

use machinery::status::FieldError;
use serde_json::{Value, json};

use super::check::{self, child, list, set_default};
use super::walk::{Faults, Node};
use super::{Context, Strategy};
use crate::names;

pub(super) struct Ingress;

impl Strategy for Ingress {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        if !spec.get("defaultBackend").is_set() && spec.get("rules").len() == 0 {
            faults.invalid(&spec, "either `defaultBackend` or `rules` must be specified");
        }
        if spec.get("defaultBackend").is_set() {
            backend(&spec.get("defaultBackend"), &mut faults);
        }
        for rule in spec.get("rules").items() {
            host(&rule.get("host"), &mut faults);
            let paths = rule.at("http.paths");
            if rule.get("http").is_set() && paths.len() == 0 {
                faults.required(&paths, "");
            }
            for path in paths.items() {
                one_path(&path, &mut faults);
            }
        }
        for tls in spec.get("tls").items() {
            for name in tls.get("hosts").items() {
                host(&name, &mut faults);
            }
        }
        if spec.get("ingressClassName").is_set() {
            faults.name(&spec.get("ingressClassName"), names::dns1123_subdomain);
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

fn host(host: &Node<'_>, faults: &mut Faults) {
    let name = host.str();
    if name.is_empty() {
        return;
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        faults.invalid(host, "must be a DNS name, not an IP address");
    }
    for detail in names::dns1123_subdomain(name.strip_prefix("*.").unwrap_or(name), false) {
        faults.invalid(host, detail);
    }
}

fn one_path(path: &Node<'_>, faults: &mut Faults) {
    let (text, kind) = (path.get("path"), path.get("pathType"));
    if !kind.is_set() {
        faults.required(&kind, "pathType must be specified");
    } else {
        faults.one_of(&kind, &["Exact", "ImplementationSpecific", "Prefix"]);
    }
    let strict = matches!(kind.str(), "Exact" | "Prefix");
    let needs_slash = strict || !text.str().is_empty();
    if needs_slash && !text.str().starts_with('/') {
        faults.invalid(&text, "must be an absolute path");
    }
    if strict {
        for bad in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|bad| text.str().contains(bad)) {
            faults.invalid(&text, format!("must not contain '{bad}'"));
        }
        for bad in ["/..", "/."].into_iter().filter(|bad| text.str().ends_with(bad)) {
            faults.invalid(&text, format!("cannot end with '{bad}'"));
        }
    }
    backend(&path.get("backend"), faults);
}

fn backend(backend: &Node<'_>, faults: &mut Faults) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => faults.invalid(backend, "cannot set both resource and service backends"),
        (false, false) => faults.required(backend, "resource or service backend is required"),
        (false, true) => {}
        (true, false) => {
            faults.required_name(&service.get("name"), names::dns1035_label);
            let (name, number) = (service.at("port.name"), service.at("port.number"));
            match (name.str(), number.int().unwrap_or(0)) {
                ("", 0) => faults.required(&service, "port name or number is required"),
                ("", port) => check::port(port, number.path(), &mut faults.0),
                (_, 0) => {}
                _ => faults.invalid(&service.get("port"), "cannot set both port name & port number"),
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

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Vec::new();
        check::immutable(object, old, "/spec/controller", &mut faults);
        faults
    }

    fn has_generation(&self) -> bool {
        true
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
        for kind in spec.get("policyTypes").items() {
            faults.one_of(&kind, &["Egress", "Ingress"]);
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
    faults.one_of_if_set(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
    let (first, last) = (port.get("port"), port.get("endPort"));
    if let Some(number) = first.int() {
        check::port(number, first.path(), &mut faults.0);
    }
    match (first.int(), last.int()) {
        (Some(first), Some(end)) if end < first => {
            faults.invalid(&last, "must be greater than or equal to `port`");
        }
        (None, Some(_)) if !first.is_set() => {
            faults.required(&first, "must be specified if `endPort` is specified")
        }
        (None, Some(_)) => faults.invalid(&last, "may not be specified when `port` is non-numeric"),
        _ => {}
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
        let cidr = block.get("cidr");
        check::cidr(cidr.str(), cidr.path(), &mut faults.0);
        for except in block.get("except").items() {
            check::cidr(except.str(), except.path(), &mut faults.0);
            let nets = (cidr.str().parse::<ipnet::IpNet>(), except.str().parse::<ipnet::IpNet>());
            if let (Ok(outer), Ok(inner)) = nets
                && (!outer.contains(&inner) || outer == inner)
            {
                faults.invalid(&except, "must be a strict subset of `cidr`");
            }
        }
    }
}
