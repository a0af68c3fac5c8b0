//! Unmodified kubectl against the control plane alone.

use serde_json::Value;

use crate::Server;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example/web}]}
"#;

#[test]
fn objects_go_through_their_life() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;

    assert_eq!(kubectl.ok_with(&["apply", "-f", "-"], DEPLOYMENT), "deployment.apps/web created\n");
    assert_eq!(kubectl.ok_with(&["apply", "-f", "-"], DEPLOYMENT), "deployment.apps/web unchanged\n");
    let object: Value =
        serde_json::from_str(&kubectl.ok(&["get", "deployment", "web", "-o", "json"])).unwrap();
    assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%", "defaults are filled in");
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
    // The controllers run without a node: its replica set and pods appear and wait.
    tests::wait_for("two pending pods", crate::START, || {
        let pods = kubectl.ok(&["get", "pods", "--no-headers"]);
        (pods.lines().filter(|line| line.contains("Pending")).count() == 2).then_some(())
    });

    kubectl.ok(&["patch", "deployment", "web", "-p", r#"{"metadata":{"labels":{"tier":"front"}}}"#]);
    kubectl.ok(&[
        "patch",
        "deployment",
        "web",
        "--type=merge",
        "-p",
        r#"{"metadata":{"labels":{"tier":null}}}"#,
    ]);
    let patch = r#"[{"op":"add","path":"/metadata/labels","value":{"size":"small"}}]"#;
    kubectl.ok(&["patch", "deployment", "web", "--type=json", "-p", patch]);
    assert_eq!(
        kubectl.ok(&["get", "deployment", "web", "-o", "jsonpath={.metadata.labels}"]),
        r#"{"size":"small"}"#
    );
    kubectl.ok(&["scale", "deployment", "web", "--replicas=1"]);
    tests::wait_for("one pod", crate::START, || {
        (kubectl.ok(&["get", "pods", "--no-headers"]).lines().count() == 1).then_some(())
    });
    let table = kubectl.ok(&["get", "deployments"]);
    assert!(table.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE\nweb    0/1"), "{table}");
    kubectl.ok(&["delete", "deployment", "web"]);
    tests::wait_for("collected pods", crate::START, || {
        kubectl.ok(&["get", "replicasets,pods", "-o", "name"]).is_empty().then_some(())
    });
}

#[test]
fn what_kubectl_asks_about_the_api_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    let resources = kubectl.ok(&["api-resources"]);
    for name in ["deployments", "networkpolicies", "horizontalpodautoscalers", "resourceclaims"] {
        assert!(resources.lines().any(|line| line.starts_with(name)), "{name} is missing in {resources}");
    }
    assert!(kubectl.ok(&["explain", "deployment.spec.strategy"]).contains("rollingUpdate"));
    assert!(kubectl.ok(&["version"]).contains("Server Version: v1.36"));
    assert_eq!(kubectl.ok(&["auth", "can-i", "create", "pods"]).trim(), "yes");
    let namespaces = kubectl.ok(&["get", "namespaces", "-o", "name"]);
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert!(namespaces.contains(&format!("namespace/{name}\n")), "{namespaces}");
    }
}

#[test]
fn what_kubectl_would_refuse_is_refused_with_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mistakes = [
        ("replicas: 2", "replicass: 2", "unknown field \"spec.replicass\""),
        ("{name: web}\nspec", "{name: Web_1}\nspec", "metadata.name: Invalid value: \"Web_1\""),
        ("[{name: web, image: example/web}]", "[]", "spec.template.spec.containers: Required value"),
        (
            "metadata: {labels: {app: web}}",
            "metadata: {labels: {app: other}}",
            "`selector` does not match template `labels`",
        ),
    ];
    for (good, bad, message) in mistakes {
        let manifest = DEPLOYMENT.replace(good, bad);
        assert_ne!(manifest, DEPLOYMENT, "{good}");
        let outcome = server.kubectl.call_with(&["create", "-f", "-"], &manifest);
        assert!(
            !outcome.success && outcome.stderr.contains(message),
            "{message}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
    assert_eq!(server.kubectl.ok(&["get", "deployments", "-o", "name"]), "");
}
