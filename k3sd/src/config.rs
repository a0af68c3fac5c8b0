//! What the flags mean together: parsed, defaulted and checked, with every mistake reported in one go.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{CommandFactory as _, FromArgMatches as _};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;

use crate::cli::{Cli, Command, ServerFlags};
use crate::config_file;

const DATA_DIR: &str = "/var/lib/rancher/k3s";
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
/// The port the supervisor and the API share.
const HTTPS_PORT: u16 = 6443;
const CLUSTER_CIDR: &str = "10.42.0.0/16";
const SERVICE_CIDR: &str = "10.43.0.0/16";
/// Fewest bits a service range leaves for addresses: the first is the API's, the tenth the DNS server's by convention.
const SERVICE_BITS: u8 = 4;
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// Everything `k3sd server` needs to know, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) debug: bool,
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise_address: IpAddr,
    pub(crate) tls_sans: Vec<String>,
    pub(crate) cluster_cidr: IpNet,
    pub(crate) service_cidr: IpNet,
    pub(crate) node_ports: RangeInclusive<u16>,
    /// Empty: pods resolve names as their node does.
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) kubeconfig_mode: u32,
    pub(crate) kubeconfig_name: String,
    pub(crate) token: Option<String>,
    pub(crate) agent_token: Option<String>,
    pub(crate) disabled_manifests: Vec<String>,
    pub(crate) disable_scheduler: bool,
    pub(crate) disable_kube_proxy: bool,
    pub(crate) node_name: String,
    pub(crate) node_ips: Vec<IpAddr>,
    /// What only a machine that runs pods needs; `None` with `--disable-agent`.
    pub(crate) agent: Option<Agent>,
    /// Keys of the configuration files that are no flags; dropped, as K3s does, and warned of.
    pub(crate) unknown_settings: Vec<String>,
}

/// The node beside the control plane.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    /// Socket of a containerd somebody else runs.
    pub(crate) containerd: Option<PathBuf>,
}

/// All that is wrong with the configuration.
#[derive(Debug)]
pub(crate) struct Mistakes(Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

impl Config {
    /// Reads the command line and the files it points to. Prints help, version and spelling mistakes and exits, as
    /// command lines do; mistakes in values come back together.
    pub(crate) fn from_command_line(arguments: Vec<String>) -> anyhow::Result<Self> {
        let Command::Server(flags) = Cli::from_arg_matches(&Cli::command().get_matches_from(&arguments))
            .unwrap_or_else(|error| error.exit())
            .command;
        let (known, unknown) = known_settings(config_file::load(&flags.config)?);
        let merged = insert_settings(arguments, &known);
        let matches = Cli::command().try_get_matches_from(&merged).map_err(|error| explain(error, &known))?;
        let Command::Server(flags) = Cli::from_arg_matches(&matches)?.command;
        let mut config = Self::resolve(*flags)?;
        config.unknown_settings = unknown;
        Ok(config)
    }

    fn resolve(flags: ServerFlags) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let cluster_cidr = cidr("cluster-cidr", flags.cluster_cidr, CLUSTER_CIDR, &mut mistakes);
        let service_cidr = cidr("service-cidr", flags.service_cidr, SERVICE_CIDR, &mut mistakes);
        if service_cidr.max_prefix_len() - service_cidr.prefix_len() < SERVICE_BITS {
            mistakes
                .push(format!("service-cidr: {service_cidr} is too small: at least 16 addresses are needed"));
        }
        let node_ips = node_ips(&flags.node_ip, &mut mistakes);
        let first_ip = node_ips[0];
        let port = flags.https_listen_port.unwrap_or(HTTPS_PORT);
        let all = if first_ip.is_ipv6() { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
        let node_name = flags.node_name.map_or_else(host_name, Ok).unwrap_or_else(|error| {
            mistakes.push(format!("node-name: not given, and the host name cannot be read: {error}"));
            String::new()
        });
        check_node_name(&node_name, &mut mistakes);
        let agent = if flags.disable_agent.unwrap_or_default() {
            None
        } else {
            Some(Agent {
                labels: labels(&flags.node_label, &mut mistakes),
                taints: taints(&flags.node_taint, &mut mistakes),
                containerd: flags
                    .container_runtime_endpoint
                    .as_deref()
                    .and_then(|text| socket(text, &mut mistakes)),
            })
        };
        let config = Self {
            debug: flags.debug.unwrap_or_default(),
            data_dir: flags.data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR)),
            listen: SocketAddr::new(flags.bind_address.unwrap_or(all), port),
            advertise_address: flags.advertise_address.unwrap_or(first_ip),
            tls_sans: flags.tls_san,
            cluster_cidr,
            service_cidr,
            node_ports: node_ports(flags.service_node_port_range.as_deref(), &mut mistakes),
            cluster_dns: flags.cluster_dns,
            cluster_domain: flags.cluster_domain.unwrap_or_else(|| "cluster.local".to_owned()),
            kubeconfig: flags.write_kubeconfig.unwrap_or_else(|| PathBuf::from(KUBECONFIG)),
            kubeconfig_mode: mode(flags.write_kubeconfig_mode.as_deref(), &mut mistakes),
            kubeconfig_name: flags.write_kubeconfig_name.unwrap_or_else(|| "default".to_owned()),
            token: flags.token,
            agent_token: flags.agent_token,
            disabled_manifests: flags.disable,
            disable_scheduler: flags.disable_scheduler.unwrap_or_default(),
            disable_kube_proxy: flags.disable_kube_proxy.unwrap_or_default(),
            node_name,
            node_ips,
            agent,
            unknown_settings: Vec::new(),
        };
        if config.agent.is_some() && !nix::unistd::geteuid().is_root() {
            mistakes.push("a node needs root; run as root, or give --disable-agent".to_owned());
        }
        if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
    }

    /// The address of the `kubernetes` Service: the first of the range.
    pub(crate) fn service_address(&self) -> IpAddr {
        match self.service_cidr.network() {
            IpAddr::V4(network) => IpAddr::from((u32::from(network) + 1).to_be_bytes()),
            IpAddr::V6(network) => IpAddr::from((u128::from(network) + 1).to_be_bytes()),
        }
    }

    /// The URL for clients on this machine.
    pub(crate) fn local_url(&self) -> String {
        let host = if self.listen.ip().is_unspecified() {
            if self.listen.is_ipv6() {
                IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])
            } else {
                IpAddr::from([127, 0, 0, 1])
            }
        } else {
            self.listen.ip()
        };
        format!("https://{}", SocketAddr::new(host, self.listen.port()))
    }
}

