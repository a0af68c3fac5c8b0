//! From services and endpoints to the wanted content of table `skerry-services`: a pure function.
//!
//! The way of a packet (nat hooks prerouting for what comes in, output for what the node itself sends):
//!
//! ```text
//! dispatch ── service-ips (address . protocol . port) ─┬─ cluster IP ──────────► internal/…
//!    │                                                 ├─ external IP ─────────► external/…
//!    │                                                 └─ load balancer's IP ──► firewall/… or external/…
//!    └─ a local address: node-ports (protocol . port) ────────────────────────► external/…
//!
//! internal/NAMESPACE/NAME/PROTOCOL/PORT   masquerade if not from a pod; to all/… or own/… (internalTrafficPolicy)
//! external/…                              masquerade, to all/… ; or to own/… with the client's address (Local)
//! all/…, own/…                            one endpoint by chance (of all, of this node), or the client's last one
//! ```
//!
//! Lookups are in hash maps, so the cost of a connection does not grow with the number of services. Services without
//! endpoints are rejected in the filter hooks, where `reject` is allowed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use client::ObjectKey;
use ipnet::IpNet;

use super::model::{Endpoint, Family, Model, Port, Service, TrafficPolicy};

/// The bit of the packet mark that asks for masquerading; the same as upstream's and flannel's, which leave marked packets alone.
const MASQUERADE: &str = "meta mark set meta mark | 0x00004000";

/// Whose rules, and where.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) node: String,
    /// Sources inside are pods, whose address is kept.
    pub(crate) cluster_cidrs: Vec<IpNet>,
}

/// The wanted content of one table, apart from the fixed chains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Chain name to its rules.
    pub(crate) chains: BTreeMap<String, Vec<String>>,
    /// Names of the sets that remember which client uses which endpoint.
    pub(crate) affinity_sets: BTreeMap<String, ()>,
    /// Map or set and key, to the value if it is a map.
    pub(crate) elements: BTreeMap<(&'static str, String), Option<String>>,
}

/// Computes the rules of one address family.
pub(crate) fn rules(model: &Model, family: Family, site: &Site) -> Rules {
    let mut builder = Builder { model, family, site, rules: Rules::default() };
    for (key, service) in &model.services {
        if service.families().contains(&family) {
            for port in &service.ports {
                builder.port(key, service, port);
            }
        }
    }
    builder.rules
}

struct Builder<'a> {
    model: &'a Model,
    family: Family,
    site: &'a Site,
    rules: Rules,
}

/// One service port while its rules are made.
struct Context<'a> {
    service: &'a Service,
    port: &'a Port,
    /// `NAMESPACE/NAME/PROTOCOL/PORT`: unique, and readable in `nft list ruleset`.
    path: String,
    all: Vec<Endpoint>,
    own: Vec<Endpoint>,
}

