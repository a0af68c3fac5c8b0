//! `TaintToleration`: taints keep pods off that do not tolerate them; soft ones make a node less wanted.

use crate::{
    cache::NodeInfo,
    framework::{Filter, Plugin, Reasons, Score, scale},
    queue::Events,
    views::{Pod, Toleration},
};

pub(crate) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn events(&self) -> Events {
        Events::NODE_ADD | Events::NODE_SPEC
    }
}

impl Filter for TaintToleration {
    fn filter(&self, pod: &Pod, info: &NodeInfo) -> Result<(), Reasons> {
        let mut hard = info
            .node
            .taints
            .iter()
            .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
        if hard.all(|taint| pod.tolerates(taint)) {
            return Ok(());
        }
        Err(vec!["node(s) had untolerated taint(s)".into()])
    }
}

impl Score for TaintToleration {
    fn score(&self, pod: &Pod, info: &NodeInfo) -> i64 {
        let soft = |toleration: &&Toleration| {
            toleration.effect.is_empty() || toleration.effect == "PreferNoSchedule"
        };
        let intolerable = info
            .node
            .taints
            .iter()
            .filter(|taint| taint.effect == "PreferNoSchedule")
            .filter(|taint| {
                !pod.tolerations.iter().filter(soft).any(|toleration| toleration.tolerates(taint))
            })
            .count();
        i64::try_from(intolerable).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, true);
    }
}
