//! What `k3sd server` is told.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use network::agent::Backend;

use super::node::{Identity, Node};
use super::{Mistakes, apiserver_arg, data_dir, secret};
use crate::cli::ServerFlags;

const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
/// Below the server's directory.
const DATABASE: &str = "db/state.db";
/// The port the supervisor and the API share.
const HTTPS_PORT: u16 = 6443;
const CLUSTER_CIDR: &str = "10.42.0.0/16";
const SERVICE_CIDR: &str = "10.43.0.0/16";
/// Fewest bits a service range leaves for addresses: the first is the API's, the tenth the DNS server's by convention.
const SERVICE_BITS: u8 = 4;
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// Everything `k3sd server` needs to know, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) data_dir: PathBuf,
    /// The SQLite file with all objects.
    pub(crate) database: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise_address: IpAddr,
    pub(crate) tls_sans: Vec<String>,
    pub(crate) cluster_cidr: IpNet,
    pub(crate) service_cidr: IpNet,
    pub(crate) node_ports: RangeInclusive<u16>,
    /// Empty: pods resolve names as their node does.
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
    pub(crate) backend: Backend,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) kubeconfig_mode: u32,
    pub(crate) kubeconfig_name: String,
    pub(crate) token: Option<String>,
    pub(crate) agent_token: Option<String>,
    pub(crate) disabled_manifests: Vec<String>,
    pub(crate) disable_scheduler: bool,
    pub(crate) disable_kube_proxy: bool,
    pub(crate) audit: Option<apiserver::audit::Settings>,
    pub(crate) admission: Option<PathBuf>,
    pub(crate) identity: Identity,
    /// `None` with `--disable-agent`.
    pub(crate) node: Option<Node>,
}

impl Server {
    pub(super) fn resolve(flags: ServerFlags, mistakes: &mut Mistakes, warnings: &mut Vec<String>) -> Self {
        let cluster_cidr = cidr("cluster-cidr", flags.cluster_cidr, CLUSTER_CIDR, mistakes);
        let service_cidr = cidr("service-cidr", flags.service_cidr, SERVICE_CIDR, mistakes);
        if service_cidr.max_prefix_len() - service_cidr.prefix_len() < SERVICE_BITS {
            mistakes
                .add(format!("service-cidr: {service_cidr} is too small: at least 16 addresses are needed"));
        }
        let identity = Identity::resolve(&flags.node, mistakes);
        let port = flags.https_listen_port.unwrap_or(HTTPS_PORT);
        let node = (!flags.disable_agent.unwrap_or_default())
            .then(|| Node::resolve(&flags.node, &identity, mistakes, warnings));
        let api = apiserver_arg::resolve(&flags.kube_apiserver_arg, mistakes, warnings);
        let data_dir = data_dir(&flags.common);
        let endpoint = flags.datastore_endpoint.as_deref().unwrap_or_default();
        Self {
            database: data_dir.join("server").join(database(endpoint, mistakes, warnings)),
            data_dir,
            listen: SocketAddr::new(flags.node.bind_address.unwrap_or_else(|| identity.any_address()), port),
            advertise_address: flags.advertise_address.unwrap_or(identity.ips[0]),
            tls_sans: flags.tls_san,
            cluster_cidr,
            service_cidr,
            node_ports: node_ports(flags.service_node_port_range.as_deref(), mistakes),
            cluster_dns: flags.cluster_dns,
            cluster_domain: flags.cluster_domain.unwrap_or_else(|| "cluster.local".to_owned()),
            backend: backend(flags.flannel_backend.as_deref(), mistakes),
            kubeconfig: flags.write_kubeconfig.unwrap_or_else(|| PathBuf::from(KUBECONFIG)),
            kubeconfig_mode: mode(flags.write_kubeconfig_mode.as_deref(), mistakes),
            kubeconfig_name: flags.write_kubeconfig_name.unwrap_or_else(|| "default".to_owned()),
            token: secret("token", flags.token.token, flags.token.token_file, mistakes),
            agent_token: secret("agent-token", flags.agent_token, flags.agent_token_file, mistakes),
            disabled_manifests: flags.disable,
            disable_scheduler: flags.disable_scheduler.unwrap_or_default(),
            disable_kube_proxy: flags.disable_kube_proxy.unwrap_or_default(),
            audit: api.audit,
            admission: api.admission,
            identity,
            node,
        }
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

/// The file that `--datastore-endpoint` names, relative to the server's directory unless absolute. What is refused is not repeated: it
/// may hold a password.
fn database(endpoint: &str, mistakes: &mut Mistakes, warnings: &mut Vec<String>) -> PathBuf {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or((endpoint, ""));
    if !matches!(scheme, "" | "sqlite") {
        mistakes.add(format!(
            "datastore-endpoint: objects are stored in SQLite only, as sqlite://PATH; {} is not there yet",
            if rest.is_empty() { "what was given" } else { scheme }
        ));
    }
    let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
    if !options.is_empty() {
        warnings.push("datastore-endpoint: what follows the question mark is not acted on".to_owned());
    }
    PathBuf::from(if path.is_empty() { DATABASE } else { path })
}

fn backend(given: Option<&str>, mistakes: &mut Mistakes) -> Backend {
    let Some(text) = given else { return Backend::HostGw };
    text.parse().unwrap_or_else(|error| {
        mistakes.add(format!("flannel-backend: {error}"));
        Backend::None
    })
}

fn cidr(flag: &str, given: Option<String>, default: &str, mistakes: &mut Mistakes) -> IpNet {
    let text = given.as_deref().unwrap_or(default);
    IpNet::from_str(text).map(|net| net.trunc()).unwrap_or_else(|_| {
        mistakes.add(format!("{flag}: not a CIDR such as {default}: {text:?}"));
        IpNet::new_assert(IpAddr::from([10, 42, 0, 0]), 16)
    })
}

fn node_ports(given: Option<&str>, mistakes: &mut Mistakes) -> RangeInclusive<u16> {
    let Some(text) = given else { return NODE_PORTS };
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match parsed {
        Some((first, last)) if first > 0 && first <= last => first..=last,
        _ => {
            mistakes.add(format!("service-node-port-range: not two ports such as 30000-32767: {text:?}"));
            NODE_PORTS
        }
    }
}

fn mode(given: Option<&str>, mistakes: &mut Mistakes) -> u32 {
    const PRIVATE: u32 = 0o600;
    let Some(text) = given else { return PRIVATE };
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => mode,
        _ => {
            mistakes.add(format!("write-kubeconfig-mode: not an octal mode such as 644: {text:?}"));
            PRIVATE
        }
    }
}
