//! Gives every namespace its `default` service account.
//!
//! Reads: namespaces, service accounts. Owns: the service account `default` of each namespace, its existence only.

use std::sync::Arc;

use client::{ObjectKey, WorkQueue, request, run_workers};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};

use crate::context::{Context, feed};

const NAME: &str = "default";

pub(crate) async fn run(context: Context) {
    let namespaces = context.informers.shared::<Namespace>();
    let accounts = context.informers.shared::<ServiceAccount>();
    namespaces.synced().await;
    accounts.synced().await;
    let queue = WorkQueue::<String>::new();
    let work = Arc::new((context.clone(), namespaces.clone(), accounts.clone()));
    let reconcile = move |namespace: String| {
        let work = work.clone();
        async move {
            let (context, namespaces, accounts) = &*work;
            if !is_active(namespaces, &namespace)
                || accounts.get(&ObjectKey::namespaced(&namespace, NAME)).is_some()
            {
                return Ok(None);
            }
            let account = ServiceAccount {
                metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                ..ServiceAccount::default()
            };
            ensure_created(context.api(&namespace).create(&PostParams::default(), &account).await)
                .map(|()| None)
        }
    };
    tokio::join!(
        feed(&namespaces, &queue, |change| Some(change.key.name)),
        feed(&accounts, &queue, |change| if change.key.name == NAME { change.key.namespace } else { None }),
        run_workers("service_account", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

/// Whether a namespace exists and takes new objects.
pub(crate) fn is_active(namespaces: &client::Informer<Namespace>, name: &str) -> bool {
    namespaces
        .get(&ObjectKey::cluster(name))
        .and_then(|stored| stored.metadata().ok())
        .is_some_and(|meta| meta.deletion_timestamp.is_none())
}

/// An object that exists already is as good as created; and a namespace that is being deleted takes none.
pub(crate) fn ensure_created<K>(result: Result<K, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if request::is_already_exists(&error) || is_terminating(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the API refused to create an object since its namespace is being deleted.
pub(crate) fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    status.code == 403 && causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}
