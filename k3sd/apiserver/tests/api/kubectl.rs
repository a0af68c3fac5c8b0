//! What people do with kubectl.

use crate::harness::Server;

const CONFIG: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: default, labels: {app: demo}}
data: {colour: blue}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_creates_changes_watches_and_deletes() {
    let server = Server::start().await;
    assert!(server.ok(&["get", "namespaces", "-o", "name"], "").await.contains("namespace/kube-node-lease"));
    server.ok(&["create", "-f", "-"], CONFIG).await;
    server.ok(&["apply", "-f", "-"], &CONFIG.replace("blue", "green")).await;
    let got = server.ok(&["get", "configmap", "settings", "-o", "jsonpath={.data.colour}"], "").await;
    assert_eq!(got, "green");
    for (kind, patch) in [
        ("merge", r#"{"data":{"a":"1"}}"#),
        ("strategic", r#"{"data":{"b":"2"}}"#),
        ("json", r#"[{"op":"add","path":"/data/c","value":"3"}]"#),
    ] {
        server.ok(&["patch", "configmap", "settings", "--type", kind, "-p", patch], "").await;
    }
    let got =
        server.ok(&["get", "configmaps", "-l", "app=demo", "-o", "jsonpath={.items[0].data}"], "").await;
    assert_eq!(got, r#"{"a":"1","b":"2","c":"3","colour":"green"}"#);
    let table = server.ok(&["get", "configmaps", "-A"], "").await;
    assert!(table.contains("NAMESPACE") && table.contains("settings"), "{table}");
    server.ok(&["delete", "service", "kubernetes"], "").await;
    server.ok(&["wait", "--for=create", "service/kubernetes", "--timeout=10s"], "").await;
    assert!(server.ok(&["get", "componentstatuses"], "").await.contains("etcd-0"));
    server.ok(&["delete", "configmap", "settings"], "").await;
    let gone = server.kubectl(&["get", "configmap", "settings"]).await;
    assert!(String::from_utf8_lossy(&gone.stderr).contains("configmaps \"settings\" not found"));
    server.stop().await;
}
