//! Pod templates of deployments and their replica sets: which set has which template.

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DeploymentSpec, ReplicaSet},
    core::v1::PodTemplateSpec,
};

/// The label that tells the pods of one template from those of another.
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// Whether a set has the deployment's template, but for the hash label.
pub(super) fn equal(set: &ReplicaSet, deployment: &DeploymentSpec) -> bool {
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return false };
    without_hash(template) == without_hash(&deployment.template)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels.take_if(|labels| labels.is_empty());
    template
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Orders sets from the oldest to the youngest; of the same age by name.
pub(super) fn age(set: &ReplicaSet) -> (Option<Timestamp>, Option<String>) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone())
}

/// No pods, none wanted, and the set's controller knows.
pub(super) fn is_unused(set: &ReplicaSet) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.replicas == 0 && replicas(set) == 0 && set.metadata.generation <= status.observed_generation
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::template_hash::hash;

    #[test]
    fn a_set_has_the_template_if_only_the_hash_label_differs() {
        let deployment = |image: &str| -> DeploymentSpec {
            serde_json::from_value(json!({"selector": {}, "template": {
                "metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]},
            }}))
            .unwrap()
        };
        let set: ReplicaSet =
            serde_json::from_value(json!({"metadata": {}, "spec": {"selector": {}, "template": {
                "metadata": {"labels": {"app": "a", "pod-template-hash": "x"}},
                "spec": {"containers": [{"name": "c", "image": "one"}]},
            }}}))
            .unwrap();
        assert!(equal(&set, &deployment("one")));
        assert!(!equal(&set, &deployment("two")));
        let (one, two) = (deployment("one").template, deployment("two").template);
        assert_eq!(hash(&one, None).unwrap(), hash(&one, None).unwrap());
        assert_ne!(hash(&one, None).unwrap(), hash(&two, None).unwrap());
        assert_ne!(hash(&one, None).unwrap(), hash(&one, Some(1)).unwrap());
    }
}
