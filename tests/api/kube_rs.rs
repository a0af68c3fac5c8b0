//! Clients that are not kubectl, over TLS with the administrator's certificate: kube-rs with its own TLS and the kubeconfig as it was
//! written, and a client that speaks protobuf, as those written in Go do.

use std::path::Path;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Error, ResourceExt as _};
use machinery::protobuf;
use serde_json::{Value, json};

use crate::{START, Server, kubeconfig};

async fn client(dir: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig(dir)).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    assert!(config.cluster_url.scheme_str() == Some("https") && !config.accept_invalid_certs);
    Client::try_from(config).unwrap()
}

fn of<K: k8s_openapi::serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn colour(map: &ConfigMap) -> Option<&str> {
    map.data.as_ref()?.get("colour").map(String::as_str)
}

/// The status of a request that must have been refused.
fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> (u16, String, String) {
    match result {
        Err(Error::Api(status)) => (status.code, status.reason, status.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_creates_lists_patches_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let _server = Server::start(dir.path());
    let client = client(dir.path()).await;
    assert!(client.apiserver_version().await.unwrap().git_version.starts_with("v1.36."));
    let groups = client.list_api_groups_aggregated().await.unwrap();
    assert!(groups.items.iter().any(|group| {
        group.metadata.as_ref().and_then(|metadata| metadata.name.as_deref()) == Some("apps")
    }));

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map: ConfigMap =
        of(json!({ "metadata": { "name": "m", "labels": { "of": "test" } }, "data": { "colour": "blue" } }));
    let made = maps.create(&PostParams::default(), &map).await.unwrap();
    assert_eq!((colour(&made), made.name_any().as_str()), (Some("blue"), "m"));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&dry, &of(json!({ "metadata": { "name": "dry" } }))).await.unwrap();
    assert!(maps.get_opt("dry").await.unwrap().is_none());
    let list = maps.list(&ListParams::default().labels("of=test").limit(5)).await.unwrap();
    assert_eq!(list.items, std::slice::from_ref(&made));
    assert!(list.metadata.resource_version >= made.metadata.resource_version);
    assert_eq!(maps.get_metadata("m").await.unwrap().metadata, made.metadata);

    let params = PatchParams::apply("test");
    let merge: Patch<Value> = Patch::Merge(json!({ "data": { "colour": "red" } }));
    assert_eq!(colour(&maps.patch("m", &params, &merge).await.unwrap()), Some("red"));
    let strategic: Patch<Value> = Patch::Strategic(json!({ "data": { "colour": "green" } }));
    assert_eq!(colour(&maps.patch("m", &params, &strategic).await.unwrap()), Some("green"));
    let apply = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "colour": "white" } });
    let applied = maps.patch("m", &params.clone().force(), &Patch::Apply(apply)).await.unwrap();
    assert_eq!(colour(&applied), Some("white"));
    let stale = maps.replace("m", &PostParams::default(), &made).await;
    assert_eq!(refused(stale).1, "Conflict");
    let replaced = ConfigMap { data: None, ..applied };
    assert_eq!(maps.replace("m", &PostParams::default(), &replaced).await.unwrap().data, None);

    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let web: Deployment = of(json!({ "metadata": { "name": "web" }, "spec": { "replicas": 0,
        "selector": { "matchLabels": { "app": "web" } }, "template": { "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } } } }));
    deployments.create(&PostParams::default(), &web).await.unwrap();
    let scale: Patch<Value> = Patch::Merge(json!({ "spec": { "replicas": 2 } }));
    let scale = deployments.patch_scale("web", &PatchParams::default(), &scale).await.unwrap();
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(2));
    let gone =
        maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("of=test")).await;
    assert_eq!(gone.unwrap().left().map(|list| list.items.len()), Some(1));

    assert_eq!(
        refused(maps.get("m").await),
        (404, "NotFound".to_owned(), "configmaps \"m\" not found".to_owned())
    );
    let bad: ConfigMap = of(json!({ "metadata": { "name": "No_" } }));
    let (code, reason, message) = refused(maps.create(&PostParams::default(), &bad).await);
    assert!(
        (code, reason.as_str()) == (422, "Invalid") && message.contains("RFC 1123 subdomain"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_watches_and_asks_for_logs() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let client = client(dir.path()).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let watch = maps.watch(&WatchParams::default().labels("of=test"), &version).await.unwrap();
    let mut watch = watch.boxed();
    let map: ConfigMap =
        of(json!({ "metadata": { "name": "m", "labels": { "of": "test" } }, "data": { "colour": "blue" } }));
    maps.create(&PostParams::default(), &map).await.unwrap();
    let change: Patch<Value> = Patch::Merge(json!({ "data": { "colour": "red" } }));
    maps.patch("m", &PatchParams::default(), &change).await.unwrap();
    maps.delete("m", &DeleteParams::default()).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 3 {
        let event = tokio::time::timeout(Duration::from_secs(10), watch.try_next()).await.expect("an event");
        match event.unwrap().expect("the watch goes on") {
            WatchEvent::Added(map) => told.push(("added", colour(&map).map(str::to_owned))),
            WatchEvent::Modified(map) => told.push(("modified", colour(&map).map(str::to_owned))),
            WatchEvent::Deleted(map) => told.push(("deleted", colour(&map).map(str::to_owned))),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => panic!("{status:?}"),
        }
    }
    let [blue, red] = ["blue", "red"].map(|colour| Some(colour.to_owned()));
    assert_eq!(told, [("added", blue), ("modified", red.clone()), ("deleted", red)]);

    server.await_account("default");
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let pod: Pod =
        of(json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "i" }] } }));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let (code, _, message) = refused(pods.logs("p", &LogParams::default()).await);
    assert_eq!((code, message.as_str()), (400, "pod p does not have a host assigned"));
    assert_eq!(refused(pods.logs("none", &LogParams::default()).await).0, 404);
}