/// Splits the files' settings into flags of `server` and keys that are none.
fn known_settings(settings: Vec<config_file::Setting>) -> (Vec<config_file::Setting>, Vec<String>) {
    let command = Cli::command();
    let flags: Vec<&str> = command
        .find_subcommand("server")
        .map(|server| server.get_arguments().filter_map(|argument| argument.get_long()).collect())
        .unwrap_or_default();
    let (known, unknown): (Vec<_>, Vec<_>) =
        settings.into_iter().partition(|setting| flags.contains(&setting.flag.as_str()));
    let unknown = unknown.into_iter().map(|setting| format!("{}: {}", setting.path.display(), setting.flag));
    (known, unknown.collect())
}

/// Puts the files' settings right behind the word `server`, so that flags behind it win.
fn insert_settings(mut arguments: Vec<String>, settings: &[config_file::Setting]) -> Vec<String> {
    let at = arguments.iter().position(|argument| argument == "server").map_or(arguments.len(), |at| at + 1);
    arguments.splice(at..at, settings.iter().flat_map(config_file::Setting::arguments));
    arguments
}

/// A value in a file that its flag does not take: the message names the file, since no flag was typed.
fn explain(error: clap::Error, settings: &[config_file::Setting]) -> anyhow::Error {
    let text = error.to_string();
    let origin = settings.iter().find(|setting| text.contains(&format!("--{} ", setting.flag)));
    let detail = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    match origin {
        Some(setting) => anyhow::anyhow!("{}: {}: {detail}", setting.path.display(), setting.flag),
        None => anyhow::anyhow!(detail),
    }
}

fn cidr(flag: &str, given: Option<String>, default: &str, mistakes: &mut Vec<String>) -> IpNet {
    let text = given.as_deref().unwrap_or(default);
    IpNet::from_str(text).map(|net| net.trunc()).unwrap_or_else(|_| {
        mistakes.push(format!("{flag}: not a CIDR such as {default}: {text:?}"));
        IpNet::new_assert(IpAddr::from([10, 42, 0, 0]), 16)
    })
}

fn node_ports(given: Option<&str>, mistakes: &mut Vec<String>) -> RangeInclusive<u16> {
    let Some(text) = given else { return NODE_PORTS };
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match parsed {
        Some((first, last)) if first > 0 && first <= last => first..=last,
        _ => {
            mistakes.push(format!("service-node-port-range: not two ports such as 30000-32767: {text:?}"));
            NODE_PORTS
        }
    }
}

fn mode(given: Option<&str>, mistakes: &mut Vec<String>) -> u32 {
    const PRIVATE: u32 = 0o600;
    let Some(text) = given else { return PRIVATE };
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => mode,
        _ => {
            mistakes.push(format!("write-kubeconfig-mode: not an octal mode such as 644: {text:?}"));
            PRIVATE
        }
    }
}

fn socket(text: &str, mistakes: &mut Vec<String>) -> Option<PathBuf> {
    let path = Path::new(text.strip_prefix("unix://").unwrap_or(text));
    if path.is_absolute() {
        return Some(path.to_path_buf());
    }
    mistakes.push(format!(
        "container-runtime-endpoint: not a socket such as unix:///run/k3s/containerd/containerd.sock: {text:?}"
    ));
    None
}

