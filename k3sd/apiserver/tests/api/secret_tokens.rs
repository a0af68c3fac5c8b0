//! Tokens without an end of their own: what makes them good, and what ends them.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::Server;

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const SECRET: &str = "/api/v1/namespaces/default/secrets/kept";
const UNKNOWN: &str = "[invalid bearer token, token lookup failed]";

/// An account named `robot`; its uid.
async fn account(server: &Server) -> String {
    let (status, made) =
        server.call(Method::POST, ACCOUNTS, json!({ "metadata": { "name": "robot" } })).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn secret_with(token: &str) -> Value {
    json!({
        "metadata": { "name": "kept", "annotations": { "kubernetes.io/service-account.name": "robot" } },
        "type": "kubernetes.io/service-account-token",
        "stringData": { "token": token },
    })
}

/// The secret that keeps this token.
async fn keep(server: &Server, token: &str) {
    let (status, body) = server.call(Method::POST, SECRETS, secret_with(token)).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
}

/// An account and a token of it, kept in a secret and good.
async fn good_token(server: &Server) -> (String, String) {
    let uid = account(server).await;
    let token = server.api.sign_secret_token("default", "kept", "robot", &uid).unwrap();
    keep(server, &token).await;
    let status = review(server, &token, &[]).await;
    assert_eq!(status["authenticated"], true, "{status}");
    (token, uid)
}

async fn review(server: &Server, token: &str, audiences: &[&str]) -> Value {
    let review = json!({ "spec": { "token": token, "audiences": audiences } });
    let (status, body) =
        server.call(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    body["status"].clone()
}

async fn is_refused(server: &Server, token: &str) {
    let status = review(server, token, &[]).await;
    assert_eq!(status, json!({ "user": {}, "error": UNKNOWN }));
}

async fn change(server: &Server, method: Method, target: &str, body: Value) {
    let (status, body) = match method {
        Method::PATCH => {
            let user = crate::harness::admin();
            server.call_as(user, method, target, "application/merge-patch+json", &body.to_string()).await
        }
        _ => server.call(method, target, body).await,
    };
    assert_eq!(status, StatusCode::OK, "{body}");
}

#[tokio::test]
async fn a_kept_token_is_its_account_for_the_audiences_of_the_server() {
    let server = Server::start().await;
    let (token, uid) = good_token(&server).await;
    let status = review(&server, &token, &[]).await;
    let groups = ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
    let user = &status["user"];
    assert_eq!(
        (&user["username"], &user["uid"]),
        (&json!("system:serviceaccount:default:robot"), &json!(uid)),
        "{status}"
    );
    assert_eq!(user["groups"], json!(groups));
    assert_eq!(review(&server, &token, &["k3s", "vault"]).await["audiences"], json!(["k3s"]));
    let foreign = review(&server, &token, &["vault"]).await;
    assert_eq!(foreign, json!({ "user": {}, "error": UNKNOWN }));
    server.stop().await;
}

#[tokio::test]
async fn a_kept_token_ends_with_its_secret() {
    let server = Server::start().await;
    let (token, _) = good_token(&server).await;
    // Going is gone enough.
    let held = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    change(&server, Method::PATCH, SECRET, held).await;
    assert_eq!(review(&server, &token, &[]).await["authenticated"], true);
    change(&server, Method::DELETE, SECRET, Value::Null).await;
    assert_eq!(server.call(Method::GET, SECRET, Value::Null).await.0, StatusCode::OK);
    is_refused(&server, &token).await;
    change(&server, Method::PATCH, SECRET, json!({ "metadata": { "finalizers": null } })).await;
    assert_eq!(server.call(Method::GET, SECRET, Value::Null).await.0, StatusCode::NOT_FOUND);
    is_refused(&server, &token).await;
    let (status, _) = server.call(Method::GET, &format!("{ACCOUNTS}/robot"), Value::Null).await;
    assert_eq!(status, StatusCode::OK, "the account stays");
    // Nothing but the secret was missing.
    keep(&server, &token).await;
    assert_eq!(review(&server, &token, &[]).await["authenticated"], true);
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_its_secret_no_longer_has_is_no_longer_good() {
    let server = Server::start().await;
    let (token, uid) = good_token(&server).await;
    // Signatures of this kind are never the same twice.
    let next = server.api.sign_secret_token("default", "kept", "robot", &uid).unwrap();
    assert_ne!(token, next);
    is_refused(&server, &next).await;
    change(&server, Method::PATCH, SECRET, json!({ "stringData": { "token": next } })).await;
    is_refused(&server, &token).await;
    assert_eq!(review(&server, &next, &[]).await["authenticated"], true);
    server.stop().await;
}

#[tokio::test]
async fn a_secret_may_be_marked_as_no_longer_good() {
    let server = Server::start().await;
    let (token, _) = good_token(&server).await;
    let mark = |since: &str| json!({ "metadata": { "labels": { "kubernetes.io/legacy-token-invalid-since": since } } });
    change(&server, Method::PATCH, SECRET, mark("2026-01-01")).await;
    is_refused(&server, &token).await;
    change(&server, Method::PATCH, SECRET, mark("")).await;
    assert_eq!(review(&server, &token, &[]).await["authenticated"], true);
    server.stop().await;
}

#[tokio::test]
async fn a_kept_token_ends_with_its_account_though_another_has_its_name() {
    let server = Server::start().await;
    let (token, uid) = good_token(&server).await;
    change(&server, Method::DELETE, &format!("{ACCOUNTS}/robot"), Value::Null).await;
    is_refused(&server, &token).await;
    let next = account(&server).await;
    assert_ne!(uid, next);
    assert_eq!(server.call(Method::GET, SECRET, Value::Null).await.0, StatusCode::OK);
    is_refused(&server, &token).await;
    server.stop().await;
}

#[tokio::test]
async fn what_the_server_has_not_signed_is_not_good_though_a_secret_has_it() {
    let server = Server::start().await;
    let uid = account(&server).await;
    let sign = |account: &str| server.api.sign_secret_token("default", "kept", account, &uid).unwrap();
    let (own, other) = (sign("robot"), sign("other"));
    let (text, _) = own.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    // The right words below the signature of others.
    let forged = format!("{text}.{signature}");
    keep(&server, &forged).await;
    is_refused(&server, &forged).await;
    change(&server, Method::PATCH, SECRET, json!({ "stringData": { "token": own } })).await;
    assert_eq!(review(&server, &own, &[]).await["authenticated"], true);
    server.stop().await;
}
