//! What nodes may do, and what kubelets cannot make of that.

use apiserver::UserInfo;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::Server;

fn node(name: &str) -> UserInfo {
    UserInfo::new(format!("system:node:{name}"), &["system:nodes"])
}

async fn create(server: &Server, path: &str, object: Value) -> Value {
    let (status, body) = server.call(Method::POST, path, object).await;
    assert_eq!(status, StatusCode::CREATED, "{path}: {body}");
    body
}

async fn ask(server: &Server, user: UserInfo, method: Method, path: &str, body: &Value) -> (u16, String) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let media_type =
        if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let (status, answer) = server.call_as(user, method, path, media_type, &body).await;
    (status.as_u16(), answer["message"].as_str().unwrap_or_default().to_owned())
}

/// A cluster with the nodes n1 and n2, a pod that uses everything on n1, and other objects that nobody uses.
async fn cluster() -> Server {
    let server = Server::start().await;
    for name in ["n1", "n2"] {
        create(&server, "/api/v1/nodes", json!({ "metadata": { "name": name } })).await;
    }
    for name in ["default", "robot"] {
        let account = json!({ "metadata": { "name": name } });
        create(&server, "/api/v1/namespaces/default/serviceaccounts", account).await;
    }
    for name in ["used", "other", "stage"] {
        for kind in ["secrets", "configmaps"] {
            let path = format!("/api/v1/namespaces/default/{kind}");
            create(&server, &path, json!({ "metadata": { "name": name } })).await;
        }
    }
    let claim = json!({ "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    create(&server, "/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    let volume = json!({ "metadata": { "name": "v1" }, "spec": {
        "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
        "claimRef": { "namespace": "default", "name": "data" },
        "csi": { "driver": "d", "volumeHandle": "h",
            "nodeStageSecretRef": { "namespace": "default", "name": "stage" } },
    } });
    create(&server, "/api/v1/persistentvolumes", volume).await;
    let pod = json!({ "metadata": { "name": "p" }, "spec": {
        "serviceAccountName": "robot", "nodeName": "n1", "automountServiceAccountToken": false,
        "containers": [{ "name": "c", "image": "i",
            "envFrom": [{ "secretRef": { "name": "used" } }, { "configMapRef": { "name": "used" } }] }],
        "volumes": [{ "name": "d", "persistentVolumeClaim": { "claimName": "data" } }],
    } });
    create(&server, "/api/v1/namespaces/default/pods", pod).await;
    server
}

#[tokio::test]
async fn a_node_reads_only_what_its_pods_name() {
    let server = cluster().await;
    let get = Method::GET;
    let unrelated = |name: &str| format!("no relationship found between node '{name}' and this object");
    // (path, allowed for n1, part of the refusal for the node that may not)
    let cases = [
        ("/api/v1/namespaces/default/secrets/used", true, unrelated("n2")),
        ("/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dused", true, unrelated("n2")),
        ("/api/v1/namespaces/default/secrets/other", false, unrelated("n1")),
        ("/api/v1/namespaces/default/secrets/stage", true, unrelated("n2")),
        ("/api/v1/namespaces/default/secrets", false, "No Object name found".to_owned()),
        ("/api/v1/secrets", false, "can only read namespaced object of this type".to_owned()),
        ("/api/v1/namespaces/default/configmaps/used", true, unrelated("n2")),
        ("/api/v1/namespaces/default/configmaps/other", false, unrelated("n1")),
        ("/api/v1/namespaces/default/persistentvolumeclaims/data", true, unrelated("n2")),
        ("/api/v1/persistentvolumes/v1", true, unrelated("n2")),
        ("/api/v1/persistentvolumes", false, "can only get individual resources of this type".to_owned()),
        ("/api/v1/namespaces/default/pods/p", true, unrelated("n2")),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", true, "can only list/watch pods".to_owned()),
        ("/api/v1/pods", false, "can only list/watch pods with spec.nodeName field selector".to_owned()),
        ("/api/v1/nodes/n1", true, "node 'n2' cannot read 'n1', only its own Node object".to_owned()),
        ("/api/v1/nodes", false, "node 'n1' cannot read all nodes, only its own Node object".to_owned()),
        ("/api/v1/namespaces/default/endpoints", false, String::new()),
    ];
    for (path, allowed, refusal) in cases {
        let (status, message) = ask(&server, node("n1"), get.clone(), path, &Value::Null).await;
        assert_eq!(status == 200, allowed, "n1 {path}: {message}");
        let message = match allowed {
            true => ask(&server, node("n2"), get.clone(), path, &Value::Null).await.1,
            false => message,
        };
        assert!(message.contains(" cannot ") && message.contains(&refusal), "{path}: {message}");
    }
    // Services are for every node.
    assert_eq!(ask(&server, node("n2"), get.clone(), "/api/v1/services", &Value::Null).await.0, 200);
    // The way is closed with the pod.
    let (status, _) = server
        .call(Method::DELETE, "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0", Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK);
    let (_, pods) = server.call(Method::GET, "/api/v1/pods", Value::Null).await;
    assert_eq!(pods["items"], json!([]));
    for path in ["/api/v1/namespaces/default/secrets/used", "/api/v1/persistentvolumes/v1"] {
        assert_eq!(ask(&server, node("n1"), get.clone(), path, &Value::Null).await.0, 403, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_node_writes_only_what_is_its_own() {
    let server = cluster().await;
    let lease = |name: &str| json!({ "metadata": { "name": name }, "spec": { "holderIdentity": name } });
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let csi = |name: &str| json!({ "metadata": { "name": name }, "spec": { "drivers": [] } });
    let csi_nodes = "/apis/storage.k8s.io/v1/csinodes";
    let none = Value::Null;
    let taint = json!({ "spec": { "taints": [{ "key": "a", "effect": "NoSchedule" }] } });
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    // (method, path, body, status, part of the message)
    let cases = [
        (Method::POST, leases, lease("n1"), 201, ""),
        (Method::POST, leases, lease("n2"), 403, "can only access node lease with the same name"),
        (Method::POST, elsewhere, lease("n1"), 403, "can only access leases in the \"kube-node-lease\""),
        (Method::GET, &format!("{leases}/n2"), none.clone(), 403, "can only access node lease with the same"),
        (
            Method::GET,
            leases,
            none.clone(),
            403,
            "can only get, create, update, patch, or delete a node lease",
        ),
        (Method::POST, csi_nodes, csi("n2"), 403, "can only access CSINode with the same name"),
        (Method::POST, csi_nodes, csi("n1"), 201, ""),
        (Method::PATCH, "/api/v1/nodes/n2/status", label.clone(), 403, "not allowed to modify node \"n2\""),
        (Method::PATCH, "/api/v1/nodes/n1", taint, 403, "not allowed to modify taints"),
        (Method::PATCH, "/api/v1/nodes/n1", label.clone(), 200, ""),
        (
            Method::PATCH,
            "/api/v1/nodes/n1",
            json!({ "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "true", "c": "d" } } }),
            403,
            "is forbidden: is not allowed to modify labels: node-role.kubernetes.io/control-plane",
        ),
        (
            Method::POST,
            "/api/v1/nodes",
            json!({ "metadata": { "name": "n1", "labels": { "node-restriction.kubernetes.io/a": "" } } }),
            403,
            "node \"n1\" is not allowed to set the following labels: node-restriction.kubernetes.io/a",
        ),
        (Method::DELETE, "/api/v1/nodes/n1", none.clone(), 403, "cannot delete resource \"nodes\""),
        (
            Method::PATCH,
            "/api/v1/namespaces/default/pods/p/status",
            label.clone(),
            403,
            "cannot update labels through pod status",
        ),
        (Method::PATCH, "/api/v1/namespaces/default/pods/p", label, 403, "cannot patch resource \"pods\""),
        (
            Method::PATCH,
            "/api/v1/namespaces/default/pods/p/status",
            json!({ "status": { "message": "x" } }),
            200,
            "",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/serviceaccounts/default/token",
            json!({ "spec": {} }),
            403,
            "no relationship found between node 'n1' and this object",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/serviceaccounts/robot/token",
            json!({ "spec": {} }),
            403,
            "node requested token not bound to a pod",
        ),
    ];
    for (method, path, body, status, text) in cases {
        let (got, message) = ask(&server, node("n1"), method.clone(), path, &body).await;
        assert!(got == status && message.contains(text), "{method} {path}: {got} {message}");
    }
    server.stop().await;
}

#[tokio::test]
async fn mirror_pods_are_owned_by_their_node_and_name_nothing() {
    let server = cluster().await;
    let (_, own) = server.call(Method::GET, "/api/v1/nodes/n1", Value::Null).await;
    let uid = &own["metadata"]["uid"];
    let mirror = json!({
        "metadata": { "name": "static-n1", "annotations": { "kubernetes.io/config.mirror": "h" },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true }] },
        "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }] },
    });
    let with = |pointer: &str, value: Value| {
        let mut pod = mirror.clone();
        *pod.pointer_mut(pointer).unwrap() = value;
        pod
    };
    let secret = json!([{ "name": "c", "image": "i", "envFrom": [{ "secretRef": { "name": "other" } }] }]);
    let cases = [
        (with("/metadata/annotations", json!({})), "can only create mirror pods"),
        (with("/spec/nodeName", json!("n2")), "can only create pods with spec.nodeName set to itself"),
        (with("/metadata/ownerReferences", json!([])), "with an owner reference set to itself"),
        (with("/metadata/ownerReferences/0/uid", json!("x")), "UID mismatch: expected x got"),
        (with("/spec/containers", secret), "can not create pods that reference secrets"),
    ];
    let path = "/api/v1/namespaces/default/pods";
    for (pod, text) in cases {
        let (status, message) = ask(&server, node("n1"), Method::POST, path, &pod).await;
        assert!(status == 403 && message.contains(text), "{text}: {status} {message}");
    }
    let (status, message) = ask(&server, node("n1"), Method::POST, path, &mirror).await;
    assert_eq!(status, 201, "{message}");
    let (status, _) =
        ask(&server, node("n2"), Method::DELETE, &format!("{path}/static-n1"), &Value::Null).await;
    assert_eq!(status, 403);
    server.stop().await;
}

#[tokio::test]
async fn access_reviews_ask_the_node_authorizer_too() {
    let server = cluster().await;
    let can_i = async |arguments: &[&str]| {
        let mut all = vec!["auth", "can-i", "--as=system:node:n1", "--as-group=system:nodes"];
        all.extend(arguments);
        String::from_utf8(server.kubectl(&all).await.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(can_i(&["get", "secrets/used", "-n", "default"]).await, "yes");
    assert!(can_i(&["get", "secrets/other", "-n", "default"]).await.starts_with("no"));
    assert!(can_i(&["list", "secrets", "-A"]).await.starts_with("no"));
    assert_eq!(can_i(&["get", "nodes/n1"]).await, "yes");
    assert!(can_i(&["get", "nodes/n2"]).await.starts_with("no"));
    assert_eq!(can_i(&["create", "certificatesigningrequests"]).await, "yes");
    let review = json!({ "spec": { "user": "system:node:n1", "groups": ["system:nodes"], "resourceAttributes": {
        "verb": "list", "resource": "pods", "version": "v1",
        "fieldSelector": { "requirements": [{ "key": "spec.nodeName", "operator": "In", "values": ["n1"] }] },
    } } });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let (_, answer) = server.call(Method::POST, path, review.clone()).await;
    assert_eq!(answer["status"], json!({ "allowed": true }));
    let mut wide = review;
    wide["spec"]["resourceAttributes"].as_object_mut().unwrap().remove("fieldSelector");
    let (_, answer) = server.call(Method::POST, path, wide).await;
    assert_eq!(
        answer["status"],
        json!({ "allowed": false, "reason": "can only list/watch pods with spec.nodeName field selector" })
    );
    server.stop().await;
}
