//! The resources this server serves, by request path, and the cache behind each. It can grow while the server runs: readers take an
//! `Arc` of the current tables, a registration puts new tables in their place.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use machinery::convert;
use machinery::kinds::{self, Resource};
use serde_json::Value;

use crate::cache::Cache;
use crate::strategy::{self, Strategy};

/// One served resource with everything a verb needs.
pub(crate) struct Entry {
    pub resource: Arc<Resource>,
    pub strategy: Arc<dyn Strategy>,
    /// None for resources that are not stored (reviews, bindings).
    pub cache: Option<Arc<Cache>>,
    /// Stored in another version's shape (`events.k8s.io/v1` as core events), so every read and write is converted.
    pub converted: bool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("resource", &self.resource.qualified()).finish_non_exhaustive()
    }
}

impl Entry {
    /// Key of one object below the resource's prefix.
    pub(crate) fn cache_key(&self, namespace: &str, name: &str) -> String {
        if self.resource.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    /// Datastore key of one object.
    pub(crate) fn store_key(&self, namespace: &str, name: &str) -> String {
        self.resource.key(Some(namespace), name)
    }
}

/// All resources of one group and version, by plural name.
pub(crate) type Version = BTreeMap<String, Arc<Entry>>;

/// What is served at one moment.
#[derive(Default, Clone)]
pub(crate) struct Tables {
    /// Group, then version.
    groups: BTreeMap<String, BTreeMap<String, Version>>,
    /// By datastore prefix, each with the strategy of its objects.
    caches: BTreeMap<String, (Arc<Cache>, Arc<dyn Strategy>)>,
}

impl Tables {
    /// The resource at `/apis/GROUP/VERSION/PLURAL`.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Entry>> {
        self.groups.get(group)?.get(version)?.get(plural)
    }

    /// Any stored version of a group's resource.
    pub(crate) fn find_any(&self, group: &str, plural: &str) -> Option<&Arc<Entry>> {
        self.groups.get(group)?.values().find_map(|version| version.get(plural))
    }

    /// The resources of a group's version.
    pub(crate) fn version(&self, group: &str, version: &str) -> Option<&Version> {
        self.groups.get(group)?.get(version)
    }

    /// Every group with its versions, the core group ("") first.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, Version>)> {
        self.groups.iter().map(|(group, versions)| (group.as_str(), versions))
    }

    /// Every resource.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.groups.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values)
    }

    /// The cache of a resource, a new one if its prefix has none yet.
    fn insert_cache(&mut self, resource: &Resource, complete_after: i64) -> Option<Arc<Cache>> {
        if !resource.is_stored() {
            return None;
        }
        let prefix = resource.storage_prefix.clone();
        let strategy = strategy::lookup(&resource.group, &resource.plural);
        let fresh = || Arc::new(Cache::new(prefix.clone(), strategy.selectable_fields(), complete_after));
        let (cache, _) = self.caches.entry(prefix.clone()).or_insert_with(|| (fresh(), strategy.clone()));
        Some(cache.clone())
    }

    fn insert(&mut self, resource: Arc<Resource>, complete_after: i64) {
        let strategy = strategy::lookup(&resource.group, &resource.plural);
        let cache = self.insert_cache(&resource, complete_after);
        let converted = convert::is_converted(&resource);
        let entry = Arc::new(Entry { resource: resource.clone(), strategy, cache, converted });
        let versions = self.groups.entry(resource.group.clone()).or_default();
        let version = versions.entry(resource.version.clone()).or_default();
        version.insert(resource.plural.clone(), entry);
    }
}

/// The live registry.
pub struct Registry {
    tables: RwLock<Arc<Tables>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry of all built-in kinds with empty caches.
    pub(crate) fn builtin() -> Self {
        let mut tables = Tables::default();
        // The storage version of a shared prefix goes first, so that the cache selects by its fields.
        let (first, second): (Vec<_>, Vec<_>) =
            kinds::builtin().iter().partition(|r| !convert::is_converted(r));
        for resource in first.into_iter().chain(second) {
            tables.insert(resource.clone(), 0);
        }
        Self { tables: RwLock::new(Arc::new(tables)) }
    }

    /// What is served now.
    pub(crate) fn tables(&self) -> Arc<Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Start over with empty caches that are complete as of `revision`.
    pub(crate) fn rewind(&self, revision: i64) {
        let old = self.tables();
        let mut tables = Tables::default();
        let (first, second): (Vec<_>, Vec<_>) = old.entries().partition(|entry| !entry.converted);
        for entry in first.into_iter().chain(second) {
            tables.insert(entry.resource.clone(), revision);
        }
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tables);
    }

    /// Have events of a resource collected, though it is not served yet.
    pub(crate) fn add_cache(&self, resource: &Resource, complete_after: i64) -> Option<Arc<Cache>> {
        let mut current = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let mut tables = Tables::clone(&current);
        let cache = tables.insert_cache(resource, complete_after);
        *current = Arc::new(tables);
        cache
    }

    /// Serve a resource, in the place of one with the same group, version and plural name.
    pub(crate) fn add(&self, resource: Arc<Resource>, complete_after: i64) {
        let mut current = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let mut tables = Tables::clone(&current);
        tables.insert(resource, complete_after);
        *current = Arc::new(tables);
    }

    /// The cache a datastore key belongs to, the strategy of its objects, and the key below its prefix.
    pub(crate) fn cache_of<'k>(&self, key: &'k str) -> Option<(Arc<Cache>, Arc<dyn Strategy>, &'k str)> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let (prefix, (cache, strategy)) =
            tables.caches.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        key.strip_prefix(prefix.as_str()).map(|rest| (cache.clone(), strategy.clone(), rest))
    }

    /// One stored object, decoded. `namespace` is ignored for cluster-scoped resources.
    pub fn object(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let tables = self.tables();
        let entry = tables.find_any(group, plural)?;
        entry.cache.as_ref()?.get(&entry.cache_key(namespace, name))?.decode().ok()
    }

    /// True if the object is stored.
    pub fn contains(&self, group: &str, plural: &str, namespace: &str, name: &str) -> bool {
        let tables = self.tables();
        let Some(entry) = tables.find_any(group, plural) else { return false };
        entry.cache.as_ref().is_some_and(|cache| cache.get(&entry.cache_key(namespace, name)).is_some())
    }

    /// Revision of the newest change of a resource.
    pub(crate) fn last_modified(&self, group: &str, plural: &str) -> i64 {
        let tables = self.tables();
        let cache = tables.find_any(group, plural).and_then(|entry| entry.cache.as_ref());
        cache.map_or(0, |cache| cache.last_modified())
    }

    /// Every stored object of a resource, in one namespace or (with "") in all, decoded one at a time as `visit` sees it.
    pub fn for_each(&self, group: &str, plural: &str, namespace: &str, mut visit: impl FnMut(Value)) {
        let tables = self.tables();
        let Some(cache) = tables.find_any(group, plural).and_then(|entry| entry.cache.as_ref()) else {
            return;
        };
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        for (_, object) in cache.page(&prefix, None, 0, |_, _| true).items {
            if let Ok(value) = object.decode() {
                visit(value);
            }
        }
    }
}
