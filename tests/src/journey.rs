//! The way a person takes on first meeting a node, the same on a host and on a booted image.

use std::time::Duration;

use crate::{Kubectl, fetch, wait_for};

/// A Deployment and a Service like those a person would write, beside the demo that is there already.
const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: journey}
data: {greeting: hello from a config map}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: journey, labels: {app: journey}}
spec:
  replicas: 1
  selector: {matchLabels: {app: journey}}
  template:
    metadata: {labels: {app: journey}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: localhost/skerry/demo:1
        ports: [{name: http, containerPort: 8080}]
        env:
        - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: journey, key: greeting}}}
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
        volumeMounts: [{name: scratch, mountPath: /scratch}]
      volumes: [{name: scratch, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: journey}
spec:
  type: NodePort
  selector: {app: journey}
  ports: [{port: 80, targetPort: http, nodePort: 30081}]
"#;

/// The NodePort of the Service the journey makes.
pub const NODE_PORT: u16 = 30081;

/// Applies a Deployment, fetches its page, reads its log, runs a command in it, scales it and deletes it.
///
/// `page` is the address, with port, at which [`NODE_PORT`] of the node answers; `limit` is what a single step may take.
///
/// # Panics
/// When a step fails.
pub fn travel(kubectl: &Kubectl, node: &str, page: &str, limit: Duration) {
    let timeout = format!("--timeout={}s", limit.as_secs());
    kubectl.ok_with(&["apply", "-f", "-"], MANIFEST);
    kubectl.ok(&["rollout", "status", "deployment/journey", &timeout]);
    let pod = kubectl.ok(&["get", "pods", "-l", "app=journey", "-o", "jsonpath={.items[*].metadata.name}"]);
    let text = wait_for("page through the NodePort", limit, || fetch(page, "/"));
    assert!(text.contains(node) && text.contains(&pod), "the page names node {node} and pod {pod}: {text}");

    let log = wait_for("log line", limit, || {
        Some(kubectl.ok(&["logs", "deployment/journey"])).filter(|log| !log.is_empty())
    });
    assert!(log.contains("8080"), "{log}");
    let environment = kubectl.ok(&["exec", &pod, "--", "demo", "env"]);
    assert!(environment.contains("GREETING=hello from a config map"), "{environment}");
    assert!(environment.contains("KUBERNETES_SERVICE_HOST=10.43.0.1"), "{environment}");
    // From inside, by the Service's own address: the proxy serves pods, too.
    let address = kubectl.ok(&["get", "service", "journey", "-o", "jsonpath={.spec.clusterIP}"]);
    let inside = kubectl.ok(&["exec", &pod, "--", "demo", "fetch", &format!("http://{address}/")]);
    assert!(inside.contains(&pod), "{inside}");

    kubectl.ok(&["scale", "deployment/journey", "--replicas=2"]);
    kubectl.ok(&["rollout", "status", "deployment/journey", &timeout]);
    let ready = kubectl.ok(&["get", "deployment", "journey", "-o", "jsonpath={.status.readyReplicas}"]);
    assert_eq!(ready, "2");
    kubectl.ok(&["scale", "deployment/journey", "--replicas=1"]);

    let wide = kubectl.ok(&["get", "pods", "-o", "wide"]);
    assert!(wide.contains("1/1") && wide.contains("Running") && wide.contains("10.42.0."), "{wide}");
    kubectl.ok_with(&["delete", "-f", "-", &timeout], MANIFEST);
    wait_for("end of the pod", limit, || {
        kubectl.ok(&["get", "pods", "-l", "app=journey", "-o", "name"]).is_empty().then_some(())
    });
    assert_eq!(fetch(page, "/"), None, "nothing answers after the Service is gone");
}
