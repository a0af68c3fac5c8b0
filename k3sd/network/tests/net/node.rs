//! The agent and the service proxy on a node, with pods, and a neighbour outside.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::Informers;
use network::{agent, proxy};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::cni::{Plugin, join_outside};
use crate::space::{Answer, Space, get, nft, on_a_node};

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NODES: &str = "/api/v1/nodes";
const LIMIT: Duration = Duration::from_secs(10);

/// A node with everything on it.
struct Node {
    api: Api,
    plugin: Plugin,
    outside: Space,
    directory: tempfile::TempDir,
    cancel: CancellationToken,
    task: Option<std::thread::JoinHandle<()>>,
}

impl Node {
    fn start() -> Self {
        let node = Self {
            api: Api::default(),
            plugin: Plugin::new(json!(["10.42.0.0/24", "fd00:42::/64"])),
            outside: Space::new(),
            directory: tempfile::tempdir().unwrap(),
            cancel: CancellationToken::new(),
            task: None,
        };
        join_outside(&node.outside);
        node
    }

    /// Runs agent and proxy on a thread in this namespace, as the daemon does.
    fn run(&mut self) {
        let here = Here::current();
        let (api, cancel, directory) =
            (self.api.clone(), self.cancel.clone(), self.directory.path().to_owned());
        self.task = Some(std::thread::spawn(move || {
            here.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(components(&api, &directory, cancel));
        }));
    }

    fn conflist(&self) -> PathBuf {
        self.directory.path().join("net.d/10-flannel.conflist")
    }

    fn pod(&self, name: &'static str, address: &str) -> Space {
        let pod = Space::new();
        self.plugin.add(name, &pod);
        pod.serve(&format!("{address}:8080"), name);
        pod
    }

    fn service(&self, name: &str, spec: Value) {
        self.api.put(SERVICES, json!({"metadata": {"name": name}, "spec": spec}));
    }

    fn endpoints(&self, service: &str, protocol: &str, addresses: &[(&str, &str)]) {
        let family = if addresses.iter().any(|(address, _)| address.contains(':')) { "IPv6" } else { "IPv4" };
        let endpoints: Vec<Value> = addresses
            .iter()
            .map(|(address, node)| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}}))
            .collect();
        self.api.put(
            SLICES,
            json!({
                "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
                "addressType": family, "endpoints": endpoints,
                "ports": [{"name": "", "port": 8080, "protocol": protocol}],
            }),
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.join();
        }
    }
}

async fn components(api: &Api, directory: &Path, cancel: CancellationToken) {
    let informers = Informers::new(api.client(), cancel.clone());
    let cluster_cidrs = vec!["10.42.0.0/16".parse().unwrap(), "fd00:42::/56".parse().unwrap()];
    let mut agent_config = agent::Config::new("here", cluster_cidrs.clone());
    agent_config.cni_conf_dir = directory.join("net.d");
    agent_config.cni_bin_dir = directory.join("bin");
    agent_config.subnet_env = directory.join("subnet.env");
    let proxy_config = proxy::Config { node_name: "here".to_owned(), cluster_cidrs };
    let (agent, proxy) = tokio::join!(
        agent::run(agent_config, api.client(), informers.clone(), cancel.clone()),
        proxy::run(proxy_config, api.client(), informers, cancel),
    );
    agent.unwrap();
    proxy.unwrap();
}

/// The calling thread's namespace, for another thread.
struct Here(std::fs::File);

impl Here {
    fn current() -> Self {
        Self(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
    }

    fn enter(&self) {
        nix::sched::setns(&self.0, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    }
}

/// Waits until `condition` holds.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::yield_now();
    }
}

