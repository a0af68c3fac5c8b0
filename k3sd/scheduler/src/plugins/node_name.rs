//! `NodeName`: a pod that names its node runs only there.

use crate::{
    cache::NodeInfo,
    framework::{Filter, Plugin, Reasons},
    queue::Events,
    views::Pod,
};

pub(crate) struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn events(&self) -> Events {
        Events::NODE_ADD
    }
}

impl Filter for NodeName {
    fn filter(&self, pod: &Pod, info: &NodeInfo) -> Result<(), Reasons> {
        if pod.node_name.is_empty() || pod.node_name == info.node.name {
            return Ok(());
        }
        Err(vec!["node(s) didn't match the requested node name".into()])
    }
}
