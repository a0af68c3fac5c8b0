//! A host for one test: namespaces, directories, containerd, the kubelet, and questions about them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use client::Informers;
use kubelet::{Config, NodeReport, containerd};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, images, tls};

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "KUBELET_TEST_INSIDE";
const PORT: u16 = 10250;

pub(crate) struct Host {
    dir: PathBuf,
    busybox: PathBuf,
    client: tls::Client,
    containerd: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
    kubelet: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
    log: Log,
}

/// What the daemon logs, kept to be asked about and shown when a test fails.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        std::io::stderr().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `test` in new network and mount namespaces, by starting this program again for that one test.
pub(crate) fn in_namespaces(name: &str, test: impl AsyncFnOnce(&mut Host)) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut host = Host::new();
            test(&mut host).await;
            host.stop().await;
        });
        return;
    }
    if let Some(missing) = missing() {
        let left_out = std::env::var_os("SKERRY_SKIP_ROOT").is_some();
        assert!(
            left_out,
            "{missing}: run `./just setup` and this as root, or set SKERRY_SKIP_ROOT=1 to leave it out"
        );
        eprintln!("skipped, as SKERRY_SKIP_ROOT asks");
        return;
    }
    let status = Command::new("unshare")
        .args(["-n", "-m", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{name}: {status}");
}

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    for program in ["containerd", "unshare", "ip", "umount"] {
        if find(program).is_none() {
            return Some(format!("{program} is not installed"));
        }
    }
    if find("crun").or_else(|| find("runc")).is_none() {
        return Some("neither crun nor runc is installed".to_owned());
    }
    static_busybox().is_none().then(|| "no static busybox (Debian: busybox-static)".to_owned())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A busybox that needs no libraries: its program headers name no interpreter.
fn static_busybox() -> Option<PathBuf> {
    let busybox = find("busybox")?;
    let output = Command::new("ldd").arg(&busybox).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    (text.contains("not a dynamic executable") || text.contains("statically linked")).then_some(busybox)
}

fn command(line: &str) -> bool {
    let mut words = line.split(' ');
    Command::new(words.next().unwrap()).args(words).status().is_ok_and(|status| status.success())
}

impl Host {
    fn new() -> Self {
        assert!(command("ip link set lo up"));
        // crun refuses the hybrid of both hierarchies.
        if Path::new("/sys/fs/cgroup/unified").exists() {
            assert!(command("umount /sys/fs/cgroup/unified"));
        }
        let dir = tempfile::Builder::new().prefix("kubelet-").tempdir().unwrap().keep();
        for sub in ["images", "manifests", "kubelet", "logs", "net.d", "cni"] {
            std::fs::create_dir(dir.join(sub)).unwrap();
        }
        let busybox = static_busybox().unwrap();
        let tarball = |file: &str, name: &str, command: &[&str]| {
            images::write(&dir.join("images").join(file), &busybox, name, command);
        };
        tarball("pause.tar", "localhost/skerry/pause:1", &["/bin/busybox", "sleep", "1000000"]);
        tarball("busybox.tar", "localhost/skerry/busybox:1", &["/bin/sh"]);
        let log = Log::default();
        init_log(log.clone());
        let client = tls::set_up(&dir);
        Self { client, busybox, dir, containerd: None, kubelet: None, log }
    }

    pub(crate) fn start_containerd(&mut self) {
        let at = |name: &str| self.dir.join(name);
        let config = containerd::Config {
            binary: "containerd".into(),
            config_file: at("containerd.toml"),
            root: at("containerd"),
            state: at("state"),
            socket: at("containerd.sock"),
            cni_conf_dir: at("net.d"),
            cni_bin_dir: at("cni"),
            sandbox_image: "localhost/skerry/pause:1".to_owned(),
            stream_port: 0,
        };
        let cancel = CancellationToken::new();
        self.containerd = Some((cancel.clone(), tokio::spawn(containerd::run(config, cancel))));
    }

    /// Kills containerd as a crash would.
    pub(crate) fn kill_containerd(&self) {
        let pid = std::fs::read_to_string(self.dir.join("state/containerd.pid")).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    pub(crate) async fn start_kubelet(&mut self) {
        let at = |name: &str| self.dir.join(name);
        let config = Config {
            node_name: "n1".to_owned(),
            node_ips: vec!["127.0.0.1".parse().unwrap()],
            cri_socket: at("containerd.sock"),
            root_dir: at("kubelet"),
            pod_manifest_dir: Some(at("manifests")),
            pod_log_dir: at("logs"),
            image_dirs: vec![at("images")],
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: "/etc/resolv.conf".into(),
            listen: ([127, 0, 0, 1], PORT).into(),
            serving_cert: at("kubelet.crt"),
            serving_key: at("kubelet.key"),
            client_ca: at("ca.crt"),
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            max_pods: 110,
            eviction_hard: kubelet::Thresholds::default(),
            version: "v0".to_owned(),
            report: watch::channel(NodeReport::default()).0,
        };
        let cancel = CancellationToken::new();
        let client = no_api_server();
        let informers = Informers::new(client.clone(), cancel.clone());
        let run = kubelet::run(config, client, informers, cancel.clone());
        self.kubelet = Some((cancel, tokio::spawn(run)));
        self.wait_for("the kubelet's server", async |host| host.client.get(PORT, "/healthz").await.is_some())
            .await;
    }

    pub(crate) async fn stop_kubelet(&mut self) {
        let (cancel, task) = self.kubelet.take().unwrap();
        cancel.cancel();
        task.await.unwrap().unwrap();
    }

    async fn stop(&mut self) {
        // Static pods end with their manifests; what a failed test leaves ends with its directory's removal.
        for entry in std::fs::read_dir(self.dir.join("manifests")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        self.wait_for("all pods' end", async |host| host.pods().await.is_empty()).await;
        self.stop_kubelet().await;
        let (cancel, task) = self.containerd.take().unwrap();
        cancel.cancel();
        task.await.unwrap().unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }

    pub(crate) fn write_manifest(&self, name: &str, text: &str) {
        std::fs::write(self.dir.join("manifests").join(name), text).unwrap();
    }

    pub(crate) fn remove_manifest(&self, name: &str) {
        std::fs::remove_file(self.dir.join("manifests").join(name)).unwrap();
    }

    /// Adds a tarball with one byte changed in its layer.
    pub(crate) fn damage_a_tarball(&self, name: &str) {
        let path = self.dir.join("images").join(name);
        images::write(&path, &self.busybox, "localhost/skerry/broken:1", &["/bin/sh", "-c", "exit"]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.0.lock().unwrap()).into_owned()
    }

    /// Body of `/index.html` on this port.
    pub(crate) async fn page(&self, port: u16) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.split_once("\r\n\r\n")
            .filter(|(head, _)| head.contains(" 200 "))
            .map(|(_, body)| body.to_owned())
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.client.get(PORT, path).await.expect("the kubelet's server answers")
    }

    pub(crate) async fn pods(&self) -> Vec<Value> {
        let (_, body) = self.get("/pods").await;
        let list: Value = serde_json::from_str(&body).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    pub(crate) async fn wait_for_pod(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = async |host: &Host| {
            let pods = host.pods().await;
            pods.into_iter().find(|pod| pod["metadata"]["name"] == name && wanted(pod))
        };
        self.wait_for(name, async |host| found(host).await.is_some()).await;
        found(self).await.expect("it was there a moment ago")
    }

    pub(crate) async fn wait_for(&self, what: &str, condition: impl AsyncFn(&Host) -> bool) {
        let wait = async {
            while !condition(self).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let pods = match self.kubelet {
                Some(_) => serde_json::to_string_pretty(&self.pods().await).unwrap(),
                None => String::new(),
            };
            panic!("waited in vain for {what}; pods: {pods}");
        }
    }

    /// Directories of pods that should be gone.
    pub(crate) fn left_overs(&self) -> Vec<PathBuf> {
        let entries =
            |dir: &str| std::fs::read_dir(self.dir.join(dir)).unwrap().map(|entry| entry.unwrap().path());
        entries("kubelet/pods").chain(entries("logs")).collect()
    }
}

fn init_log(log: Log) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info,kubelet=debug".to_owned());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .init();
    });
}

/// A client whose every request fails, as before the API server is up.
fn no_api_server() -> kube::Client {
    let refuse = |_request: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("no API server"))
    };
    kube::Client::new(tower::service_fn(refuse), "default")
}
