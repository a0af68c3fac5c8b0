//! What to create and delete so that every node has what it should (`daemon_controller.go`, `update.go`). No I/O.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{apps::v1::DaemonSetSpec, core::v1::Pod},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::hash;
use crate::{deployment::share, pod};

/// Whether a node is to have a pod, and whether one that is there may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) run: bool,
    pub(super) stay: bool,
}

/// How pods of an old template are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Only when somebody deletes them.
    OnDelete,
    /// The old pod goes first; so many nodes at a time may be without.
    Unavailable(usize),
    /// The new pod comes first; so many nodes at a time may have both.
    Surge(usize),
}

#[derive(Debug, Default)]
pub(super) struct Actions<'a> {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<&'a Pod>,
}

/// A node's pods that are not being deleted, of the new template and of old ones.
struct Here<'a> {
    new: Vec<&'a Pod>,
    old: Vec<&'a Pod>,
}

impl Strategy {
    pub(super) fn of(spec: &DaemonSetSpec, nodes: usize) -> Self {
        let strategy = spec.update_strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("OnDelete") {
            return Self::OnDelete;
        }
        let rolling = strategy.rolling_update.unwrap_or_default();
        let nodes = i32::try_from(nodes).unwrap_or(i32::MAX);
        let count = |value: Option<&IntOrString>, or: i32| {
            let count = share(value.unwrap_or(&IntOrString::Int(or)), nodes, true);
            usize::try_from(count).unwrap_or(0)
        };
        match count(rolling.max_surge.as_ref(), 0) {
            0 => Self::Unavailable(count(rolling.max_unavailable.as_ref(), 1).max(1)),
            surge => Self::Surge(surge),
        }
    }
}

pub(super) fn plan<'a>(
    verdicts: &BTreeMap<&str, Verdict>,
    by_node: &BTreeMap<&str, Vec<&'a Pod>>,
    current: &str,
    strategy: Strategy,
    is_available: impl Fn(&Pod) -> bool,
) -> Actions<'a> {
    let mut actions = Actions::default();
    let mut nodes = Vec::new();
    for (name, pods) in by_node {
        if !verdicts.contains_key(name) {
            // Its node is gone; a pod that is on it is removed with it, one that waits for it never would be.
            let waiting = |pod: &&&Pod| {
                let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                placed.unwrap_or_default().is_empty() && pod.metadata.deletion_timestamp.is_none()
            };
            actions.delete.extend(pods.iter().filter(waiting));
        }
    }
    for (name, verdict) in verdicts {
        let pods = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        if !verdict.stay {
            actions.delete.extend(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()));
        } else if let Some(here) = keep_one(name, *verdict, pods, current, strategy, &mut actions) {
            nodes.push((*name, here));
        }
    }
    match strategy {
        Strategy::OnDelete => {}
        Strategy::Unavailable(max) => replace_in_place(&nodes, max, &is_available, &mut actions),
        Strategy::Surge(max) => replace_with_surge(&nodes, max, &is_available, &mut actions),
    }
    actions
}

/// Creates the node's pod if there is none, deletes ended and surplus ones; what is left is subject to the update.
fn keep_one<'a>(
    name: &str,
    verdict: Verdict,
    pods: &[&'a Pod],
    current: &str,
    strategy: Strategy,
    actions: &mut Actions<'a>,
) -> Option<Here<'a>> {
    if pods.is_empty() {
        if verdict.run {
            actions.create.push(name.to_owned());
        }
        return None;
    }
    let live = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let (ended, mut live): (Vec<&Pod>, Vec<&Pod>) = live.partition(|pod| is_ended(pod));
    actions.delete.extend(ended);
    live.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let (mut new, mut old): (Vec<&Pod>, Vec<&Pod>) =
        live.into_iter().partition(|pod| hash(pod) == Some(current));
    // The oldest stays; in a surge one of each template does.
    if matches!(strategy, Strategy::Surge(_)) {
        actions.delete.extend(new.split_off(new.len().min(1)));
        actions.delete.extend(old.split_off(old.len().min(1)));
    } else if new.is_empty() {
        actions.delete.extend(old.split_off(old.len().min(1)));
    } else {
        actions.delete.extend(new.split_off(1));
        actions.delete.append(&mut old);
    }
    Some(Here { new, old })
}

fn is_ended(pod: &Pod) -> bool {
    matches!(pod::phase(pod), "Succeeded" | "Failed")
}

