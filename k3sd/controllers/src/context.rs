//! What every controller is given, and how it is fed.

use std::{fmt, hash::Hash, sync::Arc};

use client::{Change, Informer, Informers, ObjectKey, WorkQueue};
use kube::Resource;
use tokio_util::sync::CancellationToken;

use crate::{Config, Issuer};

#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) issuer: Arc<dyn Issuer>,
    pub(crate) client: kube::Client,
    pub(crate) informers: Informers,
    pub(crate) cancel: CancellationToken,
}

impl Context {
    pub(crate) fn new(
        config: Config,
        issuer: Arc<dyn Issuer>,
        client: kube::Client,
        informers: Informers,
        cancel: CancellationToken,
    ) -> Self {
        Self { config: Arc::new(config), issuer, client, informers, cancel }
    }

    /// The typed client of a kind in a namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> kube::Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        kube::Api::namespaced(self.client.clone(), namespace)
    }
}

/// Adds to `queue` what `keys` makes of each change, until the informers are shut down (with the controllers).
pub(crate) async fn feed<K, T, I>(informer: &Informer<K>, queue: &WorkQueue<T>, keys: impl Fn(Change<K>) -> I)
where
    T: Clone + Eq + Hash + Ord + fmt::Display,
    I: IntoIterator<Item = T>,
{
    let mut changes = informer.subscribe();
    while let Some(change) = changes.next_change().await {
        for key in keys(change) {
            queue.add(key);
        }
    }
}

/// The changed object's own key, for [`feed`].
pub(crate) fn own_key<K>(change: Change<K>) -> Option<ObjectKey> {
    Some(change.key)
}

/// The API path of an object.
pub(crate) fn path<K: Resource<DynamicType = ()>>(key: &ObjectKey) -> String {
    format!("{}/{}", K::url_path(&(), key.namespace.as_deref()), key.name)
}
