//! What a machine makes of what it is told: every source, in its order; and of what is wrong in them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use disk::fat;
use qemu::{Disk, State, Volume};
use tests::inside::Inside;
use tests::machine::{STEP, boot, machine};
use tests::{Kubectl, wait_for};

const CREDENTIAL: &str = "skerry.config";
const ACCEPTED_IS_USED: &str =
    "skerry: configuration: what was found has mistakes; the one accepted last is used";
const NO_SERVICE: &str = "skerry: maintenance: no service is started";

/// `user` and `password`, as HTTP carries them.
const AUTHORIZATION: &str = "Basic dXNlcjpwYXNzd29yZA==";

/// NoCloud's files, and beside them a document of our own that wins over them. `mirror` is a port of this host.
fn cidata(mirror: u16) -> Volume {
    Volume::new("CIDATA")
        .file("meta-data", "instance-id: i-1\nlocal-hostname: from-meta-data\n")
        .file("user-data", user_data(mirror))
        .file(
            "network-config",
            r#"version: 2
ethernets:
  first:
    match: {macaddress: "52:54:00:53:00:01"}
    set-name: uplink
    dhcp4: true
    addresses: [10.0.2.77/24]
"#,
        )
        .file(
            "config.toml",
            r#"
[node]
role = "server"
labels = { volume = "yes", source = "volume" }

[sysctl]
vm.max_map_count = 262145

[boot]
watchdog = 90
"#,
        )
}

fn user_data(mirror: u16) -> String {
    format!(
        r#"#cloud-config
hostname: edge-1
runcmd: [reboot]
write_files:
- path: /etc/rancher/k3s/registries.yaml
  content: |
    mirrors:
      docker.io:
        endpoint: ["http://10.0.2.2:{mirror}"]
    configs:
      "10.0.2.2:{mirror}":
        auth: {{username: user, password: password}}
- path: /etc/from-nocloud
  encoding: b64
  content: Z3JlZXRpbmdzCg==
k3s:
  kubelet-arg: [max-pods=77]
  disable-default-registry-endpoint: true
"#
    )
}

const SMBIOS: &str =
    "io.systemd.credential:skerry.config=node.labels = { smbios = \"yes\", source = \"smbios\" }";
const FW_CFG: &str = "[node.labels]\nfw_cfg = \"yes\"\nsource = \"fw_cfg\"\n";

/// A document that someone was writing when the card was pulled out.
const HALF_WRITTEN: &str = "[node]\nrole = \"server\"\nhostname = \"ed";

#[tokio::test(flavor = "multi_thread")]
async fn every_source_counts_in_its_order_and_what_was_accepted_outlives_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::File(dir.path().join("state.img"));

    let (mirror, requests) = empty_mirror();
    let told = machine()
        .state(state.clone())
        .volume(cidata(mirror))
        .smbios(SMBIOS)
        .credential(CREDENTIAL, FW_CFG)
        .append("skerry.node.labels.source=command-line skerry.modules=dummy")
        .qemu_arguments(["-device", "i6300esb"]);
    let mut vm = boot(told).await;
    vm.line("skerry: configuration: what was found is accepted").await;
    let ignored = vm.line("skerry: problem: ignored: ").await;
    assert!(ignored.contains("(CIDATA)/user-data:3: runcmd: "), "{ignored}");
    vm.line("skerry: network ready uplink 10.0.2.77/24").await;
    vm.ready().await;
    assert!(vm.console().contains("armed, 90 s"), "the watchdog has another time");
    let kubectl = vm.kubectl().await;
    tokio::task::block_in_place(|| {
        let node = |path: &str| kubectl.ok(&["get", "node", "edge-1", "-o", &format!("jsonpath={{{path}}}")]);
        for (label, expected) in
            [("volume", "yes"), ("smbios", "yes"), ("fw_cfg", "yes"), ("source", "command-line")]
        {
            assert_eq!(node(&format!(".metadata.labels.{label}")), expected, "{label}");
        }
        assert_eq!(node(".status.capacity.pods"), "77", "the flag has reached the kubelet");
        look_inside(&Inside::new(&kubectl, "edge-1"));
        only_the_mirror_is_asked(&kubectl, &requests);
    });
    vm.power_off().await;

    let told = machine()
        .state(state)
        .volume(Volume::new("CONFIG").file("config.toml", HALF_WRITTEN))
        .credential(CREDENTIAL, "[node]\ncolour = \"red\"\n")
        .append("skerry.bogus=1");
    let mut vm = boot(told).await;
    vm.line(ACCEPTED_IS_USED).await;
    for mistake in [
        "(CONFIG)/config.toml:3: (syntax): given \"hostname = ...\"; allowed: ",
        "fw_cfg opt/io.systemd.credentials/skerry.config:2: node.colour: given an unknown key, \"colour\"; allowed: role, ",
        "kernel command line: skerry.bogus: bogus: given an unknown key, \"bogus\"; allowed: node, network, ",
    ] {
        let line = vm.line(mistake).await;
        assert!(line.contains("skerry: problem: "), "{line}");
    }
    vm.ready().await;
    let kubectl = vm.kubectl().await;
    tokio::task::block_in_place(|| {
        let inside = Inside::again(&kubectl);
        let flags = wait_for("a look inside", STEP, || inside.try_read("/etc/rancher/k3s/config.yaml"));
        assert!(flags.contains("\"source=fw_cfg\"") && flags.contains("\"smbios=yes\""), "{flags}");
        kubectl.ok(&["wait", "--for=condition=Ready", "node/edge-1", "--timeout=240s"]);
    });
    vm.power_off().await;
}