fn replace_in_place<'a>(
    nodes: &[(&str, Here<'a>)],
    max: usize,
    is_available: &impl Fn(&Pod) -> bool,
    actions: &mut Actions<'a>,
) {
    let (mut unavailable, mut candidates) = (actions.create.len(), Vec::new());
    for (_, here) in nodes {
        match (here.new.first(), here.old.first()) {
            (Some(new), _) => unavailable += usize::from(!is_available(new)),
            (None, Some(old)) if is_available(old) => candidates.push(*old),
            // One that is not available serves nobody: it may go at once.
            (None, Some(old)) => {
                unavailable += 1;
                actions.delete.push(old);
            }
            // All are on their way out.
            (None, None) => unavailable += 1,
        }
    }
    actions.delete.extend(candidates.into_iter().take(max.saturating_sub(unavailable)));
}

fn replace_with_surge<'a>(
    nodes: &[(&str, Here<'a>)],
    max: usize,
    is_available: &impl Fn(&Pod) -> bool,
    actions: &mut Actions<'a>,
) {
    let (mut surging, mut candidates) = (0, Vec::new());
    for (name, here) in nodes {
        match (here.new.first(), here.old.first()) {
            (Some(new), Some(old)) if is_available(new) => actions.delete.push(old),
            (Some(_), Some(_)) => surging += 1,
            (None, Some(old)) if is_available(old) => candidates.push(*name),
            (None, Some(_)) => actions.create.push((*name).to_owned()),
            (_, None) => {}
        }
    }
    let next = candidates.into_iter().take(max.saturating_sub(surging));
    actions.create.extend(next.map(str::to_owned));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `new+` is an available pod of the new template, `old-` one of the old that is not, `gone` one being deleted.
    fn pod(node: &str, state: &str) -> Pod {
        let hash = if state.starts_with("new") { "h2" } else { "h1" };
        serde_json::from_value(json!({
            "metadata": {"name": format!("{node} {state}"), "labels": {"controller-revision-hash": hash},
                "deletionTimestamp": (state == "gone").then_some("2026-01-01T00:00:00Z"),
                "creationTimestamp": if state.starts_with("new") {"2026-01-02T00:00:00Z"} else {"2026-01-01T00:00:00Z"}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": if state == "failed" {"Failed"} else {"Running"},
                "conditions": [{"type": "Ready", "status": if state.ends_with('+') {"True"} else {"False"}}]},
        }))
        .unwrap()
    }

    #[test]
    fn each_node_gets_one_pod_and_updates_keep_within_their_limits() {
        let yes = Verdict { run: true, stay: true };
        let stays = Verdict { run: false, stay: true };
        let no = Verdict { run: false, stay: false };
        let (one, surge) = (Strategy::Unavailable(1), Strategy::Surge(1));
        type Case =
            (&'static str, Vec<(Verdict, Vec<&'static str>)>, Strategy, Vec<&'static str>, Vec<&'static str>);
        let cases: Vec<Case> = vec![
            (
                "missing ones are created",
                vec![(yes, vec![]), (stays, vec![]), (no, vec![])],
                one,
                vec!["0"],
                vec![],
            ),
            ("not while one is leaving", vec![(yes, vec!["gone"])], one, vec![], vec![]),
            (
                "misplaced ones go",
                vec![(no, vec!["new+"]), (stays, vec!["new+"])],
                one,
                vec![],
                vec!["0 new+"],
            ),
            ("failed ones go", vec![(yes, vec!["failed"])], one, vec![], vec!["0 failed"]),
            (
                "the surplus goes, the oldest stays",
                vec![(yes, vec!["new+", "new-"])],
                one,
                vec![],
                vec!["0 new-"],
            ),
            ("one at a time", vec![(yes, vec!["old+"]), (yes, vec!["old+"])], one, vec![], vec!["0 old+"]),
            ("not while one is down", vec![(yes, vec!["new-"]), (yes, vec!["old+"])], one, vec![], vec![]),
            (
                "those that are down first",
                vec![(yes, vec!["old+"]), (yes, vec!["old-"])],
                one,
                vec![],
                vec!["1 old-"],
            ),
            ("only by hand", vec![(yes, vec!["old+"])], Strategy::OnDelete, vec![], vec![]),
            ("surge: new first", vec![(yes, vec!["old+"]), (yes, vec!["old+"])], surge, vec!["0"], vec![]),
            (
                "surge: wait for it",
                vec![(yes, vec!["old+", "new-"]), (yes, vec!["old+"])],
                surge,
                vec![],
                vec![],
            ),
            ("surge: then the old goes", vec![(yes, vec!["old+", "new+"])], surge, vec![], vec!["0 old+"]),
        ];
        for (case, nodes, strategy, create, delete) in cases {
            let names: Vec<String> = (0..nodes.len()).map(|index| index.to_string()).collect();
            let pods: Vec<Vec<Pod>> = names
                .iter()
                .zip(&nodes)
                .map(|(name, (_, states))| states.iter().map(|state| pod(name, state)).collect())
                .collect();
            let verdicts =
                names.iter().zip(&nodes).map(|(name, (verdict, _))| (name.as_str(), *verdict)).collect();
            let by_node =
                names.iter().zip(&pods).map(|(name, pods)| (name.as_str(), pods.iter().collect())).collect();
            let actions = plan(&verdicts, &by_node, "h2", strategy, pod::is_ready);
            assert_eq!(actions.create, create, "{case}");
            let mut deleted: Vec<_> =
                actions.delete.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
            deleted.sort();
            assert_eq!(deleted, delete, "{case}");
        }
    }
}
