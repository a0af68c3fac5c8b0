//! `NodePorts`: two pods of a node cannot claim the same port of the host.

use crate::{
    cache::NodeInfo,
    framework::{Filter, Plugin, Reasons},
    queue::Events,
    views::{HostPort, Pod},
};

const ANY_ADDRESS: &str = "0.0.0.0";

pub(crate) struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn events(&self) -> Events {
        Events::NODE_ADD | Events::POD_GONE
    }
}

impl Filter for NodePorts {
    fn filter(&self, pod: &Pod, info: &NodeInfo) -> Result<(), Reasons> {
        let taken = |wanted: &HostPort| info.host_ports.iter().any(|used| conflict(wanted, used));
        if pod.host_ports.iter().any(taken) {
            return Err(vec!["node(s) didn't have free ports for the requested pod ports".into()]);
        }
        Ok(())
    }
}

fn conflict(a: &HostPort, b: &HostPort) -> bool {
    a.port == b.port
        && a.protocol == b.protocol
        && (a.ip == b.ip || a.ip == ANY_ADDRESS || b.ip == ANY_ADDRESS)
}
