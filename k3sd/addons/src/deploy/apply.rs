//! Applies the objects of an add-on and deletes those that are no longer among them.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use client::request;
use machinery::kinds;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tracing::{debug, info};

use super::ownership::{HASH, Owner, hash_of, last_applied, may_be_pruned};
use super::threeway;

/// RBAC names have colons, which paths may have, too.
const PATH_SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
const DEFAULT_NAMESPACE: &str = "default";
/// What only the server sets; files that were exported from a cluster have it.
const SERVER_FIELDS: [&str; 6] =
    ["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Why an object could not be applied or deleted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the server knows no kind '{kind}' in version '{version}'")]
    UnknownKind { version: String, kind: String },
    #[error("{}", explain(.0))]
    Request(#[from] kube::Error),
}

/// The server's own words where there are any.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// What failed for which object.
#[derive(Debug)]
pub(super) struct Failure {
    object: String,
    error: Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.error)
    }
}

/// A kind as far as paths and patches need it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    group: String,
    version: String,
    plural: String,
    kind: String,
    namespaced: bool,
    /// Key into the schema of built-in kinds.
    type_name: Option<String>,
}

impl Kind {
    fn builtin(resource: &kinds::Resource) -> Self {
        Self {
            group: resource.group.clone(),
            version: resource.version.clone(),
            plural: resource.plural.clone(),
            kind: resource.kind.clone(),
            namespaced: resource.namespaced,
            type_name: Some(resource.type_name.clone()),
        }
    }

    fn collection(&self, namespace: Option<&str>) -> String {
        let version = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace {
            Some(namespace) => format!("{version}/namespaces/{namespace}/{}", self.plural),
            None => format!("{version}/{}", self.plural),
        }
    }
}

/// One object of a set. Equal for all versions of its kind, since it is one object in all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    group: String,
    kind_name: String,
    namespace: Option<String>,
    name: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind_name, self.name),
            None => write!(f, "{} {}", self.kind_name, self.name),
        }
    }
}

/// Which objects there are of each set, by the set's hash; with the path of each.
type Inventory = HashMap<String, std::collections::BTreeMap<Member, String>>;

/// Applies sets, and remembers what belongs to them.
pub(super) struct Applier {
    client: kube::Client,
    /// Read once from the server, so that objects are found whose file changed while we were not there.
    inventory: Option<Inventory>,
    /// Kinds that are not built in.
    discovered: HashMap<(String, String), Arc<Kind>>,
}

