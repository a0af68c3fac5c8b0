//! Counts what the objects of a namespace take of its quotas.
//!
//! Reads: resource quotas, pods, claims, services, and the kinds whose objects some quota counts. Owns: the status of resource
//! quotas, which admission adds to as objects are made. Follows `pkg/controller/resourcequota` of v1.36: a quota is counted anew when
//! its bounds change, when something it may count has become less, and now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Change, Informer, ObjectKey, PartialObject, Stored, WorkQueue, request, run_workers};
use futures::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use machinery::meta;
use machinery::quantity::Quantity;
use machinery::quota::{Kind, Quota};
use machinery::resources::Amounts;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::context::{Context, path};
use crate::discovery;

const WORKERS: usize = 5;
/// Pods that should be gone, and what was charged for objects that were never stored, are noticed by then.
const RESYNC: Duration = Duration::from_secs(5 * 60);
/// How long a charge may be ahead of the object it is for,
const IN_FLIGHT: Duration = Duration::from_secs(1);
/// and how often to look whether it has come.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Whose objects take more than a place in a count.
const MEASURED: [&str; 3] = ["pods", "persistentvolumeclaims", "services"];

/// Group and plural.
type KindName = (String, String);

struct Controller {
    context: Context,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<ObjectKey>,
    /// The kinds that are followed. None: the server does not have it.
    followed: Mutex<BTreeMap<KindName, Option<Informer<PartialObject>>>>,
    /// Revisions at which quotas were found ahead of their objects, and when.
    ahead: Mutex<BTreeMap<ObjectKey, (u64, Instant)>>,
    /// Kinds to follow from now on.
    follow: mpsc::UnboundedSender<(KindName, Informer<PartialObject>)>,
}