impl Builder<'_> {
    fn port(&mut self, key: &ObjectKey, service: &Service, port: &Port) {
        let endpoints = |policy| self.model.endpoints(key, port, self.family, &self.site.node, policy);
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let context = Context {
            service,
            port,
            path: format!("{namespace}/{}/{}/{}", key.name, port.protocol.text(), port.port),
            all: endpoints(TrafficPolicy::Cluster),
            own: endpoints(TrafficPolicy::Local),
        };
        if context.all.is_empty() {
            self.reject(&context);
            return;
        }
        self.internal(&context);
        self.external(&context);
        for endpoint in context.all.iter().filter(|endpoint| endpoint.local) {
            let pair = format!("{0} . {0}", endpoint.address);
            self.rules.elements.insert(("hairpin", pair), None);
        }
    }

    fn reject(&mut self, context: &Context<'_>) {
        for address in self.all_addresses(context) {
            let key = address_key(address, context.port);
            self.rules.elements.insert(("no-endpoint-ips", key), None);
        }
        if let Some(node_port) = context.port.node_port {
            let key = format!("{} . {node_port}", context.port.protocol.text());
            self.rules.elements.insert(("no-endpoint-ports", key), None);
        }
    }

    fn internal(&mut self, context: &Context<'_>) {
        let mut rules = Vec::new();
        if let Some(cidr) = self.cluster_cidr() {
            rules.push(format!("{} saddr != {cidr} {MASQUERADE}", self.ip()));
        }
        rules.push(self.enter_endpoints(context, context.service.internal_policy));
        let chain = format!("internal/{}", context.path);
        for address in self.of_family(&context.service.cluster_ips) {
            self.element("service-ips", address_key(address, context.port), &chain);
        }
        self.rules.chains.insert(chain, rules);
    }

    fn external(&mut self, context: &Context<'_>) {
        let external_ips = self.of_family(&context.service.external_ips);
        let load_balancer_ips = self.of_family(&context.service.load_balancer_ips);
        if external_ips.is_empty() && load_balancer_ips.is_empty() && context.port.node_port.is_none() {
            return;
        }
        let chain = format!("external/{}", context.path);
        let rules = self.external_rules(context);
        self.rules.chains.insert(chain.clone(), rules);
        for address in external_ips {
            self.element("service-ips", address_key(address, context.port), &chain);
        }
        if let Some(node_port) = context.port.node_port {
            self.element("node-ports", format!("{} . {node_port}", context.port.protocol.text()), &chain);
        }
        if !load_balancer_ips.is_empty() {
            let entry = self.firewall(context, &chain);
            for address in load_balancer_ips {
                self.element("service-ips", address_key(address, context.port), &entry);
            }
        }
    }

    fn external_rules(&mut self, context: &Context<'_>) -> Vec<String> {
        let everywhere = self.enter_endpoints(context, TrafficPolicy::Cluster);
        match context.service.external_policy {
            TrafficPolicy::Cluster => vec![MASQUERADE.to_owned(), everywhere],
            // Pods and the node itself have no address to preserve, and may use endpoints of other nodes (KEP-3685's
            // short cut, as upstream).
            TrafficPolicy::Local => {
                let mut rules = Vec::new();
                if let Some(cidr) = self.cluster_cidr() {
                    rules.push(format!("{} saddr {cidr} {everywhere}", self.ip()));
                }
                rules.push(format!("fib saddr type local {MASQUERADE}"));
                rules.push(format!("fib saddr type local {everywhere}"));
                rules.push(self.enter_endpoints(context, TrafficPolicy::Local));
                rules
            }
        }
    }

    /// The chain that traffic to the load balancer's addresses enters.
    fn firewall(&mut self, context: &Context<'_>, external: &str) -> String {
        let ranges = &context.service.source_ranges;
        if ranges.is_empty() {
            return external.to_owned();
        }
        let mut allowed: Vec<IpNet> = ranges.iter().map(IpNet::trunc).collect();
        allowed.retain(|range| Family::of(range.addr()) == self.family);
        // Overlapping ranges in one set are an error.
        let allowed: Vec<String> = IpNet::aggregate(&allowed).iter().map(IpNet::to_string).collect();
        let mut rules = Vec::new();
        if !allowed.is_empty() {
            rules.push(format!("{} saddr {{ {} }} goto {external}", self.ip(), allowed.join(", ")));
        }
        rules.push("drop".to_owned());
        let chain = format!("firewall/{}", context.path);
        self.rules.chains.insert(chain.clone(), rules);
        chain
    }

    /// The verdict that sends traffic to the endpoints of `policy`; makes their chain if need be.
    fn enter_endpoints(&mut self, context: &Context<'_>, policy: TrafficPolicy) -> String {
        let (prefix, endpoints) = match policy {
            TrafficPolicy::Cluster => ("all", &context.all),
            TrafficPolicy::Local => ("own", &context.own),
        };
        // There are endpoints elsewhere: upstream drops rather than rejects, the client is to try another node.
        if endpoints.is_empty() {
            return "drop".to_owned();
        }
        let chain = format!("{prefix}/{}", context.path);
        if !self.rules.chains.contains_key(&chain) {
            let rules = match context.service.affinity_seconds {
                Some(seconds) => self.sticky(context, endpoints, seconds),
                None => vec![spread(context.port, endpoints)],
            };
            self.rules.chains.insert(chain.clone(), rules);
        }
        format!("goto {chain}")
    }

    /// Rules for session affinity: the endpoint that the client used last, else one by chance.
    fn sticky(&mut self, context: &Context<'_>, endpoints: &[Endpoint], seconds: u32) -> Vec<String> {
        let ip = self.ip();
        let mut rules = Vec::new();
        let mut verdicts = Vec::new();
        for (place, endpoint) in endpoints.iter().enumerate() {
            // Identifiers have no colons.
            let address = endpoint.address.to_string().replace(':', "_");
            let path = format!("{}/{address}/{}", context.path, endpoint.port);
            let (chain, clients) = (format!("endpoint/{path}"), format!("affinity/{path}"));
            rules.push(format!("{ip} saddr @{clients} goto {chain}"));
            verdicts.push(format!("{place} : goto {chain}"));
            let remember = format!("update @{clients} {{ {ip} saddr timeout {seconds}s }}");
            self.rules
                .chains
                .insert(chain, vec![remember, spread(context.port, std::slice::from_ref(endpoint))]);
            self.rules.affinity_sets.insert(clients, ());
        }
        rules.push(format!("numgen random mod {} vmap {{ {} }}", verdicts.len(), verdicts.join(", ")));
        rules
    }

    fn element(&mut self, map: &'static str, key: String, chain: &str) {
        // Two services may claim one external address and port; the first by name keeps it, always the same one.
        self.rules.elements.entry((map, key)).or_insert_with(|| Some(format!("goto {chain}")));
    }

    fn all_addresses(&self, context: &Context<'_>) -> Vec<IpAddr> {
        let service = context.service;
        [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips]
            .into_iter()
            .flat_map(|addresses| self.of_family(addresses))
            .collect()
    }

    fn of_family(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        addresses.iter().copied().filter(|address| Family::of(*address) == self.family).collect()
    }

    fn cluster_cidr(&self) -> Option<String> {
        let mut cidrs = self.site.cluster_cidrs.iter();
        cidrs.find(|cidr| Family::of(cidr.addr()) == self.family).map(|cidr| cidr.trunc().to_string())
    }

    fn ip(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }
}

fn address_key(address: IpAddr, port: &Port) -> String {
    format!("{address} . {} . {}", port.protocol.text(), port.port)
}

/// One endpoint by chance.
fn spread(port: &Port, endpoints: &[Endpoint]) -> String {
    let protocol = port.protocol.text();
    if let [only] = endpoints {
        let target = std::net::SocketAddr::new(only.address, only.port);
        return format!("meta l4proto {protocol} dnat to {target}");
    }
    let places: Vec<String> = endpoints
        .iter()
        .enumerate()
        .map(|(place, endpoint)| format!("{place} : {} . {}", endpoint.address, endpoint.port))
        .collect();
    let (count, places) = (places.len(), places.join(", "));
    format!("meta l4proto {protocol} dnat to numgen random mod {count} map {{ {places} }}")
}
