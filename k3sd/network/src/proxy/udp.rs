//! Which UDP connections lead to an endpoint that their service no longer has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::model::{Family, Model, Protocol, TrafficPolicy};
use crate::conntrack::Entry;

/// Where clients of UDP services send to (an address and a port; no address: any node port), and the endpoints there are.
pub(super) type Fronts = BTreeMap<(Option<IpAddr>, u16), BTreeSet<(IpAddr, u16)>>;

/// The fronts of one address family.
pub(super) fn fronts(model: &Model, family: Family) -> Fronts {
    let mut fronts = Fronts::new();
    for (key, service) in &model.services {
        if !service.families().contains(&family) {
            continue;
        }
        for port in service.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
            // The node's name does not matter for all endpoints of the cluster.
            let endpoints = model.endpoints(key, port, family, "", TrafficPolicy::Cluster);
            let endpoints: BTreeSet<_> =
                endpoints.iter().map(|endpoint| (endpoint.address, endpoint.port)).collect();
            let addresses = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
            for address in addresses.into_iter().flatten().filter(|address| Family::of(**address) == family) {
                fronts.insert((Some(*address), port.port), endpoints.clone());
            }
            if let Some(node_port) = port.node_port {
                fronts.insert((None, node_port), endpoints);
            }
        }
    }
    fronts
}

/// Whether a connection belongs to a service and goes to none of its endpoints.
pub(super) fn is_stale(fronts: &Fronts, entry: &Entry) -> bool {
    let (address, port) = entry.original.destination;
    let answered_by = entry.reply.source;
    if let Some(endpoints) = fronts.get(&(Some(address), port)) {
        return !endpoints.contains(&answered_by);
    }
    // Only what was translated has to do with a node port; the same port of some machine elsewhere has not.
    let translated = answered_by.0 != address;
    fronts.get(&(None, port)).is_some_and(|endpoints| translated && !endpoints.contains(&answered_by))
}
