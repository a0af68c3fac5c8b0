//! Every way of booting ends in a node that is Ready, and what was acknowledged survives a power cut.

use std::path::Path;
use std::process::Command;

use qemu::{Start, State};
use tests::machine::{STEP, boot, machine};
use tests::{binary, fetch, image, journey, wait_for};

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

/// What people put beside the image's own files on the first partition.
const CONFIG: &str = "[node]\nrole = \"server\"\nhostname = \"edge-1\"\n";
const MEDIUM_BYTES: u64 = 5 << 30;

/// Does what is done with a card reader before a board is switched on.
fn flash(medium: &Path, config: &Path) {
    std::fs::write(config, CONFIG).unwrap();
    qemu::blank(medium, MEDIUM_BYTES).unwrap();
    let mut command = Command::new(binary("image"));
    command.arg("flash").arg(image().join("disk.img")).arg(medium).arg("--config").arg(config);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flashed_disk_boots_through_uefi_as_it_was_told_and_remembers_after_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let medium = dir.path().join("disk.img");
    flash(&medium, &dir.path().join("config.toml"));
    let disk = State::File(medium);
    let appliance = || machine().start(Start::Uefi).state(disk.clone()).unconfigured().forward(DEMO_PORT);
    let mut vm = boot(appliance()).await;
    vm.ready().await;
    let kubectl = vm.kubectl().await;
    kubectl.ok(&["get", "node", "edge-1"]);
    kubectl.ok_with(&["create", "-f", "-"], KEPT);
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
