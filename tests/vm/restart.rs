//! A machine from its own disk restarts as it is asked to, with and without its firmware, and is watched meanwhile.

use qemu::Start;
use tests::machine::{Machine, STEP, boot, machine};
use tests::{Kubectl, wait_for};

/// A pod that may send PID 1 a signal.
const ASKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  hostPID: true
  containers:
  - name: asker
    image: localhost/skerry/demo:1
    imagePullPolicy: Never
    securityContext: {privileged: true, runAsUser: 0}
"#;
const INIT_STARTED: &str = "skerry: init started";
const READY: &str = "skerry: ready";
/// SIGTERM, and SIGRTMIN+6.
const RESTART: &str = "15";
const KEXEC: &str = "40";

#[tokio::test(flavor = "multi_thread")]
async fn pid_1_restarts_through_the_firmware_or_without_it_as_the_signal_says() {
    let appliance = machine().start(Start::Uefi).disk_bytes(3 << 30).restarts();
    let mut vm = boot(appliance.qemu_arguments(["-device", "i6300esb"])).await;
    vm.ready().await;
    assert!(vm.console().contains("armed, 60 s"), "the watchdog is not armed");
    let kubectl = vm.kubectl().await;
    kubectl.ok_with(&["create", "-f", "-"], ASKER);

    let mark = ask(&vm, &kubectl, KEXEC, "skerry: restarting without the firmware");
    vm.line_after(mark, INIT_STARTED).await;
    assert!(!vm.events().iter().any(|event| event.name == "RESET"), "it went through the firmware");
    vm.line_after(mark, READY).await;

    let mark = ask(&vm, &kubectl, RESTART, "skerry: rebooting");
    vm.wait_event("RESET", STEP).await.unwrap();
    vm.line_after(mark, READY).await;
    vm.power_off().await;
}

/// Sends PID 1 a signal from a pod that may, until the console shows what it leads to. After a restart the pod needs a while, and the
/// connection may be gone before the answer.
fn ask(vm: &Machine, kubectl: &Kubectl, signal: &str, answer: &str) -> usize {
    let console = vm.console();
    let mark = console.mark();
    tokio::task::block_in_place(|| {
        wait_for(answer, STEP, || {
            let asked = kubectl.call(&["exec", "asker", "--", "demo", "kill", "init", signal]).success;
            (asked || console.contains(answer)).then_some(())
        });
    });
    mark
}
