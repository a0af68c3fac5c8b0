//! Two nodes on one network: a server, and an agent that joins it by token.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::{Process, binary, fetch, wait_for};

use crate::{Node, STEP, scratch, script, skipped};

const SERVER: &str = "100.127.254.2";
const AGENT: &str = "100.127.254.3";

/// Two pods with fixed places, and a Service of the server's.
const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: near}}
spec:
  nodeName: lan-server
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: "localhost/skerry/demo:1", readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: far}}
spec:
  nodeName: lan-agent
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: "localhost/skerry/demo:1", readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  type: NodePort
  selector: {app: near}
  ports: [{port: 80, targetPort: 8080, nodePort: 30082}]
"#;

/// A bridge in a namespace of its own, and the host's way to it. Nothing is forwarded by the host itself, whose firewall may forbid it.
struct Lan {
    /// There is one such network on a host at a time.
    _lock: fs::File,
}

impl Lan {
    const NAME: &str = "skerry-lan";

    fn new() -> Self {
        let lock = fs::File::create(std::env::temp_dir().join("skerry-lan.lock")).unwrap();
        lock.lock().unwrap();
        let lan = Self { _lock: lock };
        // What an earlier run left when it was killed.
        lan.remove();
        for command in [
            "netns add skerry-lan",
            "-n skerry-lan link add lan type bridge",
            "-n skerry-lan link set lan up",
            "link add skerrylan0 type veth peer name host netns skerry-lan",
            "-n skerry-lan link set host master lan up",
            "addr add 100.127.254.1/24 dev skerrylan0",
            "link set skerrylan0 up",
        ] {
            assert!(ip(command), "ip {command}");
        }
        lan
    }

    fn remove(&self) {
        let _absent = ip("link del skerrylan0");
        let _absent = ip("netns del skerry-lan");
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.remove();
    }
}

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.expect("ip is there").status.success()
}

fn start_server(state: &Path) -> Node {
    let lan = format!("{},{SERVER}", Lan::NAME);
    Node::start_with(state, &["--name", "lan-server", "--lan", &lan], &[])
}

/// An agent that must be refused: it gets no further than its first questions, so it needs no namespaces.
fn refused(state: &Path, token: &str, reason: &str) {
    let mut command = Command::new(binary("k3sd"));
    command
        .args(["agent", "--node-name", "refused", "--node-ip", "100.127.254.1"])
        .args(["--server", &format!("https://{SERVER}:6443"), "--token", token])
        .arg("--config")
        .arg(state.join("none.yaml"))
        .arg("--data-dir")
        .arg(state.join("refused"));
    let mut process = Process::start(command);
    wait_for(reason, STEP, || process.output().contains(reason).then_some(()));
    assert!(process.stop().success(), "it ends in order");
}

#[test]
fn an_agent_joins_runs_pods_and_outlives_a_restart_of_its_server() {
    if skipped() {
        return;
    }
    let state = tempfile::Builder::new().prefix("skerry-join").tempdir_in(scratch()).unwrap();
    let (server_state, agent_state) = (state.path().join("server"), state.path().join("agent"));
    let _lan = Lan::new();
    let mut server = start_server(&server_state);
    let token = fs::read_to_string(server_state.join("data/server/node-token")).unwrap().trim().to_owned();

    let password = token.rsplit_once(':').unwrap().1;
    refused(state.path(), &token.replace(password, "guessed"), "the server refused the token (401");
    refused(
        state.path(),
        &format!("K10{}::node:{password}", "0".repeat(64)),
        "not of the cluster the token is for",
    );

    let lan = format!("{},{AGENT}", Lan::NAME);
    let url = format!("https://{SERVER}:6443");
    let options = ["--agent", "--name", "lan-agent", "--lan", &lan];
    let arguments = ["--server", &url, "--token", &token, "--node-label", "place=far"];
    let mut agent = Process::start(script(&options, &agent_state, &arguments));
    for node in ["lan-server", "lan-agent"] {
        server.kubectl.ok(&["wait", "--for=create", &format!("node/{node}"), "--timeout=90s"]);
        server.kubectl.ok(&["wait", "--for=condition=Ready", &format!("node/{node}"), "--timeout=90s"]);
    }
    let labelled = server.kubectl.ok(&["get", "nodes", "-l", "place=far", "-o", "name"]);
    assert_eq!(labelled.trim(), "node/lan-agent");

    server.kubectl.ok_with(&["apply", "-f", "-"], MANIFEST);
    server.kubectl.ok(&["wait", "--for=condition=Ready", "pod/near", "pod/far", "--timeout=90s"]);
    travel(&server);

    // The server goes and comes back: the agent goes on with it, and what it ran keeps running.
    let restarts = "jsonpath={.status.containerStatuses[*].containerID}";
    let before = server.kubectl.ok(&["get", "pod", "far", "-o", restarts]);
    assert!(server.process.stop().success(), "the server ends in order");
    drop(server);
    let server = start_server(&server_state);
    wait_for("API after the restart", STEP, || {
        server.kubectl.call(&["get", "--raw", "/readyz"]).success.then_some(())
    });
    server.kubectl.ok(&[
        "run",
        "later",
        "--image=localhost/skerry/demo:1",
        "--overrides",
        r#"{"spec":{"nodeName":"lan-agent"}}"#,
    ]);
    server.kubectl.ok(&["wait", "--for=condition=Ready", "pod/later", "--timeout=90s"]);
    server.kubectl.ok(&["wait", "--for=condition=Ready", "node/lan-agent", "--timeout=90s"]);
    assert_eq!(before, server.kubectl.ok(&["get", "pod", "far", "-o", restarts]), "the pod was not touched");
    wait_for("log of a pod on the agent", STEP, || {
        let log = server.kubectl.call(&["logs", "later"]);
        (log.success && log.stdout.contains("8080")).then_some(())
    });
    assert!(agent.stop().success(), "the agent ends in order");
}

/// Logs and commands through the API, and pods that reach each other in both directions.
fn travel(server: &Node) {
    let kubectl = &server.kubectl;
    let address = |pod: &str| kubectl.ok(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]);
    let (near, far) = (address("near"), address("far"));
    let network = |address: &str| address.rsplit_once('.').unwrap().0.to_owned();
    assert_ne!(network(&near), network(&far), "each node has a network of its own");
    let log = kubectl.ok(&["logs", "far"]);
    assert!(log.contains("8080"), "{log}");
    for (from, to, address) in [("near", "far", &far), ("far", "near", &near)] {
        let page = wait_for("page of the other node's pod", STEP, || {
            let page =
                kubectl.call(&["exec", from, "--", "demo", "fetch", &format!("http://{address}:8080/")]);
            page.success.then_some(page.stdout)
        });
        assert!(page.contains(to), "{from} reaches {to}: {page}");
    }
    // A Service's pod on one node, asked by a pod and by a client of the other.
    let service = kubectl.ok(&["get", "service", "near", "-o", "jsonpath={.spec.clusterIP}"]);
    let page = kubectl.ok(&["exec", "far", "--", "demo", "fetch", &format!("http://{service}/")]);
    assert!(page.contains("near"), "{page}");
    wait_for("page through the agent's NodePort", STEP, || fetch(&format!("{AGENT}:30082"), "/"));
}
