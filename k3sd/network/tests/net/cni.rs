//! The CNI plugin as the runtime runs it: a program with an environment and standard input.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::space::{Space, get, ip, nft, on_a_node};

pub(crate) struct Plugin {
    data: tempfile::TempDir,
    subnets: Value,
    version: &'static str,
}

impl Plugin {
    pub(crate) fn new(subnets: Value) -> Self {
        Self { data: tempfile::tempdir().unwrap(), subnets, version: "1.0.0" }
    }

    fn run(
        &self,
        command: &str,
        container: &str,
        netns: Option<&Path>,
        extra: Value,
    ) -> Result<Value, Value> {
        let mut input = json!({
            "cniVersion": self.version, "name": "cbr0", "type": "skerry-cni", "bridge": "cni0", "mtu": 1400,
            "isDefaultGateway": true, "hairpinMode": true, "forceAddress": true,
            "subnets": self.subnets, "dataDir": self.data.path(),
        });
        input.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut process = Command::new(env!("CARGO_BIN_EXE_skerry-cni"));
        process.env("CNI_COMMAND", command).env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
        process.env("CNI_PATH", "/opt/cni/bin").env("CNI_NETNS", netns.unwrap_or(Path::new("")));
        let mut child = process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() { Ok(answer) } else { Err(answer) }
    }

    pub(crate) fn add(&self, container: &str, pod: &Space) -> Value {
        self.run("ADD", container, Some(&pod.path()), json!({})).unwrap()
    }

    fn add_with_port(&self, container: &str, pod: &Space, port: u16) -> Result<Value, Value> {
        let mappings = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
        let extra = json!({"runtimeConfig": {"portMappings": mappings}});
        self.run("ADD", container, Some(&pod.path()), extra)
    }

    fn del(&self, container: &str, netns: Option<&Path>) {
        self.run("DEL", container, netns, json!({})).unwrap();
    }
}

#[test]
fn pods_reach_each_other_the_host_and_are_reached_with_their_own_addresses() {
    on_a_node(|| {
        let plugin = Plugin::new(json!(["10.42.0.0/24", "fd00:42::/64"]));
        let (a, b) = (Space::new(), Space::new());
        let first = plugin.add("a", &a);
        let second = plugin.add("b", &b);
        assert_eq!(first["ips"][0]["address"], "10.42.0.2/24");
        assert_eq!(second["ips"][0]["address"], "10.42.0.3/24");
        assert_eq!(second["ips"][1]["address"], "fd00:42::3/64");
        assert_eq!(second["interfaces"][2]["mac"], "0a:58:0a:2a:00:03");
        b.serve("10.42.0.3:80", "b");
        b.serve("[fd00:42::3]:80", "b6");
        b.serve("127.0.0.1:80", "loopback");
        let answer = a.get("10.42.0.3:80").unwrap();
        assert_eq!((answer.server.as_str(), answer.client.ip().to_string().as_str()), ("b", "10.42.0.2"));
        assert_eq!(a.get("[fd00:42::3]:80").unwrap().client.ip().to_string(), "fd00:42::2");
        assert_eq!(get("10.42.0.3:80").unwrap().client.ip().to_string(), "10.42.0.1");
        assert_eq!(b.get("127.0.0.1:80").unwrap().server, "loopback");
        plugin.run("CHECK", "b", Some(&b.path()), json!({"prevResult": second})).unwrap();
    });
}

#[test]
fn del_releases_everything_twice_over_and_without_a_namespace() {
    on_a_node(|| {
        let plugin = Plugin::new(json!(["10.42.0.0/24"]));
        let pod = Space::new();
        plugin.add("a", &pod);
        plugin.del("a", None);
        plugin.del("a", Some(Path::new("/nowhere")));
        assert!(
            pod.enter(|| Command::new("ip")
                .args(["link", "show", "eth0"])
                .output()
                .unwrap()
                .stdout
                .is_empty())
        );
        let left = std::fs::read_dir(plugin.data.path().join("cbr0/attachments")).unwrap().count();
        assert_eq!(left, 0);
        assert!(!plugin.data.path().join("cbr0/10.42.0.2").exists());
        // The same container may come back.
        plugin.add("a", &pod);
    });
}

#[test]
fn a_container_with_unreadable_ports_is_refused_and_can_be_taken_away() {
    on_a_node(|| {
        let plugin = Plugin::new(json!(["10.42.0.0/24"]));
        let pod = Space::new();
        let extra = json!({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "x"}]}});
        let error = plugin.run("ADD", "a", Some(&pod.path()), extra.clone()).unwrap_err();
        assert_eq!(error["code"], 6);
        plugin.run("DEL", "a", Some(&pod.path()), extra).unwrap();
    });
}

#[test]
fn a_failed_add_leaves_nothing_behind() {
    on_a_node(|| {
        let plugin = Plugin::new(json!(["10.42.0.0/24"]));
        let error = plugin.run("ADD", "a", Some(Path::new("/nowhere")), json!({})).unwrap_err();
        assert_eq!(error["code"], 100);
        assert_eq!(error["msg"], "failed to open network namespace '/nowhere'");
        assert!(!plugin.data.path().join("cbr0/10.42.0.2").exists());
    });
}

