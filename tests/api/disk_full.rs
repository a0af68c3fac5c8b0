//! A disk that is full: writes are refused and say why, reads go on, and all is well when there is room again.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{Kubectl, Process, free_port, wait_for};

use crate::{START, command, kubeconfig};

/// The data directory's own file system, in memory.
const MOUNT: &str = "mount -t tmpfs -o size=24m tmpfs \"$1\" && shift && exec \"$@\"";

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    let kubectl = Kubectl::new(&kubeconfig(dir.path()));
    let mut process = Process::start(on_a_small_disk(dir.path()));
    wait_for("readiness of the API", START, || {
        kubectl.call(&["get", "--raw", "/readyz"]).success.then_some(())
    });
    kubectl.ok(&["create", "configmap", "before"]);

    // The server's view of its file system, which nobody else has.
    let filler = PathBuf::from(format!("/proc/{}/root{}/data/filler", process.id(), dir.path().display()));
    fill(&filler);
    let mut number = 0;
    let refused = wait_for("a write that is refused", START, || {
        // What the file has room for inside is still taken.
        number += 1;
        let name = format!("big-{number}");
        let literal = format!("--from-literal=a={}", "x".repeat(100_000));
        let outcome = kubectl.call(&["create", "configmap", &name, &literal]);
        (!outcome.success).then_some(outcome.stderr)
    });
    assert!(refused.contains("no space left"), "{refused}");
    assert_eq!(kubectl.ok(&["get", "configmap", "before", "-o", "name"]), "configmap/before\n");
    assert_eq!(kubectl.ok(&["get", "--raw", "/readyz"]), "ok");

    fs::remove_file(&filler).unwrap();
    wait_for("a write after there is room again", START, || {
        kubectl.call(&["create", "configmap", "after"]).success.then_some(())
    });
    let names = kubectl.ok(&["get", "configmaps", "-o", "name"]);
    assert!(names.contains("configmap/before\n") && names.contains("configmap/after\n"), "{names}");
    assert!(process.stop().success());
}

fn on_a_small_disk(dir: &Path) -> Command {
    let server = command(dir, free_port());
    let mut command = Command::new("unshare");
    // A user namespace, so that it needs no root.
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"]).arg(dir.join("data"));
    command.arg(server.get_program()).args(server.get_args());
    command
}

/// Leaves less room than one page of the database.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
}
