//! Questions about identities and permissions: token reviews and access reviews. Nothing is stored.

use http::StatusCode;
use machinery::meta;
use machinery::selector::{FieldSelector, FieldTerm};
use machinery::status::Status;
use serde_json::{Value, json};

use crate::authn;
use crate::authz::node::node_of;
use crate::authz::{self, Attributes};
use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::{Write, WriteOptions};
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::user::{MASTERS, UserInfo};

pub(super) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = WriteOptions::parse(&call.query, Write::Create)?;
    let body = call.read_body().await?;
    let expected = Expected::of(&call.entry.resource);
    let media_type = negotiate::content_type(&call.headers);
    let mut review = decode::decode(&body, &media_type, &expected, options.validation)?.object;
    call.shared.fresh().await?;
    let status = match call.entry.resource.plural.as_str() {
        "tokenreviews" => token(&call, &review)?,
        "selfsubjectreviews" => json!({ "userInfo": user_info(&call.user) }),
        "selfsubjectrulesreviews" => rules(&call, &review)?,
        "selfsubjectaccessreviews" => access(&call, &review, &call.user)?,
        "localsubjectaccessreviews" => {
            let namespace = review.pointer("/spec/resourceAttributes/namespace").and_then(Value::as_str);
            if namespace.unwrap_or_default() != call.info.namespace {
                return Err(Status::bad_request(
                    "spec.resourceAttributes.namespace must match metadata.namespace",
                ));
            }
            access(&call, &review, &subject(&review)?)?
        }
        _ => access(&call, &review, &subject(&review)?)?,
    };
    meta::metadata_mut(&mut review);
    review["status"] = status;
    Ok(respond::value(StatusCode::CREATED, accepted.encoding, &review))
}

fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({ "username": user.name, "groups": user.groups });
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn token(call: &Call, review: &Value) -> Result<Value, Status> {
    let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = review.pointer("/spec/audiences").and_then(Value::as_array);
    let audiences: Vec<String> =
        audiences.into_iter().flatten().filter_map(|audience| audience.as_str().map(str::to_owned)).collect();
    Ok(match authn::verify(token, &audiences, &call.shared.tokens, &call.shared.registry) {
        Some(verified) => {
            json!({ "authenticated": true, "user": user_info(&verified.user), "audiences": verified.audiences })
        }
        None => json!({ "user": {}, "error": "[invalid bearer token, token lookup failed]" }),
    })
}

/// The user of a review about somebody else.
fn subject(review: &Value) -> Result<UserInfo, Status> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let groups = spec.get("groups").and_then(Value::as_array);
    let groups: Vec<String> =
        groups.into_iter().flatten().filter_map(|group| group.as_str().map(str::to_owned)).collect();
    if text("user").is_empty() && groups.is_empty() {
        return Err(Status::bad_request(
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    Ok(UserInfo { name: text("user"), uid: text("uid"), groups, ..UserInfo::default() })
}

fn access(call: &Call, review: &Value, user: &UserInfo) -> Result<Value, Status> {
    let attributes = attributes(review)?;
    let decision = authz::decide(&call.shared, user, &attributes);
    let mut status = json!({ "allowed": decision.allowed });
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    Ok(status)
}

fn attributes(review: &Value) -> Result<Attributes, Status> {
    let resource = review.pointer("/spec/resourceAttributes").filter(|value| !value.is_null());
    let path = review.pointer("/spec/nonResourceAttributes").filter(|value| !value.is_null());
    let text =
        |from: &Value, field: &str| from.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    match (resource, path) {
        (Some(resource), None) => Ok(Attributes {
            verb: text(resource, "verb"),
            is_resource: true,
            path: String::new(),
            group: text(resource, "group"),
            version: text(resource, "version"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            fields: selected_fields(resource)?,
        }),
        (None, Some(path)) => {
            Ok(Attributes { verb: text(path, "verb"), path: text(path, "path"), ..Attributes::default() })
        }
        _ => Err(Status::bad_request(
            "spec.resourceAttributes: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

/// The field selector of a review: in its own form, or as requests write it.
fn selected_fields(resource: &Value) -> Result<FieldSelector, Status> {
    let at = "spec.resourceAttributes.fieldSelector";
    let invalid = |detail: &str| Status::bad_request(format!("{at}: Invalid value: {detail}"));
    let Some(selector) = resource.get("fieldSelector").filter(|selector| selector.is_object()) else {
        return Ok(FieldSelector::default());
    };
    let raw = selector.get("rawSelector").and_then(Value::as_str).unwrap_or_default();
    let requirements = selector.get("requirements").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !raw.is_empty() && !requirements.is_empty() {
        return Err(invalid("rawSelector and requirements are mutually exclusive"));
    }
    if !raw.is_empty() {
        return FieldSelector::parse(raw).map_err(|error| invalid(&error.to_string()));
    }
    let mut fields = FieldSelector::default();
    for requirement in requirements {
        let values = requirement.get("values").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let key = requirement.get("key").and_then(Value::as_str).unwrap_or_default();
        // What is not known narrows nothing, so leaving it out never gives more.
        if let ("In", [Value::String(value)]) = (requirement["operator"].as_str().unwrap_or_default(), values)
        {
            fields.terms.push(FieldTerm { field: key.to_owned(), equals: true, value: value.clone() });
        }
    }
    Ok(fields)
}

/// What the asker may do in a namespace, as lists of rules.
fn rules(call: &Call, review: &Value) -> Result<Value, Status> {
    let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if call.user.in_group(MASTERS) {
        resources.push(json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }));
        paths.push(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
    }
    for rule in call.shared.rbac.rules(&call.shared.registry, &call.user, namespace) {
        let into = if rule.get("nonResourceURLs").is_some() { &mut paths } else { &mut resources };
        into.push(rule);
    }
    let mut status = json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false });
    if node_of(&call.user).is_some() {
        status["incomplete"] = true.into();
        status["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    Ok(status)
}
