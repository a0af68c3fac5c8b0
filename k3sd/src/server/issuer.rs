//! The cluster's authorities, as the controllers ask for certificates.

use std::sync::Arc;
use std::time::Duration;

use controllers::{Authority, IssueError};
use supervisor::pki::{Ca, SignError, Signer};

/// See [`controllers::Issuer`].
#[derive(Debug)]
pub(super) struct Issuer(pub(super) Arc<Signer>);

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
        self.0.fulfil(ca, request, usages, lifetime).map_err(|error| match error {
            SignError::Malformed(ref cause) => IssueError::Unsuitable(format!("{error}: {cause}")),
            SignError::Usage(_) => IssueError::Unsuitable(error.to_string()),
            SignError::Issue(_) => IssueError::Failed(error.into()),
        })
    }
}
