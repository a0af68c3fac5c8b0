//! The next step of a stateful set (`stateful_set_control.go`). No I/O.
//!
//! With the policy `OrderedReady` one thing is done at a time, and only when all before it is done: pods come up from the
//! lowest number and go from the highest. With `Parallel` all come and go at once; updates are one by one in both.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetSpec},
    core::v1::Pod,
};

use super::pods::{ordinal, revision};
use crate::pod::{self, Availability};

/// One thing to do.
#[derive(Debug)]
pub(super) enum Act<'a> {
    Create { ordinal: i32, revision: String },
    Delete(&'a Pod),
}

/// A set with its pods by number.
pub(super) struct Plan<'a> {
    pub(super) spec: &'a StatefulSetSpec,
    /// Those that the set is to have; `None` where there is none.
    pub(super) wanted: BTreeMap<i32, Option<&'a Pod>>,
    /// Those beyond its size.
    pub(super) condemned: BTreeMap<i32, &'a Pod>,
    /// The revision that pods below the partition have.
    pub(super) current: &'a str,
    /// The revision of the present template.
    pub(super) update: &'a str,
    /// How many pods had the current revision when the status was last written.
    current_replicas: i32,
    now: Timestamp,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        set: &'a StatefulSet,
        spec: &'a StatefulSetSpec,
        pods: &'a [Pod],
        current: &'a str,
        update: &'a str,
        now: Timestamp,
    ) -> Self {
        let first = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let mut wanted: BTreeMap<_, _> =
            (first..first + spec.replicas.unwrap_or(1)).map(|ordinal| (ordinal, None)).collect();
        let mut condemned = BTreeMap::new();
        let name = set.metadata.name.as_deref().unwrap_or_default();
        for pod in pods {
            let Some(ordinal) = ordinal(name, pod.metadata.name.as_deref().unwrap_or_default()) else {
                continue;
            };
            match wanted.get_mut(&ordinal) {
                Some(place) => *place = Some(pod),
                None => {
                    condemned.insert(ordinal, pod);
                }
            }
        }
        let status = set.status.as_ref();
        let current_replicas = status.and_then(|status| status.current_replicas).unwrap_or(0);
        Self { spec, wanted, condemned, current, update, current_replicas, now }
    }

    /// What to do now.
    pub(super) fn next(&self) -> Vec<Act<'a>> {
        let ordered = self.spec.pod_management_policy.as_deref() != Some("Parallel");
        let mut acts = Vec::new();
        for (ordinal, pod) in &self.wanted {
            match pod {
                None => acts.push(Act::Create { ordinal: *ordinal, revision: self.revision_of(*ordinal) }),
                // It comes back under its name once it is gone.
                Some(pod) if has_ended(pod) && !is_leaving(pod) => acts.push(Act::Delete(pod)),
                Some(pod) if self.is_available(pod) && !is_leaving(pod) => continue,
                Some(_) => {}
            }
            if ordered {
                return acts;
            }
        }
        for pod in self.condemned.values().rev() {
            if !is_leaving(pod) {
                acts.push(Act::Delete(pod));
            }
            if ordered {
                return acts;
            }
        }
        if acts.is_empty() {
            acts.extend(self.update_one());
        }
        acts
    }

    /// Of those that are to have the new template, the highest that has not goes, once all above it are up.
    fn update_one(&self) -> Option<Act<'a>> {
        if self.is_on_delete() {
            return None;
        }
        for (_, pod) in self.wanted.iter().rev().filter(|(ordinal, _)| **ordinal >= self.partition()) {
            let pod = (*pod)?;
            if revision(pod) != self.update && !is_leaving(pod) {
                return Some(Act::Delete(pod));
            }
            if !self.is_available(pod) || is_leaving(pod) {
                return None;
            }
        }
        None
    }

    fn is_on_delete(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
    }

    /// The number from which on pods have the new template.
    pub(super) fn partition(&self) -> i32 {
        let first = self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let rolling =
            self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        first + rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
    }

    /// The revision a pod is made of: below the partition the one before the update.
    fn revision_of(&self, ordinal: i32) -> String {
        let first = self.wanted.keys().next().copied().unwrap_or(0);
        let partitioned = self.partition() > first;
        let old =
            if partitioned { ordinal < self.partition() } else { ordinal < first + self.current_replicas };
        let old = old && !self.is_on_delete();
        if old { self.current } else { self.update }.to_owned()
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        pod::phase(pod) == "Running" && pod::availability(pod, min_ready, self.now) == Availability::Available
    }
}