fn labels(given: &[String], mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut labels =
        BTreeMap::from([("node-role.kubernetes.io/control-plane".to_owned(), "true".to_owned())]);
    for text in given {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                labels.insert(key.to_owned(), value.to_owned());
            }
            _ => mistakes.push(format!("node-label: not KEY=VALUE: {text:?}")),
        }
    }
    labels
}

fn taints(given: &[String], mistakes: &mut Vec<String>) -> Vec<Taint> {
    let parse = |text: &str| {
        let (rest, effect) = text.rsplit_once(':')?;
        let (key, value) =
            rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value.to_owned())));
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) && !key.is_empty();
        known.then(|| Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
    };
    let mut taints = Vec::new();
    for text in given {
        match parse(text) {
            Some(taint) => taints.push(taint),
            None => mistakes.push(format!(
                "node-taint: not KEY=VALUE:EFFECT with one of NoSchedule, PreferNoSchedule, NoExecute: {text:?}"
            )),
        }
    }
    taints
}

/// The given addresses, else the one the machine would use to reach others, else loopback (an isolated machine).
fn node_ips(given: &[IpAddr], mistakes: &mut Vec<String>) -> Vec<IpAddr> {
    if let Some(bad) = given.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
        mistakes.push(format!("node-ip: not the address of a machine: {bad}"));
    }
    if !given.is_empty() {
        return given.to_vec();
    }
    vec![route_source().or_else(interface_address).unwrap_or(IpAddr::from([127, 0, 0, 1]))]
}

/// The source address of the default route. Connecting a UDP socket asks the kernel for it and sends nothing; the
/// destination is of the documentation range (RFC 5737).
fn route_source() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

fn interface_address() -> Option<IpAddr> {
    nix::ifaddrs::getifaddrs().ok()?.find_map(|interface| {
        let ip = IpAddr::from(interface.address?.as_sockaddr_in()?.ip());
        (!ip.is_loopback()).then_some(ip)
    })
}

fn host_name() -> nix::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().to_lowercase())
}

/// Node names are DNS subdomains (RFC 1123).
fn check_node_name(name: &str, mistakes: &mut Vec<String>) {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        mistakes.push(format!(
            "node-name: {name:?} is not a DNS name: lower case letters, digits, '-' and '.', at most 253 characters"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(arguments: &[&str]) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "node-name: from-file\nwrite-kubeconfig-mode: '644'\nflannel-backend: none\n")?;
        let file = file.display().to_string();
        let given = ["k3sd", "server", "--config", &file, "--disable-agent"];
        Config::from_command_line(given.iter().chain(arguments).map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn flags_win_over_files_and_unknown_keys_are_named() {
        let config = resolve(&["--node-name", "typed", "--tls-san", "a,b"]).unwrap();
        assert_eq!(config.node_name, "typed");
        assert_eq!(config.kubeconfig_mode, 0o644);
        assert_eq!(config.tls_sans, ["a", "b"]);
        assert_eq!(config.unknown_settings.len(), 1);
        assert!(config.unknown_settings[0].ends_with("config.yaml: flannel-backend"));
        assert_eq!(resolve(&[]).unwrap().node_name, "from-file");
    }

    #[test]
    fn all_mistakes_are_reported_at_once_by_flag() {
        let arguments = [
            "--cluster-cidr",
            "10.42",
            "--service-cidr",
            "255.255.255.255/32",
            "--service-node-port-range",
            "9-1",
            "--write-kubeconfig-mode",
            "rw",
            "--node-name",
            "Not_A_Name",
        ];
        let text = resolve(&arguments).unwrap_err().to_string();
        for flag in
            ["cluster-cidr", "service-cidr", "service-node-port-range", "write-kubeconfig-mode", "node-name"]
        {
            assert!(text.contains(flag), "{flag} is missing in {text}");
        }
    }

    #[test]
    fn addresses_follow_from_the_service_range() {
        let config = resolve(&["--service-cidr", "10.96.0.0/12", "--bind-address", "127.0.0.1"]).unwrap();
        assert_eq!(config.service_address().to_string(), "10.96.0.1");
        assert_eq!(config.local_url(), "https://127.0.0.1:6443");
        let config = resolve(&["--service-cidr", "fd00:43::/112"]).unwrap();
        assert_eq!(config.service_address().to_string(), "fd00:43::1");
    }

    #[test]
    fn taints_and_labels_are_parsed_as_kubectl_writes_them() {
        let mut mistakes = Vec::new();
        let parsed = taints(&["a=b:NoSchedule".into(), "c:NoExecute".into(), "d=e".into()], &mut mistakes);
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[1].value, None);
        assert_eq!(mistakes.len(), 1);
        assert_eq!(labels(&["disk=ssd".into()], &mut mistakes)["disk"], "ssd");
    }
}
