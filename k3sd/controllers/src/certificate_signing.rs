//! Issues the certificates of approved requests.
//!
//! Reads: certificate signing requests. Owns: their certificate, or the condition `Failed`, for the four signers of
//! `kubernetes.io`. Follows `pkg/controller/certificates/signer` of v1.36, with K3s's authorities: clients and kubelets as
//! clients by the one that signs clients, kubelets' servers and what is unknown by the one that signs servers.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Informer, ObjectKey, WorkQueue, request, run_workers};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use machinery::meta;
use serde_json::Value;
use tracing::info;

use crate::context::{Context, feed, own_key, path};
use crate::service_account_token::SecretToken;
use crate::signing_request::{
    CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, SigningRequest, add_condition,
};

/// A year, as K3s gives all its leaves. Requests may ask for less,
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// but not for less than this.
const LIFETIME_MIN: Duration = Duration::from_secs(10 * 60);

/// One of the cluster's two authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Its certificates are identities to the API server.
    Clients,
    /// Its certificates are shown by servers.
    Servers,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request will never get one.
    #[error("the request cannot be signed: {0}")]
    Unsuitable(String),
    /// Another try may help.
    #[error("failed to issue a certificate")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

/// Makes certificates and tokens. It asks nobody: whether somebody may have one is decided before.
pub trait Issuer: fmt::Debug + Send + Sync {
    /// A certificate (PEM, without those of its authority) with the subject, the names and the key of a PKCS#10 request (PEM), for
    /// these uses as the API names them (`client auth`), which ends after `lifetime`.
    ///
    /// # Errors
    /// The request is none, is not signed by its key, or asks for what fits no certificate.
    fn issue(
        &self,
        authority: Authority,
        request: &[u8],
        usages: &[String],
        lifetime: Duration,
    ) -> Result<String, IssueError>;

    /// A token for a service account that is good as long as the secret that keeps it.
    ///
    /// # Errors
    /// It cannot be signed.
    fn token(&self, token: &SecretToken<'_>) -> Result<String, IssueError>;
}

pub(crate) async fn run(context: Context) {
    let requests = context.informers.shared::<CertificateSigningRequest>();
    requests.synced().await;
    let queue = WorkQueue::<ObjectKey>::new();
    let work = Arc::new((context.clone(), requests.clone()));
    let reconcile = move |key: ObjectKey| {
        let work = work.clone();
        async move { sign(&work.0, &work.1, &key).await.map(|()| None) }
    };
    tokio::join!(
        feed(&requests, &queue, own_key),
        run_workers("certificate_signing", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

fn authority(signer: &str) -> Option<Authority> {
    match signer {
        CLIENT | KUBELET_CLIENT => Some(Authority::Clients),
        KUBELET_SERVING | LEGACY_UNKNOWN => Some(Authority::Servers),
        _ => None,
    }
}

async fn sign(
    context: &Context,
    requests: &Informer<CertificateSigningRequest>,
    key: &ObjectKey,
) -> anyhow::Result<()> {
    let Some(stored) = requests.get(key) else { return Ok(()) };
    let mut object: Value = stored.project()?;
    let request = SigningRequest::of(&object);
    let due = request.has("Approved") && !request.has("Denied") && !request.has("Failed");
    if !due || !request.certificate.is_empty() {
        return Ok(());
    }
    let Some(authority) = authority(&request.signer) else { return Ok(()) };
    let fault = match request.asked() {
        Some(asked) => request.fault(&asked),
        None => Some("PEM block type must be CERTIFICATE REQUEST".to_owned()),
    };
    let issue = || {
        let lifetime = lifetime(request.expiration_seconds);
        context.issuer.issue(authority, &request.request, &request.usages, lifetime)
    };
    let issued = match fault {
        Some(fault) => Err(fault),
        None => match issue() {
            Ok(certificate) => Ok(certificate),
            Err(IssueError::Unsuitable(fault)) => Err(fault),
            Err(error) => return Err(error.into()),
        },
    };
    match issued {
        Ok(certificate) => {
            let status = meta::child_mut(meta::object_mut(&mut object), "status");
            status.insert("certificate".to_owned(), STANDARD.encode(certificate).into());
            info!(name = %key.name, user = %request.user, "certificate issued");
        }
        Err(fault) => add_condition(&mut object, "Failed", "SignerValidationFailure", &fault),
    }
    let status = format!("{}/status", path::<CertificateSigningRequest>(key));
    match request::replace::<Value>(&context.client, &status, &object).await {
        Err(error) if request::is_not_found(&error) => Ok(()),
        result => result.map(drop).map_err(Into::into),
    }
}

fn lifetime(expiration_seconds: Option<i64>) -> Duration {
    let asked = expiration_seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    asked.map_or(LIFETIME, |asked| asked.clamp(LIFETIME_MIN, LIFETIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_ask_for_less_than_a_year_and_no_less_than_ten_minutes() {
        assert_eq!(lifetime(None), LIFETIME);
        assert_eq!(lifetime(Some(3600)), Duration::from_secs(3600));
        assert_eq!(lifetime(Some(1)), LIFETIME_MIN);
        assert_eq!(lifetime(Some(i64::MAX)), LIFETIME);
    }
}
