//! The command line as written: K3s's flags, by K3s's names, all optional.
//!
//! What they mean together is decided in [`crate::config`]; this file only says how they are spelled. Flags of K3s that
//! nothing here acts on are in [`idle`]: they are accepted, so that a configuration made for K3s is, and said to be idle.

pub(crate) mod idle;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

/// Kubernetes in one process: datastore, API server, controllers, scheduler, kubelet, service proxy and pod network.
#[derive(Debug, Parser)]
#[command(
    name = "k3sd",
    version,
    about,
    args_override_self = true,
    arg_required_else_help = true,
    after_help = "Other commands: certificate (check, rotate), token (create, delete, generate, list, rotate); kubectl, crictl and ctr start the program of that name."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The command line as the parser wants it, K3s's idle flags included.
    pub(crate) fn parser() -> clap::Command {
        Self::command()
            .mut_subcommand("server", |server| idle::accept(server, idle::Command::Server))
            .mut_subcommand("agent", |agent| idle::accept(agent, idle::Command::Agent))
    }
}

/// What to run.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the control plane and, unless --disable-agent is given, a node beside it
    Server(Box<ServerFlags>),
    /// Run a node of a cluster whose server is on another machine
    Agent(Box<AgentFlags>),
}

impl Command {
    /// What every command has.
    pub(crate) fn common(&self) -> &CommonFlags {
        match self {
            Self::Server(flags) => &flags.common,
            Self::Agent(flags) => &flags.common,
        }
    }
}

/// The flags of `k3sd server`. In `config.yaml` each is a key, without the dashes.
#[derive(Clone, Debug, Default, Args)]
#[command(args_override_self = true)]
pub(crate) struct ServerFlags {
    #[command(flatten)]
    pub(crate) common: CommonFlags,
    #[command(flatten)]
    pub(crate) token: TokenFlags,
    #[command(flatten)]
    pub(crate) node: NodeFlags,

    /// Port the API server listens on [default: 6443]
    #[arg(long, value_name = "PORT", help_heading = "Listener")]
    pub(crate) https_listen_port: Option<u16>,
    /// Address published as the endpoint of the kubernetes Service [default: the node's first]
    #[arg(long, value_name = "IP", help_heading = "Listener")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Further names or addresses for the serving certificate; repeatable, commas allowed
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Listener")]
    pub(crate) tls_san: Vec<String>,

    /// Range that pods get addresses from [default: 10.42.0.0/16]
    #[arg(long, value_name = "CIDR", help_heading = "Networking")]
    pub(crate) cluster_cidr: Option<String>,
    /// Range that Services get addresses from [default: 10.43.0.0/16]
    #[arg(long, value_name = "CIDR", help_heading = "Networking")]
    pub(crate) service_cidr: Option<String>,
    /// Ports for Services of type NodePort [default: 30000-32767]
    #[arg(long, value_name = "FIRST-LAST", help_heading = "Networking")]
    pub(crate) service_node_port_range: Option<String>,
    /// Addresses that pods ask for names; repeatable, commas allowed [default: those their node asks]
    #[arg(long, value_name = "IP", value_delimiter = ',', help_heading = "Networking")]
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// DNS domain of the cluster [default: cluster.local]
    #[arg(long, value_name = "NAME", help_heading = "Networking")]
    pub(crate) cluster_domain: Option<String>,
    /// How pods of different nodes reach each other: host-gw (routes, for nodes on one network) or none (a network plugin of
    /// yours) [default: host-gw]
    #[arg(long, value_name = "BACKEND", help_heading = "Networking")]
    pub(crate) flannel_backend: Option<String>,

    /// Where the administrator's kubeconfig goes [default: /etc/rancher/k3s/k3s.yaml]
    #[arg(short = 'o', long, value_name = "FILE", env = "K3S_KUBECONFIG_OUTPUT", help_heading = "Client")]
    pub(crate) write_kubeconfig: Option<PathBuf>,
    /// Mode of that file, octal [default: 600]
    #[arg(long, value_name = "MODE", env = "K3S_KUBECONFIG_MODE", help_heading = "Client")]
    pub(crate) write_kubeconfig_mode: Option<String>,
    /// Name of cluster, user and context in it [default: default]
    #[arg(long, value_name = "NAME", env = "K3S_KUBECONFIG_NAME", help_heading = "Client")]
    pub(crate) write_kubeconfig_name: Option<String>,

