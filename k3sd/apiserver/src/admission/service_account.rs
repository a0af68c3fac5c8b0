//! Every pod runs as a service account, and gets its token, the cluster's CA and its namespace as a volume
//! (upstream's `plugin/pkg/admission/serviceaccount`).

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Review};
use crate::authz::node::MIRROR;

const DEFAULT_ACCOUNT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";

/// A little over an hour: the kubelet renews at 80 percent.
const TOKEN_SECONDS: i64 = 3607;

pub(super) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    async fn mutate(&self, review: &Review<'_>, pod: &mut Value) -> Result<(), Status> {
        if review.operation != Operation::Create || !review.is("", "pods", "") {
            return Ok(());
        }
        if meta::annotation(pod, MIRROR).is_some() {
            return refuse_mirror(review, pod);
        }
        let account = account_name(pod);
        let spec = meta::child_mut(meta::object_mut(pod), "spec");
        spec.insert("serviceAccountName".to_owned(), account.as_str().into());
        spec.insert("serviceAccount".to_owned(), account.as_str().into());
        let namespace = review.cx.namespace;
        let Some(found) = review.cx.objects.object("", "serviceaccounts", namespace, &account) else {
            return Err(review.forbid(&format!(
                "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
            )));
        };
        if automounts(pod, &found) {
            mount_token(pod);
        }
        add_pull_secrets(pod, &found);
        Ok(())
    }
}

fn account_name(pod: &Value) -> String {
    ["/spec/serviceAccountName", "/spec/serviceAccount"]
        .iter()
        .filter_map(|pointer| pod.pointer(pointer).and_then(Value::as_str))
        .find(|name| !name.is_empty())
        .unwrap_or(DEFAULT_ACCOUNT)
        .to_owned()
}

/// A mirror pod stands for one that the kubelet read from a file; it can use nothing of the API.
fn refuse_mirror(review: &Review<'_>, pod: &Value) -> Result<(), Status> {
    if pod.pointer("/spec/serviceAccountName").and_then(Value::as_str).is_some_and(|name| !name.is_empty()) {
        return Err(review.forbid("a mirror pod may not reference service accounts"));
    }
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let token = |volume: &Value| {
        let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
        sources.into_iter().flatten().any(|source| source.get("serviceAccountToken").is_some())
    };
    if volumes.into_iter().flatten().any(token) {
        return Err(review.forbid("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn automounts(pod: &Value, account: &Value) -> bool {
    let own = pod.pointer("/spec/automountServiceAccountToken").and_then(Value::as_bool);
    own.or_else(|| account.get("automountServiceAccountToken").and_then(Value::as_bool)).unwrap_or(true)
}

/// Mount the token in every container that mounts nothing of its own in that place.
fn mount_token(pod: &mut Value) {
    let spec = meta::child_mut(meta::object_mut(pod), "spec");
    let existing = spec.get("volumes").and_then(Value::as_array).into_iter().flatten().find_map(|volume| {
        let name = volume.get("name")?.as_str()?;
        (name.starts_with(VOLUME_PREFIX) && volume.get("projected").is_some()).then(|| name.to_owned())
    });
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", meta::random_suffix(5)));
    let mut used = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            used |= mount(container, &name);
        }
    }
    if used && existing.is_none() {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.push(token_volume(&name));
        }
    }
}

fn mount(container: &mut Value, volume: &str) -> bool {
    let Some(container) = container.as_object_mut() else { return false };
    let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
    let Some(mounts) = mounts.as_array_mut() else { return false };
    if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
        return false;
    }
    mounts.push(json!({ "name": volume, "readOnly": true, "mountPath": MOUNT_PATH }));
    true
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{ "key": "ca.crt", "path": "ca.crt" }],
                } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        },
    })
}

/// The account's pull secrets, for pods that name none.
fn add_pull_secrets(pod: &mut Value, account: &Value) {
    let Some(secrets) = account.get("imagePullSecrets").and_then(Value::as_array) else { return };
    let spec = meta::child_mut(meta::object_mut(pod), "spec");
    let none = spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if none && !secrets.is_empty() {
        spec.insert("imagePullSecrets".to_owned(), Value::Array(secrets.clone()));
    }
}
