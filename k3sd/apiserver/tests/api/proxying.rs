//! What passes through the server to pods, services and nodes, and as whom.

use apiserver::UserInfo;
use datastore::Datastore;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::Server;

async fn made(server: &Server, method: Method, path: &str, object: Value) {
    let (status, body) = server.call(method, path, object).await;
    assert!(status.is_success(), "{path}: {body}");
}

/// A pod, a node and a service that all are the API server itself.
async fn pointing_at_the_server(server: &Server) {
    let port = server.address.port();
    let account = json!({"metadata": {"name": "default"}});
    let (_, _) = server.call(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    made(server, Method::POST, "/api/v1/namespaces/default/pods", pod).await;
    let (_, mut pod) = server.call(Method::GET, "/api/v1/namespaces/default/pods/p", Value::Null).await;
    pod["status"]["podIP"] = "127.0.0.1".into();
    pod["status"]["podIPs"] = json!([{"ip": "127.0.0.1"}]);
    made(server, Method::PUT, "/api/v1/namespaces/default/pods/p/status", pod).await;
    for (name, kubelet_port) in [("other", 1), ("kubelet", port)] {
        made(server, Method::POST, "/api/v1/nodes", json!({"metadata": {"name": name}})).await;
        let path = format!("/api/v1/nodes/{name}");
        let (_, mut node) = server.call(Method::GET, &path, Value::Null).await;
        node["status"]["addresses"] = json!([{"type": "InternalIP", "address": "127.0.0.1"}]);
        node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] = kubelet_port.into();
        made(server, Method::PUT, &format!("{path}/status"), node).await;
    }
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
    made(server, Method::POST, "/api/v1/namespaces/default/services", service).await;
    // The API takes neither the loopback address nor a name of one segment, so this comes from beneath it.
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "s-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "FQDN", "ports": [{"name": "https", "port": port}], "endpoints": [{"addresses": ["localhost"]}]});
    let key = "/registry/endpointslices/default/s-1";
    server.store.create(key, slice.to_string().into(), None).await.unwrap();
    let binding = json!({"metadata": {"name": "edit"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "editor"}]});
    made(server, Method::POST, "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding)
        .await;
}

#[tokio::test]
async fn only_a_kubelet_is_shown_the_servers_own_certificate() {
    let server = Server::start().await;
    pointing_at_the_server(&server).await;
    let port = server.address.port();
    let editor = || UserInfo::new("editor", &["system:authenticated"]);
    for place in [format!("pods/https:p:{port}"), "services/https:s:https".to_owned()] {
        let path = format!("/api/v1/namespaces/default/{place}/proxy/api/v1/secrets");
        let (status, body) = server.call_as(editor(), Method::GET, &path, "application/json", "").await;
        // Editors may not list all secrets either, so only the inner server answers "unauthorized".
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}: {body}");
    }
    let beside = format!("/api/v1/nodes/https:other:{port}/proxy/api/v1/secrets");
    let (status, body) = server.call(Method::GET, &beside, Value::Null).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    for kubelet in ["kubelet".to_owned(), format!("https:kubelet:{port}")] {
        let path = format!("/api/v1/nodes/{kubelet}/proxy/api/v1/secrets");
        let (status, body) = server.call(Method::GET, &path, Value::Null).await;
        assert_eq!((status, &body["kind"]), (StatusCode::OK, &json!("SecretList")), "{body}");
    }
    server.stop().await;
}
