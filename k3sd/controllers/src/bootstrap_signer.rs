//! Signs `cluster-info`, by which a machine that has only a bootstrap token can tell the cluster's own words from others'.
//!
//! Reads: bootstrap tokens and the config map `cluster-info` in `kube-public`; without it there is nothing to do. Owns: its keys
//! `jws-kubeconfig-ID`, one for each token that is for signing. Follows `pkg/controller/bootstrap/bootstrapsigner.go` of v1.36.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{
    Informer, ObjectKey, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use machinery::bootstrap_token::{BootstrapToken, NAMESPACE, SIGNING};
use ring::hmac;
use serde_json::{Map, Value, json};

use crate::context::{Context, feed, path};
use crate::token_cleaner::remaining;

const INFO_NAMESPACE: &str = "kube-public";
const INFO: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

struct Controller {
    context: Context,
    maps: Informer<ConfigMap>,
    secrets: Informer<Secret>,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        maps: context.informers.shared(),
        secrets: context.informers.shared(),
        context: context.clone(),
    });
    controller.maps.synced().await;
    controller.secrets.synced().await;
    let queue = WorkQueue::<&'static str>::new();
    let work = controller.clone();
    let reconcile = move |_| {
        let controller = work.clone();
        async move { controller.sign().await.map(|()| None) }
    };
    tokio::join!(
        feed(&controller.maps, &queue, |change| {
            let key = &change.key;
            (key.namespace.as_deref() == Some(INFO_NAMESPACE) && key.name == INFO).then_some(INFO)
        }),
        feed(&controller.secrets, &queue, |change| {
            (change.key.namespace.as_deref() == Some(NAMESPACE)).then_some(INFO)
        }),
        run_workers("bootstrap_signer", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    async fn sign(&self) -> anyhow::Result<()> {
        let key = ObjectKey::namespaced(INFO_NAMESPACE, INFO);
        let Some(map) = self.maps.get(&key) else { return Ok(()) };
        let data = map.decode()?.data.unwrap_or_default();
        let Some(kubeconfig) = data.get(KUBECONFIG) else { return Ok(()) };
        let now = Timestamp::now();
        let mut wanted = BTreeMap::new();
        for secret in self.secrets.list_namespace(NAMESPACE) {
            let Some(token) = BootstrapToken::of(&secret.project()?) else { continue };
            let good = remaining(&token, now).is_none_or(|left| !left.is_zero());
            if token.is_for(SIGNING) && good && !token.id.is_empty() && !token.secret.is_empty() {
                wanted.insert(format!("{SIGNATURE_PREFIX}{}", token.id), signature(kubeconfig, &token));
            }
        }
        let changes = changes(&data, &wanted);
        if !changes.is_empty() {
            let change = json!({ "data": changes });
            request::patch::<Value>(&self.context.client, &path::<ConfigMap>(&key), Patch::Merge, &change)
                .await?;
        }
        Ok(())
    }
}

/// The signatures to add, change or (null) remove.
fn changes(data: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Map<String, Value> {
    let stale = data.keys().filter(|key| key.starts_with(SIGNATURE_PREFIX) && !wanted.contains_key(*key));
    let new = wanted.iter().filter(|(key, value)| data.get(*key) != Some(*value));
    stale
        .map(|key| (key.clone(), Value::Null))
        .chain(new.map(|(key, value)| (key.clone(), Value::from(value.clone()))))
        .collect()
}

/// A JSON web signature (RFC 7515) with HS256, without the content.
fn signature(content: &str, token: &BootstrapToken) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "HS256", "kid": token.id }).to_string());
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// The example of upstream's `staging/src/k8s.io/cluster-bootstrap/token/jws`.
    #[test]
    fn a_signature_is_upstreams() {
        let token = BootstrapToken {
            id: "joshua".to_owned(),
            secret: "my voice is my passcode".to_owned(),
            ..BootstrapToken::default()
        };
        assert_eq!(
            signature("Hello from the other side. I must have called a thousand times.", &token),
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
        );
    }

    #[test]
    fn signatures_of_tokens_that_are_gone_go() {
        let data = map(&[("kubeconfig", "k"), ("jws-kubeconfig-old", "o"), ("jws-kubeconfig-same", "s")]);
        let wanted = map(&[("jws-kubeconfig-same", "s"), ("jws-kubeconfig-new", "n")]);
        let expected = json!({ "jws-kubeconfig-old": null, "jws-kubeconfig-new": "n" });
        assert_eq!(Value::from(changes(&data, &wanted)), expected);
    }
}
