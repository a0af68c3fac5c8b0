//! The kubelet with a real containerd: static pods, in network and mount namespaces of their own.
//!
//! Needs root, containerd, crun or runc, `unshare`, `ip` and a static busybox (Debian: `busybox-static`); says so and
//! passes where one of them is missing.

mod host;
mod images;
mod tls;

use std::time::Duration;

use host::Host;
use serde_json::Value;

const WEB: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 5
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  initContainers:
  - name: prepare
    image: localhost/skerry/busybox:1
    command: [sh, -c, 'echo "made by $WHO" > /shared/index.html']
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: WHO, value: init of $(POD)}
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: web
    image: localhost/skerry/busybox:1
    command: [httpd, -f, -p, "8080", -h, /shared]
    readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo stopping > /shared/stopped; sleep 1']}}}
    volumeMounts: [{name: shared, mountPath: /shared}, {name: info, mountPath: /info, readOnly: true}]
  - name: crashing
    image: localhost/skerry/busybox:1
    command: [sh, -c, 'echo hello from attempt; sleep 1; echo last words > /dev/termination-log; exit 3']
"#;

#[test]
fn a_static_pod_runs_restarts_what_crashes_and_outlives_the_daemon() {
    host::in_namespaces(
        "a_static_pod_runs_restarts_what_crashes_and_outlives_the_daemon",
        async |host: &mut Host| {
            host.start_containerd();
            host.start_kubelet().await;
            host.write_manifest("web.yaml", WEB);

            host.wait_for("the page", async |host| host.page(8080).await.is_some()).await;
            assert_eq!(host.page(8080).await.unwrap().trim(), "made by init of web-n1");
            let crashed =
                |pod: &Value| container(pod, "crashing")["state"]["waiting"]["reason"] == "CrashLoopBackOff";
            let pod = host.wait_for_pod("web-n1", crashed).await;
            let last = &container(&pod, "crashing")["lastState"]["terminated"];
            assert_eq!(
                (&last["exitCode"], &last["message"]),
                (&Value::from(3), &Value::from("last words\n")),
                "{pod}"
            );
            assert_eq!(container(&pod, "web")["ready"], true, "{pod}");
            assert_eq!(pod["status"]["phase"], "Running");

            let logs = host.get("/containerLogs/default/web-n1/crashing?tailLines=1&previous=true").await;
            assert_eq!(logs, (200, "hello from attempt\n".to_owned()));
            let labels = host.get("/run/default/web-n1/web?cmd=cat+/info/labels").await;
            assert_eq!(labels, (200, "app=\"web\"".to_owned()));

            // A new daemon finds the container and leaves it alone.
            let id = container(&pod, "web")["containerID"].clone();
            host.stop_kubelet().await;
            assert!(host.page(8080).await.is_some());
            host.start_kubelet().await;
            let pod = host.wait_for_pod("web-n1", |pod| container(pod, "web")["ready"] == true).await;
            assert_eq!(
                (&container(&pod, "web")["containerID"], &container(&pod, "web")["restartCount"]),
                (&id, &0.into())
            );

            // So does a new containerd, and the daemon goes on with it.
            host.kill_containerd();
            assert!(host.page(8080).await.is_some());
            host.wait_for("exec after containerd's restart", async |host| {
                host.get("/run/default/web-n1/web?cmd=cat+/shared/index.html").await.0 == 200
            })
            .await;

            host.remove_manifest("web.yaml");
            host.wait_for("the pod's end", async |host| host.pods().await.is_empty()).await;
            assert!(host.page(8080).await.is_none());
            assert!(host.left_overs().is_empty(), "{:?}", host.left_overs());
        },
    );
}

#[test]
fn a_failed_liveness_probe_restarts_the_container_and_only_it() {
    const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: sick
    image: localhost/skerry/busybox:1
    command: [sh, -c, 'touch /tmp/well; sleep 2; rm /tmp/well; sleep 600']
    livenessProbe: {exec: {command: [test, -f, /tmp/well]}, periodSeconds: 1, failureThreshold: 2}
  - name: well
    image: localhost/skerry/busybox:1
    command: [sleep, "600"]
"#;
    host::in_namespaces(
        "a_failed_liveness_probe_restarts_the_container_and_only_it",
        async |host: &mut Host| {
            host.start_containerd();
            host.start_kubelet().await;
            host.write_manifest("sick.yaml", MANIFEST);
            let restarted = |pod: &Value| {
                container(pod, "sick")["restartCount"] == 1
                    && !container(pod, "sick")["state"]["running"].is_null()
            };
            let pod = host.wait_for_pod("sick-n1", restarted).await;
            assert_eq!(container(&pod, "well")["restartCount"], 0, "{pod}");
        },
    );
}

#[test]
fn a_damaged_tarball_is_named_and_the_others_are_imported() {
    host::in_namespaces("a_damaged_tarball_is_named_and_the_others_are_imported", async |host: &mut Host| {
        host.damage_a_tarball("a-broken.tar");
        host.start_containerd();
        host.start_kubelet().await;
        let manifest = WEB.replace("8080", "8081");
        host.write_manifest("web.yaml", &manifest);
        host.wait_for("the page", async |host| host.page(8081).await.is_some()).await;
        let log = host.log();
        let told = log.lines().any(|line| line.contains("a-broken.tar") && line.contains("is damaged"));
        assert!(told, "{log}");
    });
}

/// The status of one container of a pod.
fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let mut all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    all.find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

/// Longest wait for anything here; everything takes a second or two on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);
