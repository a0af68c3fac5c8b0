//! The objects of one informer: one writer (its reflector), many readers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};

use tokio::sync::watch;

use crate::{ObjectKey, changes::Pending, stored::Entry};

/// Objects by key, as a list or the initial events gave them.
pub(crate) type Objects = BTreeMap<Arc<ObjectKey>, Arc<Entry>>;

/// The values under which an index files an object, computed from the object's bytes.
pub(crate) type IndexFn = fn(&[u8]) -> Vec<String>;

#[derive(Debug)]
pub(crate) struct Store {
    /// Taken before a subscriber's own lock, never after it, and never across an await.
    inner: RwLock<Inner>,
    synced: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: Objects,
    indexes: HashMap<&'static str, Index>,
    /// The latest revision the server said it has sent everything up to.
    revision: u64,
    subscribers: Vec<Weak<Pending>>,
}

#[derive(Debug)]
struct Index {
    function: IndexFn,
    keys: HashMap<String, BTreeSet<Arc<ObjectKey>>>,
}

// === impl Store ===

impl Store {
    pub(crate) fn new() -> Self {
        Self { inner: RwLock::default(), synced: watch::Sender::new(false) }
    }

    /// Puts one object. Returns without a change if that very version is there already.
    pub(crate) fn put(&self, entry: Entry) {
        self.write().put(Arc::new(entry));
    }

    /// Removes one object; `last` is its final state and revision.
    pub(crate) fn remove(&self, last: &Entry) {
        let mut inner = self.write();
        inner.observe(last.revision());
        inner.remove(&last.key);
    }

    /// Replaces everything by a complete list as of `revision`, and marks the store synced.
    pub(crate) fn replace(&self, objects: Objects, revision: u64) {
        let mut inner = self.write();
        let gone: Vec<_> = inner.objects.keys().filter(|key| !objects.contains_key(*key)).cloned().collect();
        for key in gone {
            inner.remove(&key);
        }
        for entry in objects.into_values() {
            inner.put(entry);
        }
        // A restored server may be behind what was seen before: the list is the truth.
        inner.revision = revision;
        drop(inner);
        self.synced.send_replace(true);
    }

    /// Notes that everything up to `revision` has been received (a bookmark).
    pub(crate) fn observe(&self, revision: u64) {
        self.write().observe(revision);
    }

    pub(crate) fn revision(&self) -> u64 {
        self.read().revision
    }

    pub(crate) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    pub(crate) async fn synced(&self) {
        // The sender lives in self, so waiting can end only by the value.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<Entry>> {
        self.read().objects.get(key).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.read().objects.len()
    }

    pub(crate) fn list(&self) -> Vec<Arc<Entry>> {
        self.read().objects.values().cloned().collect()
    }

    pub(crate) fn list_namespace(&self, namespace: &str) -> Vec<Arc<Entry>> {
        let first = ObjectKey::namespaced(namespace, "");
        let inner = self.read();
        inner
            .objects
            .range::<ObjectKey, _>(&first..)
            .take_while(|(key, _)| key.namespace.as_deref() == Some(namespace))
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// Adds an index under `name`; a second call with the same name does nothing.
    pub(crate) fn add_index(&self, name: &'static str, function: IndexFn) {
        let mut inner = self.write();
        if inner.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { function, keys: HashMap::new() };
        for entry in inner.objects.values() {
            index.insert(entry);
        }
        inner.indexes.insert(name, index);
    }

    pub(crate) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<Entry>> {
        let inner = self.read();
        let Some(keys) = inner.indexes.get(name).and_then(|index| index.keys.get(value)) else {
            return Vec::new();
        };
        keys.iter().filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// Registers a subscriber; it starts with every present key pending.
    pub(crate) fn subscribe(&self, pending: &Arc<Pending>) {
        let mut inner = self.write();
        for key in inner.objects.keys() {
            pending.push(key, None);
        }
        inner.subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        inner.subscribers.push(Arc::downgrade(pending));
    }

    /// A poisoned lock means a panic while it was held; the maps are valid between any two statements that change
    /// them, so readers go on.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn put(&mut self, entry: Arc<Entry>) {
        self.observe(entry.revision());
        let key = entry.key.clone();
        let old = self.objects.get(&key).cloned();
        if old.as_ref().is_some_and(|old| old.resource_version == entry.resource_version) {
            return;
        }
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(old);
            }
            index.insert(&entry);
        }
        // Re-inserting the key too, so that the entry and the map share one allocation of it.
        self.objects.remove(&key);
        self.objects.insert(key.clone(), entry);
        self.notify(&key, old);
    }

    fn remove(&mut self, key: &ObjectKey) {
        let Some(old) = self.objects.remove(key) else { return };
        for index in self.indexes.values_mut() {
            index.remove(&old);
        }
        let key = old.key.clone();
        self.notify(&key, Some(old));
    }

    fn observe(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    fn notify(&self, key: &Arc<ObjectKey>, old: Option<Arc<Entry>>) {
        for subscriber in self.subscribers.iter().filter_map(Weak::upgrade) {
            subscriber.push(key, old.clone());
        }
    }
}

// === impl Index ===

impl Index {
    fn insert(&mut self, entry: &Entry) {
        for value in (self.function)(&entry.raw) {
            self.keys.entry(value).or_default().insert(entry.key.clone());
        }
    }

    fn remove(&mut self, entry: &Entry) {
        for value in (self.function)(&entry.raw) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(&entry.key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}
