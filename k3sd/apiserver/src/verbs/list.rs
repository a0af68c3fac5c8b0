//! List, from the cache; only pages of the past are read from the datastore.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use datastore::Revision;
use machinery::status::Status;
use serde_json::{Value, json};

use crate::cache::{Cache, Object};
use crate::errors;
use crate::negotiate;
use crate::options::{Freshness, ListOptions};
use crate::pipeline::Call;
use crate::present::{self, ListMeta};
use crate::registry::Entry;
use crate::respond::Response;

pub(crate) async fn run(call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = ListOptions::parse(&call.query)?;
    let (meta, items) = collect(&call, &options).await?;
    present::list(&call.entry, accepted, &call.query, &meta, &items)
}

/// Where a paged list goes on: upstream's token says the same (version, resource version, start key).
struct Token {
    revision: i64,
    after: String,
}

impl Token {
    fn encode(&self) -> String {
        let text = json!({ "v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after });
        URL_SAFE_NO_PAD.encode(text.to_string())
    }

    fn decode(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let after = value.get("start")?.as_str()?.to_owned();
        Some(Self { revision: value.get("rv")?.as_i64()?, after })
    }
}

async fn collect(call: &Call, options: &ListOptions) -> Result<(ListMeta, Vec<Bytes>), Status> {
    let cache = call.entry.cache.as_ref().ok_or_else(Status::method_not_allowed)?;
    check_fields(&call.entry, options)?;
    let token = match &options.continue_token {
        None => None,
        Some(_) if !matches!(options.freshness, Freshness::MostRecent | Freshness::Any) => {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Some(text) => Some(Token::decode(text).ok_or_else(|| {
            Status::bad_request("continue key is not valid: encoded continue token is invalid")
        })?),
    };
    let exact = match (&token, options.freshness) {
        // A token with revision 0 or below asks for whatever is newest, from its key on (upstream's inconsistent continue).
        (Some(token), _) if token.revision > 0 => Some(token.revision),
        (Some(_), _) => None,
        (None, Freshness::Exact(version)) => Some(version),
        (None, _) => None,
    };
    let progress = call.shared.feed.revision();
    match (options.freshness, exact) {
        (_, Some(version)) | (Freshness::NotOlderThan(version), None) => {
            call.shared.feed.wait(version).await.map_err(errors::not_fresh)?;
        }
        (Freshness::Any, None) => {}
        _ => call.shared.fresh().await?,
    }
    let after = token.as_ref().map(|token| token.after.as_str());
    let progress = progress.max(call.shared.feed.revision());
    let prefix = call.cache_prefix();
    let keep = |key: &str, object: &Object| selected(&call.entry, options, key, object);
    let page = cache.page(&prefix, after, options.limit, keep);
    let revision = progress.max(page.revision);
    if let Some(version) = exact
        && page.revision > version
    {
        return past(call, cache, options, after, version).await;
    }
    let unselected = options.labels.is_everything() && options.fields.is_everything();
    let revision = exact.unwrap_or(revision);
    let meta = ListMeta {
        revision,
        continue_token: page
            .next
            .as_ref()
            .map(|(key, _)| Token { revision, after: key.to_string() }.encode()),
        remaining: page.next.as_ref().map(|(_, left)| *left).filter(|_| unselected),
    };
    let items = page.items.iter().map(|(_, object)| present::served(&call.entry, object)).collect();
    Ok((meta, items))
}

/// A list as it was at `version`, from the datastore, because the resource has changed since.
async fn past(
    call: &Call,
    cache: &Cache,
    options: &ListOptions,
    after: Option<&str>,
    version: i64,
) -> Result<(ListMeta, Vec<Bytes>), Status> {
    let prefix = format!("{}{}", cache.prefix(), call.cache_prefix());
    let mut after = after.map(|key| format!("{}{key}", cache.prefix()));
    let mut items = Vec::new();
    let mut next = None;
    loop {
        let page = call
            .shared
            .datastore
            .list(&prefix, after.as_deref(), options.limit, Some(Revision(version)))
            .await
            .map_err(|error| errors::store(&error, &call.entry.resource, ""))?;
        for item in &page.items {
            let key = item.key.strip_prefix(cache.prefix()).unwrap_or(&item.key);
            let object = cache.object(&item.value, item.mod_revision.0);
            if next.is_none() && selected(&call.entry, options, key, &object) {
                items.push(present::served(&call.entry, &object));
                if options.limit > 0 && items.len() == options.limit {
                    next = Some(key.to_owned());
                }
            }
        }
        let full = options.limit > 0 && items.len() >= options.limit;
        after = page.items.last().map(|item| item.key.to_string());
        if full || !page.more {
            // The page may have been cut in its middle, or objects may follow it.
            let last = after.as_deref().and_then(|key| key.strip_prefix(cache.prefix()));
            next = next.filter(|key| page.more || last != Some(key.as_str()));
            break;
        }
    }
    let continue_token = next.map(|after| Token { revision: version, after }.encode());
    Ok((ListMeta { revision: version, continue_token, remaining: None }, items))
}

/// Field selectors may only use the fields the kind offers.
pub(crate) fn check_fields(entry: &Entry, options: &ListOptions) -> Result<(), Status> {
    let cache = entry.cache.as_ref().ok_or_else(Status::method_not_allowed)?;
    for term in &options.fields.terms {
        let known = matches!(term.field.as_str(), "metadata.name")
            || (term.field == "metadata.namespace" && entry.resource.namespaced)
            || cache.fields().iter().any(|field| field.name == term.field);
        if !known {
            return Err(Status::bad_request(format!(
                "Unable to find \"{}\" that match label selector \"{}\", field selector \"{}\": field label not supported: {}",
                entry.resource.qualified(),
                options.labels,
                options
                    .fields
                    .terms
                    .iter()
                    .map(|term| format!(
                        "{}{}{}",
                        term.field,
                        if term.equals { "=" } else { "!=" },
                        term.value
                    ))
                    .collect::<Vec<_>>()
                    .join(","),
                term.field
            )));
        }
    }
    Ok(())
}

/// True if the object matches both selectors.
pub(crate) fn selected(entry: &Entry, options: &ListOptions, key: &str, object: &Object) -> bool {
    let label = |wanted: &str| object.selectable.label(wanted);
    let (namespace, name) = key.rsplit_once('/').unwrap_or(("", key));
    let field = |wanted: &str| match wanted {
        "metadata.name" => Some(name),
        "metadata.namespace" => Some(namespace),
        _ => {
            let fields = entry.cache.as_ref().map(|cache| cache.fields()).unwrap_or_default();
            let index = fields.iter().position(|field| field.name == wanted)?;
            object.selectable.field(index)
        }
    };
    options.labels.matches_by(label) && options.fields.matches_by(field)
}
