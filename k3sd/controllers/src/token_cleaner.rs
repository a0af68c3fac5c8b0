//! Removes bootstrap tokens that have run out.
//!
//! Reads: the secrets of `kube-system`. Owns: their deletion, if they are bootstrap tokens. Follows
//! `pkg/controller/bootstrap/tokencleaner.go` of v1.36.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Informer, ObjectKey, WorkQueue, request, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tracing::info;

use crate::context::{Context, feed, own_key, path};

/// Where they are.
pub(crate) const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// What is looked at of a token.
#[derive(Debug, Clone, Default)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) for_signing: bool,
    pub(crate) uid: String,
    /// As it was written; empty: never.
    pub(crate) expiration: String,
}

impl Token {
    /// None: the secret is no token.
    pub(crate) fn of(secret: &Value) -> Option<Self> {
        if secret["type"] != TYPE {
            return None;
        }
        let data = |key: &str| {
            let encoded = secret.get("data").and_then(|data| data.get(key)?.as_str()).unwrap_or_default();
            String::from_utf8(STANDARD.decode(encoded).unwrap_or_default()).unwrap_or_default()
        };
        Some(Self {
            id: data("token-id"),
            secret: data("token-secret"),
            for_signing: data("usage-bootstrap-signing") == "true",
            uid: machinery::meta::uid(secret).to_owned(),
            expiration: data("expiration"),
        })
    }

    /// How long it is still good; `None` for ever, nothing if it has run out or says something that is no time.
    pub(crate) fn remaining(&self, now: Timestamp) -> Option<Duration> {
        if self.expiration.is_empty() {
            return None;
        }
        let end = self.expiration.parse::<Timestamp>();
        Some(
            end.map_or(Duration::ZERO, |end| Duration::try_from(end.duration_since(now)).unwrap_or_default()),
        )
    }
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
    let Some(token) = Token::of(&secret.project()?) else { return Ok(None) };
    match token.remaining(Timestamp::now()) {
        None => Ok(None),
        Some(left) if !left.is_zero() => Ok(Some(left)),
        Some(_) => {
            // One that was made anew meanwhile stays.
            let options = json!({ "preconditions": { "uid": token.uid } });
            request::delete(&context.client, &path::<Secret>(key), &options).await?;
            info!(name = %key.name, "bootstrap token has run out");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(expiration: &str) -> Token {
        Token { expiration: expiration.to_owned(), ..Token::default() }
    }

    #[test]
    fn a_token_lasts_until_its_end_or_for_ever() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(token("").remaining(now), None);
        assert_eq!(token("2026-01-01T00:01:00Z").remaining(now), Some(Duration::from_secs(60)));
        assert_eq!(token("2026-01-01T01:00:00+01:00").remaining(now), Some(Duration::ZERO));
        assert_eq!(token("2025-01-01T00:00:00Z").remaining(now), Some(Duration::ZERO));
        assert_eq!(token("tomorrow").remaining(now), Some(Duration::ZERO));
    }
}
