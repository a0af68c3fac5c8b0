//! DELETE every object of a collection that the selectors choose, one after the other.

use http::StatusCode;
use machinery::status::Status;

use crate::errors;
use crate::negotiate;
use crate::options::ListOptions;
use crate::pipeline::Call;
use crate::present::{self, ListMeta};
use crate::respond::Response;
use crate::verbs::update::Target;
use crate::verbs::{delete, list};

pub(crate) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let selection = ListOptions::parse(&call.query)?;
    list::check_fields(&call.entry, &selection)?;
    let options = delete::read_options(&mut call).await?;
    call.shared.fresh().await?;
    let cache = call.entry.cache.as_ref().ok_or_else(Status::method_not_allowed)?;
    let page = cache.page(&call.cache_prefix(), None, selection.limit, |key, object| {
        list::selected(&call.entry, &selection, key, object)
    });
    for (key, _) in &page.items {
        let (namespace, name) = key.rsplit_once('/').unwrap_or(("", key));
        let target = Target { namespace, name, ..Target::of(&call) };
        match delete::delete(&call.shared, target, &options).await {
            Ok(_) => {}
            // Somebody else was faster.
            Err(status) if status.code == StatusCode::NOT_FOUND.as_u16() => {}
            Err(status) => return Err(status),
        }
    }
    let revision = call.shared.datastore.revision().await;
    let revision = revision.map_err(|error| errors::store(&error, &call.entry.resource, ""))?.0;
    let meta = ListMeta { revision, continue_token: None, remaining: None };
    let items: Vec<_> = page.items.iter().map(|(_, object)| present::served(&call.entry, object)).collect();
    present::list(&call.entry, accepted, &call.query, &meta, &items)
}
