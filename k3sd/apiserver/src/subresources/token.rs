//! `serviceaccounts/token`: a signed token for an account, bound to a pod or secret if asked for.

use http::StatusCode;
use jiff::Timestamp;
use machinery::meta;
use machinery::schema;
use machinery::status::{FieldError, Status};
use serde_json::{Value, json};

use crate::admission::{Notes, Operation, Review};
use crate::authn::token::{Bound, Claims};
use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::{Write, WriteOptions};
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::verbs::update::{Current, Target};

const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;
/// What the token volume asks for; such tokens live for a year, for clients that never reload them, and only warn after this
/// (upstream's `--service-account-extend-token-expiration`).
const EXTENDED_REQUEST: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

pub(super) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = WriteOptions::parse(&call.query, Write::Create)?;
    let body = call.read_body().await?;
    let expected =
        Expected::named("authentication.k8s.io/v1", "TokenRequest", "api.authentication.v1.TokenRequest");
    let media_type = negotiate::content_type(&call.headers);
    let decoded = decode::decode(&body, &media_type, &expected, options.validation)?;
    let mut request = decoded.object;
    schema::apply_static_defaults(schema::builtin(), &expected.type_name, &mut request);
    let account = Current::read(&call.shared, &Target { subresource: "", ..Target::of(&call) }).await?.object;
    let cx = call.context(options.dry_run);
    let review = Review {
        cx: &cx,
        operation: Operation::Create,
        name: &call.info.name,
        old: None,
        shared: &call.shared,
        notes: &Notes::default(),
        trail: call.trail.as_ref(),
    };
    call.shared.admission.validate(&review, &request).await?;
    let claims = claims(&call, &account, &request)?;
    let token =
        call.shared.tokens.sign(&claims).ok_or_else(|| Status::internal("failed to sign the token"))?;
    let wanted = seconds(&request);
    let expires = Timestamp::from_second(claims.issued + wanted).map_err(Status::internal)?;
    request["metadata"] = json!({
        "name": meta::name(&account),
        "namespace": call.info.namespace,
        "creationTimestamp": meta::now(),
    });
    request["spec"]["audiences"] = json!(claims.audiences);
    request["spec"]["expirationSeconds"] = wanted.into();
    request["status"] = json!({ "token": token, "expirationTimestamp": meta::time_text(expires) });
    Ok(respond::value(StatusCode::CREATED, accepted.encoding, &request))
}

fn seconds(request: &Value) -> i64 {
    request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS)
}

fn claims(call: &Call, account: &Value, request: &Value) -> Result<Claims, Status> {
    let name = meta::name(account);
    let wanted = seconds(request);
    let fault = |detail: &str| {
        let fault = FieldError::invalid("spec.expirationSeconds", wanted, detail);
        Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", vec![fault]))
    };
    if wanted < MIN_SECONDS {
        return fault("may not specify a duration less than 10 minutes");
    }
    if wanted > MAX_SECONDS {
        return fault("may not specify a duration larger than 2^32 seconds");
    }
    let audiences = request.pointer("/spec/audiences").and_then(Value::as_array);
    let mut audiences: Vec<String> =
        audiences.into_iter().flatten().filter_map(|audience| audience.as_str().map(str::to_owned)).collect();
    let own = audiences.is_empty() || audiences == call.shared.tokens.audiences();
    if audiences.is_empty() {
        audiences = call.shared.tokens.audiences().to_vec();
    }
    let (bound, node) = bound(call, request, name)?;
    let issued = Timestamp::now().as_second();
    let extended =
        wanted == EXTENDED_REQUEST && own && bound.as_ref().is_some_and(|bound| bound.kind == "pod");
    Ok(Claims {
        namespace: call.info.namespace.clone(),
        account: name.to_owned(),
        account_uid: meta::uid(account).to_owned(),
        audiences,
        issued,
        expires: issued + if extended { EXTENDED_SECONDS } else { wanted },
        bound,
        node,
        warn_after: extended.then_some(issued + wanted),
    })
}

type Node = Option<(String, Option<String>)>;

/// The object the token is bound to, which must exist with the uid that was given.
fn bound(call: &Call, request: &Value, account: &str) -> Result<(Option<Bound>, Node), Status> {
    let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|reference| !reference.is_null())
    else {
        return Ok((None, None));
    };
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, plural, namespace) = match text("kind") {
        "Pod" => ("pod", "pods", call.info.namespace.as_str()),
        "Secret" => ("secret", "secrets", call.info.namespace.as_str()),
        "Node" => ("node", "nodes", ""),
        other => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount \"{account}\" to object with kind {other}"
            )));
        }
    };
    let name = text("name");
    let object = call.shared.registry.object("", plural, namespace, name);
    let object = object.ok_or_else(|| Status::not_found("", plural, name))?;
    let uid = meta::uid(&object);
    if !text("uid").is_empty() && text("uid") != uid {
        return Err(Status::conflict(
            "",
            plural,
            name,
            &format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                text("uid")
            ),
        ));
    }
    let mut node = None;
    if kind == "pod" {
        let own = object.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or("default");
        if own != account {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
            )));
        }
        if let Some(name) =
            object.pointer("/spec/nodeName").and_then(Value::as_str).filter(|name| !name.is_empty())
        {
            let known = call.shared.registry.object("", "nodes", "", name);
            node = Some((name.to_owned(), known.map(|node| meta::uid(&node).to_owned())));
        }
    }
    Ok((Some(Bound { kind, name: name.to_owned(), uid: uid.to_owned() }), node))
}