/// A request whose body, if any, is protobuf, and so is the answer.
fn request(method: Method, target: &str, object: &Value) -> Request<Body> {
    let body = if object.is_null() { Vec::new() } else { protobuf::encode(object).unwrap() };
    Request::builder()
        .method(method)
        .uri(target)
        .header(CONTENT_TYPE, protobuf::MEDIA_TYPE)
        .header(ACCEPT, "application/vnd.kubernetes.protobuf,application/json")
        .body(body.into())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_speaks_protobuf_is_answered_in_protobuf() {
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let dir = tempfile::tempdir().unwrap();
    let _server = Server::start(dir.path());
    let client = client(dir.path()).await;
    let exchange = async |method, target: &str, object: &Value| {
        let answer = client.send(request(method, target, object)).await.unwrap();
        assert_eq!(answer.headers()[CONTENT_TYPE], protobuf::MEDIA_TYPE, "{target}");
        let status = answer.status();
        let bytes = answer.into_body().collect_bytes().await.unwrap();
        (status, protobuf::decode(&bytes, ("", "")).unwrap())
    };
    let watch = client.send(request(Method::GET, &format!("{MAPS}?watch=1"), &Value::Null)).await.unwrap();
    assert_eq!(watch.headers()[CONTENT_TYPE], protobuf::WATCH_MEDIA_TYPE);

    let mut map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "colour": "blue" } });
    let (status, made) = exchange(Method::POST, MAPS, &map).await;
    assert_eq!((status, &made["data"]), (StatusCode::CREATED, &map["data"]));
    let one = format!("{MAPS}/m");
    assert_eq!(exchange(Method::GET, &one, &Value::Null).await, (StatusCode::OK, made.clone()));
    map["metadata"] = made["metadata"].clone();
    map["data"]["colour"] = json!("red");
    let (status, updated) = exchange(Method::PUT, &one, &map).await;
    assert_eq!((status, &updated["data"]["colour"]), (StatusCode::OK, &json!("red")));
    let (status, conflict) = exchange(Method::PUT, &one, &map).await;
    assert_eq!(
        (status, &conflict["kind"], &conflict["reason"]),
        (StatusCode::CONFLICT, &json!("Status"), &json!("Conflict"))
    );
    let (_, list) = exchange(Method::GET, MAPS, &Value::Null).await;
    assert!(list["items"].as_array().unwrap().iter().any(|item| item["data"]["colour"] == "red"), "{list}");
    let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": made["metadata"]["uid"] } });
    assert_eq!(exchange(Method::DELETE, &one, &options).await.0, StatusCode::OK);

    let mut body = watch.into_body();
    let mut seen = Vec::new();
    let deleted = async {
        // The frames of the three events, whatever else there is.
        while !seen.windows(7).any(|part| part == b"DELETED") {
            let frame = body.frame().await.expect("the watch goes on").unwrap();
            seen.extend_from_slice(frame.data_ref().expect("data"));
        }
    };
    tokio::time::timeout(START, deleted).await.expect("the story of the map");
    let mut rest = seen.as_slice();
    let mut told = Vec::new();
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let (frame, more) = more.split_at(u32::from_be_bytes(*length) as usize);
        let start = frame.windows(4).position(|window| window == b"k8s\0").expect("a document");
        let object = protobuf::decode(&frame[start..], ("", "")).unwrap();
        if object["metadata"]["name"] == "m" {
            told.push(object["data"]["colour"].clone());
        }
        rest = more;
    }
    assert_eq!(told, ["blue", "red", "red"]);
}
