//! A boot ends in a node that is Ready, and what was acknowledged survives a power cut.

use qemu::State;
use tests::machine::{STEP, boot, machine};
use tests::{fetch, journey, wait_for};

const DEMO_PORT: u16 = 30080;

/// Written before the power is cut, read after it.
const KEPT: &str = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}}"#;

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

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_and_a_missing_disk_are_told_and_the_machine_stays_up() {
    let mut vm = boot(machine().append("skerry.rolle=server skerry.role=worker").state(State::None)).await;
    vm.line("skerry.rolle").await;
    vm.line("skerry.role").await;
    vm.line("memory").await;
    assert!(vm.console().contains("allowed"), "{}", vm.console().text());
    vm.power_off().await;
}
