//! Who may do what.

use apiserver::UserInfo;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::harness::Server;

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
