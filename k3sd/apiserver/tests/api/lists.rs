//! Lists in pages, at versions, by selectors; restarts; and resources that come later.

use std::sync::Arc;

use apiserver::ApiServer;
use datastore::Datastore;
use datastore::sqlite::Sqlite;
use http::{Method, StatusCode};
use machinery::kinds::{ALL_VERBS, Resource};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Server, authority, config};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(server: &Server, name: &str) {
    let object = json!({ "metadata": { "name": name, "labels": { "n": name } } });
    let (status, body) = server.call(Method::POST, MAPS, object).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

#[tokio::test]
async fn pages_show_the_state_of_the_first_page_however_much_changes_in_between() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d"] {
        make(&server, name).await;
    }
    let (_, first) = server.call(Method::GET, &format!("{MAPS}?limit=2"), Value::Null).await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    make(&server, "bb").await;
    server.call(Method::DELETE, &format!("{MAPS}/d"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) =
        server.call(Method::GET, &format!("{MAPS}?limit=5&continue={token}"), Value::Null).await;
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"]["continue"].is_null());
    let (_, now) = server.call(Method::GET, MAPS, Value::Null).await;
    assert_eq!(names(&now), ["a", "b", "bb", "c"]);
    server.stop().await;
}

#[tokio::test]
async fn selectors_versions_and_dry_runs_are_honoured() {
    let server = Server::start().await;
    make(&server, "a").await;
    make(&server, "b").await;
    let get = async |query: &str| server.call(Method::GET, &format!("{MAPS}?{query}"), Value::Null).await;
    assert_eq!(names(&get("labelSelector=n%20in%20(b,c)").await.1), ["b"]);
    assert_eq!(names(&get("fieldSelector=metadata.name!=b").await.1), ["a"]);
    let (status, body) = get("fieldSelector=spec.nothing=x").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let (_, list) = get("").await;
    let version: i64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let (status, body) = get(&format!("resourceVersion={}&resourceVersionMatch=Exact", version - 1)).await;
    assert_eq!((status, names(&body)), (StatusCode::OK, vec!["a"]));
    let dry = json!({ "metadata": { "name": "dry" } });
    let (status, _) = server.call(Method::POST, &format!("{MAPS}?dryRun=All"), dry).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(names(&get("").await.1), ["a", "b"]);
    let (_, deleted) = server.call(Method::DELETE, &format!("{MAPS}?labelSelector=n=a"), Value::Null).await;
    assert_eq!(names(&deleted), ["a"]);
    assert_eq!(names(&get("").await.1), ["b"]);
    server.stop().await;
}

#[tokio::test]
async fn unknown_fields_are_dropped_with_a_warning_or_refused_as_asked() {
    let server = Server::start().await;
    let object = json!({ "metadata": { "name": "a" }, "dta": {} });
    let (status, body) =
        server.call(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), object.clone()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        body["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dta\""
    );
    let response = server
        .open(crate::harness::admin(), Method::POST, MAPS, "application/json", &object.to_string())
        .await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"dta\\\"\"");
    server.stop().await;
}

#[tokio::test]
async fn objects_outlive_the_server_and_finalizers_outlive_deletes() {
    let server = Server::start().await;
    let object = json!({ "metadata": { "name": "held", "finalizers": ["example.com/hold"] } });
    server.call(Method::POST, MAPS, object).await;
    let path = server.dir.path().join("again.db");
    let (status, body) = server.call(Method::DELETE, &format!("{MAPS}/held"), Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body["metadata"]["deletionTimestamp"].is_string(), "{body}");
    let release = json!([{ "op": "remove", "path": "/metadata/finalizers" }]).to_string();
    let held = format!("{MAPS}/held");
    let admin = crate::harness::admin();
    server.call_as(admin, Method::PATCH, &held, "application/json-patch+json", &release).await;
    assert_eq!(server.call(Method::GET, &held, Value::Null).await.0, StatusCode::NOT_FOUND);

    let ca = authority();
    for _ in 0..2 {
        let store: Arc<dyn Datastore> = Arc::new(Sqlite::open(&path).await.unwrap());
        let cancel = CancellationToken::new();
        let api = ApiServer::start(config(&ca, 6443), store.clone(), cancel.clone()).await.unwrap();
        assert!(api.objects().contains("", "services", "default", "kubernetes"));
        assert!(api.objects().contains("rbac.authorization.k8s.io", "clusterroles", "", "view"));
        cancel.cancel();
        store.close().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_resource_that_is_registered_later_is_served_with_what_was_stored_before() {
    let server = Server::start().await;
    let widgets = Resource {
        group: "example.com".to_owned(),
        version: "v1".to_owned(),
        plural: "widgets".to_owned(),
        singular: "widget".to_owned(),
        kind: "Widget".to_owned(),
        list_kind: "WidgetList".to_owned(),
        namespaced: true,
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: ALL_VERBS.map(str::to_owned).to_vec(),
        subresources: Vec::new(),
        type_name: "example.com.v1.Widget".to_owned(),
        storage_prefix: "/registry/example.com/widgets/".to_owned(),
    };
    server.api.register(widgets).await.unwrap();
    let target = "/apis/example.com/v1/namespaces/default/widgets";
    let (status, body) = server
        .call(Method::POST, target, json!({ "metadata": { "name": "w" }, "spec": { "size": 3 } }))
        .await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert_eq!(server.ok(&["get", "widgets", "w", "-o", "jsonpath={.spec.size}"], "").await, "3");
    server.stop().await;
}
