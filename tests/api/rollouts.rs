//! Unmodified kubectl scales and rolls out, with the controllers at work. There is no node: the pods' kubelet is played here.

use tests::{Kubectl, wait_for};

use crate::{START, Server};

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {kubernetes.io/change-cause: first}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "example/web:1"}]}
"#;
const WEB: &str = "deployment/web";

fn jsonpath(kubectl: &Kubectl, what: &str, path: &str) -> String {
    kubectl.ok(&["get", what, "-o", &format!("jsonpath={path}")])
}

/// Make every pod ready, again and again until the rollout is through.
fn run_until_rolled_out(kubectl: &Kubectl) {
    let ready = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    wait_for("the rollout", START, || {
        for pod in kubectl.ok(&["get", "pods", "-o", "name"]).lines() {
            // It may be gone by now.
            let _patched = kubectl.call(&["patch", pod, "--subresource=status", "-p", ready]);
        }
        let status = kubectl.call(&["rollout", "status", WEB, "--watch=false"]);
        status.stdout.contains("successfully rolled out").then_some(())
    });
}

fn await_pods(kubectl: &Kubectl, selector: &str, count: usize) {
    wait_for("pods", START, || {
        let pods = kubectl.ok(&["get", "pods", "-l", selector, "-o", "name"]);
        (pods.lines().count() == count).then_some(())
    });
}

#[test]
fn a_deployment_is_rolled_out_paused_undone_and_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    kubectl.ok_with(&["create", "-f", "-"], DEPLOYMENT);
    await_pods(kubectl, "app=web", 2);
    let early = kubectl.ok(&["rollout", "status", WEB, "--watch=false"]);
    assert!(early.contains("0 of 2 updated replicas are available"), "{early}");
    let late = kubectl.call(&["rollout", "status", WEB, "--timeout=1s"]);
    assert!(!late.success && late.stderr.contains("timed out"), "{}", late.stderr);
    run_until_rolled_out(kubectl);
    kubectl.ok(&["wait", WEB, "--for=condition=Available", "--timeout=60s"]);

    assert_eq!(kubectl.ok(&["rollout", "pause", WEB]), "deployment.apps/web paused\n");
    kubectl.ok(&["set", "image", WEB, "web=example/web:2"]);
    kubectl.ok(&["annotate", WEB, "kubernetes.io/change-cause=second", "--overwrite"]);
    wait_for("the paused deployment to be seen", START, || {
        (jsonpath(kubectl, WEB, "{.status.observedGeneration}")
            == jsonpath(kubectl, WEB, "{.metadata.generation}"))
        .then_some(())
    });
    assert_eq!(kubectl.ok(&["get", "replicasets", "-o", "name"]).lines().count(), 1, "nothing happens");
    assert_eq!(kubectl.ok(&["rollout", "resume", WEB]), "deployment.apps/web resumed\n");
    run_until_rolled_out(kubectl);
    assert_eq!(jsonpath(kubectl, "pods", "{.items[0].spec.containers[0].image}"), "example/web:2");

    let history = kubectl.ok(&["rollout", "history", WEB]);
    let causes: Vec<String> = history
        .lines()
        .skip(2)
        .filter(|line| !line.is_empty())
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(causes, ["1 first", "2 second"], "{history}");
    let first = kubectl.ok(&["rollout", "history", WEB, "--revision=1"]);
    assert!(
        first.contains("deployment.apps/web with revision #1") && first.contains("example/web:1"),
        "{first}"
    );

    assert_eq!(kubectl.ok(&["rollout", "undo", WEB]), "deployment.apps/web rolled back\n");
    run_until_rolled_out(kubectl);
    assert_eq!(jsonpath(kubectl, WEB, "{.spec.template.spec.containers[0].image}"), "example/web:1");
    let missing = kubectl.call(&["rollout", "undo", WEB, "--to-revision=9"]);
    assert!(
        !missing.success && missing.stderr.contains("unable to find specified revision 9"),
        "{}",
        missing.stderr
    );

    let before = jsonpath(kubectl, "pods", "{.items[*].metadata.uid}");
    assert_eq!(kubectl.ok(&["rollout", "restart", WEB]), "deployment.apps/web restarted\n");
    run_until_rolled_out(kubectl);
    wait_for("only new pods", START, || {
        let now = jsonpath(kubectl, "pods", "{.items[*].metadata.uid}");
        (now.split(' ').count() == 2 && now.split(' ').all(|uid| !before.contains(uid))).then_some(())
    });
    let annotations = jsonpath(kubectl, WEB, "{.spec.template.metadata.annotations}");
    assert!(annotations.contains("kubectl.kubernetes.io/restartedAt"), "{annotations}");
}