    /// Shared secret for agents only [default: the token]
    #[arg(
        long,
        value_name = "TOKEN",
        env = "K3S_AGENT_TOKEN",
        hide_env_values = true,
        help_heading = "Cluster"
    )]
    pub(crate) agent_token: Option<String>,
    /// File with the shared secret for agents
    #[arg(long, value_name = "FILE", env = "K3S_AGENT_TOKEN_FILE", help_heading = "Cluster")]
    pub(crate) agent_token_file: Option<PathBuf>,

    /// Where objects are stored: sqlite://PATH, relative to DATA/server [default: sqlite://db/state.db]
    #[arg(
        long,
        value_name = "URL",
        env = "K3S_DATASTORE_ENDPOINT",
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub(crate) datastore_endpoint: Option<String>,
    /// Setting of the API server, KEY=VALUE; repeatable. Acted on: audit-policy-file, audit-log-path, audit-log-maxage,
    /// audit-log-maxbackup, audit-log-maxsize, admission-control-config-file
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Components")]
    pub(crate) kube_apiserver_arg: Vec<String>,
    /// Packaged manifests not to deploy, by file name without ending; repeatable, commas allowed
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Components")]
    pub(crate) disable: Vec<String>,
    /// Run no node here
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Components")]
    pub(crate) disable_agent: Option<bool>,
    /// Run no scheduler
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Components")]
    pub(crate) disable_scheduler: Option<bool>,
    /// Run no service proxy, on no node of the cluster
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Components")]
    pub(crate) disable_kube_proxy: Option<bool>,
}

/// The flags of `k3sd agent`. In `config.yaml` each is a key, without the dashes.
#[derive(Clone, Debug, Default, Args)]
#[command(args_override_self = true)]
pub(crate) struct AgentFlags {
    #[command(flatten)]
    pub(crate) common: CommonFlags,
    #[command(flatten)]
    pub(crate) token: TokenFlags,
    #[command(flatten)]
    pub(crate) node: NodeFlags,

    /// The server to join, such as https://10.0.0.1:6443
    #[arg(short, long, value_name = "URL", env = "K3S_URL", help_heading = "Cluster")]
    pub(crate) server: Option<String>,
}

/// What every command has.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CommonFlags {
    /// File of flags; each key is a flag's name, FILE.d/*.yaml are read after it
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "K3S_CONFIG_FILE",
        default_value = "/etc/rancher/k3s/config.yaml"
    )]
    pub(crate) config: PathBuf,
    /// Log more
    #[arg(long, env = "K3S_DEBUG", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) debug: Option<bool>,
    /// Directory of everything that must survive a restart [default: /var/lib/rancher/k3s]
    #[arg(short, long, value_name = "DIR", env = "K3S_DATA_DIR", help_heading = "Data")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// The cluster's secret.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TokenFlags {
    /// Shared secret of the cluster; a server makes one up, an agent needs the server's
    #[arg(
        short,
        long,
        value_name = "TOKEN",
        env = "K3S_TOKEN",
        hide_env_values = true,
        help_heading = "Cluster"
    )]
    pub(crate) token: Option<String>,
    /// File with the shared secret
    #[arg(long, value_name = "FILE", env = "K3S_TOKEN_FILE", help_heading = "Cluster")]
    pub(crate) token_file: Option<PathBuf>,
}

/// What a machine that runs pods is told.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NodeFlags {
    /// Address to listen on: the API server's, and the kubelet's [default: all]
    #[arg(long, value_name = "IP", help_heading = "Listener")]
    pub(crate) bind_address: Option<IpAddr>,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME", env = "K3S_NODE_NAME", help_heading = "Node")]
    pub(crate) node_name: Option<String>,
    /// Append to the node's name what /etc/rancher/node/id holds, made once
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Node")]
    pub(crate) with_node_id: Option<bool>,
    /// Addresses of this node; repeatable, commas allowed [default: that of the default route]
    #[arg(short = 'i', long, value_name = "IP", value_delimiter = ',', help_heading = "Node")]
    pub(crate) node_ip: Vec<IpAddr>,
    /// Label to register the node with, KEY=VALUE; repeatable
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Node")]
    pub(crate) node_label: Vec<String>,
    /// Taint to register the node with, KEY=VALUE:EFFECT; repeatable
    #[arg(long, value_name = "KEY=VALUE:EFFECT", help_heading = "Node")]
    pub(crate) node_taint: Vec<String>,
    /// Socket of a running containerd [default: start one]
    #[arg(long, value_name = "SOCKET", help_heading = "Node")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Image of the container that holds a pod's namespaces, for a containerd that is started here
    /// [default: localhost/skerry/pause:1]
    #[arg(long, value_name = "IMAGE", help_heading = "Node")]
    pub(crate) pause_image: Option<String>,
    /// Resolver configuration that pods are given [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE", env = "K3S_RESOLV_CONF", help_heading = "Node")]
    pub(crate) resolv_conf: Option<PathBuf>,
    /// Interface that leads to the other nodes [default: that of the default route]
    #[arg(long, value_name = "NAME", help_heading = "Node")]
    pub(crate) flannel_iface: Option<String>,
    /// Setting of the kubelet, KEY=VALUE; repeatable. Acted on: max-pods, root-dir
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Node")]
    pub(crate) kubelet_arg: Vec<String>,
}