/// What only the machine's own files tell.
fn look_inside(inside: &Inside<'_>) {
    assert_eq!(inside.read("/etc/from-nocloud"), "greetings\n");
    assert_eq!(inside.read("/proc/sys/vm/max_map_count").trim(), "262145");
    let flags = inside.read("/etc/rancher/k3s/config.yaml");
    assert!(flags.contains("kubelet-arg:\n  - \"max-pods=77\""), "{flags}");
    let registries = inside.read("/etc/rancher/k3s/registries.yaml");
    assert!(registries.contains("endpoint:\n      - \"http://10.0.2.2:"), "{registries}");
    assert!(inside.read("/proc/modules").lines().any(|line| line.starts_with("dummy ")));
}

/// A registry that has nothing, on this host's loopback address, which the machine reaches as 10.0.2.2. Gives its port, and what it is asked
/// by those who say who they are: each request's first line.
fn empty_mirror() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel();
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that went away has asked nothing.
            let asked = answer(&stream).ok().flatten();
            if asked.is_some_and(|request| sender.send(request).is_err()) {
                return;
            }
        }
    });
    (port, receiver)
}

fn answer(mut stream: &TcpStream) -> std::io::Result<Option<String>> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut known = false;
    for line in lines {
        let line = line?;
        known |= line.split_once(": ").is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("authorization") && value == AUTHORIZATION
        });
        if line.is_empty() {
            break;
        }
    }
    let status = match known {
        true => "404 Not Found",
        false => "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"mirror\"",
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(known.then_some(request))
}

/// containerd asks the mirror with the credentials that are configured for it, and nobody else when it does not have the image.
fn only_the_mirror_is_asked(kubectl: &Kubectl, requests: &mpsc::Receiver<String>) {
    kubectl.ok(&["run", "absent", "--image=docker.io/library/absent:1"]);
    let request = requests.recv_timeout(STEP).expect("the mirror is asked");
    assert!(request.contains(" /v2/library/absent/manifests/1?ns=docker.io "), "{request}");
    // The pod's own status goes over to "Back-off pulling image" soon, without a reason.
    let about = "--field-selector=involvedObject.name=absent,reason=Failed";
    let told = wait_for("reason of the failed pull", STEP, || {
        let told = kubectl.ok(&["get", "events", about, "-o", "jsonpath={.items[*].message}"]);
        told.contains("Failed to pull image").then_some(told)
    });
    assert!(told.contains("not found") && !told.contains("registry-1.docker.io"), "{told}");
    kubectl.ok(&["delete", "pod", "absent", "--now"]);
}

/// Mistakes of every kind.
const FULL_OF_MISTAKES: &str = r#"
[node]
role = "boss"
hostname = "Edge_1"
colour = "red"
token = 12345

[node.labels]
"a/b/c" = "x"

[network]
nameservers = ["1.1.1"]

[[network.interfaces]]
name = "eth0"
addresses = ["10.0.0.300/24"]

[[network.interfaces]]
name = "eth0"

[k3s]
tls-sans = ["a"]
data-dir = "/x"

[[files]]
path = "/usr/bin/x"

[registries.mirrors."docker.io"]
endpoint = "https://mirror.example"

[sysctl]
kernel.modprobe = "/x"

[log]
level = 3

[boot]
root = "/dev/vda2"
watchdog = 5
"#;

