//! Every way of booting ends in a node that is Ready, and what was acknowledged survives a power cut.

use qemu::{Start, State};
use tests::machine::{STEP, boot, machine};
use tests::{fetch, journey, wait_for};

const DEMO_PORT: u16 = 30080;

/// Written before the power is cut, read after it.
const KEPT: &str = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_appliance_boots_and_serves() {
    let mut vm = boot(machine().forward(DEMO_PORT).forward(journey::NODE_PORT)).await;
    vm.ready().await;
    let kubectl = vm.kubectl().await;
    let (demo, page) = (vm.address(DEMO_PORT), vm.address(journey::NODE_PORT));
    tokio::task::block_in_place(|| {
        let text = wait_for("page of the demo", STEP, || fetch(&demo, "/"));
        assert!(text.contains("skerry"), "{text}");
        journey::travel(&kubectl, "skerry", &page, STEP);
    });
    vm.power_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_disk_boots_through_uefi_and_remembers_after_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let disk = State::File(dir.path().join("disk.img"));
    let appliance = || machine().start(Start::Uefi).state(disk.clone()).forward(DEMO_PORT);
    let mut vm = boot(appliance()).await;
    vm.ready().await;
    vm.kubectl().await.ok_with(&["create", "-f", "-"], KEPT);
    // No orderly end: what was acknowledged must be there all the same.
    vm.cut_power().await;

    let mut vm = boot(appliance()).await;
    vm.ready().await;
    vm.kubectl().await.ok(&["get", "configmap", "kept"]);
    let demo = vm.address(DEMO_PORT);
    vm.until("page of the demo after the power cut", move || fetch(&demo, "/")).await;
    vm.power_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_disks_boots_from_the_network_and_is_a_node_in_memory() {
    let mut vm = boot(machine().start(Start::Pxe).state(State::None)).await;
    vm.ready().await;
    assert!(vm.console().contains("state ready memory"), "the console says that nothing will be kept");
    vm.power_off().await;
}
