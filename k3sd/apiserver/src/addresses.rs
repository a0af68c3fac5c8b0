//! IPAddress objects: one for each cluster address of a service, as upstream's allocator and its repair loop keep them.
//!
//! Who has which address is decided in memory ([`crate::allocator`]); the objects say so to others, and reserve what others name.
//! Those of a new service are handed to the datastore together with it, so that all wait for one commit. Everything else is made
//! good afterwards by one task: it looks at each service that was written, and at each whose address object is gone, and makes the
//! objects be what the service says. It also looks at all of them once at the start, so a crash in between leaves nothing behind.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use datastore::Revision;
use futures::future::join_all;
use machinery::meta;
use machinery::status::Status;
use serde_json::{Value, json};
use tracing::warn;

use crate::allocator::service_ips;
use crate::bootstrap::{own_user, own_writes};
use crate::options::DeleteOptions;
use crate::registry::Entry;
use crate::server::Shared;
use crate::verbs::update::Target;
use crate::verbs::{create, delete};
use crate::{managed_fields, metadata};

const GROUP: &str = "networking.k8s.io";
const PLURAL: &str = "ipaddresses";
/// Upstream's label of the objects that the allocator keeps, and its value.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// The object of one address of a service.
fn object_of(ip: IpAddr, namespace: &str, name: &str) -> Value {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": { "name": ip, "labels": { FAMILY: family, MANAGED_BY: ALLOCATOR } },
        "spec": { "parentRef": { "resource": "services", "namespace": namespace, "name": name } },
    })
}

/// The service that an object of the allocator belongs to, as `namespace/name`.
pub(crate) fn owner_of(object: &Value) -> Option<String> {
    let parent = object.pointer("/spec/parentRef")?;
    let ours = meta::label(object, MANAGED_BY) == Some(ALLOCATOR) && parent["resource"] == "services";
    ours.then(|| {
        let part = |name: &str| parent[name].as_str().unwrap_or_default();
        format!("{}/{}", part("namespace"), part("name"))
    })
}

/// Store a service and the objects of its addresses together. If there is no service in the end, there are no objects.
pub(crate) async fn store_with<T>(
    shared: &Shared,
    service: &Value,
    addresses: &[IpAddr],
    store: impl Future<Output = Result<T, datastore::Error>>,
) -> Result<T, datastore::Error> {
    let tables = shared.registry.tables();
    let Some(entry) = tables.find_any(GROUP, PLURAL) else { return store.await };
    let namespace = meta::namespace(service).unwrap_or_default();
    let writes = addresses.iter().map(|ip| {
        let mut object = object_of(*ip, namespace, meta::name(service));
        complete(entry, &mut object);
        let (key, bytes) = (entry.store_key("", &ip.to_string()), create::encode_stored(entry, &object));
        async move { shared.datastore.create(&key, bytes, None).await.map(|revision| (key, revision)) }
    });
    // All are handed over before any is waited for, and so share a commit.
    let (written, stored) = tokio::join!(biased; join_all(writes), store);
    if stored.is_err() {
        for (key, revision) in written.into_iter().flatten() {
            take_back(shared, &key, revision).await;
        }
    }
    stored
}

/// What the pipeline gives a new object.
fn complete(entry: &Entry, object: &mut Value) {
    // Fails only if the object has a revision.
    if metadata::prepare_create(entry, object).is_ok() {
        create::apply_defaults(entry, object);
        managed_fields::track(entry, &own_writes().ownership, "", object, None);
    }
}

async fn take_back(shared: &Shared, key: &str, revision: Revision) {
    if let Err(error) = shared.datastore.delete(key, Some(revision)).await {
        // At the next start it is found to have no service.
        warn!(%error, key, "failed to take back the object of an address");
    }
}

/// Keep the objects as the services are, until the server ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    // What each service has objects for: so that what it no longer has is found without a search.
    let mut kept: HashMap<String, BTreeSet<IpAddr>> = HashMap::new();
    shared.registry.for_each(GROUP, PLURAL, "", |object| {
        if let (Some(owner), Ok(ip)) = (owner_of(&object), meta::name(&object).parse()) {
            kept.entry(owner).or_default().insert(ip);
        }
    });
    let mut first: BTreeSet<String> = kept.keys().cloned().collect();
    shared.registry.for_each("", "services", "", |service| {
        first.insert(format!("{}/{}", meta::namespace(&service).unwrap_or_default(), meta::name(&service)));
    });
    for key in first {
        settle(&shared, &mut kept, &key).await;
    }
    loop {
        let touched = tokio::select! {
            () = shared.cancel.cancelled() => return,
            touched = shared.allocators.touched.take() => touched,
        };
        for key in touched {
            settle(&shared, &mut kept, &key).await;
        }
    }
}

/// Make the objects of one service be what it says.
async fn settle(shared: &Shared, kept: &mut HashMap<String, BTreeSet<IpAddr>>, key: &str) {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    let service = shared.registry.object("", "services", namespace, name);
    let wanted: BTreeSet<IpAddr> =
        service.as_ref().map(|service| service_ips(service).into_iter().collect()).unwrap_or_default();
    let had = kept.remove(key).unwrap_or_default();
    let mut left = BTreeSet::new();
    for ip in had.difference(&wanted) {
        if let Err(status) = remove(shared, *ip, key).await {
            warn!(error = %status.message, address = %ip, "failed to delete the object of an address");
            left.insert(*ip);
        }
    }
    for ip in &wanted {
        if let Err(status) = ensure(shared, *ip, key).await {
            warn!(error = %status.message, address = %ip, "failed to write the object of an address");
        }
    }
    left.extend(wanted);
    if !left.is_empty() {
        kept.insert(key.to_owned(), left);
    }
}

/// Write the object unless it is there; one of the allocator's that speaks of another service is replaced.
async fn ensure(shared: &Shared, ip: IpAddr, key: &str) -> Result<(), Status> {
    let there = shared.registry.object(GROUP, PLURAL, "", &ip.to_string());
    match there.map(|object| owner_of(&object)) {
        Some(Some(owner)) if owner == key => return Ok(()),
        Some(Some(owner)) => remove(shared, ip, &owner).await?,
        // Somebody named the address before there was a service; that stays.
        Some(None) => return Ok(()),
        None => {}
    }
    let tables = shared.registry.tables();
    let Some(entry) = tables.find_any(GROUP, PLURAL) else { return Ok(()) };
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    let object = object_of(ip, namespace, name);
    match create::create(shared, entry, &own_user(), "", object, &own_writes()).await {
        // Written with the service, and not seen yet; or the service is gone again.
        Err(status) if matches!(status.code, 404 | 409) => Ok(()),
        done => done.map(drop),
    }
}

/// Delete the object of an address if it is the allocator's for this service.
async fn remove(shared: &Shared, ip: IpAddr, key: &str) -> Result<(), Status> {
    let name = ip.to_string();
    let there = shared.registry.object(GROUP, PLURAL, "", &name);
    if there.and_then(|object| owner_of(&object)).as_deref() != Some(key) {
        return Ok(());
    }
    let tables = shared.registry.tables();
    let Some(entry) = tables.find_any(GROUP, PLURAL) else { return Ok(()) };
    let user = own_user();
    let target = Target { entry, user: &user, namespace: "", name: &name, subresource: "" };
    match delete::delete(shared, target, &DeleteOptions::default()).await {
        Err(status) if status.code == 404 => Ok(()),
        done => done.map(drop),
    }
}
