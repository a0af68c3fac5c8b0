//! The life of a pod, seen from the API: created, bound, run by a (here: scripted) kubelet, logged, gone.

use std::sync::Arc;

use apiserver::UserInfo;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Server, admin, identity};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  containers: [{name: web, image: "localhost/demo:1"}]
"#;
const PODS: &str = "/api/v1/namespaces/default/pods";

fn node_user() -> UserInfo {
    UserInfo::new("system:node:n1", &["system:nodes"])
}

async fn create(server: &Server, target: &str, object: Value) -> Value {
    let (status, body) = server.call(Method::POST, target, object).await;
    assert_eq!(status, StatusCode::CREATED, "{target}: {body}");
    body
}

/// The default account, a node, and a pod bound to it.
async fn running_pod(server: &Server, kubelet_port: u16) {
    let account = json!({ "metadata": { "name": "default" } });
    create(server, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let labels = json!({ "topology.kubernetes.io/zone": "z1", "kubernetes.io/os": "linux" });
    let node = json!({ "metadata": { "name": "n1", "labels": labels }, "status": {
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": kubelet_port } },
    } });
    let (status, body) = server
        .call_as(node_user(), Method::POST, "/api/v1/nodes", "application/json", &node.to_string())
        .await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    server.ok(&["create", "-f", "-"], POD).await;
    let binding = json!({ "metadata": { "name": "web" }, "target": { "kind": "Node", "name": "n1" } });
    let scheduler = UserInfo::new("system:kube-scheduler", &[]);
    let target = format!("{PODS}/web/binding");
    let nominated = json!({ "status": { "nominatedNodeName": "n1" } }).to_string();
    let merge = "application/merge-patch+json";
    server.call_as(admin(), Method::PATCH, &format!("{PODS}/web/status"), merge, &nominated).await;
    let other = json!({ "metadata": { "name": "other" }, "target": { "kind": "Node", "name": "n1" } });
    let (status, body) = server.call(Method::POST, &target, other).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let bound =
        server.call_as(scheduler, Method::POST, &target, "application/json", &binding.to_string()).await;
    assert_eq!(bound.0, StatusCode::CREATED, "{}", bound.1);
}

#[tokio::test]
async fn a_pod_gets_its_token_volume_and_tolerations_and_goes_in_two_steps() {
    let server = Server::start().await;
    running_pod(&server, 10250).await;
    let (_, pod) = server.call(Method::GET, &format!("{PODS}/web"), Value::Null).await;
    let volume = &pod["spec"]["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"), "{pod}");
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], volume["name"]);
    assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["tolerations"][1]["key"], "node.kubernetes.io/unreachable");
    assert_eq!(pod["spec"]["priority"], 0);
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert!(pod["status"]["nominatedNodeName"].is_null(), "{pod}");
    assert_eq!(pod["metadata"]["labels"]["topology.kubernetes.io/zone"], "z1");
    assert!(pod["metadata"]["labels"]["kubernetes.io/os"].is_null(), "{pod}");
    assert_eq!(pod["status"]["phase"], "Pending");
    // A second binding is refused.
    let binding = json!({ "metadata": { "name": "web" }, "target": { "kind": "Node", "name": "n2" } });
    let (status, _) = server.call(Method::POST, &format!("{PODS}/web/binding"), binding).await;
    assert_eq!(status, StatusCode::CONFLICT);
    // The kubelet reports, the user deletes, the kubelet confirms.
    let report = json!({ "status": { "phase": "Running", "podIP": "10.42.0.5" } }).to_string();
    let target = format!("{PODS}/web/status");
    let media_type = "application/strategic-merge-patch+json";
    let (status, body) = server.call_as(node_user(), Method::PATCH, &target, media_type, &report).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, body) = server.call(Method::DELETE, &format!("{PODS}/web"), Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["metadata"]["deletionGracePeriodSeconds"], 30, "{body}");
    let (_, pod) = server.call(Method::GET, &format!("{PODS}/web"), Value::Null).await;
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    let now =
        json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": pod["metadata"]["uid"] } }).to_string();
    let (status, body) =
        server.call_as(node_user(), Method::DELETE, &format!("{PODS}/web"), "application/json", &now).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, _) = server.call(Method::GET, &format!("{PODS}/web"), Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn a_token_bound_to_a_pod_opens_the_api_until_the_pod_is_gone() {
    let server = Server::start().await;
    running_pod(&server, 10250).await;
    let (_, pod) = server.call(Method::GET, &format!("{PODS}/web"), Value::Null).await;
    let request = json!({ "spec": { "expirationSeconds": 3607, "boundObjectRef": {
        "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": pod["metadata"]["uid"],
    } } });
    let target = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (status, body) =
        server.call_as(node_user(), Method::POST, target, "application/json", &request.to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let token = body["status"]["token"].as_str().unwrap().to_owned();
    let review = || json!({ "spec": { "token": token } });
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, body) = server.call(Method::POST, reviews, review()).await;
    assert_eq!(body["status"]["user"]["username"], "system:serviceaccount:default:default", "{body}");
    assert_eq!(body["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"][0], "web");
    let header = token.split('.').next().unwrap();
    use base64::Engine;
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    let (_, keys) = server.call(Method::GET, "/openid/v1/jwks", Value::Null).await;
    assert_eq!((&keys["keys"][0]["kid"], &keys["keys"][0]["alg"]), (&header["kid"], &json!("ES256")));
    let other_node = UserInfo::new("system:node:n2", &["system:nodes"]);
    let (status, _) =
        server.call_as(other_node, Method::POST, target, "application/json", &request.to_string()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let gone = json!({ "gracePeriodSeconds": 0 });
    server.call(Method::DELETE, &format!("{PODS}/web"), gone).await;
    let (_, body) = server.call(Method::POST, reviews, review()).await;
    assert_ne!(body["status"]["authenticated"], true, "{body}");
    server.stop().await;
}

#[tokio::test]
async fn a_token_bound_to_a_node_ends_with_the_node() {
    let server = Server::start().await;
    running_pod(&server, 10250).await;
    server.call(Method::POST, "/api/v1/nodes", json!({ "metadata": { "name": "n9" } })).await;
    let request =
        json!({ "spec": { "boundObjectRef": { "apiVersion": "v1", "kind": "Node", "name": "n9" } } });
    let target = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (status, body) = server.call(Method::POST, target, request).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let review = || json!({ "spec": { "token": body["status"]["token"] } });
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, answer) = server.call(Method::POST, reviews, review()).await;
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
    let (status, _) = server.call(Method::DELETE, "/api/v1/nodes/n9", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let (_, answer) = server.call(Method::POST, reviews, review()).await;
    assert_ne!(answer["status"]["authenticated"], true, "{answer}");
    server.stop().await;
}

/// One TLS connection of a kubelet: what was asked, and then an answer or an upgrade that echoes.
async fn scripted_kubelet(
    server: &Server,
    listener: TcpListener,
    answer: &'static str,
    echo: bool,
) -> String {
    let kubelet = identity(&server.ca, "n1", None);
    let mut roots = RootCertStore::empty();
    roots.add(server.ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(kubelet.chain, kubelet.key.clone_key())
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = TlsAcceptor::from(Arc::new(tls)).accept(stream).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    if echo {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn logs_come_from_the_kubelet_of_the_pods_node() {
    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    running_pod(&server, listener.local_addr().unwrap().port()).await;
    let answer =
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nhello from the pod\n";
    let (asked, shown) = tokio::join!(
        scripted_kubelet(&server, listener, answer, false),
        server.ok(&["logs", "web", "--tail=3"], "")
    );
    assert!(asked.starts_with("GET /containerLogs/default/web/web?tailLines=3 HTTP/1.1"), "{asked}");
    assert_eq!(shown, "hello from the pod\n");
    server.stop().await;
}

#[tokio::test]
async fn an_upgrade_is_spliced_byte_for_byte() {
    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    running_pod(&server, listener.local_addr().unwrap().port()).await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io\r\n\r\n";
    let client = async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (user, provider) = (
            identity(&server.ca, "system:admin", Some("system:masters")),
            rustls::crypto::ring::default_provider(),
        );
        let mut roots = RootCertStore::empty();
        roots.add(server.ca.der().clone()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(user.chain, user.key.clone_key())
            .unwrap();
        let name = "localhost".try_into().unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
        let head = format!(
            "POST {PODS}/web/exec?command=echo&command=a%20b&stdin=true&tty=false HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"hello").await.unwrap();
        let mut echoed = [0; 5];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"hello");
        String::from_utf8(answer).unwrap()
    };
    let (asked, answered) = tokio::join!(scripted_kubelet(&server, listener, answer, true), client);
    assert!(
        asked.starts_with(
            "POST /exec/default/web/web?input=1&output=1&error=1&command=echo&command=a%20b HTTP/1.1"
        ),
        "{asked}"
    );
    assert!(asked.to_lowercase().contains("upgrade: spdy/3.1"), "{asked}");
    assert!(answered.starts_with("HTTP/1.1 101"), "{answered}");
    assert!(answered.to_lowercase().contains("x-stream-protocol-version: v4.channel.k8s.io"), "{answered}");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_replays_what_came_after_its_version_and_marks_the_end_of_the_initial_list() {
    let server = Server::start().await;
    let target = "/api/v1/namespaces/default/configmaps";
    let first = create(&server, target, json!({ "metadata": { "name": "a" } })).await;
    create(&server, target, json!({ "metadata": { "name": "b", "labels": { "x": "y" } } })).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let lines = async |query: &str| {
        let response = server
            .open(admin(), Method::GET, &format!("{target}?watch=1&{query}&timeoutSeconds=1"), "", "")
            .await;
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let events = lines(&format!("resourceVersion={version}")).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(
        (&events[0]["type"], &events[0]["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("b"))
    );
    let events = lines(
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=x",
    )
    .await;
    assert_eq!(events[0]["object"]["metadata"]["name"], "b");
    assert_eq!(events[1]["type"], "BOOKMARK");
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let events = lines("resourceVersion=1").await;
    assert_eq!((&events[0]["type"], &events[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
    server.stop().await;
}
