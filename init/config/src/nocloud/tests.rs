use proptest::prelude::*;

use super::*;
use crate::{NodeConfig, Role, resolve};

fn cloud(files: &[(&'static str, &str)]) -> Cloud {
    let mut cloud = CloudFiles::new("/dev/sr0 (cidata)/");
    for (name, text) in files {
        cloud.add(name, text.as_bytes().to_owned());
    }
    cloud.read()
}

/// The configuration that `files` give, and the keys that were ignored.
fn told(files: &[(&'static str, &str)]) -> (NodeConfig, Vec<String>) {
    let cloud = cloud(files);
    assert_eq!(cloud.mistakes, []);
    let resolved = resolve(&[cloud.layer]);
    assert_eq!(resolved.mistakes, []);
    (resolved.config, cloud.ignored.into_iter().map(|ignored| ignored.key).collect())
}

fn toml(text: &str) -> NodeConfig {
    let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
    assert_eq!(resolved.mistakes, []);
    resolved.config
}

#[test]
fn user_data_becomes_our_document_and_what_is_not_done_is_told() {
    let user_data = "#cloud-config
hostname: edge-1
fqdn: edge-1.example
users: [default]
package_upgrade: true
ntp:
  servers: [ntp.example]
  pools: [pool.example]
write_files:
  - path: /etc/motd
    content: |
      hello
    permissions: '0600'
    owner: root:root
  - path: /etc/bin
    encoding: gz+b64
    content: H4sIAAAAAAAC/8tIzcnJBwCGphA2BQAAAA==
  - path: /etc/rancher/k3s/config.yaml
    content: |
      disable: [traefik]
      token: abc
k3s:
  role: server
  cluster-init: true
";
    let (config, ignored) =
        told(&[("user-data", user_data), ("meta-data", "instance-id: i-1\nlocal-hostname: other\n")]);
    let expected = toml(
        r#"
        node = { role = "server", hostname = "edge-1", token = "abc" }
        time.servers = ["ntp.example", "pool.example"]
        k3s = { disable = ["traefik"], cluster-init = true }
        [[files]]
        path = "/etc/motd"
        content = "hello\n"
        permissions = "0600"
        [[files]]
        path = "/etc/bin"
        content = "hello"
        "#,
    );
    assert_eq!(ignored, ["package_upgrade", "users"]);
    assert_eq!((config.node, config.time, config.k3s), (expected.node, expected.time, expected.k3s));
    let contents: Vec<_> = config.files.iter().map(|file| file.content.as_slice()).collect();
    assert_eq!(contents, [&b"hello\n"[..], &b"hello"[..]]);
}

#[test]
fn k3os_and_command_lines_are_understood() {
    let user_data = "#cloud-config
k3os:
  server_url: https://a:6443
  token: t
  labels: {disk: ssd}
  modules: [wireguard]
  sysctl: {vm.swappiness: 10}
  k3s_args: [agent, --node-ip, 10.0.0.5, --kubelet-arg=max-pods=20, --protect-kernel-defaults, --lb-server-port=6445]
  password: x
";
    let (config, ignored) = told(&[("user-data", user_data)]);
    let expected = toml(
        r#"
        modules = ["wireguard"]
        sysctl = { "vm.swappiness" = 10 }
        [node]
        role = "agent"
        server = "https://a:6443"
        token = "t"
        labels = { disk = "ssd" }
        [k3s]
        node-ip = "10.0.0.5"
        kubelet-arg = ["max-pods=20"]
        protect-kernel-defaults = true
        lb-server-port = 6445
        "#,
    );
    assert_eq!(ignored, ["k3os.password"]);
    assert_eq!(config, expected);
}

#[test]
fn our_own_document_may_stand_in_user_data() {
    let (config, _) =
        told(&[("user-data", "#cloud-config\nskerry:\n  node: {role: server}\n  log: {level: warn}\n")]);
    assert_eq!((config.node.role, config.log.level), (Some(Role::Server), crate::Level::Warn));
}

#[test]
fn user_data_that_is_no_cloud_config_is_a_mistake_that_says_what_it_is() {
    for (text, kind) in [
        ("#!/bin/sh\necho", "a script"),
        ("## template: jinja\n#cloud-config", "a template"),
        ("Content-Type: multipart/mixed", "several parts"),
        ("\u{1f}\u{8b}", "a line that is not shown"),
    ] {
        let told = cloud(&[("user-data", text)]).mistakes[0].to_string();
        assert!(told.contains(kind), "{told}");
    }
}

#[test]
fn a_mistake_in_a_value_names_the_file_its_line_and_our_key() {
    let cloud = cloud(&[("user-data", "#cloud-config\nhostname: Bad_Name\n")]);
    let told = resolve(&[cloud.layer]).mistakes[0].to_string();
    assert!(told.starts_with("/dev/sr0 (cidata)/user-data:2: node.hostname: given \"Bad_Name\""), "{told}");
}

#[test]
fn network_config_of_both_versions_gives_the_same_network() {
    let v2 = "
version: 2
ethernets:
  eth0:
    match: {macaddress: '52:54:00:12:34:56'}
    addresses: [10.0.0.5/24]
    gateway4: 10.0.0.1
    nameservers: {addresses: [1.1.1.1], search: [example.com]}
    routes: [{to: 10.9.0.0/16, via: 10.0.0.9, metric: 5}]
    mtu: 9000
  eth1: {dhcp4: true, optional: true}
vlans:
  vlan5: {id: 5, link: eth0, addresses: [10.5.0.5/24]}
";
    let v1 = "
network:
  version: 1
  config:
    - type: physical
      name: eth0
      mac_address: '52:54:00:12:34:56'
      mtu: 9000
      subnets:
        - type: static
          address: 10.0.0.5
          netmask: 255.255.255.0
          gateway: 10.0.0.1
          routes: [{destination: 10.9.0.0, netmask: 255.255.0.0, gateway: 10.0.0.9, metric: 5}]
    - {type: physical, name: eth1, subnets: [{type: dhcp}]}
    - {type: vlan, name: vlan5, vlan_link: eth0, vlan_id: 5, subnets: [{type: static, address: 10.5.0.5/24}]}
    - {type: nameserver, address: 1.1.1.1, search: [example.com]}
    - {type: loopback, name: lo}
";
    let ((one, nothing), (two, none)) = (told(&[("network-config", v1)]), told(&[("network-config", v2)]));
    assert_eq!((one.network.clone(), nothing, none), (two.network, vec![], vec![]));
    assert_eq!(one.network.interfaces.len(), 3);
    assert_eq!(one.network.interfaces[0].addresses, ["10.0.0.5/24".parse().unwrap()]);
}

#[test]
fn ids_of_netplan_are_labels_where_something_else_finds_the_link() {
    let v2 = "
version: 2
ethernets:
  uplink: {match: {macaddress: '52:54:00:12:34:56'}, set-name: lan0}
  all: {match: {name: 'en*'}, dhcp4: true}
  all-the-ports-there-are: {match: {driver: virtio_net}, dhcp4: true}
  port: {match: {macaddress: '52:54:00:12:34:57'}}
  eth7: {set-name: x0}
vlans:
  v5: {id: 5, link: uplink, addresses: [10.5.0.5/24]}
bonds:
  bond0: {interfaces: [port, eth7], dhcp4: true}
";
    let (config, ignored) = told(&[("network-config", v2)]);
    let expected = toml(
        r#"
        [[network.interfaces]]
        name = "bond0"
        bond = { members = ["port", "x0"] }
        dhcp = true
        [[network.interfaces]]
        match = { name = "en*" }
        dhcp = true
        [[network.interfaces]]
        match = { driver = "virtio_net" }
        dhcp = true
        [[network.interfaces]]
        name = "x0"
        match = { name = "eth7" }
        dhcp = false
        [[network.interfaces]]
        name = "port"
        match = { mac = "52:54:00:12:34:57" }
        dhcp = false
        [[network.interfaces]]
        name = "lan0"
        match = { mac = "52:54:00:12:34:56" }
        dhcp = false
        [[network.interfaces]]
        name = "v5"
        vlan = { id = 5, link = "lan0" }
        addresses = ["10.5.0.5/24"]
        dhcp = false
        "#,
    );
    assert_eq!(ignored, Vec::<String>::new());
    assert_eq!(config.network, expected.network);
}

#[test]
fn a_file_to_be_appended_to_is_not_written_over() {
    let user_data = "#cloud-config
write_files:
  - {path: /etc/motd, content: hello, append: true}
  - {path: /etc/issue, content: hello, append: false}
";
    let (config, ignored) = told(&[("user-data", user_data)]);
    assert_eq!(ignored, ["write_files[0].append"]);
    assert_eq!(config.files.iter().map(|file| &file.path).collect::<Vec<_>>(), ["/etc/issue"]);
}

#[test]
fn user_data_without_its_first_line_shows_no_secret() {
    let told = cloud(&[("user-data", "token: hidden\n")]).mistakes[0].to_string();
    assert!(told.contains("given \"token: ...\"") && !told.contains("hidden"), "{told}");
}

#[test]
fn a_bond_and_what_netplan_can_do_and_we_cannot_is_told() {
    let v2 = "
version: 2
ethernets: {eth0: {wakeonlan: true}, eth1: {dhcp6: true}}
bonds: {bond0: {interfaces: [eth0, eth1], dhcp4: true, parameters: {mode: 802.3ad, lacp-rate: fast}}}
wifis: {}
";
    let (config, ignored) = told(&[("network-config", v2)]);
    assert_eq!(
        ignored,
        ["bonds.bond0.parameters.lacp-rate", "ethernets.eth0.wakeonlan", "ethernets.eth1.dhcp6", "wifis"]
    );
    let bond = config
        .network
        .interfaces
        .iter()
        .find(|interface| interface.name.as_deref() == Some("bond0"))
        .unwrap();
    assert!(matches!(&bond.kind, crate::network::Kind::Bond { members, .. } if members == &["eth0", "eth1"]));
}

proptest! {
    #[test]
    fn no_file_panics(name in 0usize..4, text in "(#cloud-config\n)?([a-z0-9_]{0,8}: ?[-a-z0-9\\[\\]{},.:/'\"|]{0,20}\n {0,4}-? ?){0,12}") {
        let cloud = cloud(&[(CloudFiles::NAMES[name], &text)]);
        let _ = resolve(&[cloud.layer]);
    }

    #[test]
    fn no_bytes_panic(name in 0usize..4, bytes: Vec<u8>) {
        let mut cloud = CloudFiles::new("");
        cloud.add(CloudFiles::NAMES[name], bytes.clone());
        let _ = cloud.read();
        if let Ok(layer) = Layer::toml("t", &bytes) {
            let _ = resolve(&[layer]);
        }
    }

    #[test]
    fn no_words_panic(words in prop::collection::vec(("[a-z.'-]{0,20}", prop::option::of(".{0,20}")), 0..8)) {
        let words: Vec<_> = words.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        let _ = resolve(&[Layer::words(words)]);
    }
}
