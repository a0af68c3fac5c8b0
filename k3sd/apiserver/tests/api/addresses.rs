//! Service ranges and the objects of the addresses in them.

use std::time::Duration;

use datastore::Datastore;
use datastore::sqlite::Sqlite;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::Server;

const NETWORKING: &str = "/apis/networking.k8s.io/v1";
const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn get(server: &Server, path: &str) -> Option<Value> {
    let (status, body) = server.call(Method::GET, path, Value::Null).await;
    (status == StatusCode::OK).then_some(body)
}

async fn address(server: &Server, ip: &str) -> Option<Value> {
    get(server, &format!("{NETWORKING}/ipaddresses/{ip}")).await
}

async fn parent(server: &Server, ip: &str) -> Option<String> {
    Some(address(server, ip).await?["spec"]["parentRef"]["name"].as_str()?.to_owned())
}

/// Wait until the object of an address speaks of this service, or is gone.
async fn until_parent(server: &Server, ip: &str, name: Option<&str>) {
    let settled = async {
        while parent(server, ip).await.as_deref() != name {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled)
        .await
        .unwrap_or_else(|_| panic!("{ip}: not {name:?}"));
}

fn service(name: &str, ip: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "clusterIP": ip, "ports": [{ "port": 80 }] } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configured_range_is_an_object_and_comes_back() {
    let server = Server::start().await;
    let path = format!("{NETWORKING}/servicecidrs/kubernetes");
    let range = get(&server, &path).await.unwrap();
    assert_eq!(range["spec"]["cidrs"], json!(["10.43.0.0/16"]));
    assert_eq!(range["metadata"]["finalizers"], json!(["networking.k8s.io/service-cidr-finalizer"]));
    let ready = &range["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")));
    assert_eq!(parent(&server, "10.43.0.1").await.as_deref(), Some("kubernetes"));
    // Nobody is there to take the finalizer off, so this does.
    server.call(Method::DELETE, &path, Value::Null).await;
    let marked = get(&server, &path).await.unwrap();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let mut free = marked.clone();
    free["metadata"]["finalizers"] = json!([]);
    server.call(Method::PUT, &path, free).await;
    let back = async {
        while get(&server, &path).await.is_none_or(|new| new["metadata"]["uid"] == range["metadata"]["uid"]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.expect("it is made again");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_its_object_as_long_as_its_service() {
    let server = Server::start().await;
    let (status, made) = server.call(Method::POST, SERVICES, service("a", "")).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    // With the answer, not some time after it.
    let object = address(&server, &ip).await.expect("written with the service");
    assert_eq!(
        object["metadata"]["labels"],
        json!({ "ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" })
    );
    assert_eq!(
        object["spec"]["parentRef"],
        json!({ "resource": "services", "namespace": "default", "name": "a" })
    );

    // Who takes it away, sees it come back.
    server.call(Method::DELETE, &format!("{NETWORKING}/ipaddresses/{ip}"), Value::Null).await;
    until_parent(&server, &ip, Some("a")).await;
    // A second service of the name changes nothing, and keeps no address.
    let (status, _) = server.call(Method::POST, SERVICES, service("a", "10.43.0.50")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(parent(&server, "10.43.0.50").await, None);
    // The address of a service is nobody else's to name.
    let foreign =
        json!({ "metadata": { "name": ip }, "spec": { "parentRef": { "resource": "x", "name": "y" } } });
    let (status, _) = server.call(Method::POST, &format!("{NETWORKING}/ipaddresses"), foreign).await;
    assert_eq!(status, StatusCode::CONFLICT);

    // One that has no address has no object, until it gets one.
    let path = format!("{SERVICES}/a");
    let mut external = get(&server, &path).await.unwrap();
    external["spec"] = json!({ "type": "ExternalName", "externalName": "example.com" });
    let (status, body) = server.call(Method::PUT, &path, external).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    until_parent(&server, &ip, None).await;
    let mut internal = get(&server, &path).await.unwrap();
    internal["spec"] = json!({ "type": "ClusterIP", "clusterIP": "10.43.0.60", "ports": [{ "port": 80 }] });
    let (status, body) = server.call(Method::PUT, &path, internal).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    until_parent(&server, "10.43.0.60", Some("a")).await;

    // The next service with the address has the object next.
    server.call(Method::DELETE, &path, Value::Null).await;
    let (status, body) = server.call(Method::POST, SERVICES, service("b", "10.43.0.60")).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    until_parent(&server, "10.43.0.60", Some("b")).await;
    server.call(Method::DELETE, &format!("{SERVICES}/b"), Value::Null).await;
    until_parent(&server, "10.43.0.60", None).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_range_is_given_from_once_it_is_ready() {
    let server = Server::start().await;
    let range = json!({ "metadata": { "name": "more" }, "spec": { "cidrs": ["10.99.0.0/24"] } });
    let (status, mut range) = server.call(Method::POST, &format!("{NETWORKING}/servicecidrs"), range).await;
    assert_eq!(status, StatusCode::CREATED, "{range}");
    let (status, body) = server.call(Method::POST, SERVICES, service("a", "10.99.0.5")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let message = body["message"].as_str().unwrap();
    let detail = "failed to allocate IP 10.99.0.5: the provided network does not match the current range";
    assert!(message.ends_with(detail), "{message}");
    range["status"] = json!({ "conditions": [{ "type": "Ready", "status": "True", "reason": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "message": "" }] });
    let (status, body) =
        server.call(Method::PUT, &format!("{NETWORKING}/servicecidrs/more/status"), range).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, body) = server.call(Method::POST, SERVICES, service("a", "10.99.0.5")).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert_eq!(parent(&server, "10.99.0.5").await.as_deref(), Some("a"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_behind_is_made_good_at_the_start() {
    let dir = TempDir::new().unwrap();
    let store = Sqlite::open(&dir.path().join("state.db")).await.unwrap();
    let mut old = service("old", "10.43.0.77");
    old["metadata"]["namespace"] = "default".into();
    old["spec"]["clusterIPs"] = json!(["10.43.0.77"]);
    old["spec"]["type"] = "ClusterIP".into();
    store.create("/registry/services/specs/default/old", old.to_string().into(), None).await.unwrap();
    let left = |ip: &str, managed: bool| {
        let labels = if managed {
            json!({ "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" })
        } else {
            json!({})
        };
        json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": { "name": ip, "labels": labels },
            "spec": { "parentRef": { "resource": "services", "namespace": "default", "name": "gone" } } })
    };
    for (ip, managed) in [("10.43.0.78", true), ("10.43.0.79", false)] {
        let key = format!("/registry/ipaddresses/{ip}");
        store.create(&key, left(ip, managed).to_string().into(), None).await.unwrap();
    }
    store.close().await;

    let server = Server::start_with(dir, |_| {}).await;
    until_parent(&server, "10.43.0.77", Some("old")).await;
    until_parent(&server, "10.43.0.78", None).await;
    // What somebody else named is left alone, and reserved.
    assert_eq!(parent(&server, "10.43.0.79").await.as_deref(), Some("gone"));
    let (status, body) = server.call(Method::POST, SERVICES, service("a", "10.43.0.79")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    let (status, body) = server.call(Method::POST, SERVICES, service("b", "10.43.0.78")).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    server.stop().await;
}

#[tokio::test]
async fn an_object_of_the_allocator_takes_no_address_from_a_service_to_come() {
    let server = Server::start().await;
    // As the keeper would write it for a service that went meanwhile.
    let late = json!({
        "metadata": {
            "name": "10.43.77.7",
            "labels": { "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" },
        },
        "spec": { "parentRef": { "resource": "services", "namespace": "default", "name": "gone" } },
    });
    let addresses = "/apis/networking.k8s.io/v1/ipaddresses";
    let (status, body) = server.call(Method::POST, addresses, late).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    let service = json!({
        "metadata": { "name": "next" }, "spec": { "clusterIP": "10.43.77.7", "ports": [{ "port": 80 }] },
    });
    let (status, body) = server.call(Method::POST, "/api/v1/namespaces/default/services", service).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    server.stop().await;
}
