//! `NodeResourcesFit`: what the pod asks for must be free on the node; emptier nodes are better (`LeastAllocated`).

use crate::{
    cache::NodeInfo,
    framework::{Filter, MAX_SCORE, Plugin, Reasons, Score},
    queue::Events,
    views::Pod,
};

pub(crate) struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn events(&self) -> Events {
        Events::NODE_ADD | Events::NODE_ALLOCATABLE | Events::POD_GONE
    }
}

impl Filter for NodeResourcesFit {
    fn filter(&self, pod: &Pod, info: &NodeInfo) -> Result<(), Reasons> {
        let (ask, have, used) = (&pod.requests, &info.node.allocatable, &info.requested);
        let mut reasons = Reasons::new();
        if info.pods + 1 > have.pods {
            reasons.push("Too many pods".into());
        }
        let mut check = |name: &str, ask: i64, have: i64, used: i64| {
            if ask > 0 && ask > have - used {
                reasons.push(format!("Insufficient {name}").into());
            }
        };
        check("cpu", ask.milli_cpu, have.milli_cpu, used.milli_cpu);
        check("memory", ask.memory, have.memory, used.memory);
        check("ephemeral-storage", ask.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
        for (name, amount) in &ask.other {
            let of = |map: &std::collections::BTreeMap<String, i64>| map.get(name).copied().unwrap_or(0);
            check(name, *amount, of(&have.other), of(&used.other));
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

impl Score for NodeResourcesFit {
    /// The mean of the free shares of processor and memory, if the pod were there.
    fn score(&self, pod: &Pod, info: &NodeInfo) -> i64 {
        let (ask, have, used) = (&pod.scoring_requests, &info.node.allocatable, &info.scoring_requested);
        let free = |ask: i64, have: i64, used: i64| {
            let total = used.saturating_add(ask);
            if have == 0 || total > have { 0 } else { (have - total).saturating_mul(MAX_SCORE) / have }
        };
        let cpu = free(ask.milli_cpu, have.milli_cpu, used.milli_cpu);
        let memory = free(ask.memory, have.memory, used.memory);
        (cpu + memory) / 2
    }
}
