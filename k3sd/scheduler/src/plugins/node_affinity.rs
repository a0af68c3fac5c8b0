//! `NodeAffinity`: the pod's `nodeSelector` and node affinity.

use std::collections::BTreeSet;

use crate::{
    cache::NodeInfo,
    framework::{Candidates, Filter, Plugin, PreFilter, Reasons, Score, scale},
    queue::Events,
    views::{Node, NodeSelectorTerm, Pod, Requirement},
};

pub(crate) struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn events(&self) -> Events {
        Events::NODE_ADD | Events::NODE_LABELS
    }
}

impl PreFilter for NodeAffinity {
    /// If every term names nodes (`metadata.name In […]`), only those need to be looked at: this is how a daemon's pod
    /// finds its node among thousands.
    fn pre_filter(&self, pod: &Pod) -> Candidates {
        let Some(required) = &pod.node_affinity.required else { return Candidates::All };
        let mut names = BTreeSet::new();
        for term in &required.terms {
            let named: Vec<_> = term
                .match_fields
                .iter()
                .filter(|field| field.key == "metadata.name" && field.operator == "In")
                .collect();
            if named.is_empty() {
                return Candidates::All;
            }
            names.extend(named.into_iter().flat_map(|field| field.values.iter().cloned()));
        }
        if required.terms.is_empty() { Candidates::All } else { Candidates::Only(names) }
    }
}

impl Filter for NodeAffinity {
    fn filter(&self, pod: &Pod, info: &NodeInfo) -> Result<(), Reasons> {
        let selected = pod.node_selector.iter().all(|(key, value)| info.node.labels.get(key) == Some(value));
        let affine = pod
            .node_affinity
            .required
            .as_ref()
            .is_none_or(|required| required.terms.iter().any(|term| matches(term, &info.node)));
        if selected && affine {
            return Ok(());
        }
        Err(vec!["node(s) didn't match Pod's node affinity/selector".into()])
    }
}

impl Score for NodeAffinity {
    fn score(&self, pod: &Pod, info: &NodeInfo) -> i64 {
        pod.node_affinity
            .preferred
            .iter()
            .filter(|preferred| matches(&preferred.preference, &info.node))
            .map(|preferred| preferred.weight)
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, false);
    }
}

/// A term matches if all its requirements do; one without any matches nothing.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    let labels = term
        .match_expressions
        .iter()
        .all(|requirement| requirement.holds(node.labels.get(&requirement.key).map(String::as_str)));
    let fields = term.match_fields.iter().all(|requirement| {
        let value = (requirement.key == "metadata.name").then_some(node.name.as_str());
        requirement.holds(value)
    });
    labels && fields
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|one| one == value);
        match self.operator.as_str() {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => self.compares(value, |label, bound| label > bound),
            "Lt" => self.compares(value, |label, bound| label < bound),
            _ => false,
        }
    }

    fn compares(&self, value: Option<&str>, holds: impl Fn(i64, i64) -> bool) -> bool {
        let bound = self.values.first().and_then(|bound| bound.parse().ok());
        let label = value.and_then(|label| label.parse().ok());
        matches!((label, bound), (Some(label), Some(bound)) if holds(label, bound))
    }
}
