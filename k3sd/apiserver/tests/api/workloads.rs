//! Workloads, made and changed as people do it. `kubectl create` and its like send protobuf, `kubectl apply` sends JSON.

use serde_json::{Value, json};

use crate::harness::Server;

fn deployment(name: &str, pod: &Value) -> String {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod}}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_are_made_from_either_notation() {
    let server = Server::start().await;
    server.ok(&["create", "deployment", "web", "--image=nginx:1.27", "--port=80"], "").await;
    let container = json!({"name": "nginx", "image": "nginx:1.27", "ports": [{"containerPort": 80}]});
    server.ok(&["apply", "-f", "-"], &deployment("web2", &json!({"containers": [container]}))).await;
    let list = server.ok(&["get", "deployments", "-o", "json"], "").await;
    let list: Value = serde_json::from_str(&list).unwrap();
    // The two differ in their labels only.
    assert_eq!(list["items"][0]["spec"]["template"]["spec"], list["items"][1]["spec"]["template"]["spec"]);
    server.ok(&["scale", "deployment", "web", "--replicas=0"], "").await;
    server.ok(&["set", "image", "deployment/web", "nginx=nginx:1.28"], "").await;
    let path = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image} {.metadata.generation}";
    assert_eq!(server.ok(&["get", "deployment", "web", "-o", path], "").await, "0 nginx:1.28 3");
    server.ok(&["create", "job", "once", "--image=busybox:1", "--", "true"], "").await;
    let path = "jsonpath={.spec.completions} {.spec.template.metadata.labels.job-name}";
    assert_eq!(server.ok(&["get", "job", "once", "-o", path], "").await, "1 once");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_manifests_are_named() {
    let server = Server::start().await;
    let cases = [
        (
            json!({"containers": [{"name": "a", "image": "x", "imagee": "y"}]}),
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
             unknown field \"spec.template.spec.containers[0].imagee\"",
        ),
        (
            json!({"containers": [{"name": "a", "image": "x", "command": "sh"}]}),
            "json: cannot unmarshal string into Go struct field \
             Container.spec.template.spec.containers.command of type []string",
        ),
        (json!({"containers": [{"name": "a"}]}), "spec.template.spec.containers[0].image: Required value"),
        (
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
    ];
    for (pod, fault) in cases {
        let refused = server.kubectl_as("admin", &["apply", "-f", "-"], &deployment("web", &pod)).await;
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains(fault), "{text}");
    }
    server.stop().await;
}
