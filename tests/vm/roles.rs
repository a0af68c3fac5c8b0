//! Roles: a machine that is told to be an agent starts `k3sd agent`, which goes to the server that it was told.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use qemu::Cluster;
use tests::inside::Inside;
use tests::machine::{boot, boot_all, machine};

/// First byte of a TLS handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_knocks_at_the_server_that_the_kernel_command_line_names() {
    // From inside a machine 10.0.2.2 is this host, so the server can be a port of the test.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let words = format!(
        "skerry.role=agent skerry.hostname=worker skerry.server=https://10.0.2.2:{port} skerry.token=a-secret"
    );
    let mut vm = boot(machine().append(&words)).await;
    let first = vm
        .until("connection of the agent", move || {
            let (mut stream, _) = listener.accept().ok()?;
            stream.set_nonblocking(false).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
            let mut first = [0];
            stream.read_exact(&mut first).ok()?;
            Some(first[0])
        })
        .await;
    assert_eq!(first, TLS_HANDSHAKE, "the agent speaks TLS from the first byte");
    assert!(vm.console().contains("worker"), "{}", vm.console().text());
    assert!(!vm.console().contains("a-secret"), "secrets are not shown");
    vm.power_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_its_server_and_both_are_ready() {
    let cluster = Cluster::new().unwrap();
    let mut nodes = boot_all((1..=2).map(|number| cluster.node(machine(), number)).collect()).await;
    for node in &mut nodes {
        node.ready().await;
    }
    let kubectl = nodes[0].kubectl().await;
    let ready = kubectl.ok(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=240s"]);
    assert!(ready.contains("node1") && ready.contains("node2"), "{ready}");
    let addresses = kubectl.ok(&[
        "get",
        "nodes",
        "-o",
        "jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}",
    ]);
    assert_eq!(addresses, format!("{} {}", Cluster::address(1), Cluster::address(2)));
    tokio::task::block_in_place(|| {
        let flags = Inside::new(&kubectl, &Cluster::name(2)).read("/etc/rancher/k3s/config.yaml");
        let server = format!("server: \"https://{}:6443\"\n", Cluster::address(1));
        assert!(flags.contains(&server) && flags.contains("token: \""), "{flags}");
        assert!(flags.contains(&format!("node-ip:\n  - \"{}\"", Cluster::address(2))), "{flags}");
    });
}
