//! Removes bootstrap tokens that have run out.
//!
//! Reads: the secrets of `kube-system`. Owns: their deletion, if they are bootstrap tokens. Follows
//! `pkg/controller/bootstrap/tokencleaner.go` of v1.36.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, WorkQueue, request, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use machinery::bootstrap_token::{BootstrapToken, NAMESPACE};
use serde_json::json;
use tracing::info;

use crate::context::{Context, feed, own_key, path};

/// How long a token is still good; `None` for ever, nothing if it has run out or says something that is no time.
pub(crate) fn remaining(token: &BootstrapToken, now: Timestamp) -> Option<Duration> {
    if token.expiration.is_empty() {
        return None;
    }
    let end = token.expiration.parse::<Timestamp>();
    Some(end.map_or(Duration::ZERO, |end| Duration::try_from(end.duration_since(now)).unwrap_or_default()))
}

pub(crate) async fn run(context: Context) {
    let secrets = context.informers.shared::<Secret>();
    secrets.synced().await;
    let queue = WorkQueue::<ObjectKey>::new();
    let work = Arc::new((context.clone(), secrets.clone()));
    let reconcile = move |key: ObjectKey| {
        let work = work.clone();
        async move { clean(&work.0, &work.1, &key).await }
    };
    tokio::join!(
        feed(&secrets, &queue, |change| {
            own_key(change).filter(|key| key.namespace.as_deref() == Some(NAMESPACE))
        }),
        run_workers("token_cleaner", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

async fn clean(
    context: &Context,
    secrets: &Informer<Secret>,
    key: &ObjectKey,
) -> anyhow::Result<Option<Duration>> {
    let Some(secret) = secrets.get(key) else { return Ok(None) };
    let secret = secret.project()?;
    let Some(token) = BootstrapToken::of(&secret) else { return Ok(None) };
    match remaining(&token, Timestamp::now()) {
        None => Ok(None),
        Some(left) if !left.is_zero() => Ok(Some(left)),
        Some(_) => {
            // One that was made anew meanwhile stays.
            let options = json!({ "preconditions": { "uid": machinery::meta::uid(&secret) } });
            request::delete(&context.client, &path::<Secret>(key), &options).await?;
            info!(name = %key.name, "bootstrap token has run out");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(expiration: &str, now: Timestamp) -> Option<Duration> {
        remaining(&BootstrapToken { expiration: expiration.to_owned(), ..BootstrapToken::default() }, now)
    }

    #[test]
    fn a_token_lasts_until_its_end_or_for_ever() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(left("", now), None);
        assert_eq!(left("2026-01-01T00:01:00Z", now), Some(Duration::from_secs(60)));
        assert_eq!(left("2026-01-01T01:00:00+01:00", now), Some(Duration::ZERO));
        assert_eq!(left("2025-01-01T00:00:00Z", now), Some(Duration::ZERO));
        assert_eq!(left("tomorrow", now), Some(Duration::ZERO));
    }
}
