//! The image, booted. Under emulation a boot takes most of a minute, so each test is worth several.

use std::fs;
use std::time::Duration;

use qemu::{Echo, READY_LINE, State, Vm};
use tests::{Kubectl, fetch, image, journey, wait_for};

/// What a boot may take under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(420);
/// What a step may take there.
const STEP: Duration = Duration::from_secs(240);
const DEMO_PORT: u16 = 30080;

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
        kubectl.ok(&["create", "configmap", "kept"]);
    });
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

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_on_the_command_line_are_told_and_the_machine_stays_up() {
    let mut vm = Vm::builder(&image())
        .append("skerry.rolle=server skerry.role=worker")
        .echo(Echo::Stdout)
        .boot()
        .await
        .unwrap();
    vm.wait_line("skerry.rolle", BOOT).await.unwrap();
    vm.wait_line("skerry.role", STEP).await.unwrap();
    assert!(vm.console().text().contains("allowed"), "{}", vm.console().text());
    assert!(vm.powerdown(STEP).await.unwrap().success());
}
