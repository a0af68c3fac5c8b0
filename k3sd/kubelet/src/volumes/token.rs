//! Service account tokens of pods: requested from the API, renewed before they expire, kept in memory only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::warn;

/// Lifetime asked for when the volume does not say.
const DEFAULT_LIFETIME_SECONDS: i64 = 3600;
/// A token older than this is renewed even if it is valid for longer; upstream's `maxTTL`.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// A request that failed while the present token is still good is repeated after this.
const RETRY: Duration = Duration::from_secs(10);

/// The API did not issue a token.
#[derive(Debug, thiserror::Error)]
#[error("failed to fetch token: {0}")]
pub(crate) struct TokenError(#[from] kube::Error);

/// A token and when to replace it.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) token: String,
    pub(crate) refresh_at: Timestamp,
    expires_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    account: String,
    audience: Option<String>,
    lifetime_seconds: i64,
}

/// Tokens in use on this node.
#[derive(Clone)]
pub(crate) struct Tokens {
    client: Client,
    held: Arc<Mutex<HashMap<Key, Token>>>,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, held: Arc::default() }
    }

    /// A token for the pod's service account; a new one when the present one is due.
    pub(crate) async fn get(
        &self,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<Token, TokenError> {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let key = Key {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            account: account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
            audience: wanted.audience.clone(),
            lifetime_seconds: wanted.expiration_seconds.unwrap_or(DEFAULT_LIFETIME_SECONDS),
        };
        let now = Timestamp::now();
        let present = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(token) = present.as_ref().filter(|token| now < token.refresh_at) {
            return Ok(token.clone());
        }
        let token = match (self.request(pod, &key, now).await, present) {
            (Ok(token), _) => token,
            (Err(error), Some(present)) if now < present.expires_at => {
                warn!(account = %key.account, %error, "token not renewed, the present one stays");
                Token { refresh_at: now + RETRY, ..present }
            }
            (Err(error), _) => return Err(error.into()),
        };
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(key, token.clone());
        Ok(token)
    }

    /// Drops a pod's tokens.
    pub(crate) fn forget(&self, uid: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.uid != uid);
    }

    async fn request(&self, pod: &Pod, key: &Key, now: Timestamp) -> Result<Token, kube::Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let spec = TokenRequestSpec {
            audiences: key.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(key.lifetime_seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let reply = accounts.create_token_request(&key.account, &PostParams::default(), &request).await?;
        let status = reply.status.unwrap_or_default();
        let token = status.token.unwrap_or_default();
        let expires_at = status.expiration_timestamp.map_or(now, |time| time.0);
        Ok(Token { token, refresh_at: refresh_at(now, expires_at), expires_at })
    }
}

/// At four fifths of the lifetime, or after [`MAX_AGE`].
fn refresh_at(now: Timestamp, expires_at: Timestamp) -> Timestamp {
    let lifetime = Duration::try_from(expires_at.duration_since(now)).unwrap_or_default();
    now + (lifetime * 4 / 5).min(MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life_or_after_a_day() {
        let now = Timestamp::from_second(0).unwrap();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(refresh_at(now, at(3600)), at(2880));
        assert_eq!(refresh_at(now, at(365 * 86400)), at(86400));
    }
}
