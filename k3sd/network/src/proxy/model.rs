//! What the proxy remembers of Services and EndpointSlices: only what rules are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use client::ObjectKey;
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

/// Objects with this label are another proxy's.
const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Slices of headless services need no rules.
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Upstream's `DefaultClientIPServiceAffinitySeconds`.
const DEFAULT_AFFINITY_SECONDS: i32 = 10800;

/// An address family; each has a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }
}

/// A transport protocol of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Sctp,
    Tcp,
    Udp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// Its name in nftables.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Sctp => "sctp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Which endpoints a kind of traffic may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrafficPolicy {
    Cluster,
    Local,
}

impl TrafficPolicy {
    fn parse(text: Option<&str>) -> Self {
        if text == Some("Local") { Self::Local } else { Self::Cluster }
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
}

/// A service that has addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses; empty: everybody.
    pub(crate) source_ranges: Vec<IpNet>,
    pub(crate) internal_policy: TrafficPolicy,
    pub(crate) external_policy: TrafficPolicy,
    /// How long a client stays with its endpoint.
    pub(crate) affinity_seconds: Option<u32>,
    pub(crate) ports: Vec<Port>,
}

impl Service {
    /// `None`: nothing for the proxy to do (headless, an external name, another proxy's).
    pub(crate) fn project(service: &core::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let labels = service.metadata.labels.as_ref();
        if labels.is_some_and(|labels| labels.contains_key(LABEL_PROXY_NAME)) {
            return None;
        }
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let cluster_ips = cluster_ips(spec);
        if cluster_ips.is_empty() {
            return None;
        }
        Some(Self {
            cluster_ips,
            external_ips: parse_all(spec.external_ips.as_deref().unwrap_or_default()),
            load_balancer_ips: load_balancer_ips(service),
            source_ranges: parse_all(spec.load_balancer_source_ranges.as_deref().unwrap_or_default()),
            internal_policy: TrafficPolicy::parse(spec.internal_traffic_policy.as_deref()),
            external_policy: TrafficPolicy::parse(spec.external_traffic_policy.as_deref()),
            affinity_seconds: affinity_seconds(spec),
            ports: spec.ports.iter().flatten().filter_map(project_port).collect(),
        })
    }

    pub(crate) fn families(&self) -> BTreeSet<Family> {
        self.cluster_ips.iter().copied().map(Family::of).collect()
    }
}

fn cluster_ips(spec: &core::ServiceSpec) -> Vec<IpAddr> {
    match spec.cluster_ips.as_deref() {
        Some(addresses) if !addresses.is_empty() => parse_all(addresses),
        _ => spec.cluster_ip.iter().filter_map(|address| address.parse().ok()).collect(),
    }
}

fn load_balancer_ips(service: &core::Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    // Mode "Proxy": the balancer sends to node ports itself and its address must not be short-cut (KEP-1860).
    let ours = ingress.iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    ours.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect()
}

fn affinity_seconds(spec: &core::ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    u32::try_from(seconds).ok()
}

fn project_port(port: &core::ServicePort) -> Option<Port> {
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(port.protocol.as_deref())?,
        port: u16::try_from(port.port).ok()?,
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
    })
}

fn parse_all<T: std::str::FromStr>(texts: &[String]) -> Vec<T> {
    texts.iter().filter_map(|text| text.trim().parse().ok()).collect()
}

/// One slice of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The service, in the slice's namespace.
    pub(crate) service: String,
    pub(crate) family: Family,
    ports: Vec<SlicePort>,
    endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SlicePort {
    name: String,
    protocol: Protocol,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SliceEndpoint {
    address: IpAddr,
    node: Option<String>,
    ready: bool,
    serving: bool,
    terminating: bool,
}

impl Slice {
    /// `None`: nothing for the proxy to do.
    pub(crate) fn project(slice: &discovery::EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        if labels.contains_key(LABEL_PROXY_NAME) || labels.contains_key(LABEL_HEADLESS) {
            return None;
        }
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        Some(Self {
            service: labels.get(LABEL_SERVICE_NAME)?.clone(),
            family,
            ports: slice.ports.iter().flatten().filter_map(project_slice_port).collect(),
            endpoints: slice.endpoints.iter().flatten().filter_map(project_endpoint).collect(),
        })
    }
}

fn project_slice_port(port: &discovery::EndpointPort) -> Option<SlicePort> {
    Some(SlicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(port.protocol.as_deref())?,
        port: u16::try_from(port.port?).ok().filter(|port| *port != 0)?,
    })
}

