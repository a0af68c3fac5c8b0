//! The API server over HTTPS, as `k3sd server --disable-agent` runs it: no root, no node.

mod access;
mod apply;
mod commands;
mod disk_full;
mod faults;
mod kill;
mod kube_rs;
mod kubectl;
mod reading;
mod rollouts;
mod writing;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::{Kubectl, Process, binary, free_port, wait_for};

/// What a start may take on a busy machine; the budget is 300 ms.
const START: Duration = Duration::from_secs(60);

/// A control plane on a port and a directory of its own.
struct Server {
    process: Process,
    kubectl: Kubectl,
}

impl Server {
    /// Starts one and waits until it answers.
    fn start(dir: &Path) -> Self {
        Self::start_on(dir, free_port())
    }

    fn start_on(dir: &Path, port: u16) -> Self {
        let kubectl = Kubectl::new(&kubeconfig(dir));
        let process = Process::start(command(dir, port));
        wait_for("readiness of the API", START, || {
            kubectl.call(&["get", "--raw", "/readyz"]).success.then_some(())
        });
        Self { process, kubectl }
    }

    /// Waits for a service account of the default namespace: pods are refused before their account is there.
    fn await_account(&self, name: &str) {
        wait_for("a service account", START, || {
            self.kubectl.call(&["get", "serviceaccount", name]).success.then_some(())
        });
    }
}

fn command(dir: &Path, port: u16) -> Command {
    let mut command = Command::new(binary("k3sd"));
    command
        .args(["server", "--disable-agent", "--bind-address", "127.0.0.1", "--node-name", "test"])
        .args(["--node-ip", "127.0.0.1", "--https-listen-port", &port.to_string()])
        .arg("--config")
        .arg(dir.join("config.yaml"))
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--write-kubeconfig")
        .arg(kubeconfig(dir));
    command
}

fn kubeconfig(dir: &Path) -> PathBuf {
    dir.join("k3s.yaml")
}
