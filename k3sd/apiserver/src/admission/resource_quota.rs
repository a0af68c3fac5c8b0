//! Resource quotas: nothing is made that takes more than its namespace has left (upstream's `plugin/resourcequota` of the generic
//! API server).
//!
//! What an object takes is written into the status of each quota that counts it before the object is stored, by compare-and-swap
//! ([`charges`]); should the object then not be stored, it is given back. What is freed by deletion, the quota controller finds out.

mod charges;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use machinery::meta;
use machinery::quota::{Kind, Quota, missing};
use machinery::resources::Amounts;
use machinery::status::Status;
use serde_json::Value;
use tracing::warn;

use self::charges::{Charges, Refused, Wanted};
use super::{Operation, Plugin, Review};
use crate::bootstrap::{own_user, own_writes};
use crate::server::Shared;
use crate::verbs::update::{self, Target};

const PLURAL: &str = "resourcequotas";

/// The plugin.
#[derive(Default)]
pub(super) struct ResourceQuota(Charges);

/// What was taken from one quota.
#[derive(Debug)]
pub(super) struct Charge {
    namespace: String,
    quota: String,
    amounts: Amounts,
}

/// A request that may take something.
struct Request<'a> {
    review: &'a Review<'a>,
    kind: Kind<'a>,
    object: &'a Value,
    now: Timestamp,
}

#[async_trait]
impl Plugin for ResourceQuota {
    async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        let resource = review.cx.resource;
        let kind = Kind { group: &resource.group, plural: &resource.plural };
        let request = Request { review, kind, object, now: Timestamp::now() };
        if !request.may_take() || request.quotas().is_empty() {
            return Ok(());
        }
        review.shared.fresh().await?;
        // First all, so that nothing has to be given back if one of several quotas refuses.
        let mut due = Vec::new();
        for quota in request.quotas() {
            let amounts = request.check(&quota)?;
            due.extend(amounts.map(|amounts| (quota.name, amounts)));
        }
        if review.cx.dry_run {
            return Ok(());
        }
        for (quota, amounts) in due {
            if let Err(refused) = request.take(&self.0, &quota, amounts).await {
                review.notes.undo(review.shared).await;
                return Err(refused);
            }
        }
        Ok(())
    }
}

impl Request<'_> {
    /// Whether this kind of request can take anything.
    fn may_take(&self) -> bool {
        let review = self.review;
        if review.cx.namespace.is_empty() || review.cx.resource.plural == "events" {
            return false;
        }
        let create = review.operation == Operation::Create && review.cx.subresource.is_empty();
        let update = review.operation == Operation::Update;
        match (self.kind.group, self.kind.plural) {
            ("", "pods") => create || (update && review.cx.subresource == "resize"),
            ("", "persistentvolumeclaims") => create || update,
            ("", "services") => create || (update && review.cx.subresource.is_empty()),
            _ => create,
        }
    }

    fn quotas(&self) -> Vec<Quota> {
        let mut quotas = Vec::new();
        self.review.cx.objects.for_each("", PLURAL, self.review.cx.namespace, |quota| {
            quotas.push(Quota::of(&quota));
        });
        quotas
    }

    /// What the request takes from a quota, if anything.
    fn check(&self, quota: &Quota) -> Result<Option<Amounts>, Status> {
        let review = self.review;
        let bounds: Vec<&str> = quota.bounds(self.kind).collect();
        if bounds.is_empty() || !quota.has(self.kind, self.object) {
            return Ok(None);
        }
        if self.kind == Kind::core("pods")
            && let Some(fault) = missing(&bounds, self.object)
        {
            return Err(review.forbid(&format!("failed quota: {}: {fault}", quota.name)));
        }
        if bounds.iter().any(|name| quota.used.get(name).is_none()) {
            let resources = bounds.join(",");
            return Err(
                review.forbid(&format!("status unknown for quota: {}, resources: {resources}", quota.name))
            );
        }
        let mut taken = self.kind.usage(self.object, self.now);
        let negative: Vec<_> = taken.0.iter().filter(|(_, amount)| amount.is_negative()).collect();
        if !negative.is_empty() {
            let names: Vec<_> = negative.into_iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(",");
            return Err(review.forbid(&format!("quota usage is negative for resource(s): {names}")));
        }
        // An object that the quota counted before takes only what is new.
        if let Some(old) = review.old.filter(|old| quota.has(self.kind, old)) {
            taken.subtract(&self.kind.usage(old, self.now));
        }
        let taken = taken.masked(|name| bounds.contains(&name)).without_zeros();
        if taken.0.is_empty() {
            return Ok(None);
        }
        if self.is_bounded() {
            quota.clone().charge(&taken).map_err(|fault| review.forbid(&fault))?;
        }
        Ok(Some(taken))
    }

    /// What is allocated already cannot be refused any more.
    fn is_bounded(&self) -> bool {
        self.review.cx.subresource != "status"
    }

    async fn take(&self, charges: &Charges, quota: &str, amounts: Amounts) -> Result<(), Status> {
        let (shared, namespace) = (self.review.shared, self.review.cx.namespace);
        let wanted = Wanted { amounts: amounts.clone(), bounded: self.is_bounded() };
        match charges.take(shared, namespace, quota, wanted).await {
            Ok(()) => {}
            // Deleted meanwhile: it bounds nothing any more.
            Err(Refused::Failed(status)) if status.code == 404 => return Ok(()),
            Err(Refused::Failed(status)) => return Err(status),
            Err(Refused::Exceeded(fault)) => return Err(self.review.forbid(&fault)),
        }
        let charge = Charge { namespace: namespace.to_owned(), quota: quota.to_owned(), amounts };
        self.review.notes.charged(charge);
        Ok(())
    }
}

impl Charge {
    /// Best effort: what stays taken by mistake, the quota controller corrects.
    pub(super) async fn give_back(self, shared: &Shared) {
        let given = change(shared, &self.namespace, &self.quota, |quota| {
            quota.used.subtract(&self.amounts);
            Ok(())
        });
        if let Err(error) = given.await {
            let error = crate::errors::chain(&error);
            warn!(namespace = self.namespace, name = self.quota, error, "quota not given back");
        }
    }
}

/// Change what is taken of a quota, whatever else changes it. A box, as the change goes through admission itself.
fn change<'a>(
    shared: &'a Shared,
    namespace: &'a str,
    name: &'a str,
    mut with: impl FnMut(&mut Quota) -> Result<(), Status> + Send + 'a,
) -> BoxFuture<'a, Result<(), Status>> {
    let changed = async move {
        let tables = shared.registry.tables();
        let entry = tables.find_any("", PLURAL).ok_or_else(Status::unknown_path)?;
        let (user, options) = (own_user(), own_writes());
        let target = Target { entry, user: &user, namespace, name, subresource: "status" };
        let with = |current: &Value| {
            let mut quota = Quota::of(current);
            with(&mut quota)?;
            let mut next = current.clone();
            let status = meta::child_mut(meta::object_mut(&mut next), "status");
            status.insert("used".to_owned(), quota.used.to_value());
            Ok(next)
        };
        update::change(shared, target, &options, with).await.map(drop)
    };
    changed.boxed()
}
