//! What is refused, and with which words.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Server, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn bad_requests_get_upstreams_code_and_reason() {
    let server = Server::start().await;
    let (status, _) = server.call(Method::POST, MAPS, json!({ "metadata": { "name": "a" } })).await;
    assert_eq!(status, StatusCode::CREATED);
    let huge = format!("{{\"metadata\":{{\"name\":\"h\"}},\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    let json_type = "application/json";
    let merge = "application/merge-patch+json";
    let one = format!("{MAPS}/a");
    // (method, path, media type, body, code, reason, part of the message)
    let cases: Vec<(Method, &str, &str, &str, u16, &str, &str)> = vec![
        (Method::POST, MAPS, json_type, "{", 400, "BadRequest", "json parse error"),
        (Method::POST, MAPS, json_type, "[]", 400, "BadRequest", "json"),
        (Method::POST, MAPS, "text/html", "x", 415, "UnsupportedMediaType", "accepted media types include"),
        (
            Method::POST,
            MAPS,
            json_type,
            r#"{"kind":"Secret"}"#,
            400,
            "BadRequest",
            "cannot be handled as a ConfigMap",
        ),
        (
            Method::POST,
            MAPS,
            json_type,
            r#"{"apiVersion":"v2"}"#,
            400,
            "BadRequest",
            "does not match the expected API version",
        ),
        (
            Method::POST,
            MAPS,
            json_type,
            r#"{"metadata":{}}"#,
            422,
            "Invalid",
            "name or generateName is required",
        ),
        (
            Method::POST,
            MAPS,
            json_type,
            r#"{"metadata":{"name":"A_"}}"#,
            422,
            "Invalid",
            "RFC 1123 subdomain",
        ),
        (
            Method::POST,
            MAPS,
            json_type,
            r#"{"metadata":{"name":"n","namespace":"other"}}"#,
            400,
            "BadRequest",
            "does not match the namespace",
        ),
        (
            Method::POST,
            MAPS,
            json_type,
            r#"{"metadata":{"name":"n"},"data":{"a":1}}"#,
            400,
            "BadRequest",
            "unmarshal number",
        ),
        (
            Method::POST,
            MAPS,
            json_type,
            r#"{"metadata":{"name":"a"}}"#,
            409,
            "AlreadyExists",
            "configmaps \"a\" already exists",
        ),
        (Method::POST, MAPS, json_type, &huge, 413, "RequestEntityTooLarge", "limit is 3145728"),
        (
            Method::POST,
            "/api/v1/namespaces/none/configmaps",
            json_type,
            r#"{"metadata":{"name":"n"}}"#,
            404,
            "NotFound",
            "namespaces \"none\" not found",
        ),
        (
            Method::GET,
            "/api/v1/namespaces/default/configmaps/none",
            "",
            "",
            404,
            "NotFound",
            "configmaps \"none\" not found",
        ),
        (
            Method::GET,
            "/api/v1/namespaces/default/nothings",
            "",
            "",
            404,
            "NotFound",
            "could not find the requested resource",
        ),
        (
            Method::GET,
            "/api/v1/namespaces/default/nodes",
            "",
            "",
            404,
            "NotFound",
            "could not find the requested resource",
        ),
        (
            Method::GET,
            "/apis/none.example.com/v1",
            "",
            "",
            404,
            "NotFound",
            "could not find the requested resource",
        ),
        (
            Method::POST,
            "/api/v1/configmaps",
            json_type,
            "{}",
            405,
            "MethodNotAllowed",
            "does not allow this method",
        ),
        (
            Method::GET,
            "/api/v1/configmaps?labelSelector=a%20b%20c",
            "",
            "",
            400,
            "BadRequest",
            "unable to parse requirement",
        ),
        (Method::GET, "/api/v1/configmaps?resourceVersion=x", "", "", 400, "BadRequest", "Invalid value"),
        (
            Method::GET,
            "/api/v1/configmaps?continue=x&limit=1",
            "",
            "",
            400,
            "BadRequest",
            "continue key is not valid",
        ),
        (
            Method::PUT,
            &one,
            json_type,
            r#"{"metadata":{"name":"b"}}"#,
            400,
            "BadRequest",
            "does not match the name on the URL",
        ),
        (
            Method::PUT,
            &one,
            json_type,
            r#"{"metadata":{"name":"a","resourceVersion":"1"}}"#,
            409,
            "Conflict",
            "the object has been modified",
        ),
        (
            Method::PUT,
            &one,
            json_type,
            r#"{"metadata":{"name":"a","uid":"x"}}"#,
            409,
            "Conflict",
            "Precondition failed: UID",
        ),
        (
            Method::PATCH,
            &one,
            "application/apply-patch+cbor",
            "{}",
            415,
            "UnsupportedMediaType",
            "merge-patch+json",
        ),
        (
            Method::PATCH,
            &one,
            "application/json-patch+json",
            r#"[{"op":"remove","path":"/none"}]"#,
            422,
            "Invalid",
            "rejected our request",
        ),
        (Method::PATCH, &one, merge, "[]", 400, "BadRequest", "not a JSON object"),
        (
            Method::PATCH,
            &one,
            merge,
            r#"{"metadata":{"labels":{"a":"?"}}}"#,
            422,
            "Invalid",
            "a valid label must be",
        ),
        (
            Method::DELETE,
            &one,
            json_type,
            r#"{"preconditions":{"uid":"x"}}"#,
            409,
            "Conflict",
            "UID in precondition: x",
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/default",
            "",
            "",
            403,
            "Forbidden",
            "this namespace may not be deleted",
        ),
    ];
    let mut faults = Vec::new();
    for (method, path, media_type, body, code, reason, part) in cases {
        let what = format!("{method} {path} {}", &body[..body.len().min(60)]);
        let (status, answer) = server.call_as(admin(), method, path, media_type, body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        if status.as_u16() != code || answer["reason"] != reason || !message.contains(part) {
            faults.push(format!("{what}: {status} {} {message}", answer["reason"]));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let (_, list) = server.call(Method::GET, MAPS, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    server.stop().await;
}

#[tokio::test]
async fn writers_that_race_lose_nothing() {
    let server = Server::start().await;
    server.call(Method::POST, MAPS, json!({ "metadata": { "name": "a" } })).await;
    let one = format!("{MAPS}/a");
    let patches = (0..20).map(|writer| {
        let patch = json!({ "data": { format!("k{writer}"): "v" } }).to_string();
        let (server, one) = (&server, &one);
        async move {
            let (status, body) =
                server.call_as(admin(), Method::PATCH, one, "application/merge-patch+json", &patch).await;
            assert_eq!(status, StatusCode::OK, "{body}");
        }
    });
    futures::future::join_all(patches).await;
    let (_, object) = server.call(Method::GET, &one, Value::Null).await;
    assert_eq!(object["data"].as_object().unwrap().len(), 20);
    server.stop().await;
}