#[test]
fn check_finds_what_was_changed_behind_its_back() {
    on_a_node(|| {
        let plugin = Plugin::new(json!(["10.42.0.0/24"]));
        let pod = Space::new();
        let result = plugin.add("a", &pod);
        let check = || plugin.run("CHECK", "a", Some(&pod.path()), json!({"prevResult": result}));
        check().unwrap();
        pod.enter(|| ip("route del default"));
        assert_eq!(
            check().unwrap_err()["msg"],
            "attachment is not as it was made: the container lacks a default route"
        );
        let unknown = plugin.run("CHECK", "other", Some(&pod.path()), json!({"prevResult": result}));
        assert_eq!(unknown.unwrap_err()["code"], 3);
    });
}

#[test]
fn a_new_subnet_replaces_the_bridges_address() {
    on_a_node(|| {
        let mut plugin = Plugin::new(json!(["10.42.0.0/24"]));
        plugin.add("a", &Space::new());
        plugin.subnets = json!(["10.42.7.0/24"]);
        let pod = Space::new();
        let result = plugin.add("b", &pod);
        assert_eq!(result["ips"][0]["gateway"], "10.42.7.1");
        let output = Command::new("ip").args(["-4", "-o", "address", "show", "cni0"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("10.42.7.1/24") && !text.contains("10.42.0.1/24"), "{text}");
    });
}

#[test]
fn host_ports_answer_from_outside_from_the_host_and_from_pods() {
    on_a_node(|| {
        let plugin = Plugin::new(json!(["10.42.0.0/24"]));
        let (outside, server, client) = (Space::new(), Space::new(), Space::new());
        join_outside(&outside);
        plugin.add_with_port("server", &server, 8080).unwrap();
        plugin.add("client", &client);
        server.serve("10.42.0.2:80", "server");
        let answer = outside.get("192.0.2.1:8080").unwrap();
        assert_eq!(answer.client.ip().to_string(), "192.0.2.2", "the client's address is kept");
        assert_eq!(get("127.0.0.1:8080").unwrap().server, "server");
        assert_eq!(get("192.0.2.1:8080").unwrap().server, "server");
        assert_eq!(client.get("192.0.2.1:8080").unwrap().client.ip().to_string(), "10.42.0.3");
        assert_eq!(server.get("192.0.2.1:8080").unwrap().server, "server", "a pod reaches itself");

        plugin.del("server", Some(&server.path()));
        assert!(outside.get("192.0.2.1:8080").is_err());
        assert!(!nft("list table inet skerry-hostports").contains("8080"));
    });
}

#[test]
fn a_host_port_is_one_pods_until_that_pod_is_gone() {
    on_a_node(|| {
        let plugin = Plugin::new(json!(["10.42.0.0/24"]));
        let first = Space::new();
        plugin.add_with_port("first", &first, 8080).unwrap();
        let error = plugin.add_with_port("second", &Space::new(), 8080).unwrap_err();
        assert_eq!(error["msg"], "host port tcp . 8080 is in use by container 'first'");
        assert!(!plugin.data.path().join("cbr0/10.42.0.3").exists());
        // Its namespace vanishes without a DEL.
        let second = Space::new();
        drop(first);
        plugin.add_with_port("second", &second, 8080).unwrap();
    });
}

#[test]
fn as_loopback_it_brings_up_lo_and_nothing_else() {
    on_a_node(|| {
        let plugin = Plugin::new(json!([]));
        let pod = Space::new();
        let extra = json!({"type": "loopback", "cniVersion": "0.3.1", "name": "cni-loopback"});
        let result = plugin.run("ADD", "a", Some(&pod.path()), extra.clone()).unwrap();
        assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
        assert_eq!(result["interfaces"][0]["name"], "lo");
        plugin.run("CHECK", "a", Some(&pod.path()), extra.clone()).unwrap();
        plugin.run("DEL", "a", None, extra).unwrap();
    });
}

#[test]
fn garbage_collection_removes_what_the_runtime_does_not_know() {
    on_a_node(|| {
        let mut plugin = Plugin::new(json!(["10.42.0.0/24"]));
        plugin.version = "1.1.0";
        let (kept, gone) = (Space::new(), Space::new());
        plugin.add("kept", &kept);
        plugin.add("gone", &gone);
        let valid = json!({"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}]});
        plugin.run("GC", "", None, valid).unwrap();
        assert!(plugin.data.path().join("cbr0/10.42.0.2").exists());
        assert!(!plugin.data.path().join("cbr0/10.42.0.3").exists());
        plugin.run("STATUS", "", None, json!({})).unwrap();
        let versions = plugin.run("VERSION", "", None, json!({})).unwrap();
        assert_eq!(versions["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    });
}

/// Joins `outside` to the node by a cable: the node is 192.0.2.1, outside is 192.0.2.2.
pub(crate) fn join_outside(outside: &Space) {
    ip("link add uplink type veth peer name eth0");
    ip(&format!("link set eth0 netns {}", outside.path().display()));
    ip("address add 192.0.2.1/24 dev uplink");
    ip("link set uplink up");
    outside.enter(|| {
        ip("link set lo up");
        ip("address add 192.0.2.2/24 dev eth0");
        ip("link set eth0 up");
        ip("route add default via 192.0.2.1");
    });
    ip("route add default via 192.0.2.2");
}
