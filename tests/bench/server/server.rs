//! A server under measurement: its process, its directory, and what the kernel says of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Method;
use tempfile::TempDir;
use tests::client::{Client, Credentials, Protocol};
use tests::{Process, free_port};

/// What any start may take before it counts as failed.
const START: Duration = Duration::from_secs(120);
/// How often a start is looked at, until there is something to connect to.
const LOOK: Duration = Duration::from_millis(1);
/// The kernel's clock ticks, as `/proc` counts processor time (USER_HZ is part of its interface).
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) struct Server {
    process: Process,
    pub(crate) credentials: Credentials,
    /// From the start of the process to its first positive answer.
    pub(crate) took: Duration,
}

impl Server {
    /// Starts one on a directory, which may have been another's, and waits until it is ready.
    pub(crate) async fn start(program: &Path, directory: &TempDir) -> anyhow::Result<Self> {
        let (data, kubeconfig) = (directory.path().join("data"), directory.path().join("k3s.yaml"));
        let port = free_port();
        let _stale = std::fs::remove_file(&kubeconfig);
        let mut command = Command::new(program);
        command.args(["server", "--disable-agent", "--bind-address", "127.0.0.1", "--node-ip", "127.0.0.1"]);
        command.args(["--node-name", "bench", "--https-listen-port", &port.to_string()]);
        command.arg("--config").arg(directory.path().join("none.yaml"));
        command.arg("--data-dir").arg(&data).arg("--write-kubeconfig").arg(&kubeconfig);
        let started = Instant::now();
        let process = Process::start(command);
        let credentials = Credentials { tls: data.join("server/tls"), port };
        wait_for_file(&kubeconfig, started).await?;
        let mut client = Client::connect(&credentials, Protocol::Http2).await?;
        while client.count(Method::GET, "/readyz", Bytes::new()).await.is_err() {
            ensure!(started.elapsed() < START, "no readiness: {}", process.output());
            tokio::time::sleep(LOOK).await;
        }
        Ok(Self { process, credentials, took: started.elapsed() })
    }

    pub(crate) async fn client(&self, protocol: Protocol) -> anyhow::Result<Client> {
        Client::connect(&self.credentials, protocol).await
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Processor time taken so far, of the process and the kernel for it.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(self.proc("stat"))?;
        // The command's name, which may hold anything, ends with the last parenthesis; user and system time are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
        let ticks = fields.get(11..13).context("too few fields")?;
        let ticks: f64 = ticks.iter().map(|text| text.parse::<f64>()).sum::<Result<f64, _>>()?;
        Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
    }

    pub(crate) fn stop(mut self) {
        self.process.stop();
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.process.id().to_string()).join(file)
    }
}

/// The kubeconfig is written when everything that a client needs is there.
async fn wait_for_file(path: &Path, started: Instant) -> anyhow::Result<()> {
    while !path.exists() {
        ensure!(started.elapsed() < START, "{} did not come", path.display());
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
