//! Protobuf, as clients written in Go speak it: in bodies, answers, errors and watches.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use machinery::protobuf;
use serde_json::{Value, json};

use crate::encoding::{Events, GO_CLIENT};
use crate::harness::{Server, admin};

async fn send(server: &Server, method: Method, target: &str, body: Vec<u8>) -> Response<apiserver::Body> {
    server.send(admin(), method, target, protobuf::MEDIA_TYPE, Some(GO_CLIENT), body.into()).await
}

/// Send an object, or nothing if it is null, and read the answer; both are protobuf.
async fn exchange(server: &Server, method: Method, target: &str, object: Value) -> (StatusCode, Value) {
    let body = if object.is_null() { Vec::new() } else { protobuf::encode(&object).unwrap() };
    let response = send(server, method, target, body).await;
    let status = response.status();
    assert_eq!(response.headers()[CONTENT_TYPE], protobuf::MEDIA_TYPE);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, protobuf::decode(&bytes, ("", "")).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_makes_what_it_sends_in_protobuf() {
    let server = Server::start().await;
    for arguments in [
        "create namespace team",
        "create configmap settings --from-literal=colour=blue -n team",
        "create secret generic key --from-literal=password=x",
        "create deployment web --image=x --replicas=2",
        "create service clusterip web --tcp=80:8080",
        "create service nodeport front --tcp=80",
        "create serviceaccount default",
        "create serviceaccount robot",
        "create role reader --verb=get --resource=pods",
        "create rolebinding readers --role=reader --serviceaccount=default:robot",
        "create clusterrole all --verb=get --resource=pods",
        "create clusterrolebinding all --clusterrole=all --user=u",
        "create quota few --hard=pods=3",
        "create priorityclass high --value=5",
        "create poddisruptionbudget web --selector=app=web --min-available=1",
        "create ingress in --rule=example.com/a=web:80",
        "create cronjob often --image=x --schedule=*/5\u{a0}*\u{a0}*\u{a0}*\u{a0}*",
        "create token robot",
        "run one --image=x --port=80",
        "expose deployment web --port=81 --name=exposed",
        "autoscale deployment web --max=3",
        "auth can-i create pods",
        "auth whoami",
        "delete pod one --grace-period=0 --force",
    ] {
        let arguments: Vec<String> =
            arguments.split(' ').map(|argument| argument.replace('\u{a0}', " ")).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        server.ok(&arguments, "").await;
    }
    let (_, deployment) =
        server.call(Method::GET, "/apis/apps/v1/namespaces/default/deployments/web", Value::Null).await;
    assert_eq!(deployment["spec"]["replicas"], 2);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    let (_, service) = server.call(Method::GET, "/api/v1/namespaces/default/services/web", Value::Null).await;
    assert_eq!(
        service["spec"]["ports"][0],
        json!({"name": "80-8080", "port": 80, "protocol": "TCP", "targetPort": 8080})
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_errors_come_in_protobuf_to_those_who_prefer_it() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"},
        "binaryData": {"b": "AAH/"}});
    let (status, made) = exchange(&server, Method::POST, maps, map).await;
    assert_eq!((status, &made["binaryData"]["b"]), (StatusCode::CREATED, &json!("AAH/")));
    let (_, same) = server.call(Method::GET, &format!("{maps}/a"), Value::Null).await;
    assert_eq!(made, same);
    let (_, list) = exchange(&server, Method::GET, maps, Value::Null).await;
    assert_eq!((&list["kind"], &list["items"][0]["data"]["k"]), (&json!("ConfigMapList"), &json!("v")));
    let (status, missing) = exchange(&server, Method::GET, &format!("{maps}/b"), Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!((&missing["reason"], &missing["details"]["name"]), (&json!("NotFound"), &json!("b")));
    let wrong = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let (status, _) = exchange(&server, Method::DELETE, &format!("{maps}/a"), wrong).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let garbage = send(&server, Method::POST, maps, b"k8s\0\x12\x7f".to_vec()).await;
    assert_eq!(garbage.status(), StatusCode::BAD_REQUEST);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_frames_of_protobuf() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let object = |colour: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"colour": colour}});
    server.call(Method::POST, maps, object("blue")).await;
    let watch = send(&server, Method::GET, &format!("{maps}?watch=true"), Vec::new()).await;
    assert_eq!(watch.headers()[CONTENT_TYPE], protobuf::WATCH_MEDIA_TYPE);
    server.call(Method::PUT, &format!("{maps}/a"), object("red")).await;
    server.call(Method::DELETE, &format!("{maps}/a"), Value::Null).await;
    let mut events = Events::of(watch);
    for expected in [("ADDED", "blue"), ("MODIFIED", "red"), ("DELETED", "red")] {
        let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap();
        let (event, object) = event.expect("the watch goes on");
        assert_eq!((event.as_str(), object["data"]["colour"].as_str().unwrap()), expected);
    }
    server.stop().await;
}
