//! Leases of `coordination.k8s.io/v1`: node heartbeats, and which of several servers acts.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{Backoff, request};

/// A lease held by a name.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// The lease's namespace, such as `kube-node-lease`.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// How long it is valid without a renewal.
    pub duration: Duration,
    /// How often it is renewed.
    pub renew_every: Duration,
    /// The object that the lease goes with, such as the node.
    pub owner: Option<OwnerReference>,
}

/// Why a lease could not be taken or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else holds it.
    #[error("the lease is held by {holder:?}")]
    Held {
        /// The other holder.
        holder: String,
    },
    /// The API refused or could not be reached.
    #[error("failed to renew the lease")]
    Api(#[from] kube::Error),
}

/// Renews a lease that only this holder writes (a node's heartbeat) until `cancel`. A failure is retried soon, with
/// growing delays up to the renewal period.
pub async fn heartbeat(client: kube::Client, settings: LeaseSettings, cancel: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(200), settings.renew_every);
    let mut latest = None;
    loop {
        let delay = match beat(&client, &settings, latest.take()).await {
            Ok(lease) => {
                latest = Some(lease);
                backoff.reset();
                settings.renew_every
            }
            Err(error) => {
                let retry_in = backoff.next_delay();
                warn!(name = %settings.name, error = %error, ?retry_in, "lease not renewed");
                retry_in
            }
        };
        if cancel.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
            return;
        }
    }
}

/// Waits for the lease to be free, takes it, and keeps it. Returns a token that is cancelled when it is lost (or `cancel`
/// is), and the future that keeps renewing it, which the caller must run; when that ends, the lease has been released.
pub async fn acquire(
    client: kube::Client,
    settings: LeaseSettings,
    cancel: CancellationToken,
) -> Option<(CancellationToken, impl Future<Output = ()> + Send + 'static)> {
    let mut observed = Observed::default();
    let lease = loop {
        match observed.try_acquire(&client, &settings).await {
            Ok(lease) => break lease,
            Err(error @ Error::Held { .. }) => {
                debug!(name = %settings.name, error = %error, "lease not free")
            }
            Err(error) => warn!(name = %settings.name, error = %error, "lease not taken"),
        }
        cancel.run_until_cancelled(tokio::time::sleep(settings.renew_every)).await?;
    };
    info!(name = %settings.name, holder = %settings.holder, "lease taken");
    let held = cancel.child_token();
    let lost = held.clone();
    let keep = async move {
        keep(&client, &settings, lease, &lost).await;
        lost.cancel();
    };
    Some((held, keep))
}

/// Another holder's lease is judged by the local clock: by when its record last changed, not by what it says.
#[derive(Default)]
struct Observed {
    version: String,
    since: Option<Instant>,
}

impl Observed {
    async fn try_acquire(&mut self, client: &kube::Client, settings: &LeaseSettings) -> Result<Lease, Error> {
        let lease: Lease = match request::read(client, &settings.path()).await {
            Ok(lease) => lease,
            Err(error) if request::is_not_found(&error) => {
                return Ok(request::create(client, &settings.collection(), &settings.record(None)).await?);
            }
            Err(error) => return Err(error.into()),
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.version != version {
            *self = Self { version, since: Some(Instant::now()) };
        }
        let valid = Duration::from_secs(spec.lease_duration_seconds.unwrap_or(0).unsigned_abs().into());
        let fresh = self.since.is_some_and(|since| since.elapsed() < valid);
        if !holder.is_empty() && holder != settings.holder && fresh {
            return Err(Error::Held { holder });
        }
        Ok(request::replace(client, &settings.path(), &settings.record(Some(lease))).await?)
    }
}

/// Renews until `lost` is cancelled or the lease has run out without a renewal, then gives it up if it is still held.
async fn keep(client: &kube::Client, settings: &LeaseSettings, mut lease: Lease, lost: &CancellationToken) {
    let mut renewed = Instant::now();
    while lost.run_until_cancelled(tokio::time::sleep(settings.renew_every)).await.is_some() {
        let record = settings.record(Some(lease.clone()));
        match request::replace(client, &settings.path(), &record).await {
            Ok(new) => {
                lease = new;
                renewed = Instant::now();
            }
            Err(error) if request::is_conflict(&error) => {
                warn!(name = %settings.name, "lease taken by another");
                return;
            }
            Err(error) => warn!(name = %settings.name, error = %error, "lease not renewed"),
        }
        if renewed.elapsed() >= settings.duration {
            warn!(name = %settings.name, "lease lost: not renewed in time");
            return;
        }
    }
    let mut record = settings.record(Some(lease));
    if let Some(spec) = &mut record.spec {
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
    }
    if let Err(error) = request::replace::<Lease>(client, &settings.path(), &record).await {
        debug!(name = %settings.name, error = %error, "lease not released");
    }
}

async fn beat(
    client: &kube::Client,
    settings: &LeaseSettings,
    latest: Option<Lease>,
) -> Result<Lease, kube::Error> {
    let path = settings.path();
    let current = match latest {
        Some(lease) => Some(lease),
        None => match request::read(client, &path).await {
            Ok(lease) => Some(lease),
            Err(error) if request::is_not_found(&error) => None,
            Err(error) => return Err(error),
        },
    };
    match current {
        Some(lease) => request::replace(client, &path, &settings.record(Some(lease))).await,
        None => request::create(client, &settings.collection(), &settings.record(None)).await,
    }
}

impl LeaseSettings {
    fn collection(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    /// The record that renews `current` (or creates the lease) as of now.
    fn record(&self, current: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = current.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                namespace: Some(self.namespace.clone()),
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        if let (Some(owner), None) = (&self.owner, &lease.metadata.owner_references) {
            lease.metadata.owner_references = Some(vec![owner.clone()]);
        }
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(&self.holder) {
            let changed_hands = spec.holder_identity.is_some();
            spec.holder_identity = Some(self.holder.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + i32::from(changed_hands));
        }
        spec.lease_duration_seconds = Some(self.duration.as_secs().try_into().unwrap_or(i32::MAX));
        spec.renew_time = Some(now);
        lease
    }
}