pub(crate) async fn run(context: Context) {
    let (follow, mut wanted) = mpsc::unbounded_channel();
    let controller = Arc::new(Controller {
        quotas: context.informers.shared(),
        queue: WorkQueue::new(),
        followed: Mutex::default(),
        ahead: Mutex::default(),
        follow,
        context: context.clone(),
    });
    controller.quotas.synced().await;
    let work = controller.clone();
    let reconcile = move |key| {
        let controller = work.clone();
        async move { controller.count(&key).await }
    };
    let feeds = async {
        let mut feeds = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some((kind, informer)) = wanted.recv() => feeds.push(controller.feed(kind, informer)),
                Some(()) = feeds.next() => {}
                () = context.cancel.cancelled() => return,
            }
        }
    };
    tokio::join!(
        controller.feed_quotas(),
        feeds,
        run_workers("resource_quota", controller.queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    /// What is taken changes by this controller and by admission, so only bounds and scopes count.
    async fn feed_quotas(&self) {
        let mut changes = self.quotas.subscribe();
        while let Some(Change { key, old, new }) = changes.next_change().await {
            let spec = |quota: Option<Stored<ResourceQuota>>| {
                quota.and_then(|quota| quota.project::<Value>().ok()).map(|quota| quota["spec"].clone())
            };
            let (old, new) = (spec(old), spec(new));
            if new.is_some() && old != new {
                self.queue.add(key);
            }
        }
    }

    /// What takes less than before makes the namespace's quotas be counted.
    async fn feed(&self, (group, plural): KindName, informer: Informer<PartialObject>) {
        let kind = Kind { group: &group, plural: &plural };
        let mut changes = informer.subscribe();
        while let Some(Change { key, old, new }) = changes.next_change().await {
            let Some(old) = old else { continue };
            let Some(namespace) = key.namespace.as_deref().filter(|_| takes_less(kind, &old, new.as_ref()))
            else {
                continue;
            };
            for quota in self.quotas.list_namespace(namespace) {
                self.queue.add(quota.key().clone());
            }
        }
    }

    async fn count(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.quotas.get(key) else { return Ok(None) };
        let mut object: Value = stored.project()?;
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let hard = Amounts::of(object.pointer("/spec/hard"));
        let mut used = Amounts::default();
        let quota = Quota::of(&object);
        let mut seen = u64::MAX;
        for (group, plural) in kinds(&hard) {
            let kind = Kind { group: &group, plural: &plural };
            let names: Vec<&String> = hard.0.keys().filter(|name| kind.takes(name)).collect();
            let Some(informer) = self.informer(&group, &plural).await? else { continue };
            informer.synced().await;
            seen = seen.min(informer.revision());
            let mut sum = names.iter().map(|name| ((*name).clone(), Quantity::ZERO)).collect();
            add_all(&mut sum, kind, &quota, &informer.list_namespace(namespace))?;
            used.0.extend(sum.0);
        }
        if quota.hard == hard && self.is_ahead(key, stored.revision(), seen) {
            return Ok(Some(LOOK_AGAIN));
        }
        if quota.hard != hard || quota.used != used || object.get("status").is_none() {
            let status = json!({ "hard": hard.to_value(), "used": used.to_value() });
            meta::object_mut(&mut object).insert("status".to_owned(), status);
            // With the revision that was counted from: what admission charged meanwhile must not be lost.
            let status = format!("{}/status", path::<ResourceQuota>(key));
            match request::replace::<Value>(&self.context.client, &status, &object).await {
                Err(error) if request::is_not_found(&error) => return Ok(None),
                result => result?,
            };
        }
        Ok(Some(RESYNC))
    }

    /// Whether the quota may have been charged for an object that is not stored yet: it has changed later than all that is counted.
    /// After a while it has not, or not for something that came.
    fn is_ahead(&self, key: &ObjectKey, revision: u64, seen: u64) -> bool {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if seen >= revision {
            ahead.remove(key);
            return false;
        }
        let (at, since) = ahead.entry(key.clone()).or_insert_with(|| (revision, Instant::now()));
        if *at != revision {
            (*at, *since) = (revision, Instant::now());
        }
        let waiting = since.elapsed() < IN_FLIGHT;
        if !waiting {
            ahead.remove(key);
        }
        waiting
    }

    /// The cache of a kind, followed from now on. It is the garbage collector's, so it costs nothing.
    async fn informer(
        &self,
        group: &str,
        plural: &str,
    ) -> Result<Option<Informer<PartialObject>>, kube::Error> {
        let name = (group.to_owned(), plural.to_owned());
        if let Some(Some(known)) = self.followed().get(&name) {
            return Ok(Some(known.clone()));
        }
        let (resources, _) = discovery::resources(&self.context.client).await?;
        let found = resources.into_iter().find(|resource| {
            let own = resource.api_version.split_once('/').map_or("", |(group, _)| group);
            own == group && resource.plural == plural && resource.namespaced && resource.can("watch")
        });
        let informer = found.map(|resource| self.context.informers.at_path(&resource.path(None)));
        let mut followed = self.followed();
        // Another quota may have been faster.
        if let (Some(informer), None | Some(None)) = (&informer, followed.get(&name)) {
            // The receiver lives as long as the workers do.
            let _ended = self.follow.send((name.clone(), informer.clone()));
        }
        followed.insert(name, informer.clone());
        Ok(informer)
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, BTreeMap<KindName, Option<Informer<PartialObject>>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kinds whose objects reach some of these bounds.
fn kinds(hard: &Amounts) -> BTreeSet<KindName> {
    let measured =
        MEASURED.into_iter().filter(|plural| hard.0.keys().any(|name| Kind::core(plural).takes(name)));
    let counted = hard.0.keys().filter_map(|name| Kind::counted(name));
    measured
        .map(|plural| (String::new(), plural.to_owned()))
        .chain(counted.map(|kind| (kind.group.to_owned(), kind.plural.to_owned())))
        .collect()
}

/// What the objects take, of what is in `sum` already.
fn add_all(
    sum: &mut Amounts,
    kind: Kind<'_>,
    quota: &Quota,
    objects: &[Stored<PartialObject>],
) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let measured = kind.group.is_empty() && MEASURED.contains(&kind.plural);
    for object in objects {
        // Of what is only counted nothing needs to be known.
        let object = if measured { object.project()? } else { Value::Null };
        if quota.has(kind, &object) {
            sum.add(&kind.usage(&object, now).masked(|name| sum.get(name).is_some()));
        }
    }
    Ok(())
}

fn takes_less(kind: Kind<'_>, old: &Stored<PartialObject>, new: Option<&Stored<PartialObject>>) -> bool {
    let Some(new) = new else { return true };
    if !kind.group.is_empty() || !MEASURED.contains(&kind.plural) {
        return false;
    }
    // Pods change often, and only their end matters.
    if kind.plural == "pods" {
        return is_over(new) && !is_over(old);
    }
    let now = Timestamp::now();
    let usage = |object: &Stored<PartialObject>| {
        object.project().map(|object: Value| kind.usage(&object, now)).unwrap_or_default()
    };
    usage(old) != usage(new)
}

fn is_over(pod: &Stored<PartialObject>) -> bool {
    #[derive(Deserialize, Default)]
    struct View {
        #[serde(default)]
        status: Status,
    }
    #[derive(Deserialize, Default)]
    struct Status {
        #[serde(default)]
        phase: String,
    }
    matches!(pod.project::<View>().unwrap_or_default().status.phase.as_str(), "Failed" | "Succeeded")
}