fn rules_contain(text: &str) -> bool {
    let output =
        std::process::Command::new("nft").args(["list", "table", "ip", "skerry-services"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(text)
}

fn server(answer: Result<Answer, String>) -> String {
    answer.unwrap().server
}

fn client(answer: Result<Answer, String>) -> String {
    answer.unwrap().client.ip().to_string()
}

#[test]
fn the_agent_waits_for_pod_networks_then_makes_the_node_ready_and_pods_reach_the_world() {
    on_a_node(|| {
        let mut node = Node::start();
        node.api.put(NODES, json!({"metadata": {"name": "here"}, "spec": {}}));
        node.run();
        node.api.put(NODES, json!({"metadata": {"name": "here"}, "spec": {"podCIDRs": ["10.42.0.0/24"]}}));
        eventually("the configuration is written", || node.conflist().exists());
        let list: Value = serde_json::from_slice(&std::fs::read(node.conflist()).unwrap()).unwrap();
        assert_eq!(list["plugins"][0]["subnets"], json!(["10.42.0.0/24"]));
        assert_eq!(list["plugins"][0]["mtu"], 1500);
        assert!(node.directory.path().join("bin/skerry-cni").exists());

        node.outside.serve("192.0.2.2:80", "world");
        let pod = node.pod("a", "10.42.0.2");
        assert_eq!(client(pod.get("192.0.2.2:80")), "192.0.2.1", "masqueraded");

        // The node gets another network.
        node.api.put(NODES, json!({"metadata": {"name": "here"}, "spec": {"podCIDRs": ["10.42.9.0/24"]}}));
        eventually("the configuration follows", || {
            std::fs::read_to_string(node.conflist()).unwrap().contains("10.42.9.0/24")
        });
        assert!(nft("list table ip skerry-masq").contains("10.42.9.0/24"));
    });
}

#[test]
fn services_answer_from_pods_from_the_host_and_from_outside() {
    on_a_node(|| {
        let mut node = Node::start();
        let (a, b) = (node.pod("a", "10.42.0.2"), node.pod("b", "10.42.0.3"));
        node.service(
            "web",
            json!({
                "type": "NodePort", "clusterIP": "10.43.0.5", "externalIPs": ["198.51.100.7"],
                "ports": [{"port": 80, "nodePort": 30080}],
            }),
        );
        node.endpoints("web", "TCP", &[("10.42.0.2", "here")]);
        node.run();
        eventually("the rules are there", || rules_contain("10.43.0.5"));

        assert_eq!(server(b.get("10.43.0.5:80")), "a");
        assert_eq!(client(b.get("10.43.0.5:80")), "10.42.0.3", "pods keep their address");
        assert_eq!(server(a.get("10.43.0.5:80")), "a", "a pod reaches itself");
        assert_eq!(server(get("10.43.0.5:80")), "a");
        for address in ["192.0.2.1:30080", "127.0.0.1:30080", "198.51.100.7:80"] {
            assert_eq!(server(get(address)), "a", "{address} from the host");
        }
        for address in ["192.0.2.1:30080", "198.51.100.7:80"] {
            assert_eq!(server(node.outside.get(address)), "a", "{address} from outside");
            assert_eq!(server(b.get(address)), "a", "{address} from a pod");
        }

        // Both endpoints get their share.
        node.endpoints("web", "TCP", &[("10.42.0.2", "here"), ("10.42.0.3", "here")]);
        eventually("the second endpoint is used", || server(get("10.43.0.5:80")) == "b");
        eventually("the first endpoint is used", || server(get("10.43.0.5:80")) == "a");

        // None left: refused at once, not timed out.
        node.endpoints("web", "TCP", &[]);
        eventually("connections are refused", || get("10.43.0.5:80").is_err());
        for address in ["192.0.2.1:30080", "198.51.100.7:80"] {
            let refusal = node.outside.get(address).unwrap_err();
            assert!(refusal.contains("refused"), "{address}: {refusal}");
        }
        assert!(b.get("10.43.0.5:80").unwrap_err().contains("refused"));

        node.api.remove(SERVICES, "web");
        eventually("the rules are gone", || !rules_contain("10.43.0.5"));
    });
}

#[test]
fn a_local_policy_keeps_the_clients_address_and_drops_without_local_endpoints() {
    on_a_node(|| {
        let mut node = Node::start();
        let _a = node.pod("a", "10.42.0.2");
        node.service(
            "web",
            json!({
                "type": "NodePort", "clusterIP": "10.43.0.5", "externalTrafficPolicy": "Local",
                "ports": [{"port": 80, "nodePort": 30080}],
            }),
        );
        node.endpoints("web", "TCP", &[("10.42.0.2", "here")]);
        node.run();
        eventually("the rules are there", || rules_contain("10.43.0.5"));
        assert_eq!(client(node.outside.get("192.0.2.1:30080")), "192.0.2.2");
        assert_eq!(server(get("192.0.2.1:30080")), "a");
        assert_eq!(server(get("127.0.0.1:30080")), "a");

        node.endpoints("web", "TCP", &[("10.42.0.2", "elsewhere")]);
        eventually("no endpoint is local", || node.outside.get("192.0.2.1:30080").is_err());
        let silence = node.outside.get("192.0.2.1:30080").unwrap_err();
        assert!(!silence.contains("refused"), "{silence}");
        assert_eq!(server(get("192.0.2.1:30080")), "a", "the node itself may use any endpoint");
    });
}

#[test]
fn sticky_clients_stay_with_their_endpoint_and_move_when_it_goes() {
    on_a_node(|| {
        let mut node = Node::start();
        let (_a, _b) = (node.pod("a", "10.42.0.2"), node.pod("b", "10.42.0.3"));
        node.service(
            "web",
            json!({
                "clusterIP": "10.43.0.5", "sessionAffinity": "ClientIP", "ports": [{"port": 80}],
            }),
        );
        node.endpoints("web", "TCP", &[("10.42.0.2", "here"), ("10.42.0.3", "here")]);
        node.run();
        eventually("the rules are there", || rules_contain("10.43.0.5"));
        let first = server(get("10.43.0.5:80"));
        for _ in 0..20 {
            assert_eq!(server(get("10.43.0.5:80")), first);
        }
        let (rest, other) = if first == "a" { ("10.42.0.3", "b") } else { ("10.42.0.2", "a") };
        node.endpoints("web", "TCP", &[(rest, "here")]);
        eventually("the client moves", || get("10.43.0.5:80").is_ok_and(|answer| answer.server == other));
    });
}

#[test]
fn rules_that_others_removed_come_back_with_the_next_change_and_stale_ones_go_at_the_start() {
    on_a_node(|| {
        let mut node = Node::start();
        nft("add table ip skerry-services");
        nft("add chain ip skerry-services stale");
        nft("add table ip6 skerry-services");
        let _a = node.pod("a", "10.42.0.2");
        node.service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]}));
        node.endpoints("web", "TCP", &[("10.42.0.2", "here")]);
        node.run();
        eventually("the rules are there", || rules_contain("10.43.0.5"));
        assert!(!rules_contain("stale"));
        eventually("IPv6 has no table", || !nft("list tables").contains("ip6 skerry-services"));

        nft("flush ruleset");
        node.service("other", json!({"clusterIP": "10.43.0.6", "ports": [{"port": 80}]}));
        eventually("the rules are back", || rules_contain("10.43.0.5") && rules_contain("10.43.0.6"));
        assert_eq!(server(get("10.43.0.5:80")), "a");

        // An orderly stop keeps the rules.
        node.cancel.cancel();
        node.task.take().unwrap().join().unwrap();
        assert_eq!(server(get("10.43.0.5:80")), "a");
    });
}

