//! What the admission plugins add to objects and refuse, over HTTP.

use apiserver::UserInfo;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Server, admin};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "serviceAccountName": "default", "containers": [{ "name": "c", "image": "i" }] },
    });
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn claim(name: &str, spec: Value) -> Value {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    for (field, value) in spec.as_object().unwrap() {
        claim["spec"][field] = value.clone();
    }
    claim
}

async fn start() -> Server {
    let server = Server::start().await;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    made(&server, "/api/v1/namespaces/default/serviceaccounts", account).await;
    server
}

async fn made(server: &Server, path: &str, object: Value) -> Value {
    let (status, body) = server.call(Method::POST, path, object).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    body
}

async fn merge(server: &Server, path: &str, change: Value) -> (StatusCode, Value) {
    let kind = "application/merge-patch+json";
    server.call_as(admin(), Method::PATCH, path, kind, &change.to_string()).await
}

async fn refused(server: &Server, path: &str, object: Value) -> String {
    let (status, body) = server.call(Method::POST, path, object).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    body["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_ingresses_get_the_default_class_unless_they_choose() {
    let server = start().await;
    let storage = |name: &str, default: &str| {
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "p",
            "metadata": { "name": name, "annotations": { "storageclass.kubernetes.io/is-default-class": default } },
        })
    };
    let before = made(&server, CLAIMS, claim("before", json!({}))).await;
    assert!(before["spec"]["storageClassName"].is_null(), "there is no class yet");
    for (name, default) in [("b", "true"), ("a", "true"), ("c", "false")] {
        made(&server, "/apis/storage.k8s.io/v1/storageclasses", storage(name, default)).await;
    }
    let plain = made(&server, CLAIMS, claim("plain", json!({}))).await;
    let chosen = plain["spec"]["storageClassName"].as_str().unwrap();
    assert!(["a", "b"].contains(&chosen), "{chosen}");
    assert_eq!(plain["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let none = made(&server, CLAIMS, claim("none", json!({ "storageClassName": "" }))).await;
    assert_eq!(none["spec"]["storageClassName"], "");

    let class = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "spec": { "controller": "example.com/c" },
        "metadata": { "name": "web", "annotations": { "ingressclass.kubernetes.io/is-default-class": "true" } },
    });
    made(&server, "/apis/networking.k8s.io/v1/ingressclasses", class).await;
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "site" },
        "spec": { "defaultBackend": { "service": { "name": "web", "port": { "number": 80 } } } },
    });
    let site = made(&server, "/apis/networking.k8s.io/v1/namespaces/default/ingresses", ingress).await;
    assert_eq!(site["spec"]["ingressClassName"], "web");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_claim_grows_only_if_its_class_allows_it() {
    let server = start().await;
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "p",
        "metadata": { "name": "fixed" },
    });
    made(&server, "/apis/storage.k8s.io/v1/storageclasses", class).await;
    made(&server, CLAIMS, claim("data", json!({ "storageClassName": "fixed", "volumeName": "v" }))).await;
    let path = format!("{CLAIMS}/data");
    let grow = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    let bound = json!({ "status": { "phase": "Bound", "capacity": { "storage": "1Gi" } } });
    let (status, body) = merge(&server, &format!("{path}/status"), bound).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, body) = merge(&server, &path, grow.clone()).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    assert!(body["message"].as_str().unwrap().contains("must support resize"), "{body}");
    let allow = json!({ "allowVolumeExpansion": true });
    let (status, body) = merge(&server, "/apis/storage.k8s.io/v1/storageclasses/fixed", allow).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, body) = merge(&server, &path, grow).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_ranges_fill_in_and_bound_what_pods_and_claims_ask_for() {
    let server = start().await;
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "bounds" },
        "spec": { "limits": [
            { "type": "Container", "default": { "cpu": "200m" }, "defaultRequest": { "cpu": "100m" },
              "max": { "cpu": "1" }, "min": { "cpu": "50m" }, "maxLimitRequestRatio": { "cpu": "4" } },
            { "type": "Pod", "max": { "cpu": "1500m" } },
            { "type": "PersistentVolumeClaim", "max": { "storage": "5Gi" } },
        ] },
    });
    made(&server, "/api/v1/namespaces/default/limitranges", range).await;
    let plain = made(&server, PODS, pod("plain", json!({}))).await;
    assert_eq!(
        plain["spec"]["containers"][0]["resources"],
        json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "200m" } })
    );
    assert_eq!(
        plain["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let asking = |request: &str, limit: &str| json!({ "name": "c", "image": "i", "resources": { "requests": { "cpu": request }, "limits": { "cpu": limit } } });
    let cases = [
        (json!([asking("10m", "40m")]), "minimum cpu usage per Container is 50m, but request is 10m"),
        (json!([asking("1", "2")]), "maximum cpu usage per Container is 1, but limit is 2"),
        (
            json!([asking("100m", "1")]),
            "cpu max limit to request ratio per Container is 4, but provided ratio is 10.000000",
        ),
        (
            json!([asking("500m", "1"), { "name": "d", "image": "i", "resources": { "requests": { "cpu": "500m" }, "limits": { "cpu": "1" } } }]),
            "maximum cpu usage per Pod is 1500m, but limit is 2",
        ),
    ];
    for (containers, expected) in cases {
        let message = refused(&server, PODS, pod("big", json!({ "containers": containers }))).await;
        assert!(message.contains(expected), "{message}");
    }
    let big = claim("big", json!({ "resources": { "requests": { "storage": "10Gi" } } }));
    let message = refused(&server, CLAIMS, big).await;
    assert!(
        message.contains("maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 10Gi"),
        "{message}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_class_gives_pods_its_overhead_and_its_nodes() {
    let server = start().await;
    let class = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": "sandboxed" }, "handler": "runc",
        "overhead": { "podFixed": { "memory": "64Mi" } },
        "scheduling": { "nodeSelector": { "sandbox": "yes" }, "tolerations": [{ "key": "sandbox", "operator": "Exists" }] },
    });
    made(&server, "/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let made_pod = made(&server, PODS, pod("one", json!({ "runtimeClassName": "sandboxed" }))).await;
    assert_eq!(made_pod["spec"]["overhead"], json!({ "memory": "64Mi" }));
    assert_eq!(made_pod["spec"]["nodeSelector"], json!({ "sandbox": "yes" }));
    assert!(made_pod["spec"]["tolerations"].as_array().unwrap().iter().any(|t| t["key"] == "sandbox"));
    let other = json!({ "runtimeClassName": "sandboxed", "nodeSelector": { "sandbox": "no" } });
    let message = refused(&server, PODS, pod("two", other)).await;
    assert!(message.contains("conflict: runtimeClass.scheduling.nodeSelector[sandbox]"), "{message}");
    let message = refused(&server, PODS, pod("three", json!({ "runtimeClassName": "none" }))).await;
    assert!(message.contains("pod rejected: RuntimeClass \"none\" not found"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_nodes_are_tainted_until_they_are_ready() {
    let server = start().await;
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" } });
    let node = made(&server, "/api/v1/nodes", node).await;
    assert_eq!(
        node["spec"]["taints"],
        json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }])
    );
    server.stop().await;
}

/// A request (PEM in base64) for a certificate of a user in a group.
fn signing_request(group: &str) -> String {
    use base64::Engine as _;
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "somebody");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    base64::engine::general_purpose::STANDARD.encode(pem)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_approved_by_who_may_and_make_no_administrators() {
    let server = start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = |name: &str, group: &str| {
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": { "name": name },
            "spec": {
                "request": signing_request(group), "usages": ["client auth"],
                "signerName": "kubernetes.io/kube-apiserver-client",
            },
        })
    };
    let message = refused(&server, requests, request("root", "system:masters")).await;
    assert!(message.contains("signer with system:masters group is not allowed"), "{message}");
    made(&server, requests, request("dev", "developers")).await;

    // May write approvals, but is not told for which signer.
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "approver" },
        "rules": [{ "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update", "patch"] }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "approver" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "approver" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice" }],
    });
    made(&server, "/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    made(&server, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let approval = json!({ "status": { "conditions": [
        { "type": "Approved", "status": "True", "reason": "Ok", "message": "fine" },
    ] } });
    let path = format!("{requests}/dev/approval");
    let alice = || UserInfo::new("alice", &["system:authenticated"]);
    let text = approval.to_string();
    let (status, body) =
        server.call_as(alice(), Method::PATCH, &path, "application/merge-patch+json", &text).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains(
            "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\""
        ),
        "{message}"
    );

    let signers = json!({ "rules": [
        { "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update", "patch"] },
        { "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["kubernetes.io/*"], "verbs": ["approve"] },
    ] });
    let (status, body) =
        merge(&server, "/apis/rbac.authorization.k8s.io/v1/clusterroles/approver", signers).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, body) =
        server.call_as(alice(), Method::PATCH, &path, "application/merge-patch+json", &text).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    server.stop().await;
}
