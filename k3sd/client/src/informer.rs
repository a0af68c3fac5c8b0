//! Shared informers: one cache per kind and selector in a process.

use std::{
    collections::HashMap,
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use kube::Resource;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    Changes, ObjectKey, Stored,
    reflector::{Reflector, Source},
    store::{IndexFn, Store},
    stored::controller_of,
};

/// The index of [`Informer::controlled_by`].
const CONTROLLER_UID: &str = "controller-uid";

/// The informers of a process. A clone shares them.
///
/// Each informer is started by its first user and runs until the token is cancelled.
#[derive(Clone)]
pub struct Informers {
    shared: Arc<Shared>,
}

struct Shared {
    client: kube::Client,
    cancel: CancellationToken,
    /// Owns the reflectors; [`Informers::stopped`] waits for them.
    tasks: TaskTracker,
    share_frames: bool,
    running: Mutex<HashMap<Source, Arc<Store>>>,
}

/// The cache of one kind under one selector. A clone shares it.
pub struct Informer<K> {
    store: Arc<Store>,
    cancel: CancellationToken,
    kind: PhantomData<fn() -> K>,
}

// === impl Informers ===

impl Informers {
    /// Informers that read through `client` until `cancel`.
    pub fn new(client: kube::Client, cancel: CancellationToken) -> Self {
        Self::build(client, cancel, false)
    }

    /// As [`new`](Self::new), for a transport whose body frames are the server's own allocations (a call within the
    /// process). The caches then keep slices of the frames instead of copies, and so share memory with the server.
    /// Over a socket this would pin whole read buffers.
    pub fn in_process(client: kube::Client, cancel: CancellationToken) -> Self {
        Self::build(client, cancel, true)
    }

    fn build(client: kube::Client, cancel: CancellationToken, share_frames: bool) -> Self {
        let tasks = TaskTracker::new();
        let running = Mutex::default();
        Self { shared: Arc::new(Shared { client, cancel, tasks, share_frames, running }) }
    }

    /// The cache of all objects of a kind.
    pub fn shared<K: Resource<DynamicType = ()>>(&self) -> Informer<K> {
        self.start(Source::new(K::url_path(&(), None)))
    }

    /// The cache of the objects of a kind that `field_selector` selects, such as `spec.nodeName=a`.
    pub fn filtered<K: Resource<DynamicType = ()>>(&self, field_selector: &str) -> Informer<K> {
        self.start(Source::new(K::url_path(&(), None)).fields(field_selector))
    }

    /// The cache of the objects of a kind in one namespace.
    pub fn namespaced<K: Resource<DynamicType = ()>>(&self, namespace: &str) -> Informer<K> {
        self.start(Source::new(K::url_path(&(), Some(namespace))))
    }

    /// The cache of a kind known by its place in the API, such as `/apis/apps/v1/deployments`. It is the same cache
    /// that [`shared`](Self::shared) gives for that kind.
    pub fn at_path<K>(&self, path: &str) -> Informer<K> {
        self.start(Source::new(path.to_owned()))
    }

    /// Waits until every reflector has ended, which they do once the token is cancelled.
    pub async fn stopped(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn start<K>(&self, source: Source) -> Informer<K> {
        let shared = &self.shared;
        let mut running = shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        let store = running.entry(source.clone()).or_insert_with(|| {
            let store = Arc::new(Store::new());
            let span = tracing::debug_span!("reflector", path = %source.path);
            let reflector = Reflector::new(shared.client.clone(), source, store.clone(), shared.share_frames);
            let cancel = shared.cancel.clone();
            shared
                .tasks
                .spawn(async move { cancel.run_until_cancelled(reflector.run()).await }.instrument(span));
            store
        });
        Informer { store: store.clone(), cancel: shared.cancel.clone(), kind: PhantomData }
    }
}

impl fmt::Debug for Informers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informers").field("share_frames", &self.shared.share_frames).finish_non_exhaustive()
    }
}

// === impl Informer ===

impl<K> Informer<K> {
    /// Waits until the first complete list is in the cache (or the informers are shut down).
    pub async fn synced(&self) {
        self.cancel.run_until_cancelled(self.store.synced()).await;
    }

    /// Whether the first complete list is in the cache.
    pub fn is_synced(&self) -> bool {
        self.store.is_synced()
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Stored<K>> {
        self.store.get(key).map(Stored::new)
    }

    /// Every object, ordered by key.
    pub fn list(&self) -> Vec<Stored<K>> {
        self.store.list().into_iter().map(Stored::new).collect()
    }

    /// Every object of one namespace, ordered by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Stored<K>> {
        self.store.list_namespace(namespace).into_iter().map(Stored::new).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision up to which the server has sent every change; 0 before the first list.
    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    /// Keeps an index of the objects by what `function` computes from their bytes, for [`by_index`](Self::by_index).
    /// `name` must always go with the same function.
    pub fn index(&self, name: &'static str, function: IndexFn) {
        self.store.add_index(name, function);
    }

    /// The objects filed under `value` in an index added before.
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Stored<K>> {
        self.store.by_index(name, value).into_iter().map(Stored::new).collect()
    }

    /// The objects whose controlling owner has this uid (an index, added by the first call). Objects without a
    /// controlling owner are under the empty uid.
    pub fn controlled_by(&self, uid: &str) -> Vec<Stored<K>> {
        self.store.add_index(CONTROLLER_UID, |raw| {
            vec![controller_of(raw).map(|owner| owner.uid).unwrap_or_default()]
        });
        self.by_index(CONTROLLER_UID, uid)
    }

    /// A subscription to changes; the objects already there come first.
    pub fn subscribe(&self) -> Changes<K> {
        Changes::new(self.store.clone(), self.cancel.clone())
    }
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), cancel: self.cancel.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Informer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informer").field("objects", &self.store.len()).finish_non_exhaustive()
    }
}
