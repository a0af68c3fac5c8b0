//! containerd as a child process, for ordinary hosts where no init system of ours runs it.
//!
//! [`run`] writes a configuration file (K3s's choices, config version 2, which containerd 1.6, 1.7 and 2.x
//! read) and keeps containerd alive with a backoff. Containers belong to their shims, so they outlive a
//! restart of containerd and of this daemon; a containerd left behind by a killed daemon is ended first,
//! because two of them cannot share one state directory.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// First pause before containerd is started again; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A run this long counts as healthy and resets the backoff.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How long containerd may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Where containerd keeps its things, and what it should use.
#[derive(Clone, Debug)]
pub struct Config {
    /// The program; looked up on `PATH` when it has no slash.
    pub binary: PathBuf,
    /// The configuration file to write.
    pub config_file: PathBuf,
    /// Persistent data, e.g. `<data-dir>/agent/containerd`.
    pub root: PathBuf,
    /// Volatile state, e.g. `/run/k3s/containerd`.
    pub state: PathBuf,
    /// The socket to serve on.
    pub socket: PathBuf,
    /// Directory of CNI network configuration.
    pub cni_conf_dir: PathBuf,
    /// Directory of CNI plugin programs.
    pub cni_bin_dir: PathBuf,
    /// Image of the pod sandbox.
    pub sandbox_image: String,
    /// Port of containerd's streaming server on the loopback address; 0 lets the kernel choose.
    pub stream_port: u16,
}

/// Runs containerd until `cancel`, restarting it when it ends.
pub async fn run(config: Config, cancel: CancellationToken) -> anyhow::Result<()> {
    prepare(&config).await?;
    let mut pause = BACKOFF_MIN;
    loop {
        let started = Instant::now();
        let status = run_once(&config, &cancel).await?;
        if cancel.is_cancelled() {
            return Ok(());
        }
        if started.elapsed() >= HEALTHY_AFTER {
            pause = BACKOFF_MIN;
        }
        warn!(%status, restart_in_ms = pause.as_millis(), "containerd ended");
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACKOFF_MAX),
        }
    }
}

async fn prepare(config: &Config) -> anyhow::Result<()> {
    for dir in [&config.root, &config.state, &config.cni_conf_dir] {
        std::fs::create_dir_all(dir).with_context(|| format!("failed to create '{}'", dir.display()))?;
    }
    if let Some(dir) = config.config_file.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("failed to create '{}'", dir.display()))?;
    }
    let text = render(config, &Host::detect());
    std::fs::write(&config.config_file, text)
        .with_context(|| format!("failed to write '{}'", config.config_file.display()))?;
    end_left_behind(config).await
}

async fn run_once(config: &Config, cancel: &CancellationToken) -> anyhow::Result<ExitStatus> {
    let mut child = spawn(config)?;
    let pid = child.id().context("containerd has no process id")?;
    std::fs::write(pid_file(config), pid.to_string())
        .with_context(|| format!("failed to write '{}'", pid_file(config).display()))?;
    info!(pid, socket = %config.socket.display(), "containerd started");
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let logs = async { tokio::join!(forward_log(stdout), forward_log(stderr)) };
    let ended = async {
        tokio::select! {
            status = child.wait() => status.context("failed to wait for containerd"),
            () = cancel.cancelled() => stop(&mut child, pid).await,
        }
    };
    tokio::pin!(logs);
    tokio::pin!(ended);
    // The log pipe may stay open beyond containerd's end (its shims inherit it), so only the process decides.
    tokio::select! {
        status = &mut ended => status,
        _ = &mut logs => ended.await,
    }
}

fn spawn(config: &Config) -> anyhow::Result<Child> {
    Command::new(&config.binary)
        .arg("--config")
        .arg(&config.config_file)
        .arg("--address")
        .arg(&config.socket)
        .arg("--root")
        .arg(&config.root)
        .arg("--state")
        .arg(&config.state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("failed to start '{}'", config.binary.display()))
}

