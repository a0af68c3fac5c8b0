//! The plugins, one file each, named as upstream names them.

mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced;
mod node_resources_fit;
mod node_unschedulable;
mod taint_toleration;

use self::{
    node_affinity::NodeAffinity, node_name::NodeName, node_ports::NodePorts,
    node_resources_balanced::NodeResourcesBalancedAllocation, node_resources_fit::NodeResourcesFit,
    node_unschedulable::NodeUnschedulable, taint_toleration::TaintToleration,
};
use crate::framework::Framework;

/// The plugins in upstream's default order and with its weights (`pkg/scheduler/apis/config/v1/default_plugins.go`).
pub(crate) fn default() -> Framework {
    Framework {
        pre_filters: vec![Box::new(NodeAffinity)],
        filters: vec![
            Box::new(NodeUnschedulable),
            Box::new(NodeName),
            Box::new(TaintToleration),
            Box::new(NodeAffinity),
            Box::new(NodePorts),
            Box::new(NodeResourcesFit),
        ],
        scores: vec![
            (Box::new(TaintToleration), 3),
            (Box::new(NodeAffinity), 2),
            (Box::new(NodeResourcesFit), 1),
            (Box::new(NodeResourcesBalancedAllocation), 1),
        ],
    }
}

#[cfg(test)]
mod tests;
