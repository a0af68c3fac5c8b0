//! `NodeUnschedulable`: a cordoned node takes only pods that tolerate that.

use crate::{
    cache::NodeInfo,
    framework::{Filter, Plugin, Reasons},
    queue::Events,
    views::{Pod, Taint},
};

pub(crate) struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn events(&self) -> Events {
        Events::NODE_ADD | Events::NODE_SPEC
    }
}

impl Filter for NodeUnschedulable {
    fn filter(&self, pod: &Pod, info: &NodeInfo) -> Result<(), Reasons> {
        if !info.node.unschedulable {
            return Ok(());
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        };
        if pod.tolerates(&taint) { Ok(()) } else { Err(vec!["node(s) were unschedulable".into()]) }
    }
}
