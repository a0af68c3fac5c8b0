//! The image, booted. Under emulation a boot takes most of a minute, so each test is worth several.

use std::fs;
use std::path::Path;
use std::time::Duration;

use qemu::{Echo, READY_LINE, State, Vm};
use tests::{Kubectl, fetch, image, journey, wait_for};

/// What a boot may take under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(420);
/// What a step may take there.
const STEP: Duration = Duration::from_secs(240);
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
    let disk = dir.path().join("state.raw");
    let boot = |disk: &std::path::Path| {
        Vm::builder(&image())
            .state(State::File(disk.to_path_buf()))
            .forward(DEMO_PORT)
            .forward(journey::NODE_PORT)
            .echo(Echo::Stdout)
            .boot()
    };
    let mut vm = boot(&disk).await.unwrap();
    vm.wait_line(READY_LINE, BOOT).await.unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    fs::write(&kubeconfig, vm.kubeconfig(STEP).await.unwrap()).unwrap();
    let demo = format!("127.0.0.1:{}", vm.forwarded(DEMO_PORT).unwrap());
    let page = format!("127.0.0.1:{}", vm.forwarded(journey::NODE_PORT).unwrap());
    tokio::task::block_in_place(|| {
        let kubectl = Kubectl::new(&kubeconfig);
        let text = wait_for("page of the demo", STEP, || fetch(&demo, "/"));
        assert!(text.contains("skerry"), "{text}");
        journey::travel(&kubectl, "skerry", &page, STEP);
    });
    survive_deaths(&mut vm, &kubeconfig, &demo).await;
    Kubectl::new(&kubeconfig).ok_with(&["create", "-f", "-"], KEPT);
    // No orderly end: what was acknowledged must be there all the same.
    vm.cut_power().await.unwrap();

    let mut vm = boot(&disk).await.unwrap();
    vm.wait_line(READY_LINE, BOOT).await.unwrap();
    fs::write(&kubeconfig, vm.kubeconfig(STEP).await.unwrap()).unwrap();
    tokio::task::block_in_place(|| {
        let kubectl = Kubectl::new(&kubeconfig);
        kubectl.ok(&["get", "configmap", "kept"]);
        let demo = format!("127.0.0.1:{}", vm.forwarded(DEMO_PORT).unwrap());
        wait_for("page of the demo after the power cut", STEP, || fetch(&demo, "/"));
    });
    assert!(vm.powerdown(STEP).await.unwrap().success());
    assert!(vm.console().text().contains("skerry: powering off"));
}

/// Kills containerd, then k3sd, on a machine that has to bring them back without touching a container.
async fn survive_deaths(vm: &mut Vm, kubeconfig: &Path, demo: &str) {
    let kubectl = Kubectl::new(kubeconfig);
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
        vm.wait_line_after(mark, &format!("skerry: service {service} failed"), STEP).await.unwrap();
        vm.wait_line_after(mark, &format!("skerry: service {service} ready"), STEP).await.unwrap();
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
    let mut vm = Vm::builder(&image())
        .append("skerry.rolle=server skerry.role=worker")
        .state(State::None)
        .echo(Echo::Stdout)
        .boot()
        .await
        .unwrap();
    vm.wait_line("skerry.rolle", BOOT).await.unwrap();
    vm.wait_line("skerry.role", STEP).await.unwrap();
    vm.wait_line("memory", STEP).await.unwrap();
    assert!(vm.console().text().contains("allowed"), "{}", vm.console().text());
    assert!(vm.powerdown(STEP).await.unwrap().success());
}
