//! `componentstatuses` (deprecated upstream, but part of v1): what this server can say of its own knowledge, which is the state of its
//! datastore. Computed on each read.

use http::StatusCode;
use machinery::status::Status;
use serde_json::{Value, json};

use crate::negotiate;
use crate::pipeline::Call;
use crate::present::{self, ListMeta};
use crate::respond::Response;

/// Upstream's name for the datastore.
const DATASTORE: &str = "etcd-0";

pub(crate) async fn run(call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let object = datastore(&call).await;
    let bytes = crate::codec::encode(&object);
    if call.info.verb == "list" {
        let meta = ListMeta { revision: call.shared.feed.revision(), continue_token: None, remaining: None };
        return present::list(&call.entry, accepted, &call.query, &meta, &[bytes]);
    }
    if call.info.name != DATASTORE {
        return Err(Status::not_found("", "componentstatuses", &call.info.name));
    }
    present::object(&call.entry, accepted, &call.query, StatusCode::OK, &bytes)
}

async fn datastore(call: &Call) -> Value {
    let condition = match call.shared.datastore.revision().await {
        Ok(_) => json!({ "type": "Healthy", "status": "True", "message": "ok" }),
        Err(error) => {
            json!({ "type": "Healthy", "status": "False", "message": crate::errors::chain(&error) })
        }
    };
    json!({
        "apiVersion": "v1",
        "kind": "ComponentStatus",
        "metadata": { "name": DATASTORE },
        "conditions": [condition],
    })
}