#[test]
fn ipv6_services_have_a_table_of_their_own() {
    on_a_node(|| {
        let mut node = Node::start();
        let (a, b) = (node.pod("a", "10.42.0.2"), node.pod("b", "10.42.0.3"));
        a.serve("[fd00:42::2]:8080", "a6");
        node.service(
            "web",
            json!({
                "type": "NodePort", "clusterIP": "fd00:43::5", "ipFamilies": ["IPv6"],
                "ports": [{"port": 80, "nodePort": 30080}],
            }),
        );
        node.endpoints("web", "TCP", &[("fd00:42::2", "here")]);
        node.run();
        eventually("the rules are there", || b.get("[fd00:43::5]:80").is_ok());
        assert_eq!(client(b.get("[fd00:43::5]:80")), "fd00:42::3", "pods keep their address");
        assert_eq!(server(a.get("[fd00:43::5]:80")), "a6", "a pod reaches itself");
        assert_eq!(server(b.get("[fd00:42::1]:30080")), "a6");
        assert_eq!(server(get("[fd00:42::1]:30080")), "a6");
        assert!(!nft("list table ip skerry-services").contains("30080"));
    });
}

#[test]
fn udp_clients_that_never_pause_move_to_the_endpoints_there_are() {
    on_a_node(|| {
        let mut node = Node::start();
        let (a, b) = (node.pod("a", "10.42.0.2"), node.pod("b", "10.42.0.3"));
        a.answer_datagrams("10.42.0.2:8080", "a");
        b.answer_datagrams("10.42.0.3:8080", "b");
        node.service(
            "dns",
            json!({
                "type": "NodePort", "clusterIP": "10.43.0.10",
                "ports": [{"port": 53, "nodePort": 30053, "protocol": "UDP"}],
            }),
        );
        node.endpoints("dns", "UDP", &[("10.42.0.2", "here")]);
        node.run();
        eventually("the rules are there", || rules_contain("10.43.0.10"));
        let (inside, outside) =
            (Asker::new(&b, "10.43.0.10:53"), Asker::new(&node.outside, "192.0.2.1:30053"));
        assert_eq!((inside.ask().as_str(), outside.ask().as_str()), ("a", "a"));
        node.endpoints("dns", "UDP", &[("10.42.0.3", "here")]);
        eventually("the pod's socket moves", || inside.ask() == "b");
        eventually("the neighbour's socket moves", || outside.ask() == "b");
    });
}

/// One UDP socket that asks again and again.
struct Asker(std::net::UdpSocket);

impl Asker {
    fn new(space: &Space, address: &str) -> Self {
        let socket = space.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Self(socket)
    }

    /// Empty if nobody answers in time.
    fn ask(&self) -> String {
        let mut buffer = [0; 16];
        let asked = self.0.send(b"?").and_then(|_| self.0.recv(&mut buffer));
        String::from_utf8_lossy(&buffer[..asked.unwrap_or(0)]).into_owned()
    }
}
