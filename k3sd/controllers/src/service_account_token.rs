//! Fills secrets that ask for a service account's token, and removes them with the account.
//!
//! Reads: secrets, service accounts. Owns: `token`, `ca.crt` and `namespace` of secrets of type
//! `kubernetes.io/service-account-token`, and their deletion. Follows `pkg/controller/serviceaccount/tokens_controller.go` of v1.36.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Informer, ObjectKey, WorkQueue, request, run_workers};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::ObjectMeta;
use machinery::meta;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use crate::context::{Context, feed, path};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The index of secrets by the account they are for, `NAMESPACE/NAME`.
const BY_ACCOUNT: &str = "service-account";

/// Whom a token is for, and which secret keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretToken<'a> {
    /// Of the account and the secret.
    pub namespace: &'a str,
    /// The secret's name.
    pub secret: &'a str,
    /// The account's name.
    pub account: &'a str,
    /// The account's uid.
    pub account_uid: &'a str,
}

struct Controller {
    context: Context,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        secrets: context.informers.shared(),
        accounts: context.informers.shared(),
        context: context.clone(),
    });
    controller.secrets.index(BY_ACCOUNT, |raw| account_of(raw).into_iter().collect());
    controller.secrets.synced().await;
    controller.accounts.synced().await;
    let queue = WorkQueue::<ObjectKey>::new();
    let work = controller.clone();
    let reconcile = move |key: ObjectKey| {
        let controller = work.clone();
        async move { controller.reconcile(&key).await.map(|()| None) }
    };
    tokio::join!(
        feed(&controller.secrets, &queue, |change| {
            // Others are never looked at, however many there are.
            let stored = change.new.filter(|stored| account_of(stored.raw()).is_some());
            stored.map(|stored| stored.key().clone())
        }),
        feed(&controller.accounts, &queue, |change| {
            let account = format!("{}/{}", change.key.namespace.unwrap_or_default(), change.key.name);
            let secrets = controller.secrets.by_index(BY_ACCOUNT, &account);
            secrets.into_iter().map(|secret| secret.key().clone()).collect::<Vec<_>>()
        }),
        run_workers("service_account_token", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> anyhow::Result<()> {
        let Some(stored) = self.secrets.get(key) else { return Ok(()) };
        let secret: Value = stored.project()?;
        if secret["type"] != TYPE || meta::deletion_timestamp(&secret).is_some() {
            return Ok(());
        }
        let Some(account) = self.account(&secret).await? else {
            let options = json!({ "preconditions": { "uid": meta::uid(&secret) } });
            match request::delete(&self.context.client, &path::<Secret>(key), &options).await {
                Err(error) if !request::is_not_found(&error) => return Err(error.into()),
                _ => info!(secret = %key, "deleted: the service account that it is for is not there"),
            }
            return Ok(());
        };
        if let Some(filled) = self.filled(&secret, &account)? {
            request::replace::<Value>(&self.context.client, &path::<Secret>(key), &filled).await?;
        }
        Ok(())
    }

    /// The account that the secret names. One that the cache does not know is asked for, since a secret may be faster than its account.
    async fn account(&self, secret: &Value) -> anyhow::Result<Option<Value>> {
        let name = meta::annotation(secret, ACCOUNT_NAME).unwrap_or_default();
        // Nobody checks the annotation, and the name becomes part of a path.
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_plain) {
            return Ok(None);
        }
        let key = ObjectKey::namespaced(meta::namespace(secret).unwrap_or_default(), name);
        let known = self.accounts.get(&key).map(|stored| stored.project()).transpose()?;
        let is_meant = |account: &Value| {
            let uid = meta::annotation(secret, ACCOUNT_UID).unwrap_or_default();
            uid.is_empty() || uid == meta::uid(account)
        };
        if let Some(account) = known.filter(is_meant) {
            return Ok(Some(account));
        }
        match request::read::<Value>(&self.context.client, &path::<ServiceAccount>(&key)).await {
            Ok(account) => Ok(Some(account).filter(is_meant)),
            Err(error) if request::is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The secret with what it lacks; `None` if that is nothing.
    fn filled(&self, secret: &Value, account: &Value) -> anyhow::Result<Option<Value>> {
        let mut filled = secret.clone();
        let namespace = meta::namespace(secret).unwrap_or_default();
        let data = meta::child_mut(meta::object_mut(&mut filled), "data");
        let ca = STANDARD.encode(&self.context.config.root_ca);
        if data.get("ca.crt").and_then(Value::as_str) != Some(&ca) {
            data.insert("ca.crt".to_owned(), ca.into());
        }
        let is_empty = |value: Option<&Value>| value.and_then(Value::as_str).is_none_or(str::is_empty);
        if is_empty(data.get("namespace")) {
            data.insert("namespace".to_owned(), STANDARD.encode(namespace).into());
        }
        if is_empty(data.get("token")) {
            let token = SecretToken {
                namespace,
                secret: meta::name(secret),
                account: meta::name(account),
                account_uid: meta::uid(account),
            };
            let token = self.context.issuer.token(&token)?;
            data.insert("token".to_owned(), STANDARD.encode(token).into());
        }
        meta::set_annotation(&mut filled, ACCOUNT_NAME, meta::name(account));
        meta::set_annotation(&mut filled, ACCOUNT_UID, meta::uid(account));
        Ok((filled != *secret).then_some(filled))
    }
}

/// As much of a secret as tells whom it is for.
#[derive(Deserialize)]
struct Head {
    #[serde(default, rename = "type")]
    kind: String,
    metadata: ObjectMeta,
}

/// `NAMESPACE/NAME` of the account that a secret is for; `None` for secrets of other types.
fn account_of(raw: &[u8]) -> Option<String> {
    let head: Head = serde_json::from_slice(raw).ok()?;
    let name = head.metadata.annotations?.remove(ACCOUNT_NAME)?;
    (head.kind == TYPE).then(|| format!("{}/{name}", head.metadata.namespace.unwrap_or_default()))
}
