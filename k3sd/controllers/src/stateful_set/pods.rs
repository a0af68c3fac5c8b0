//! The identity of a stateful set's pods: names, labels, hostnames, claims. No I/O.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
};

use crate::{history::HASH_LABEL, pod};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The number in a pod's name; `None` if it is not the name of one of the set's pods.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let text = pod.strip_prefix(set)?.strip_prefix('-')?;
    let plain = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|ordinal: &i32| plain && *ordinal >= 0)
}

/// The revision a pod was made of.
pub(super) fn revision(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(HASH_LABEL)).map(String::as_str).unwrap_or_default()
}

/// The pod with this number, of this revision's template.
pub(super) fn pod_for(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Pod {
    let mut pod = pod::from_template(set, template);
    let name = format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default());
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    pod.metadata.namespace.clone_from(&set.metadata.namespace);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(HASH_LABEL.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let claims = claims_for(set, ordinal);
    let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let volumes = spec.volumes.get_or_insert_default();
    for (template, claim) in templates.zip(claims) {
        let name = template.metadata.name.clone().unwrap_or_default();
        volumes.retain(|volume| volume.name != name);
        volumes.push(Volume {
            name,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.metadata.name.unwrap_or_default(),
                read_only: Some(false),
            }),
            ..Volume::default()
        });
    }
    pod
}

/// The claims of the pod with this number, in the order of their templates.
pub(super) fn claims_for(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut claim = template.clone();
            let base = claim.metadata.name.take().unwrap_or_default();
            claim.metadata.name = Some(format!("{base}-{name}-{ordinal}"));
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            let selector = spec.selector.match_labels.clone().unwrap_or_default();
            claim.metadata.labels.get_or_insert_default().extend(selector);
            claim.status = None;
            claim
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_set_s_own_names_have_a_number() {
        for (pod, expected) in [
            ("web-0", Some(0)),
            ("web-12", Some(12)),
            ("web-01", None),
            ("web-", None),
            ("web-x", None),
            ("webb-1", None),
            ("web--1", None),
        ] {
            assert_eq!(ordinal("web", pod), expected, "{pod}");
        }
    }

    #[test]
    fn a_pod_has_its_name_in_all_the_places_that_need_it() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "u"},
            "spec": {"serviceName": "dbs", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}},
                    "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]},
        }))
        .unwrap();
        let pod = pod_for(&set, &set.spec.as_ref().unwrap().template, 2, "db-rev");
        let value = serde_json::to_value(&pod).unwrap();
        assert_eq!(value["metadata"]["name"], "db-2");
        assert_eq!(
            value["metadata"]["labels"],
            json!({"app": "db", "apps.kubernetes.io/pod-index": "2",
            "controller-revision-hash": "db-rev", "statefulset.kubernetes.io/pod-name": "db-2"})
        );
        assert_eq!(
            (&value["spec"]["hostname"], &value["spec"]["subdomain"]),
            (&json!("db-2"), &json!("dbs"))
        );
        assert_eq!(
            value["spec"]["volumes"],
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-2", "readOnly": false}}])
        );
        let claim = &claims_for(&set, 2)[0];
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["app"], "db");
        assert!(claim.metadata.owner_references.is_none(), "claims outlive the set");
    }
}
