//! The cluster's authorities and keys, as the controllers ask for certificates and tokens.

use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use controllers::{Authority, IssueError, SecretToken};
use supervisor::pki::{Ca, SignError, Signer};

/// See [`controllers::Issuer`].
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) signer: Arc<Signer>,
    pub(super) api: ApiServer,
}

impl controllers::Issuer for Issuer {
    fn issue(
        &self,
        authority: Authority,
        request: &[u8],
        usages: &[String],
        lifetime: Duration,
    ) -> Result<String, IssueError> {
        let ca = match authority {
            Authority::Clients => Ca::Client,
            Authority::Servers => Ca::Server,
        };
        self.signer.fulfil(ca, request, usages, lifetime).map_err(|error| match error {
            SignError::Malformed(ref cause) => IssueError::Unsuitable(format!("{error}: {cause}")),
            SignError::Usage(_) => IssueError::Unsuitable(error.to_string()),
            SignError::Issue(_) => IssueError::Failed(error.into()),
        })
    }

    fn token(&self, token: &SecretToken<'_>) -> Result<String, IssueError> {
        self.api
            .sign_secret_token(token.namespace, token.secret, token.account, token.account_uid)
            .ok_or_else(|| IssueError::Failed("the key of service accounts cannot sign".into()))
    }
}
