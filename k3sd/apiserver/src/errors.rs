//! Where the datastore's and the cache's errors become API statuses.

use machinery::kinds::Resource;
use machinery::status::Status;

use crate::cache::feed::NotFresh;

/// A datastore error on one object.
pub(crate) fn store(error: &datastore::Error, resource: &Resource, name: &str) -> Status {
    match error {
        datastore::Error::Exists { .. } => Status::already_exists(&resource.group, &resource.plural, name),
        datastore::Error::NotFound { .. } => Status::not_found(&resource.group, &resource.plural, name),
        datastore::Error::Conflict { .. } => modified(resource, name),
        datastore::Error::Compacted { .. } => compacted(),
        other => Status::internal(chain(other)),
    }
}

/// Somebody else was faster.
pub(crate) fn modified(resource: &Resource, name: &str) -> Status {
    Status::conflict(
        &resource.group,
        &resource.plural,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// A continue token or an exact read that is older than history.
pub(crate) fn compacted() -> Status {
    Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
}

/// A read of a revision that has not happened.
pub(crate) fn not_fresh(error: NotFresh) -> Status {
    let number = |revision: i64| u64::try_from(revision).unwrap_or(0);
    Status::too_large_resource_version(number(error.wanted), number(error.current))
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
