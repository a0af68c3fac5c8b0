//! Annotations of deployments and their replica sets: revisions, and the size a set was last given.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::ObjectMeta;

use super::rolling::Limits;

/// `kubectl rollout history` and `undo` go by this.
pub(super) const ANNOTATION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the deployment when the set was last sized.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// That plus the surge.
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// The deployment's annotations that a set does not take over.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    ANNOTATION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The revision of a set or deployment, empty if it has none.
pub(super) fn of(meta: &ObjectMeta) -> &str {
    annotation(meta, ANNOTATION).unwrap_or_default()
}

pub(super) fn number(meta: &ObjectMeta) -> i64 {
    of(meta).parse().unwrap_or(0)
}

/// The revision of the newest template: one more than that of any older one.
pub(super) fn next(old: &[ReplicaSet]) -> String {
    (old.iter().map(|set| number(&set.metadata)).max().unwrap_or(0) + 1).to_string()
}

/// Gives the newest set its revision, and the deployment's annotations. A revision is only ever raised; the one before
/// goes into the history, which a rollback makes.
pub(super) fn annotate(set: &mut ObjectMeta, deployment: &ObjectMeta, revision: &str) {
    let present = set.annotations.get_or_insert_default();
    for (key, value) in deployment.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            present.insert(key.clone(), value.clone());
        }
    }
    let old = present.get(ANNOTATION).cloned().unwrap_or_default();
    if old.parse().unwrap_or(0) < revision.parse::<i64>().unwrap_or(0) {
        present.insert(ANNOTATION.to_owned(), revision.to_owned());
        if !old.is_empty() {
            let history = present.get(HISTORY).filter(|history| !history.is_empty());
            let history = history.map_or(old.clone(), |history| format!("{history},{old}"));
            present.insert(HISTORY.to_owned(), history);
        }
    }
}

/// Notes what the deployment's size is; whether that changed the annotations.
pub(super) fn note_size(set: &mut ObjectMeta, wanted: i32, limits: Option<Limits>) -> bool {
    let max = wanted + limits.map_or(0, |limits| limits.surge);
    let annotations = set.annotations.get_or_insert_default();
    let desired = note(annotations, DESIRED, wanted);
    note(annotations, MAX, max) || desired
}

pub(super) fn noted_size(set: &ObjectMeta) -> Option<i32> {
    annotation(set, DESIRED)?.parse().ok()
}

pub(super) fn noted_max(set: &ObjectMeta) -> Option<i32> {
    annotation(set, MAX)?.parse().ok()
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

fn note(annotations: &mut BTreeMap<String, String>, key: &str, value: i32) -> bool {
    let value = value.to_string();
    annotations.insert(key.to_owned(), value.clone()) != Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(annotations: &[(&str, &str)]) -> ObjectMeta {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ObjectMeta { annotations: Some(annotations.collect()), ..ObjectMeta::default() }
    }

    #[test]
    fn going_back_to_an_old_template_raises_its_revision_and_keeps_its_history() {
        let sets = [("1", "a"), ("3", "b")].map(|(revision, _)| ReplicaSet {
            metadata: meta(&[(ANNOTATION, revision)]),
            ..ReplicaSet::default()
        });
        assert_eq!(next(&sets), "4");
        assert_eq!(next(&[]), "1");
        let mut back = meta(&[(ANNOTATION, "2")]);
        let deployment = meta(&[("kubernetes.io/change-cause", "undo"), (ANNOTATION, "3"), (DESIRED, "9")]);
        annotate(&mut back, &deployment, "4");
        assert_eq!((of(&back), annotation(&back, HISTORY)), ("4", Some("2")));
        assert_eq!(annotation(&back, "kubernetes.io/change-cause"), Some("undo"));
        assert_eq!(annotation(&back, DESIRED), None);
        annotate(&mut back, &deployment, "4");
        assert_eq!(annotation(&back, HISTORY), Some("2"), "the same revision again changes nothing");
        annotate(&mut back, &deployment, "6");
        assert_eq!(annotation(&back, HISTORY), Some("2,4"));
    }

    #[test]
    fn a_size_is_noted_once() {
        let mut set = ObjectMeta::default();
        let limits = Limits { surge: 2, unavailable: 0 };
        assert!(note_size(&mut set, 5, Some(limits)));
        assert!(!note_size(&mut set, 5, Some(limits)));
        assert_eq!((noted_size(&set), noted_max(&set)), (Some(5), Some(7)));
        assert!(note_size(&mut set, 5, None));
    }
}
