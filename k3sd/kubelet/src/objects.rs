//! ConfigMaps and Secrets that pods of this node refer to, each followed by a watch of its own.
//!
//! A node may read only the objects its pods name, so there is no informer over all of them: the first pod that
//! refers to an object starts a watch for that one name, the last one that goes ends it. A change wakes the
//! workers of the pods that use it; nothing is polled.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::runtime::Poke;

/// First answer must come within this; the pod tries again later.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// Pause before a broken watch begins again with a list.
const RELIST: Duration = Duration::from_secs(1);

/// Which of the two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    /// As error messages and events name it.
    pub(crate) fn lower(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// Keys and values, of either kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObjectData {
    pub(crate) values: BTreeMap<String, Vec<u8>>,
}

/// Why an object could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    /// It does not exist (yet).
    #[error("{} \"{name}\" not found", .kind.lower())]
    NotFound {
        /// ConfigMap or Secret.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The API server could not be asked.
    #[error("failed to read {} \"{name}\": no answer from the API server", .kind.lower())]
    Unavailable {
        /// ConfigMap or Secret.
        kind: Kind,
        /// Its name.
        name: String,
    },
}

/// Someone who uses objects: a pod.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) uid: String,
    pub(crate) poke: Poke,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    namespace: String,
    name: String,
}

/// `None` before the first answer; then the object, or that there is none.
type Answer = Option<Option<Arc<ObjectData>>>;

struct Entry {
    answer: watch::Receiver<Answer>,
    users: Arc<Mutex<HashMap<String, Poke>>>,
    _watch: AbortOnDropHandle<()>,
}

/// The objects in use on this node.
#[derive(Clone)]
pub(crate) struct Objects {
    client: Client,
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
}

impl Objects {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, entries: Arc::default() }
    }

    /// The current content of an object, for `user`, who is woken when it changes.
    pub(crate) async fn get(
        &self,
        user: &User,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<ObjectData>, ObjectError> {
        let key = Key { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        let mut answer = self.follow(user, key);
        let first = tokio::time::timeout(FIRST_ANSWER, answer.wait_for(Option::is_some)).await;
        let unavailable = || ObjectError::Unavailable { kind, name: name.to_owned() };
        let found = match first {
            Ok(Ok(answer)) => answer.clone().flatten(),
            Ok(Err(_)) | Err(_) => return Err(unavailable()),
        };
        found.ok_or_else(|| ObjectError::NotFound { kind, name: name.to_owned() })
    }

    /// Ends the watches only `uid` needed.
    pub(crate) fn forget(&self, uid: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| {
            let mut users = entry.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.remove(uid);
            !users.is_empty()
        });
    }

    fn follow(&self, user: &User, key: Key) -> watch::Receiver<Answer> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(key.clone()).or_insert_with(|| self.start(key));
        entry
            .users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(user.uid.clone(), user.poke.clone());
        entry.answer.clone()
    }

    fn start(&self, key: Key) -> Entry {
        let (sender, answer) = watch::channel(None);
        let users: Arc<Mutex<HashMap<String, Poke>>> = Arc::default();
        let publisher = Publisher { sender, users: users.clone() };
        let client = self.client.clone();
        let task = tokio::spawn(async move {
            match key.kind {
                Kind::ConfigMap => follow::<ConfigMap>(client, &key, &publisher, config_map_data).await,
                Kind::Secret => follow::<Secret>(client, &key, &publisher, secret_data).await,
            }
        });
        Entry { answer, users, _watch: AbortOnDropHandle::new(task) }
    }
}

struct Publisher {
    sender: watch::Sender<Answer>,
    users: Arc<Mutex<HashMap<String, Poke>>>,
}

impl Publisher {
    fn publish(&self, data: Option<ObjectData>) {
        let data = data.map(Arc::new);
        let changed = self.sender.send_if_modified(|answer| {
            let changed = answer.as_ref() != Some(&data);
            *answer = Some(data);
            changed
        });
        if changed {
            for poke in self.users.lock().unwrap_or_else(PoisonError::into_inner).values() {
                poke.poke();
            }
        }
    }
}

/// Lists, then watches from the list's version; begins again when the watch breaks.
async fn follow<K>(client: Client, key: &Key, publisher: &Publisher, data: fn(K) -> ObjectData)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client, &key.namespace);
    let selector = format!("metadata.name={}", key.name);
    loop {
        if let Err(error) = follow_once(&api, &selector, publisher, data).await {
            debug!(kind = key.kind.lower(), name = %key.name, %error, "watch broke, starting over");
        }
        tokio::time::sleep(RELIST).await;
    }
}

async fn follow_once<K>(
    api: &Api<K>,
    selector: &str,
    publisher: &Publisher,
    data: fn(K) -> ObjectData,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let list = api.list(&ListParams::default().fields(selector)).await?;
    let mut version = list.metadata.resource_version.clone().unwrap_or_default();
    publisher.publish(list.items.into_iter().next().map(data));
    loop {
        let params = WatchParams::default().fields(selector);
        let mut events = std::pin::pin!(api.watch(&params, &version).await?);
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    version = object.resource_version().unwrap_or_default();
                    publisher.publish(Some(data(object)));
                }
                WatchEvent::Deleted(object) => {
                    version = object.resource_version().unwrap_or_default();
                    publisher.publish(None);
                }
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
    }
}

fn config_map_data(object: ConfigMap) -> ObjectData {
    let text = object.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    let binary = object.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    ObjectData { values: text.chain(binary).collect() }
}

fn secret_data(object: Secret) -> ObjectData {
    ObjectData {
        values: object.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect(),
    }
}
