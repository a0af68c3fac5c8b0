//! A boot ends in a node that is Ready, and what was acknowledged survives a power cut.

use qemu::State;
use tests::machine::{Machine, STEP, boot, machine};
use tests::{Kubectl, fetch, journey, wait_for};

const DEMO_PORT: u16 = 30080;

/// Written before the power is cut, read after it.
const KEPT: &str = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}}"#;
/// A pod that may kill the machine's own programs.
const KILLER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: killer}
spec:
  hostPID: true
  containers:
  - name: killer
    image: localhost/skerry/demo:1
    imagePullPolicy: Never
    securityContext: {privileged: true, runAsUser: 0}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_appliance_boots_serves_and_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let disk = State::File(dir.path().join("state.raw"));
    let appliance = || machine().state(disk.clone()).forward(DEMO_PORT).forward(journey::NODE_PORT);

    let mut vm = boot(appliance()).await;
    vm.ready().await;
    let kubectl = vm.kubectl().await;
    let (demo, page) = (vm.address(DEMO_PORT), vm.address(journey::NODE_PORT));
    tokio::task::block_in_place(|| {
        let text = wait_for("page of the demo", STEP, || fetch(&demo, "/"));
        assert!(text.contains("skerry"), "{text}");
        journey::travel(&kubectl, "skerry", &page, STEP);
    });
    survive_deaths(&mut vm, &kubectl, &demo).await;
    kubectl.ok_with(&["create", "-f", "-"], KEPT);
    // No orderly end: what was acknowledged must be there all the same.
    vm.cut_power();

    let mut vm = boot(appliance()).await;
    vm.ready().await;
    vm.kubectl().await.ok(&["get", "configmap", "kept"]);
    let demo = vm.address(DEMO_PORT);
    vm.until("page of the demo after the power cut", move || fetch(&demo, "/")).await;
    vm.power_off().await;
}

/// Kills containerd, then k3sd, on a machine that has to bring them back without touching a container.
async fn survive_deaths(vm: &mut Machine, kubectl: &Kubectl, demo: &str) {
    kubectl.ok_with(&["create", "-f", "-"], KILLER);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/killer", "--timeout=240s"]);
    let containers =
        || kubectl.ok(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].containerID}"]);
    let before = containers();
    for service in ["containerd", "k3sd"] {
        let mark = vm.console().mark();
        // The connection may die with the victim; the console tells whether it did.
        let outcome = kubectl.call(&["exec", "killer", "--", "demo", "kill", service]);
        assert!(!outcome.stderr.contains("demo: "), "{}", outcome.stderr);
        vm.line_after(mark, &format!("skerry: service {service} failed")).await;
        vm.line_after(mark, &format!("skerry: service {service} ready")).await;
        tokio::task::block_in_place(|| {
            wait_for("page after a death", STEP, || fetch(demo, "/"));
            wait_for("exec after a death", STEP, || {
                kubectl.call(&["exec", "killer", "--", "demo", "hostname"]).success.then_some(())
            });
        });
    }
    assert_eq!(before, containers(), "no container was started again");
    kubectl.ok(&["delete", "pod", "killer", "--grace-period=1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_and_a_missing_disk_are_told_and_the_machine_stays_up() {
    let mut vm = boot(machine().append("skerry.rolle=server skerry.role=worker").state(State::None)).await;
    vm.line("skerry.rolle").await;
    vm.line("skerry.role").await;
    vm.line("memory").await;
    assert!(vm.console().contains("allowed"), "{}", vm.console().text());
    vm.power_off().await;
}