pub(super) fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod::phase(pod), "Succeeded" | "Failed")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(spec: &Value, current_replicas: i32) -> StatefulSet {
        let mut whole = json!({"replicas": 3, "selector": {}, "template": {}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": whole,
            "status": {"replicas": 0, "currentReplicas": current_replicas}}))
        .unwrap()
    }

    /// `2new+`: number 2, of the new revision, available; `-` not, `x` being deleted, `!` failed.
    fn pod(text: &str) -> Pod {
        let (number, rest) = text.split_at(1);
        let state = &rest[3..];
        serde_json::from_value(json!({
            "metadata": {"name": format!("s-{number}"), "labels": {"controller-revision-hash": &rest[..3]},
                "deletionTimestamp": (state == "x").then_some("2026-01-01T00:00:00Z")},
            "status": {"phase": if state == "!" {"Failed"} else {"Running"},
                "conditions": [{"type": "Ready", "status": if state == "-" {"False"} else {"True"}}]},
        }))
        .unwrap()
    }

    #[test]
    fn pods_come_from_below_go_from_above_and_are_updated_one_by_one() {
        let plain = json!({});
        let parallel = json!({"podManagementPolicy": "Parallel"});
        let partition = json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}});
        let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
        let from_five = json!({"ordinals": {"start": 5}});
        type Case<'a> = (&'static str, &'a Value, i32, &'static [&'static str], &'static [&'static str]);
        let cases: Vec<Case<'_>> = vec![
            ("the first comes first", &plain, 0, &[], &["+0 new"]),
            ("the next waits for it", &plain, 0, &["0new-"], &[]),
            ("then it comes", &plain, 0, &["0new+"], &["+1 new"]),
            ("one that is leaving is waited for", &plain, 0, &["0newx", "1new+"], &[]),
            ("one that failed is made again", &plain, 0, &["0new!", "1new+"], &["-s-0"]),
            ("a hole is filled", &plain, 0, &["0new+", "2new+"], &["+1 new"]),
            ("the highest goes first", &plain, 0, &["0new+", "1new+", "2new+", "3new+", "4new+"], &["-s-4"]),
            ("and is waited for", &plain, 0, &["0new+", "1new+", "2new+", "3new+", "4newx"], &[]),
            ("updates begin above", &plain, 3, &["0old+", "1old+", "2old+"], &["-s-2"]),
            ("and wait for each", &plain, 2, &["0old+", "1old+", "2new-"], &[]),
            ("and go on below", &plain, 2, &["0old+", "1old+", "2new+"], &["-s-1"]),
            ("an updated one comes back new", &plain, 2, &["0old+", "1old+"], &["+2 new"]),
            ("one not updated yet comes back old", &plain, 2, &["0old+", "2new+"], &["+1 old"]),
            ("the partition stays old", &partition, 0, &["0old+", "1old+", "2new+"], &[]),
            ("and comes back old", &partition, 0, &["0old+", "2new+"], &["+1 old"]),
            ("on delete only", &on_delete, 0, &["0old+", "1old+", "2old+"], &[]),
            ("numbers may start elsewhere", &from_five, 0, &[], &["+5 new"]),
            (
                "all at once",
                &parallel,
                0,
                &["1new-", "3new+", "4new+"],
                &["+0 new", "+2 new", "-s-4", "-s-3"],
            ),
        ];
        for (case, spec, current_replicas, pods, expected) in cases {
            let set = set(spec, current_replicas);
            let pods: Vec<Pod> = pods.iter().map(|text| pod(text)).collect();
            let spec = set.spec.as_ref().unwrap();
            let plan = Plan::new(&set, spec, &pods, "old", "new", Timestamp::UNIX_EPOCH);
            let acts: Vec<String> = plan
                .next()
                .iter()
                .map(|act| match act {
                    Act::Create { ordinal, revision } => format!("+{ordinal} {revision}"),
                    Act::Delete(pod) => format!("-{}", pod.metadata.name.as_deref().unwrap()),
                })
                .collect();
            assert_eq!(acts, expected, "{case}");
        }
    }
}
