//! One real node on this host, as `./just node` runs it: containerd, crun and nftables of the host, in namespaces of
//! its own. Needs root.

mod joining;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::{Kubectl, Process, binaries, binary, fetch, journey, wait_for};

/// What a step may take on a busy machine.
const STEP: Duration = Duration::from_secs(90);

/// A running node.
struct Node {
    process: Process,
    kubectl: Kubectl,
    address: String,
}

impl Node {
    fn start(state: &Path) -> Self {
        Self::start_with(state, &[], &[])
    }

    /// With options of the script and arguments of k3sd.
    fn start_with(state: &Path, options: &[&str], arguments: &[&str]) -> Self {
        let _stale = fs::remove_file(state.join("kubeconfig"));
        let process = Process::start(script(options, state, arguments));
        let kubeconfig = state.join("kubeconfig");
        wait_for("kubeconfig", STEP, || kubeconfig.exists().then_some(()));
        let address = fs::read_to_string(state.join("address")).unwrap().trim().to_owned();
        Self { process, kubectl: Kubectl::new(&kubeconfig), address }
    }

    fn wait_ready(&self) {
        self.kubectl.ok(&["wait", "--for=create", "node/skerry-native", "--timeout=90s"]);
        self.kubectl.ok(&["wait", "--for=condition=Ready", "node/skerry-native", "--timeout=90s"]);
    }

    fn page(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }

    /// The processes of a name that are the node's own: below its script, however deep.
    fn processes(&self, name: &str) -> Vec<i32> {
        let output = Command::new("pgrep").args(["-x", name]).output().unwrap();
        let ids = String::from_utf8(output.stdout).unwrap();
        ids.lines().filter_map(|line| line.parse().ok()).filter(|&id| self.is_ours(id)).collect()
    }

    fn is_ours(&self, id: i32) -> bool {
        let mut id = id;
        while id > 1 {
            if id == self.process.id().as_raw() {
                return true;
            }
            let Some(parent) = parent(id) else { return false };
            id = parent;
        }
        false
    }
}

fn script(options: &[&str], state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("node/node.sh"));
    // Where this is tested there may be little room on a large disk: enough is what the pods of a test need.
    let room = "--kubelet-arg=eviction-hard=memory.available<64Mi,nodefs.available<256Mi";
    command.args(options).arg(binaries()).arg(state).arg(room).args(arguments);
    command
}

/// Whether tests that need root are to be left out.
fn skipped() -> bool {
    if std::env::var_os("SKERRY_SKIP_ROOT").is_some() {
        eprintln!("skipped, as SKERRY_SKIP_ROOT asks");
        return true;
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "a node needs root: run as root, or set SKERRY_SKIP_ROOT=1 to leave it out"
    );
    false
}

fn parent(id: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

#[test]
fn a_deployment_runs_and_survives_the_death_of_containerd() {
    if skipped() {
        return;
    }
    let state = tempfile::Builder::new().prefix("skerry-node").tempdir_in(scratch()).unwrap();
    damaged_image(state.path());
    let mut node = Node::start(state.path());
    node.wait_ready();
    // The server's part of it: a node may not give itself a role.
    let role = "-l=node-role.kubernetes.io/control-plane=true";
    wait_for("role of the node", STEP, || {
        (node.kubectl.ok(&["get", "nodes", role, "-o", "name"]) == "node/skerry-native\n").then_some(())
    });
    wait_for("page of the demo", STEP, || fetch(&node.page(30080), "/"));
    let output = node.process.output();
    assert!(output.contains("damaged.tar"), "the damaged image is named: {output}");
    journey::travel(&node.kubectl, "skerry-native", &node.page(journey::NODE_PORT), STEP);

    let container = |node: &Node| {
        node.kubectl.ok(&[
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/name=demo",
            "-o",
            "jsonpath={.items[*].status.containerStatuses[*].containerID}",
        ])
    };
    let before = container(&node);
    assert!(before.starts_with("containerd://"), "{before}");
    let containerd = node.processes("containerd");
    assert_eq!(containerd.len(), 1, "one containerd");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(containerd[0]), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    wait_for("another containerd", STEP, || {
        node.processes("containerd").into_iter().find(|id| *id != containerd[0])
    });
    wait_for("page after the death of containerd", STEP, || fetch(&node.page(30080), "/"));
    wait_for("exec after the death of containerd", STEP, || {
        node.kubectl.call(&["exec", "deployment/demo", "--", "demo", "env"]).success.then_some(())
    });
    assert_eq!(before, container(&node), "the container was not touched");
    a_condition_of_the_kubelet_is_its_own(&node.kubectl);
    let pods = fs::read_dir(state.path().join("kubelet/pods")).unwrap().flatten();
    let pods: Vec<String> = pods.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(!pods.is_empty(), "the demo's pod stays, as pods do when k3sd stops");
    assert!(node.process.stop().success(), "it ends in order");
    let interface = fs::read_to_string(state.path().join("interface")).unwrap();
    let interface = Path::new("/sys/class/net").join(interface.trim());
    assert!(!interface.exists(), "{} is left behind", interface.display());
    let left = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{}*", pods[0])])
        .output();
    assert_eq!(String::from_utf8(left.unwrap().stdout).unwrap(), "", "control groups are left behind");
}

/// As when the node lifecycle controller marks the pods of a node that was not ready for a moment.
fn a_condition_of_the_kubelet_is_its_own(kubectl: &Kubectl) {
    let pod = kubectl.ok(&["get", "pods", "-l", "app.kubernetes.io/name=demo", "-o", "name"]);
    let unready = r#"{"status": {"conditions": [{"type": "Ready", "status": "False"}]}}"#;
    kubectl.ok(&["patch", pod.trim(), "--subresource=status", "--type=strategic", "-p", unready]);
    kubectl.ok(&["wait", "--for=condition=Ready", pod.trim(), "--timeout=30s"]);
}

/// An image tarball that is none, beside the good ones.
fn damaged_image(state: &Path) {
    let images = state.join("data/agent/images");
    fs::create_dir_all(&images).unwrap();
    fs::write(images.join("damaged.tar"), b"this is no archive").unwrap();
}

/// Not below a directory that is itself an overlay or in memory: containerd stacks file systems on it.
fn scratch() -> PathBuf {
    binary("k3sd").parent().expect("a program is in a directory").to_path_buf()
}
