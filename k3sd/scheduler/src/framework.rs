//! The points at which plugins take part in a scheduling decision (`staging/src/k8s.io/kube-scheduler/framework`).
//!
//! A decision about one pod runs: every [`PreFilter`] once, every [`Filter`] per node, every [`Score`] per node that
//! is left, and then [the binding](crate::bind). Plugins hold no state between decisions.

use std::{borrow::Cow, collections::BTreeSet};

use tracing::trace;

use crate::{
    cache::{Cache, NodeInfo},
    queue::Events,
    views::Pod,
};

/// The highest score of a node.
pub(crate) const MAX_SCORE: i64 = 100;

/// What every plugin has.
pub(crate) trait Plugin: Send + Sync {
    /// The plugin's name upstream.
    fn name(&self) -> &'static str;

    /// What may happen in the cluster that makes a pod schedulable which this plugin rejected.
    fn events(&self) -> Events;
}

/// Narrows the candidates before they are looked at one by one.
pub(crate) trait PreFilter: Plugin {
    fn pre_filter(&self, pod: &Pod) -> Candidates;
}

/// Decides whether a pod can run on a node.
pub(crate) trait Filter: Plugin {
    /// The reasons why not, one text for each.
    fn filter(&self, pod: &Pod, node: &NodeInfo) -> Result<(), Reasons>;
}

/// Decides how well a pod would run on a node.
pub(crate) trait Score: Plugin {
    /// The raw score; higher is better once [`normalize`](Score::normalize) has made it 0 to 100.
    fn score(&self, pod: &Pod, node: &NodeInfo) -> i64;

    /// Brings the raw scores of all nodes into 0 to 100.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Which nodes are worth looking at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Candidates {
    All,
    Only(BTreeSet<String>),
}

/// Why a node does not do.
pub(crate) type Reasons = Vec<Cow<'static, str>>;

/// The plugins in use.
pub(crate) struct Framework {
    pub(crate) pre_filters: Vec<Box<dyn PreFilter>>,
    pub(crate) filters: Vec<Box<dyn Filter>>,
    /// With their weights.
    pub(crate) scores: Vec<(Box<dyn Score>, i64)>,
}

/// Scales scores so that the highest is [`MAX_SCORE`]; reversed, so that the lowest raw score is best.
pub(crate) fn scale(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = match (max, reverse) {
            (0, true) => MAX_SCORE,
            (0, false) => 0,
            (_, true) => MAX_SCORE - *score * MAX_SCORE / max,
            (_, false) => *score * MAX_SCORE / max,
        };
    }
}

/// No node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unschedulable {
    pub(crate) message: String,
    /// The plugins that rejected nodes: what must happen before another attempt makes sense.
    pub(crate) events: Events,
}

impl Framework {
    /// The node for a pod.
    ///
    /// # Errors
    /// [`Unschedulable`] with upstream's message if there is none.
    pub(crate) fn choose(&self, pod: &Pod, cache: &Cache) -> Result<String, Unschedulable> {
        let total = cache.nodes().count();
        if total == 0 {
            return Err(Unschedulable {
                message: "no nodes available to schedule pods".to_owned(),
                events: Events::NODE_ADD,
            });
        }
        let (fit, rejected) = self.filter(pod, cache);
        match fit.as_slice() {
            [] => Err(rejected.describe(total)),
            [only] => Ok(only.node.name.clone()),
            _ => Ok(self.best(pod, &fit)),
        }
    }

    fn filter<'a>(&self, pod: &Pod, cache: &'a Cache) -> (Vec<&'a NodeInfo>, Rejections) {
        let mut rejected = Rejections::default();
        let mut allowed: Option<BTreeSet<String>> = None;
        let mut narrowing = Vec::new();
        for plugin in &self.pre_filters {
            if let Candidates::Only(names) = plugin.pre_filter(pod) {
                rejected.events |= plugin.events();
                narrowing.push(plugin.name());
                allowed = Some(match allowed {
                    Some(before) => before.intersection(&names).cloned().collect(),
                    None => names,
                });
            }
        }
        let mut fit = Vec::new();
        for info in cache.nodes() {
            if allowed.as_ref().is_some_and(|names| !names.contains(&info.node.name)) {
                rejected.count(format!("node(s) didn't satisfy plugin(s) [{}]", narrowing.join(" ")).into());
                continue;
            }
            match self
                .filters
                .iter()
                .find_map(|plugin| plugin.filter(pod, info).err().map(|why| (plugin, why)))
            {
                None => fit.push(info),
                Some((plugin, reasons)) => {
                    trace!(node = %info.node.name, plugin = plugin.name(), "node rejected");
                    rejected.events |= plugin.events();
                    reasons.into_iter().for_each(|reason| rejected.count(reason));
                }
            }
        }
        (fit, rejected)
    }

    /// The node with the highest sum of weighted scores; one of them at random if several have it.
    fn best(&self, pod: &Pod, fit: &[&NodeInfo]) -> String {
        let mut totals = vec![0i64; fit.len()];
        for (plugin, weight) in &self.scores {
            let mut scores: Vec<i64> = fit.iter().map(|info| plugin.score(pod, info)).collect();
            plugin.normalize(&mut scores);
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += score * weight;
            }
        }
        let highest = totals.iter().copied().max().unwrap_or(0);
        let best: Vec<_> = fit.iter().zip(&totals).filter(|(_, total)| **total == highest).collect();
        let pick = rand::random_range(0..best.len());
        best[pick].0.node.name.clone()
    }
}

#[derive(Default)]
struct Rejections {
    counts: std::collections::BTreeMap<Cow<'static, str>, usize>,
    events: Events,
}

impl Rejections {
    fn count(&mut self, reason: Cow<'static, str>) {
        *self.counts.entry(reason).or_default() += 1;
    }

    /// Upstream's text (`pkg/scheduler/framework/types.go`, `FitError`): the counted reasons in the order of their text.
    fn describe(self, total: usize) -> Unschedulable {
        let mut reasons: Vec<String> =
            self.counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        let message = format!("0/{total} nodes are available: {}.", reasons.join(", "));
        Unschedulable { message, events: self.events }
    }
}