impl Applier {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { client, inventory: None, discovered: HashMap::new() }
    }

    /// Makes the set of `owner` exactly these objects; without `prune` none is deleted. Returns what failed; the rest is
    /// done.
    pub(super) async fn apply(
        &mut self,
        owner: &Owner,
        mut objects: Vec<Value>,
        prune: bool,
    ) -> Vec<Failure> {
        if let Err(error) = self.take_inventory().await {
            return vec![Failure {
                object: "reading the objects that were applied before".to_owned(),
                error,
            }];
        }
        // What others need comes first; else the file's order counts.
        objects.sort_by_key(|object| {
            !matches!(
                object["kind"].as_str(),
                Some("Namespace" | "CustomResourceDefinition" | "PriorityClass")
            )
        });
        let mut failures = Vec::new();
        let mut wanted = BTreeSet::new();
        for object in objects {
            let described = describe(&object);
            match self.place(object).await {
                Ok(placed) => {
                    wanted.insert(placed.member.clone());
                    if let Err(error) = self.apply_one(owner, placed).await {
                        failures.push(Failure { object: described, error });
                    }
                }
                Err(error) => failures.push(Failure { object: described, error }),
            }
        }
        if prune {
            failures.extend(self.prune(owner, &wanted).await);
        }
        failures
    }

    /// Finds the kind of an object, and so its namespace and path.
    async fn place(&mut self, mut object: Value) -> Result<Placed, Error> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = self.kind(&text(&object["apiVersion"]), &text(&object["kind"])).await?;
        let metadata =
            object["metadata"].as_object_mut().expect("objects without metadata.name were refused");
        for field in SERVER_FIELDS {
            metadata.remove(field);
        }
        let given =
            metadata.remove("namespace").map(|value| text(&value)).filter(|namespace| !namespace.is_empty());
        let namespace = kind.namespaced.then(|| given.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()));
        if let Some(namespace) = &namespace {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        let name = text(&object["metadata"]["name"]);
        let collection = kind.collection(namespace.as_deref());
        let path = format!("{collection}/{}", utf8_percent_encode(&name, PATH_SEGMENT));
        let member = Member { group: kind.group.clone(), kind_name: kind.kind.clone(), namespace, name };
        Ok(Placed { object, kind, member, collection, path })
    }

    async fn apply_one(&mut self, owner: &Owner, placed: Placed) -> Result<(), Error> {
        let Placed { mut object, kind, member, collection, path } = placed;
        owner.mark(&mut object);
        let current = match request::read::<Value>(&self.client, &path).await {
            Ok(current) => current,
            Err(error) if request::is_not_found(&error) => {
                request::create::<Value>(&self.client, &collection, &object).await?;
                info!(addon = owner.name(), object = %member, "created");
                self.remember(owner, member, path);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let change = change(&kind, &mut object, &current);
        if change.as_object().is_some_and(|change| !change.is_empty()) {
            let style =
                if kind.type_name.is_some() { request::Patch::Strategic } else { request::Patch::Merge };
            request::patch::<Value>(&self.client, &path, style, &change).await?;
            info!(addon = owner.name(), object = %member, "updated");
        }
        self.remember(owner, member, path);
        Ok(())
    }

    fn remember(&mut self, owner: &Owner, member: Member, path: String) {
        let Some(inventory) = &mut self.inventory else { return };
        // An object belongs to one set: whoever applied it last.
        for set in inventory.values_mut() {
            set.remove(&member);
        }
        inventory.entry(owner.hash().to_owned()).or_default().insert(member, path);
    }

    async fn prune(&mut self, owner: &Owner, wanted: &BTreeSet<Member>) -> Vec<Failure> {
        let known = self.inventory.as_ref().and_then(|inventory| inventory.get(owner.hash()));
        let stale = known.into_iter().flatten().filter(|(member, _)| !wanted.contains(member));
        let stale: Vec<(Member, String)> =
            stale.map(|(member, path)| (member.clone(), path.clone())).collect();
        let mut failures = Vec::new();
        for (member, path) in stale {
            if let Err(error) = self.delete(owner, &member, &path).await {
                failures.push(Failure { object: member.to_string(), error: error.into() });
                continue;
            }
            if let Some(set) = self.inventory.as_mut().and_then(|inventory| inventory.get_mut(owner.hash())) {
                set.remove(&member);
            }
        }
        failures
    }

    async fn delete(&self, owner: &Owner, member: &Member, path: &str) -> Result<(), kube::Error> {
        let current = match request::read::<Value>(&self.client, path).await {
            Err(error) if request::is_not_found(&error) => return Ok(()),
            other => other?,
        };
        if hash_of(&current) != Some(owner.hash()) || !may_be_pruned(&current) {
            debug!(object = %member, "not deleted: it is no longer this add-on's, or is to be kept");
            return Ok(());
        }
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": { "uid": current["metadata"]["uid"] },
        });
        if request::delete(&self.client, path, &options).await? {
            info!(addon = owner.name(), object = %member, "deleted, it is no longer in its manifest");
        }
        Ok(())
    }

    async fn kind(&mut self, version: &str, kind: &str) -> Result<Arc<Kind>, Error> {
        let (group, bare) = version.split_once('/').unwrap_or(("", version));
        if let Some(resource) = kinds::find_kind(group, bare, kind) {
            return Ok(Arc::new(Kind::builtin(resource)));
        }
        let key = (version.to_owned(), kind.to_owned());
        if let Some(known) = self.discovered.get(&key) {
            return Ok(known.clone());
        }
        let unknown = || Error::UnknownKind { version: version.to_owned(), kind: kind.to_owned() };
        let list: Value = match request::read(&self.client, &format!("/apis/{group}/{bare}")).await {
            Err(error) if request::is_not_found(&error) => return Err(unknown()),
            other => other?,
        };
        let resources = list["resources"].as_array().into_iter().flatten();
        // Subresources are listed beside their resources.
        let found = resources.filter(|resource| resource["kind"] == kind).find_map(|resource| {
            let plural = resource["name"].as_str().filter(|name| !name.contains('/'))?;
            Some((plural.to_owned(), resource["namespaced"].as_bool()?))
        });
        let (plural, namespaced) = found.ok_or_else(unknown)?;
        let (group, version) = (group.to_owned(), bare.to_owned());
        let found =
            Arc::new(Kind { group, version, plural, kind: kind.to_owned(), namespaced, type_name: None });
        self.discovered.insert(key, found.clone());
        Ok(found)
    }

    /// Reads once what sets there are: every object that has their label.
    async fn take_inventory(&mut self) -> Result<(), Error> {
        if self.inventory.is_some() {
            return Ok(());
        }
        let mut inventory = Inventory::new();
        let mut seen = BTreeSet::new();
        let stored =
            kinds::builtin().iter().filter(|resource| resource.is_stored() && resource.has_verb("list"));
        for resource in stored {
            // There are many events, and nobody deploys one.
            if resource.kind == "Event" {
                continue;
            }
            // One version of a kind shows all its objects.
            if seen.insert((&resource.group, &resource.kind)) {
                self.list_members(&Kind::builtin(resource), &mut inventory).await?;
            }
        }
        for kind in self.custom_kinds().await? {
            self.list_members(&kind, &mut inventory).await?;
        }
        self.inventory = Some(inventory);
        Ok(())
    }

    async fn list_members(&self, kind: &Kind, inventory: &mut Inventory) -> Result<(), Error> {
        let selector = utf8_percent_encode(HASH, NON_ALPHANUMERIC);
        let path = format!("{}?labelSelector={selector}", kind.collection(None));
        for item in self.list(&path).await? {
            let Some(hash) = hash_of(&item) else { continue };
            let text = |field: &str| item["metadata"][field].as_str().map(str::to_owned);
            let Some(name) = text("name") else { continue };
            let namespace = text("namespace").filter(|_| kind.namespaced);
            let collection = kind.collection(namespace.as_deref());
            let path = format!("{collection}/{}", utf8_percent_encode(&name, PATH_SEGMENT));
            let member = Member { group: kind.group.clone(), kind_name: kind.kind.clone(), namespace, name };
            inventory.entry(hash.to_owned()).or_default().insert(member, path);
        }
        Ok(())
    }

    async fn custom_kinds(&self) -> Result<Vec<Kind>, Error> {
        let definitions = self.list(CRDS).await?;
        Ok(definitions.iter().filter_map(custom_kind).collect())
    }

    /// The items of a list; none where the server does not serve it.
    async fn list(&self, path: &str) -> Result<Vec<Value>, Error> {
        match request::read::<Value>(&self.client, path).await {
            Ok(mut list) => match list["items"].take() {
                Value::Array(items) => Ok(items),
                _ => Ok(Vec::new()),
            },
            Err(kube::Error::Api(status)) if matches!(status.code, 403..=405) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// An object with everything that its requests need.
struct Placed {
    object: Value,
    kind: Arc<Kind>,
    member: Member,
    collection: String,
    path: String,
}

fn change(kind: &Kind, wanted: &mut Value, current: &Value) -> Value {
    let original = last_applied(current).unwrap_or_else(|| json!({}));
    // The same state compressed by another program is other text: not a change.
    if last_applied(wanted).is_some_and(|state| state == original) {
        let applied = "objectset.rio.cattle.io/applied";
        wanted["metadata"]["annotations"][applied] = current["metadata"]["annotations"][applied].clone();
    }
    let schema = machinery::schema::builtin();
    let ty = kind.type_name.as_deref().and_then(|name| schema.get(name));
    let mut change = threeway::patch(ty, &original, wanted, current);
    if let Some(change) = change.as_object_mut() {
        // Another version of the kind is the same object.
        for field in ["apiVersion", "kind", "status"] {
            change.remove(field);
        }
    }
    change
}

fn custom_kind(definition: &Value) -> Option<Kind> {
    let spec = &definition["spec"];
    let versions = spec["versions"].as_array()?;
    let served = versions.iter().find(|version| version["served"] == true)?;
    Some(Kind {
        group: spec["group"].as_str()?.to_owned(),
        version: served["name"].as_str()?.to_owned(),
        plural: spec["names"]["plural"].as_str()?.to_owned(),
        kind: spec["names"]["kind"].as_str()?.to_owned(),
        namespaced: spec["scope"] == "Namespaced",
        type_name: None,
    })
}

fn describe(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