async fn stop(child: &mut Child, pid: u32) -> anyhow::Result<ExitStatus> {
    signal(pid, Signal::SIGTERM);
    match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
        Ok(status) => status.context("failed to wait for containerd"),
        Err(_) => {
            child.kill().await.context("failed to kill containerd")?;
            child.wait().await.context("failed to wait for containerd")
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // The process may have ended meanwhile; that is what we want anyway.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Hands containerd's log lines on; its own level decides ours. Its `info` is per container, so `debug` here.
async fn forward_log(stream: Option<impl AsyncRead + Unpin>) {
    let Some(stream) = stream else { return };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("level=error") || line.contains("level=fatal") || line.contains("level=warning") {
            warn!(target: "containerd", "{line}");
        } else {
            tracing::debug!(target: "containerd", "{line}");
        }
    }
}

fn pid_file(config: &Config) -> PathBuf {
    config.state.join("containerd.pid")
}

/// Ends a containerd that a killed daemon left behind: the recorded process, if it still runs with our file.
async fn end_left_behind(config: &Config) -> anyhow::Result<()> {
    let Ok(text) = std::fs::read_to_string(pid_file(config)) else { return Ok(()) };
    let Ok(pid) = text.trim().parse::<u32>() else { return Ok(()) };
    if !is_our_containerd(pid, &config.config_file) {
        return Ok(());
    }
    info!(pid, "ending the containerd of an earlier run");
    signal(pid, Signal::SIGTERM);
    let deadline = Instant::now() + STOP_TIMEOUT;
    while is_our_containerd(pid, &config.config_file) {
        if Instant::now() > deadline {
            signal(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn is_our_containerd(pid: u32, config_file: &Path) -> bool {
    let Ok(cmdline) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let wanted = config_file.as_os_str().as_encoded_bytes();
    cmdline.split(|byte| *byte == 0).any(|argument| argument == wanted)
}

/// What the host offers and demands; decides parts of the configuration.
#[derive(Clone, Debug, Default)]
struct Host {
    crun: Option<PathBuf>,
    runc: Option<PathBuf>,
    /// Without CAP_SYS_RESOURCE the kernel refuses to lower `oom_score_adj`, and every sandbox would fail.
    restrict_oom_score_adj: bool,
    /// Kernel 4.11 and newer: pods may bind ports below 1024 and send ICMP echo without capabilities.
    unprivileged_ports: bool,
}

impl Host {
    fn detect() -> Self {
        Self {
            crun: find_program("crun"),
            runc: find_program("runc"),
            restrict_oom_score_adj: !has_cap_sys_resource(),
            unprivileged_ports: Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start").exists(),
        }
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

fn has_cap_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|effective| effective >> CAP_SYS_RESOURCE & 1 == 1)
}

/// The configuration file's text. Keys as K3s writes them for config version 2.
fn render(config: &Config, host: &Host) -> String {
    let mut text = String::from("# File generated by k3sd. DO NOT EDIT.\nversion = 2\n");
    let _ = writeln!(text, "root = {}", toml(&config.root));
    let _ = writeln!(text, "state = {}", toml(&config.state));
    // Snapshotters and plug-ins nothing here uses; each costs start time and some probe the host.
    text.push_str(
        "disabled_plugins = [\"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.snapshotter.v1.blockfile\", \"io.containerd.nri.v1.nri\", \
         \"io.containerd.tracing.processor.v1.otlp\"]\n",
    );
    let _ = writeln!(text, "\n[grpc]\n  address = {}", toml(&config.socket));
    let _ = writeln!(text, "\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = {}", toml(&config.root));
    render_cri(&mut text, config, host);
    render_runtimes(&mut text, host);
    text
}

fn render_cri(text: &mut String, config: &Config, host: &Host) {
    let _ = writeln!(
        text,
        r#"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "{port}"
  sandbox_image = "{sandbox}"
  enable_selinux = false
  enable_unprivileged_ports = {unprivileged}
  enable_unprivileged_icmp = {unprivileged}
  restrict_oom_score_adj = {oom}
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = {bin}
  conf_dir = {conf}"#,
        port = config.stream_port,
        sandbox = config.sandbox_image,
        unprivileged = host.unprivileged_ports,
        oom = host.restrict_oom_score_adj,
        bin = toml(&config.cni_bin_dir),
        conf = toml(&config.cni_conf_dir),
    );
}

fn render_runtimes(text: &mut String, host: &Host) {
    let default = if host.crun.is_some() { "crun" } else { "runc" };
    let _ = writeln!(
        text,
        r#"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  disable_snapshot_annotations = true
  default_runtime_name = "{default}""#
    );
    for (name, program) in [("crun", &host.crun), ("runc", &host.runc)] {
        let Some(program) = program else { continue };
        let _ = writeln!(
            text,
            r#"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]
  BinaryName = {binary}
  SystemdCgroup = false"#,
            binary = toml(program)
        );
    }
}

/// A path as a TOML basic string.
fn toml(path: &Path) -> String {
    let escaped = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            binary: "containerd".into(),
            config_file: "/etc/c.toml".into(),
            root: "/data/agent/containerd".into(),
            state: "/run/k3s/containerd".into(),
            socket: "/run/k3s/containerd/containerd.sock".into(),
            cni_conf_dir: "/data/net.d".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            sandbox_image: "localhost/skerry/pause:1".into(),
            stream_port: 10010,
        }
    }

    #[test]
    fn crun_is_the_default_runtime_where_it_is_installed() {
        let host = Host {
            crun: Some("/usr/bin/crun".into()),
            runc: Some("/usr/sbin/runc".into()),
            ..Host::default()
        };
        let text = render(&config(), &host);
        assert!(text.contains("default_runtime_name = \"crun\""), "{text}");
        assert!(
            text.contains("runtimes.runc]") && text.contains("BinaryName = \"/usr/sbin/runc\""),
            "{text}"
        );
        let without = render(&config(), &Host { crun: None, ..host });
        assert!(without.contains("default_runtime_name = \"runc\"") && !without.contains("runtimes.crun"));
    }

    #[test]
    fn oom_score_is_restricted_only_without_the_capability() {
        let host = Host { restrict_oom_score_adj: true, ..Host::default() };
        assert!(render(&config(), &host).contains("restrict_oom_score_adj = true"));
        assert!(render(&config(), &Host::default()).contains("restrict_oom_score_adj = false"));
    }
}