/// Line, key, what is given and the beginning of what is allowed.
const MISTAKES: &[(usize, &str, &str, &str)] = &[
    (3, "node.role", "\"boss\"", "server, agent"),
    (4, "node.hostname", "\"Edge_1\"", ""),
    (5, "node.colour", "an unknown key, \"colour\"", "role, hostname, server, token, labels, taints"),
    (6, "node.token", "something else", "the cluster's token"),
    (9, "node.labels.\"a/b/c\"", "the key \"a/b/c\"", "a label's key"),
    (12, "network.nameservers[0]", "\"1.1.1\"", "an IP address"),
    (16, "network.interfaces[0].addresses[0]", "\"10.0.0.300/24\"", ""),
    (19, "network.interfaces[1].name", "\"eth0\"", ""),
    (22, "k3s.tls-sans", "an unknown key, \"tls-sans\"", ""),
    (23, "k3s.data-dir", "a flag that the appliance decides", "nothing: it is /var/lib/rancher/k3s"),
    (26, "files[0].path", "\"/usr/bin/x\"", ""),
    (29, "registries.mirrors.\"docker.io\".endpoint", "\"https://mirror.example\"", "a list of URLs"),
    (32, "sysctl.kernel.modprobe", "the name \"kernel.modprobe\"", "a kernel setting"),
    (35, "log.level", "the number 3", "error, warn, info, debug"),
    (38, "boot.root", "a setting that is needed before this can be read", "skerry.root= on the kernel"),
    (39, "boot.watchdog", "the number 5", "\"off\", or seconds from 10 to 3600"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_new_machine_tells_every_mistake_at_once_and_waits_for_someone() {
    let told = machine().config(FULL_OF_MISTAKES).append("skerry.rolle=server").state(State::None);
    let mut vm = boot(told).await;
    vm.line(NO_SERVICE).await;
    let text = vm.console().text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("skerry: maintenance: ")).collect();
    for (line, key, given, allowed) in MISTAKES {
        let mistake = format!("(CONFIG)/config.toml:{line}: {key}: given {given}; allowed: {allowed}");
        assert!(lines.iter().any(|told| told.contains(&mistake)), "{mistake}\n{}", lines.join("\n"));
    }
    let word = "kernel command line: skerry.rolle: rolle: given an unknown key, \"rolle\"; allowed: node, ";
    assert!(lines.iter().any(|told| told.contains(word)), "{}", lines.join("\n"));
    let mistakes = lines.iter().filter(|line| line.contains("; allowed: ")).count();
    assert_eq!(mistakes, MISTAKES.len() + 1, "none but these\n{}", lines.join("\n"));
    assert!(!text.contains("12345"), "secrets are not shown");
    assert!(!text.contains("skerry: service "), "no service is started");
    assert!(text.contains("memory"), "the console says that nothing will be kept");
    vm.power_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_volumes_that_both_want_to_be_the_configuration_are_a_mistake_that_names_them() {
    let volume = || Volume::config("[node]\nrole = \"server\"\n");
    let mut vm = boot(machine().volume(volume()).volume(volume()).state(State::None)).await;
    let line = vm.line("partitions labelled CONFIG: ").await;
    assert!(line.contains("skerry: maintenance: "), "{line}");
    assert!(line.contains("/dev/vdb and /dev/vdc; allowed: one of them"), "{line}");
    vm.line(NO_SERVICE).await;
    vm.power_off().await;
}

/// A volume labelled `CONFIG` whose `config.toml` cannot be read to its end: the table that says where it goes on is gone.
fn damaged_volume(path: &Path) -> Disk {
    const BYTES: u64 = 8 << 20;
    const SECTOR: u64 = 512;
    let content = "# long enough for more than one cluster\n".repeat(2000);
    let mut file = File::create_new(path).unwrap();
    file.set_len(BYTES).unwrap();
    let format = fat::Format { bytes: BYTES, label: "CONFIG", id: 1 };
    fat::make(&mut file, &format, &[("config.toml".to_owned(), content.into_bytes())].into()).unwrap();
    // Reserved sectors, tables and sectors of a table: the boot sector's fields at 14, 16 and 22.
    let header = fs::read(path).unwrap();
    let short = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (reserved, tables, length) = (short(14), u64::from(header[16]), short(22));
    for table in 0..tables {
        // The first two entries are no clusters.
        let start = (reserved + table * length) * SECTOR + 4;
        file.write_all_at(&vec![0; (length * SECTOR - 4) as usize], start).unwrap();
    }
    Disk { file: path.to_owned(), read_only: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_and_hides_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let utf_16: Vec<u8> = "\u{feff}[node]\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let told = machine().disk(damaged_volume(&dir.path().join("volume"))).credential(CREDENTIAL, utf_16);
    let mut vm = boot(told.state(State::None)).await;
    vm.line("(CONFIG)/config.toml: (whole file): given a file that cannot be read (").await;
    vm.line("skerry.config: (whole file): given UTF-16; allowed: UTF-8 (choose it when saving the file)")
        .await;
    vm.line(NO_SERVICE).await;
    vm.power_off().await;
}
