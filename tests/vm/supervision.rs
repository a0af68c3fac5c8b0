//! PID 1 keeps its services: each in its group with its limits, back when it dies, visible when it cannot live.

use std::time::Instant;
use tests::inside::{Inside, POD};

use tests::machine::{Machine, STEP, boot, machine};
use tests::{Kubectl, fetch, wait_for};

const DEMO_PORT: u16 = 30080;
/// A control group: its path, who lives in it, and its limits by file.
type Group = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const GROUPS: &[Group] = &[
    (
        "init",
        "init",
        &[("memory.min", "8388608"), ("memory.max", "67108864"), ("pids.max", "64"), ("cpu.weight", "200")],
    ),
    (
        "podruntime/containerd",
        "containerd",
        &[("memory.min", "33554432"), ("memory.oom.group", "1"), ("pids.max", "4096"), ("cpu.weight", "200")],
    ),
    (
        "podruntime/k3s",
        "k3sd",
        &[
            ("memory.min", "134217728"),
            ("memory.oom.group", "1"),
            ("pids.max", "4096"),
            ("cpu.weight", "400"),
        ],
    ),
    (
        "podruntime/shim",
        "containerd-shim",
        &[("memory.min", "33554432"), ("memory.oom.group", "0"), ("pids.max", "32768")],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn services_live_in_their_groups_and_come_back_without_touching_a_container() {
    let mut vm = boot(machine().forward(DEMO_PORT)).await;
    vm.ready().await;
    let kubectl = vm.kubectl().await;
    let demo = vm.address(DEMO_PORT);
    tokio::task::block_in_place(|| {
        everyone_is_in_his_group(&kubectl, &Inside::new(&kubectl, "skerry"));
        the_log_can_be_asked(&kubectl);
        wait_for("page of the demo", STEP, || fetch(&demo, "/"));
    });
    survive_deaths(&mut vm, &kubectl, &demo).await;
    let line = vm.line("skerry: init uses ").await;
    let resident: u32 =
        line.split("uses ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
    assert!(resident < 4096, "{line}");
    vm.power_off().await;
}

fn everyone_is_in_his_group(kubectl: &Kubectl, inside: &Inside<'_>) {
    for (group, program, limits) in GROUPS {
        let dir = format!("/sys/fs/cgroup/{group}");
        for (file, expected) in *limits {
            assert_eq!(inside.read(&format!("{dir}/{file}")).trim(), *expected, "{group} {file}");
        }
        let processes = inside.read(&format!("{dir}/cgroup.procs"));
        let first = processes.lines().next().unwrap_or_else(|| panic!("{group} is empty"));
        let name = inside.read(&format!("/proc/{first}/comm"));
        // The kernel keeps 15 characters.
        assert!(program.starts_with(name.trim()) || name.starts_with(program), "{group} holds {name}");
    }
    let field = |path: &str| kubectl.ok(&["get", "pod", POD, "-o", &format!("jsonpath={path}")]);
    let uid = field("{.metadata.uid}");
    let id = field("{.status.containerStatuses[0].containerID}");
    let id = id.trim_start_matches("containerd://");
    let processes = inside.read(&format!("/sys/fs/cgroup/kubepods/besteffort/pod{uid}/{id}/cgroup.procs"));
    let first = processes.lines().next().expect("the pod's group holds its process");
    assert_eq!(inside.read(&format!("/proc/{first}/comm")).trim(), "demo");
}

/// The log socket, asked with the host's own program.
fn the_log_can_be_asked(kubectl: &Kubectl) {
    let ask = |words: &str| {
        let command = ["exec", POD, "--", "/host/sbin/init", "log", "--socket", "/host/run/skerry/log"];
        kubectl.ok(&[&command[..], &words.split(' ').collect::<Vec<_>>()].concat())
    };
    let sources = ask("sources");
    for source in ["containerd ", "init ", "k3sd ", "kernel "] {
        assert!(sources.lines().any(|line| line.starts_with(source)), "{source}: {sources}");
    }
    assert!(ask("show source=kernel level=debug").contains("Linux version"));
    let ready = ask("show source=init");
    assert!(ready.lines().any(|line| line.ends_with(" init info ready")), "{ready}");
    assert_eq!(ask("show source=k3sd lines=3").lines().count(), 3);
    assert!(ask("status").contains("containerd   ready after"));
}

/// Kills containerd, then k3sd, on a machine that has to bring them back without touching a container.
async fn survive_deaths(vm: &mut Machine, kubectl: &Kubectl, demo: &str) {
    let containers =
        || kubectl.ok(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].containerID}"]);
    let before = containers();
    for service in ["containerd", "k3sd"] {
        let mark = vm.console().mark();
        // The connection may die with the victim; the console tells whether it did.
        let outcome = kubectl.call(&["exec", POD, "--", "demo", "kill", service]);
        assert!(!outcome.stderr.contains("demo: "), "{}", outcome.stderr);
        vm.line_after(mark, &format!("skerry: service {service} failed")).await;
        let died = Instant::now();
        let back = vm.line_after(mark, &format!("skerry: service {service} ready")).await;
        println!("{service} was back {:.1} s after its death: {back}", died.elapsed().as_secs_f64());
        tokio::task::block_in_place(|| {
            wait_for("page after a death", STEP, || fetch(demo, "/"));
            wait_for("exec after a death", STEP, || {
                kubectl.call(&["exec", POD, "--", "demo", "hostname"]).success.then_some(())
            });
        });
    }
    assert_eq!(before, containers(), "no container was started again");
}

/// K3s's flag, and nothing that it could mean.
const HOPELESS: &str = "skerry.k3s.service-node-port-range=hopeless";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_for_ever_stays_visible_and_a_shell_that_is_not_there_is_told() {
    let mut vm = boot(machine().append(HOPELESS).append("skerry.debug=1")).await;
    vm.line("skerry: problem: skerry.debug asks for a shell, and this image has none").await;
    for wait in ["0.5s", "1.0s", "2.0s", "4.0s"] {
        let line = vm.line(&format!("starting it again in {wait}")).await;
        assert!(line.contains("skerry: service k3sd failed: ended with status "), "{line}");
    }
    let block = vm.line("k3sd         failed (ended with status ").await;
    assert!(block.contains("next try in ") && block.contains(", failed "), "{block}");
    vm.power_off().await;
}
