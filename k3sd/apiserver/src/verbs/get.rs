//! GET one object, from the cache.

use http::StatusCode;
use machinery::status::Status;

use crate::errors;
use crate::negotiate;
use crate::options::{Freshness, parse_version};
use crate::pipeline::Call;
use crate::present;
use crate::respond::Response;

pub(crate) async fn run(call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    wait(&call).await?;
    let cache = call.entry.cache.as_ref().ok_or_else(Status::method_not_allowed)?;
    let key = call.entry.cache_key(&call.info.namespace, &call.info.name);
    let resource = &call.entry.resource;
    let object = cache
        .get(&key)
        .ok_or_else(|| Status::not_found(&resource.group, &resource.plural, &call.info.name))?;
    present::object(
        &call.entry,
        accepted,
        &call.query,
        StatusCode::OK,
        &present::served(&call.entry, &object),
    )
}

async fn wait(call: &Call) -> Result<(), Status> {
    let freshness = match call.query.get("resourceVersion").map(parse_version).transpose()? {
        None => Freshness::MostRecent,
        Some(0) => Freshness::Any,
        Some(version) => Freshness::NotOlderThan(version),
    };
    match freshness {
        Freshness::MostRecent => call.shared.fresh().await,
        Freshness::NotOlderThan(version) | Freshness::Exact(version) => {
            call.shared.feed.wait(version).await.map_err(errors::not_fresh)
        }
        Freshness::Any => Ok(()),
    }
}
