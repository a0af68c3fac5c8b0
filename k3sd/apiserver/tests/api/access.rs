//! Who may do what.

use apiserver::UserInfo;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::{Server, admin};

#[tokio::test]
async fn identities_may_do_what_their_roles_say_and_no_more() {
    let server = Server::start().await;
    let scheduler = || UserInfo::new("system:kube-scheduler", &[]);
    let node = || UserInfo::new("system:node:n1", &["system:nodes"]);
    // (user, method, path, allowed)
    let cases = [
        (scheduler(), Method::GET, "/api/v1/pods", true),
        (scheduler(), Method::DELETE, "/api/v1/nodes/n1", false),
        (node(), Method::GET, "/api/v1/nodes/n1", true),
        (node(), Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles", false),
        (
            UserInfo::new("system:kube-controller-manager", &[]),
            Method::GET,
            "/apis/apps/v1/deployments",
            true,
        ),
        (UserInfo::new("nobody", &[]), Method::GET, "/apis", true),
        (UserInfo::new("nobody", &[]), Method::GET, "/api/v1/namespaces", false),
        (UserInfo::anonymous(), Method::GET, "/livez", true),
    ];
    for (user, method, path, allowed) in cases {
        let name = user.name.clone();
        let (status, body) = server.call_as(user, method, path, "application/json", "").await;
        assert_eq!(status != StatusCode::FORBIDDEN, allowed, "{name} {path}: {body}");
    }
    let (status, body) =
        server.call_as(UserInfo::anonymous(), Method::GET, "/api", "application/json", "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    let (_, body) =
        server.call_as(scheduler(), Method::DELETE, "/api/v1/nodes/n1", "application/json", "").await;
    assert_eq!(
        body["message"],
        Value::from(
            "nodes \"n1\" is forbidden: User \"system:kube-scheduler\" cannot delete resource \"nodes\" in API group \"\" at the cluster scope"
        )
    );
    server.stop().await;
}

/// Who somebody with these headers is to the server.
async fn who(server: &Server, user: UserInfo, headers: &[(&str, &str)]) -> (StatusCode, Value) {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(review))).unwrap();
    let response = server.api.service_as(user).oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn every_part_of_an_impersonated_identity_needs_leave() {
    let server = Server::start().await;
    let role = json!({"metadata": {"name": "imp"},
        "rules": [{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/team"], "resourceNames": ["red"],
                "verbs": ["impersonate"]}]});
    let binding = json!({"metadata": {"name": "imp"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "imp"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "helper"}]});
    for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/{plural}");
        let (status, body) = server.call(Method::POST, &path, object).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
    let as_bob = ("impersonate-user", "bob");
    let (_, all) = who(
        &server,
        admin(),
        &[as_bob, ("Impersonate-Uid", "7"), ("Impersonate-Extra-Acme.com%2fTeam", "red")],
    )
    .await;
    let info = &all["status"]["userInfo"];
    assert_eq!(info["uid"], "7", "{all}");
    assert_eq!(info["extra"], json!({"acme.com/team": ["red"]}), "{all}");
    let helper = || UserInfo::new("helper", &[]);
    let cases = [
        (vec![as_bob], StatusCode::CREATED),
        (vec![as_bob, ("impersonate-extra-team", "red")], StatusCode::CREATED),
        (vec![as_bob, ("impersonate-extra-team", "blue")], StatusCode::FORBIDDEN),
        (vec![as_bob, ("impersonate-extra-other", "red")], StatusCode::FORBIDDEN),
        (vec![as_bob, ("impersonate-uid", "7")], StatusCode::FORBIDDEN),
        (vec![as_bob, ("impersonate-group", "g")], StatusCode::FORBIDDEN),
        (vec![("impersonate-extra-team", "red")], StatusCode::BAD_REQUEST),
    ];
    for (headers, expected) in cases {
        let (status, body) = who(&server, helper(), &headers).await;
        assert_eq!(status, expected, "{headers:?}: {body}");
    }
    let anonymous = [("impersonate-user", "system:anonymous")];
    assert_eq!(who(&server, helper(), &anonymous).await.0, StatusCode::UNAUTHORIZED);
    server.stop().await;
}

#[tokio::test]
async fn a_bootstrap_token_is_an_identity_until_it_runs_out() {
    let server = Server::start().await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let token = json!({ "metadata": { "name": "bootstrap-token-abcdef" }, "type": "bootstrap.kubernetes.io/token",
        "stringData": { "token-id": "abcdef", "token-secret": "0123456789abcdef", "expiration": "2999-01-01T00:00:00Z",
            "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:team" } });
    let (status, body) = server.call(Method::POST, secrets, token).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    std::fs::write(server.dir.path().join("ca.pem"), server.ca.pem()).unwrap();
    std::fs::write(server.dir.path().join("none.kubeconfig"), "").unwrap();
    let authority = format!("--certificate-authority={}", server.dir.path().join("ca.pem").display());
    let address = format!("--server=https://{}", server.address);
    let whoami = async |token: &str| {
        let token = format!("--token={token}");
        let arguments = [&*address, &*authority, &*token, "auth", "whoami", "-o=jsonpath={.status.userInfo}"];
        server.kubectl_as("none", &arguments, "").await
    };
    let output = whoami("abcdef.0123456789abcdef").await;
    let user: Value = serde_json::from_slice(&output.stdout).expect("an identity");
    assert_eq!(user["username"], "system:bootstrap:abcdef");
    assert_eq!(
        user["groups"],
        json!(["system:bootstrappers", "system:bootstrappers:team", "system:authenticated"])
    );
    assert!(!whoami("abcdef.0123456789abcdee").await.status.success());
    let review =
        |audiences: Value| json!({ "spec": { "token": "abcdef.0123456789abcdef", "audiences": audiences } });
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, answer) = server.call(Method::POST, path, review(json!(["k3s"]))).await;
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
    let (_, answer) = server.call(Method::POST, path, review(json!(["elsewhere"]))).await;
    assert_ne!(answer["status"]["authenticated"], true, "{answer}");
    let over = json!({ "stringData": { "expiration": "2001-01-01T00:00:00Z" } }).to_string();
    let one = format!("{secrets}/bootstrap-token-abcdef");
    let (status, body) =
        server.call_as(admin(), Method::PATCH, &one, "application/merge-patch+json", &over).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(!whoami("abcdef.0123456789abcdef").await.status.success());
    server.stop().await;
}
