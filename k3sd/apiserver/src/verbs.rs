//! One file per verb, the same for every kind; and the table that leads a request to its verb or subresource.

use std::pin::Pin;

use machinery::status::Status;

use crate::pipeline::Call;
use crate::respond::Response;
use crate::subresources::{self, component_status};

pub(crate) mod apply;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod delete_collection;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod update;
pub(crate) mod watch;

/// A verb at work.
type Answer = Pin<Box<dyn Future<Output = Result<Response, Status>> + Send>>;

/// Lead a request to its verb.
pub(crate) async fn dispatch(call: Call) -> Result<Response, Status> {
    let resource = &call.entry.resource;
    let namespaced_path = !call.info.namespace.is_empty() && call.info.resource != "namespaces";
    if namespaced_path && !resource.namespaced {
        return Err(Status::unknown_path());
    }
    if call.info.subresource.is_empty() {
        if !resource.has_verb(call.info.verb) {
            return Err(Status::method_not_allowed());
        }
        if resource.namespaced
            && call.info.namespace.is_empty()
            && !matches!(call.info.verb, "list" | "watch")
        {
            return Err(Status::method_not_allowed());
        }
        // Boxed, so that no verb's state makes every request's future large.
        let answer: Answer = match call.info.verb {
            "get" | "list" if !resource.is_stored() => Box::pin(component_status::run(call)),
            "create" if !resource.is_stored() => Box::pin(subresources::create_virtual(call)),
            "create" => Box::pin(create::run(call)),
            "get" => Box::pin(get::run(call)),
            "list" => Box::pin(list::run(call)),
            "watch" => Box::pin(watch::run(call)),
            "update" => Box::pin(update::run(call)),
            "patch" => Box::pin(patch::run(call)),
            "delete" => Box::pin(delete::run(call)),
            "deletecollection" => Box::pin(delete_collection::run(call)),
            _ => return Err(Status::method_not_allowed()),
        };
        return answer.await;
    }
    let subresource = resource.subresource(&call.info.subresource).ok_or_else(Status::unknown_path)?;
    let proxied = matches!(subresource.name.as_str(), "proxy" | "exec" | "attach" | "portforward");
    if !proxied && !subresource.verbs.iter().any(|verb| verb == call.info.verb) {
        return Err(Status::method_not_allowed());
    }
    let answer: Answer = Box::pin(subresources::dispatch(call));
    answer.await
}