/// API reference of EndpointConditions: no `ready` means true, no `serving` means `ready`, no `terminating` false.
fn project_endpoint(endpoint: &discovery::Endpoint) -> Option<SliceEndpoint> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    Some(SliceEndpoint {
        // All addresses of one endpoint are the same backend; every consumer uses the first.
        address: endpoint.addresses.first()?.parse().ok()?,
        node: endpoint.node_name.clone(),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
    })
}

/// One place that a service port's traffic can go to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) local: bool,
}

/// Every service and slice by key; the input of the rules.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) services: BTreeMap<ObjectKey, Service>,
    /// By service (namespace and name), then by the slice's key.
    slices: BTreeMap<ObjectKey, BTreeMap<ObjectKey, Slice>>,
    /// Which service a slice was filed under.
    filed: BTreeMap<ObjectKey, ObjectKey>,
}

impl Model {
    /// Takes over the new state of a service; true if that makes a difference.
    pub(crate) fn set_service(&mut self, key: ObjectKey, service: Option<Service>) -> bool {
        match service {
            Some(service) => self.services.insert(key, service.clone()) != Some(service),
            None => self.services.remove(&key).is_some(),
        }
    }

    /// Takes over the new state of a slice; true if that makes a difference.
    pub(crate) fn set_slice(&mut self, key: ObjectKey, slice: Option<Slice>) -> bool {
        let before = self.remove_slice(&key);
        let changed = before != slice;
        if let Some(slice) = slice {
            let service = ObjectKey { namespace: key.namespace.clone(), name: slice.service.clone() };
            self.filed.insert(key.clone(), service.clone());
            self.slices.entry(service).or_default().insert(key, slice);
        }
        changed
    }

    fn remove_slice(&mut self, key: &ObjectKey) -> Option<Slice> {
        let service = self.filed.remove(key)?;
        let of_service = self.slices.get_mut(&service)?;
        let removed = of_service.remove(key);
        if of_service.is_empty() {
            self.slices.remove(&service);
        }
        removed
    }

    /// Where the traffic of one port goes: sorted, each endpoint once. Endpoints that are ready; if there are none, those
    /// that still serve while they terminate (KEP-1669). With `node` only endpoints of that node count, in both steps.
    pub(crate) fn endpoints(
        &self,
        service: &ObjectKey,
        port: &Port,
        family: Family,
        node: &str,
        policy: TrafficPolicy,
    ) -> Vec<Endpoint> {
        let candidates = || {
            let slices = self.slices.get(service).into_iter().flat_map(BTreeMap::values);
            slices.filter(|slice| slice.family == family).flat_map(|slice| {
                let ports = slice.ports.iter();
                let ports = ports.filter(|own| own.name == port.name && own.protocol == port.protocol);
                ports.flat_map(|own| slice.endpoints.iter().map(move |endpoint| (endpoint, own.port)))
            })
        };
        let select = |usable: fn(&SliceEndpoint) -> bool| {
            let selected = candidates().filter(|(endpoint, _)| usable(endpoint)).map(|(endpoint, port)| {
                Endpoint { address: endpoint.address, port, local: endpoint.node.as_deref() == Some(node) }
            });
            let selected = selected.filter(|endpoint| policy == TrafficPolicy::Cluster || endpoint.local);
            selected.collect::<BTreeSet<_>>()
        };
        let ready = select(|endpoint| endpoint.ready);
        let chosen = if ready.is_empty() {
            select(|endpoint| endpoint.serving && endpoint.terminating)
        } else {
            ready
        };
        chosen.into_iter().collect()
    }
}
