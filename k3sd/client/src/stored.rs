//! One object of a cache: its key, its revision and its bytes.

use std::{borrow::Cow, fmt, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, de::DeserializeOwned};

use crate::ObjectKey;

/// An object the server sent cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to decode {path} {key}")]
pub struct DecodeError {
    /// The kind's place in the API, such as `/api/v1/pods`; empty where the object came from elsewhere.
    pub path: String,
    /// Which object; empty when its name could not be read either.
    pub key: String,
    /// What the decoder says.
    #[source]
    pub source: serde_json::Error,
}

/// One object as the server sent it. Cloning copies two pointers.
pub struct Stored<K> {
    entry: Arc<Entry>,
    kind: PhantomData<fn() -> K>,
}

/// What every kind has. Use it as the kind of an informer that serves any kind by its metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PartialObject {
    /// Group and version.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// The object's metadata.
    pub metadata: ObjectMeta,
}

/// The owner reference that has `controller: true`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Group and version of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner, in the same namespace.
    pub name: String,
    /// The owner's uid.
    pub uid: String,
    /// Whether this reference is the managing controller's.
    #[serde(default)]
    pub controller: bool,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub key: Arc<ObjectKey>,
    pub resource_version: Box<str>,
    pub raw: Bytes,
}

/// The part of an object that the cache itself reads, borrowed from the bytes.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: HeadMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
}

// === impl Entry ===

impl Entry {
    /// Reads the key and the revision out of an object's bytes.
    pub(crate) fn parse(raw: Bytes) -> Result<Self, serde_json::Error> {
        let head: Head<'_> = serde_json::from_slice(&raw)?;
        let meta = head.metadata;
        let namespace = (!meta.namespace.is_empty()).then(|| meta.namespace.into_owned());
        let key = Arc::new(ObjectKey { namespace, name: meta.name.into_owned() });
        let resource_version = meta.resource_version.into();
        Ok(Self { key, resource_version, raw })
    }

    /// The revision as the number it is on every Kubernetes server (KEP-5504); 0 when it is none.
    pub(crate) fn revision(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

// === impl Stored ===

impl<K> Stored<K> {
    pub(crate) fn new(entry: Arc<Entry>) -> Self {
        Self { entry, kind: PhantomData }
    }

    /// An object that did not come from a cache, such as a response body.
    pub fn from_bytes(raw: Bytes) -> Result<Self, DecodeError> {
        let entry = Entry::parse(raw).map_err(|source| DecodeError {
            path: String::new(),
            key: String::new(),
            source,
        })?;
        Ok(Self::new(Arc::new(entry)))
    }

    /// Namespace and name.
    pub fn key(&self) -> &ObjectKey {
        &self.entry.key
    }

    /// The JSON text of the object.
    pub fn raw(&self) -> &Bytes {
        &self.entry.raw
    }

    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> &str {
        &self.entry.resource_version
    }

    /// `metadata.resourceVersion` as a number, which orders the versions of an object; 0 when it is not a number.
    pub fn revision(&self) -> u64 {
        self.entry.revision()
    }

    /// Decodes any view of the object: a struct with just the fields that are needed costs a fraction of the whole.
    pub fn project<P: DeserializeOwned>(&self) -> Result<P, DecodeError> {
        serde_json::from_slice(&self.entry.raw).map_err(|source| DecodeError {
            path: String::new(),
            key: self.entry.key.to_string(),
            source,
        })
    }

    /// Decodes kind and metadata only.
    pub fn partial(&self) -> Result<PartialObject, DecodeError> {
        self.project()
    }

    /// Decodes `metadata` only.
    pub fn metadata(&self) -> Result<ObjectMeta, DecodeError> {
        Ok(self.partial()?.metadata)
    }

    /// `metadata.uid`; empty when there is none.
    pub fn uid(&self) -> String {
        #[derive(Deserialize)]
        struct View {
            metadata: Meta,
        }
        #[derive(Deserialize)]
        struct Meta {
            #[serde(default)]
            uid: String,
        }
        self.project::<View>().map(|view| view.metadata.uid).unwrap_or_default()
    }

    /// The owner that manages this object, if one does.
    pub fn controller(&self) -> Option<Owner> {
        controller_of(&self.entry.raw)
    }

    /// The same bytes seen as another kind.
    pub fn cast<T>(self) -> Stored<T> {
        Stored::new(self.entry)
    }
}

impl<K: DeserializeOwned> Stored<K> {
    /// Decodes the whole object.
    pub fn decode(&self) -> Result<K, DecodeError> {
        self.project()
    }
}

impl<K> Clone for Stored<K> {
    fn clone(&self) -> Self {
        Self::new(self.entry.clone())
    }
}

impl<K> fmt::Debug for Stored<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.entry.key, self.entry.resource_version)
    }
}

/// The owner reference with `controller: true` in an object's bytes.
pub(crate) fn controller_of(raw: &[u8]) -> Option<Owner> {
    #[derive(Deserialize)]
    struct View {
        metadata: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(default, rename = "ownerReferences")]
        owners: Vec<Owner>,
    }
    let view: View = serde_json::from_slice(raw).ok()?;
    view.metadata.owners.into_iter().find(|owner| owner.controller)
}
