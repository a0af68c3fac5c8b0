//! Paths that are not resources: health, version, discovery, OpenAPI, metrics.

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use machinery::status::Status;
use serde_json::json;

use crate::negotiate::Encoding;
use crate::request::{Query, RequestInfo};
use crate::respond::{self, Response};
use crate::server::Shared;
use crate::user::UserInfo;
use crate::{discovery, negotiate, openapi};

pub(crate) async fn answer(
    shared: &Arc<Shared>,
    parts: &Parts,
    info: &RequestInfo,
    query: &Query,
    _user: &UserInfo,
) -> Result<Response, Status> {
    if !matches!(info.verb, "get" | "head") {
        return Err(Status::method_not_allowed());
    }
    let path: Vec<&str> = info.path.trim_matches('/').split('/').collect();
    match path.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => {
            let (endpoint, only) = (path[0].to_owned(), path.get(1).map(|check| (*check).to_owned()));
            health(shared, endpoint, only, query).await
        }
        ["version"] => Ok(respond::value(StatusCode::OK, Encoding::Json, &version(shared))),
        ["metrics"] => Ok(respond::text(StatusCode::OK, shared.metrics.text())),
        [".well-known", "openid-configuration"] => {
            Ok(respond::value(StatusCode::OK, Encoding::Json, &issuer(shared)))
        }
        ["openid", "v1", "jwks"] => {
            let bytes = crate::codec::encode(&shared.tokens.key_set());
            Ok(respond::response(StatusCode::OK, "application/jwk-set+json", bytes))
        }
        ["openapi", "v2"] => Ok(openapi::v2(shared, &parts.headers)),
        ["openapi", "v3", ..] => openapi::v3(shared, &path[2..], query),
        ["api" | "apis", ..] | [""] => {
            let accepted = negotiate::accept(&parts.headers)?;
            discovery::answer(shared, &path, accepted)
        }
        _ => Err(Status::unknown_path()),
    }
}

/// OpenID Connect discovery: how others verify this cluster's service account tokens.
fn issuer(shared: &Shared) -> serde_json::Value {
    let address = std::net::SocketAddr::new(shared.config.advertise_address, shared.config.advertise_port);
    json!({
        "issuer": shared.tokens.issuer(),
        "jwks_uri": format!("https://{address}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": shared.tokens.algorithms(),
    })
}

fn version(shared: &Shared) -> serde_json::Value {
    let version = &shared.config.version;
    let mut numbers = version.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next().unwrap_or_default(),
        "minor": numbers.next().unwrap_or_default(),
        "gitVersion": version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

/// The checks behind the health endpoints: each is real, and each can be asked for alone.
async fn health(
    shared: &Arc<Shared>,
    endpoint: String,
    only: Option<String>,
    query: &Query,
) -> Result<Response, Status> {
    let datastore = shared.datastore.revision().await.is_ok();
    let mut checks = vec![("ping", true), ("etcd", datastore), ("watch-cache", shared.fresh().await.is_ok())];
    if endpoint == "readyz" {
        checks.push(("shutdown", !shared.cancel.is_cancelled()));
    }
    if let Some(name) = only {
        checks.retain(|(check, _)| *check == name);
        if checks.is_empty() {
            return Err(Status::unknown_path());
        }
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    checks.retain(|(check, _)| !excluded.contains(check));
    let healthy = checks.iter().all(|(_, good)| *good);
    if healthy && !query.flag("verbose") {
        return Ok(respond::text(StatusCode::OK, "ok"));
    }
    let mut text: String =
        checks
            .iter()
            .map(|(check, good)| {
                if *good {
                    format!("[+]{check} ok\n")
                } else {
                    format!("[-]{check} failed: reason withheld\n")
                }
            })
            .collect();
    text.push_str(&endpoint);
    text.push_str(if healthy { " check passed\n" } else { " check failed\n" });
    let code = if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    Ok(respond::text(code, text))
}