#[test]
fn daemon_and_stateful_sets_have_their_history_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    let set = DEPLOYMENT.replace("  replicas: 2\n", "");
    for (kind, text) in [
        ("daemonset", set.replace("Deployment", "DaemonSet")),
        (
            "statefulset",
            set.replace("Deployment", "StatefulSet")
                .replace("spec:\n  selector", "spec:\n  replicas: 0\n  serviceName: web\n  selector"),
        ),
    ] {
        let what = format!("{kind}/web");
        kubectl.ok_with(&["create", "-f", "-"], &text);
        let revisions = |count: usize| {
            wait_for("a revision", START, || {
                let history = kubectl.call(&["rollout", "history", &what]).stdout;
                (history.lines().skip(2).filter(|line| !line.is_empty()).count() == count).then_some(history)
            })
        };
        revisions(1);
        kubectl.ok(&["set", "image", &what, "web=example/web:2"]);
        revisions(2);
        let shown = kubectl.ok(&["rollout", "history", &what, "--revision=1"]);
        assert!(shown.contains("example/web:1"), "{shown}");
        let undone = kubectl.ok(&["rollout", "undo", &what, "--to-revision=1"]);
        assert_eq!(undone, format!("{kind}.apps/web rolled back\n"));
        assert_eq!(jsonpath(kubectl, &what, "{.spec.template.spec.containers[0].image}"), "example/web:1");
        assert_eq!(kubectl.ok(&["rollout", "restart", &what]), format!("{kind}.apps/web restarted\n"));
    }
}

#[test]
fn workloads_are_scaled_and_autoscaled() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    kubectl.ok_with(&["create", "-f", "-"], DEPLOYMENT);
    assert_eq!(kubectl.ok(&["scale", WEB, "--replicas=3"]), "deployment.apps/web scaled\n");
    await_pods(kubectl, "app=web", 3);
    let refused = kubectl.call(&["scale", WEB, "--replicas=1", "--current-replicas=9"]);
    assert!(
        !refused.success && refused.stderr.contains("Expected replicas to be 9, was 3"),
        "{}",
        refused.stderr
    );
    kubectl.ok(&["scale", WEB, "--replicas=0"]);
    await_pods(kubectl, "app=web", 0);
    let scale = kubectl.ok(&["get", "--raw", "/apis/apps/v1/namespaces/default/deployments/web/scale"]);
    assert!(scale.contains("\"kind\":\"Scale\"") && scale.contains("app=web"), "{scale}");
    let patched = kubectl.ok(&[
        "patch",
        WEB,
        "--subresource=scale",
        "--type=merge",
        "-p",
        r#"{"spec":{"replicas":1}}"#,
    ]);
    assert!(patched.contains("web patched"), "{patched}");
    await_pods(kubectl, "app=web", 1);

    let said = kubectl.ok(&["autoscale", WEB, "--min=1", "--max=4", "--cpu-percent=50"]);
    assert_eq!(said, "horizontalpodautoscaler.autoscaling/web autoscaled\n");
    let table = kubectl.ok(&["get", "hpa", "web", "--no-headers"]);
    assert!(table.contains("Deployment/web") && table.contains("/50%"), "{table}");
}
