//! `NodeResourcesBalancedAllocation`: prefers nodes where the pod leaves processor and memory used in equal shares.

use crate::{
    cache::NodeInfo,
    framework::{MAX_SCORE, Plugin, Score},
    queue::Events,
    views::Pod,
};

pub(crate) struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn events(&self) -> Events {
        Events::default()
    }
}

impl Score for NodeResourcesBalancedAllocation {
    /// 100 less half the difference of the two shares (for two resources that is their standard deviation).
    fn score(&self, pod: &Pod, info: &NodeInfo) -> i64 {
        let (ask, have, used) = (&pod.requests, &info.node.allocatable, &info.requested);
        let share = |ask: i64, have: i64, used: i64| {
            if have == 0 { 0.0 } else { ((used + ask) as f64 / have as f64).min(1.0) }
        };
        let cpu = share(ask.milli_cpu, have.milli_cpu, used.milli_cpu);
        let memory = share(ask.memory, have.memory, used.memory);
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
    }
}
