//! Publishes in every namespace the certificates by which pods know the API server.
//!
//! Reads: namespaces, config maps. Owns: the config map `kube-root-ca.crt` of each namespace.

use std::{collections::BTreeMap, sync::Arc};

use client::{
    ObjectKey, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{ObjectMeta, PostParams};
use serde_json::{Value, json};

use crate::{
    context::{Context, feed, path},
    service_account::{ensure_created, is_active},
};

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
/// What upstream writes beside it (`rootcacertpublisher/publisher.go`).
const ANNOTATION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

pub(crate) async fn run(context: Context) {
    let namespaces = context.informers.shared::<Namespace>();
    let maps = context.informers.shared::<ConfigMap>();
    namespaces.synced().await;
    maps.synced().await;
    let queue = WorkQueue::<String>::new();
    let work = Arc::new((context.clone(), namespaces.clone(), maps.clone()));
    let reconcile = move |namespace: String| {
        let work = work.clone();
        async move {
            let (context, namespaces, maps) = &*work;
            if !is_active(namespaces, &namespace) {
                return Ok(None);
            }
            let present = maps.get(&ObjectKey::namespaced(&namespace, NAME));
            publish(context, &namespace, present).await.map(|()| None)
        }
    };
    tokio::join!(
        feed(&namespaces, &queue, |change| Some(change.key.name)),
        feed(&maps, &queue, |change| if change.key.name == NAME { change.key.namespace } else { None }),
        run_workers("root_ca", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

async fn publish(
    context: &Context,
    namespace: &str,
    present: Option<client::Stored<ConfigMap>>,
) -> anyhow::Result<()> {
    let data = BTreeMap::from([(KEY.to_owned(), context.config.root_ca.clone())]);
    let Some(present) = present else {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                annotations: Some([(ANNOTATION.0.to_owned(), ANNOTATION.1.to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        };
        return Ok(ensure_created(context.api(namespace).create(&PostParams::default(), &map).await)?);
    };
    if present.decode()?.data.as_ref() == Some(&data) {
        return Ok(());
    }
    let change = json!({"data": {"$patch": "replace", KEY: context.config.root_ca}});
    request::patch::<Value>(&context.client, &path::<ConfigMap>(present.key()), Patch::Strategic, &change)
        .await?;
    Ok(())
}
