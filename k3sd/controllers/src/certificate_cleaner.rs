//! Removes certificate signing requests that nobody needs any more.
//!
//! Reads: certificate signing requests. Owns: their deletion. Follows `pkg/controller/certificates/cleaner` of v1.36: issued, denied
//! and failed ones go after an hour, those that nobody decided on after a day, and those whose certificate has run out.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, WorkQueue, request, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use machinery::meta;
use serde_json::{Value, json};
use tracing::debug;
use x509_parser::prelude::{FromDer as _, Pem, X509Certificate};

use crate::context::{Context, feed, own_key, path};
use crate::signing_request::SigningRequest;

const DECIDED: Duration = Duration::from_secs(60 * 60);
const PENDING: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) async fn run(context: Context) {
    let requests = context.informers.shared::<CertificateSigningRequest>();
    requests.synced().await;
    let queue = WorkQueue::<ObjectKey>::new();
    let work = Arc::new((context.clone(), requests.clone()));
    let reconcile = move |key: ObjectKey| {
        let work = work.clone();
        async move { clean(&work.0, &work.1, &key).await }
    };
    tokio::join!(
        feed(&requests, &queue, own_key),
        run_workers("certificate_cleaner", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

async fn clean(
    context: &Context,
    requests: &Informer<CertificateSigningRequest>,
    key: &ObjectKey,
) -> anyhow::Result<Option<Duration>> {
    let Some(stored) = requests.get(key) else { return Ok(None) };
    let object: Value = stored.project()?;
    let Some(end) = end(&object) else { return Ok(None) };
    let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
    if !left.is_zero() {
        return Ok(Some(left));
    }
    let options = json!({ "preconditions": { "uid": meta::uid(&object) } });
    request::delete(&context.client, &path::<CertificateSigningRequest>(key), &options).await?;
    debug!(name = %key.name, "old certificate request removed");
    Ok(None)
}

/// When a request is no longer needed.
fn end(object: &Value) -> Option<Timestamp> {
    let request = SigningRequest::of(object);
    if request.conditions.is_empty() {
        return meta::creation_timestamp(object).map(|created| created + PENDING);
    }
    let issued = !request.certificate.is_empty();
    let decided = request.conditions.iter().filter_map(|(kind, updated)| {
        let over = matches!(kind.as_str(), "Denied" | "Failed") || (kind == "Approved" && issued);
        let updated = updated.parse::<Timestamp>().ok().filter(|_| over)?;
        Some(updated + DECIDED)
    });
    decided.chain(not_after(&request.certificate)).min()
}

fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let pem = Pem::iter_from_buffer(certificate).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(conditions: Value, certificate: &str) -> Option<String> {
        let object = json!({
            "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" },
            "status": { "conditions": conditions, "certificate": certificate },
        });
        end(&object).map(|end| end.to_string())
    }

    #[test]
    fn requests_are_kept_as_long_as_somebody_may_look_at_them() {
        let condition = |kind: &str| json!([{ "type": kind, "lastUpdateTime": "2026-01-01T12:00:00Z" }]);
        assert_eq!(ends(json!([]), "").as_deref(), Some("2026-01-02T00:00:00Z"));
        assert_eq!(ends(condition("Denied"), "").as_deref(), Some("2026-01-01T13:00:00Z"));
        assert_eq!(ends(condition("Failed"), "").as_deref(), Some("2026-01-01T13:00:00Z"));
        // Approved and not issued: its signer may be away.
        assert_eq!(ends(condition("Approved"), ""), None);
        assert_eq!(ends(condition("Approved"), "eA==").as_deref(), Some("2026-01-01T13:00:00Z"));
    }
}
