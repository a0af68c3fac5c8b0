//! The objects that a pod or a volume names: what a node has to read in order to run the one or mount the other (upstream's
//! `VisitPodSecretNames`, `VisitPodConfigmapNames` and `VisitPVSecretNames`).

use machinery::meta;
use serde_json::Value;

/// Says on a pod that it shows the API a static one.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Names in the namespace of the pod, possibly more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodReferences {
    pub secrets: Vec<String>,
    pub config_maps: Vec<String>,
    pub claims: Vec<String>,
    pub resource_claims: Vec<String>,
    pub service_account: String,
}

impl PodReferences {
    /// Everything the pod names. For a mirror pod, too, though it gives its node no right to anything.
    pub(crate) fn of(pod: &Value) -> Self {
        let mut found = Self { service_account: text(pod, "/spec/serviceAccountName"), ..Self::default() };
        let named = |list: &mut Vec<String>, value: &Value, pointer: &str| {
            let name = text(value, pointer);
            if !name.is_empty() {
                list.push(name);
            }
        };
        for secret in items(pod, "/spec/imagePullSecrets") {
            named(&mut found.secrets, secret, "/name");
        }
        for field in ["initContainers", "containers", "ephemeralContainers"] {
            for container in items(pod, &format!("/spec/{field}")) {
                for source in items(container, "/envFrom") {
                    named(&mut found.secrets, source, "/secretRef/name");
                    named(&mut found.config_maps, source, "/configMapRef/name");
                }
                for variable in items(container, "/env") {
                    named(&mut found.secrets, variable, "/valueFrom/secretKeyRef/name");
                    named(&mut found.config_maps, variable, "/valueFrom/configMapKeyRef/name");
                }
            }
        }
        for volume in items(pod, "/spec/volumes") {
            for pointer in POD_VOLUME_SECRETS {
                named(&mut found.secrets, volume, pointer);
            }
            named(&mut found.config_maps, volume, "/configMap/name");
            named(&mut found.claims, volume, "/persistentVolumeClaim/claimName");
            if volume.get("ephemeral").is_some_and(Value::is_object) {
                found.claims.push(format!("{}-{}", meta::name(pod), text(volume, "/name")));
            }
            for source in items(volume, "/projected/sources") {
                named(&mut found.secrets, source, "/secret/name");
                named(&mut found.config_maps, source, "/configMap/name");
            }
        }
        found.resource_claims = resource_claims(pod);
        found
    }
}

const POD_VOLUME_SECRETS: [&str; 10] = [
    "/secret/secretName",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/flexVolume/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/iscsi/secretRef/name",
    "/storageos/secretRef/name",
    "/csi/nodePublishSecretRef/name",
];

/// Claims on devices that the pod names itself, or that were made for it from a template.
fn resource_claims(pod: &Value) -> Vec<String> {
    let made = |claim: &str| {
        items(pod, "/status/resourceClaimStatuses")
            .find(|status| text(status, "/name") == claim)
            .map(|status| text(status, "/resourceClaimName"))
    };
    items(pod, "/spec/resourceClaims")
        .filter_map(|claim| match text(claim, "/resourceClaimName") {
            given if !given.is_empty() => Some(given),
            _ => made(&text(claim, "/name")),
        })
        .chain([text(pod, "/status/extendedResourceClaimStatus/resourceClaimName")])
        .filter(|name| !name.is_empty())
        .collect()
}

/// The claim a volume is bound to, as `namespace/name`.
pub(super) fn claim_of(volume: &Value) -> Option<String> {
    volume.pointer("/spec/claimRef").filter(|claim| claim.is_object())?;
    Some(format!("{}/{}", text(volume, "/spec/claimRef/namespace"), text(volume, "/spec/claimRef/name")))
}

/// The secrets that a node needs to mount a volume, as `namespace/name`: where the volume says no namespace, it is that of the claim.
pub(super) fn secrets_of_volume(volume: &Value) -> Vec<String> {
    let home = text(volume, "/spec/claimRef/namespace");
    let mut found = Vec::new();
    let azure = (text(volume, "/spec/azureFile/secretNamespace"), text(volume, "/spec/azureFile/secretName"));
    let sources = [
        "cephfs/secretRef",
        "cinder/secretRef",
        "flexVolume/secretRef",
        "rbd/secretRef",
        "scaleIO/secretRef",
        "iscsi/secretRef",
        "storageos/secretRef",
        "csi/nodePublishSecretRef",
        "csi/nodeStageSecretRef",
        "csi/nodeExpandSecretRef",
    ];
    let others = sources.map(|source| {
        (text(volume, &format!("/spec/{source}/namespace")), text(volume, &format!("/spec/{source}/name")))
    });
    for (namespace, name) in [azure].into_iter().chain(others) {
        if !name.is_empty() {
            let namespace = if namespace.is_empty() { &home } else { &namespace };
            found.push(format!("{namespace}/{name}"));
        }
    }
    found
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_of_naming_an_object_is_found() {
        let pod = json!({
            "metadata": { "name": "p" },
            "spec": {
                "serviceAccountName": "robot",
                "imagePullSecrets": [{ "name": "pull" }],
                "initContainers": [{ "envFrom": [{ "configMapRef": { "name": "init" } }] }],
                "containers": [{ "env": [{ "valueFrom": { "secretKeyRef": { "name": "env" } } }] }],
                "ephemeralContainers": [{ "envFrom": [{ "secretRef": { "name": "debug" } }] }],
                "volumes": [
                    { "name": "a", "secret": { "secretName": "files" } },
                    { "name": "b", "projected": { "sources": [{ "configMap": { "name": "mixed" } }] } },
                    { "name": "c", "persistentVolumeClaim": { "claimName": "data" } },
                    { "name": "scratch", "ephemeral": { "volumeClaimTemplate": {} } },
                ],
                "resourceClaims": [
                    { "name": "own", "resourceClaimName": "gpu" },
                    { "name": "made", "resourceClaimTemplateName": "t" },
                    { "name": "not-yet", "resourceClaimTemplateName": "t" },
                ],
            },
            "status": { "resourceClaimStatuses": [{ "name": "made", "resourceClaimName": "p-made-x" }] },
        });
        let found = PodReferences::of(&pod);
        assert_eq!(found.secrets, ["pull", "env", "debug", "files"]);
        assert_eq!(found.config_maps, ["init", "mixed"]);
        assert_eq!(found.claims, ["data", "p-scratch"]);
        assert_eq!(found.resource_claims, ["gpu", "p-made-x"]);
        assert_eq!(found.service_account, "robot");
    }

    #[test]
    fn a_volume_names_secrets_in_the_namespace_it_says_or_in_that_of_its_claim() {
        let volume = json!({ "spec": {
            "claimRef": { "namespace": "team", "name": "data" },
            "azureFile": { "secretName": "share" },
            "csi": { "nodeStageSecretRef": { "namespace": "csi", "name": "stage" },
                "controllerPublishSecretRef": { "namespace": "csi", "name": "not-for-nodes" } },
        } });
        assert_eq!(secrets_of_volume(&volume), ["team/share", "csi/stage"]);
        assert_eq!(claim_of(&volume).as_deref(), Some("team/data"));
    }
}
