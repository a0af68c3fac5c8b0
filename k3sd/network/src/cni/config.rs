//! What the runtime asks for: the command's environment and the network configuration.

use std::env;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::error::Error;

/// host-local's place, so that a node taken over from K3s keeps its reservations.
const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";
const DEFAULT_BRIDGE: &str = "cni0";

/// A supported version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const ALL_TEXT: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let place = Self::ALL_TEXT.iter().position(|known| *known == text);
        place
            .map(|place| Self::ALL[place])
            .ok_or_else(|| Error::UnsupportedVersion { version: text.to_owned() })
    }

    pub(crate) fn text(self) -> &'static str {
        Self::ALL_TEXT[self as usize]
    }
}

/// The commands of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    pub(crate) fn from_environment() -> Result<Self, Error> {
        const VARIABLE: &str = "CNI_COMMAND";
        match required(VARIABLE)?.as_str() {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            other => Err(Error::Environment {
                variable: VARIABLE,
                problem: format!("is not a command: '{other}'"),
            }),
        }
    }
}

/// One attachment: which container, by which interface name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct AttachmentId {
    #[serde(rename = "containerID")]
    pub(crate) container: String,
    #[serde(rename = "ifname")]
    pub(crate) interface: String,
}

/// What ADD, DEL and CHECK get through the environment.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) id: AttachmentId,
    /// Empty on a DEL whose namespace is gone already.
    pub(crate) namespace: Option<PathBuf>,
}

impl Target {
    pub(crate) fn from_environment() -> Result<Self, Error> {
        let container = required("CNI_CONTAINERID")?;
        check_container(&container)?;
        let interface = required("CNI_IFNAME")?;
        check_interface(&interface)?;
        let namespace = env::var_os("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self { id: AttachmentId { container, interface }, namespace })
    }

    pub(crate) fn namespace(&self) -> Result<&PathBuf, Error> {
        self.namespace
            .as_ref()
            .ok_or(Error::Environment { variable: "CNI_NETNS", problem: "is not set".to_owned() })
    }
}

fn required(variable: &'static str) -> Result<String, Error> {
    env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Error::Environment { variable, problem: "is not set".to_owned() })
}

/// Specification: starts with an alphanumeric character, then also `_`, `.` and `-`.
fn check_container(id: &str) -> Result<(), Error> {
    let rest_is_fine = id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if rest_is_fine && id.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(Error::Environment { variable: "CNI_CONTAINERID", problem: format!("is not an identifier: '{id}'") })
}

/// The kernel's rule (`dev_valid_name`): at most 15 bytes, not a dot name, no slash, colon or white space.
fn check_interface(name: &str) -> Result<(), Error> {
    let bad = name.len() > 15
        || name == "."
        || name == ".."
        || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
    if !bad {
        return Ok(());
    }
    Err(Error::Environment { variable: "CNI_IFNAME", problem: format!("is not an interface name: '{name}'") })
}

/// The plugin type and the version that a configuration asks for.
pub(crate) fn kind(input: &[u8]) -> Result<(String, Version), Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        #[serde(default)]
        cni_version: String,
        #[serde(default, rename = "type")]
        kind: String,
    }
    let head: Head = serde_json::from_slice(input).map_err(Error::Decode)?;
    Ok((head.kind, Version::parse(&head.cni_version)?))
}

/// The network configuration as it comes on standard input. Unknown keys are the runtime's and are ignored, as the
/// specification asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    bridge: Option<String>,
    #[serde(default)]
    mtu: Option<u32>,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    force_address: bool,
    #[serde(default)]
    subnets: Vec<IpNet>,
    #[serde(default)]
    data_dir: Option<PathBuf>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    #[serde(default)]
    prev_result: Option<serde_json::Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Vec<AttachmentId>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    #[serde(default)]
    port_mappings: serde_json::Value,
}

/// One entry of the `portMappings` capability. containerd sends the names of its Go fields (`HostPort`), which Go programs
/// read in any case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortMapping {
    #[serde(default, alias = "HostPort")]
    pub(crate) host_port: u16,
    #[serde(alias = "ContainerPort")]
    pub(crate) container_port: u16,
    #[serde(default, alias = "Protocol")]
    pub(crate) protocol: Protocol,
    #[serde(default, rename = "hostIP", alias = "HostIP")]
    pub(crate) host_ip: String,
}

/// A transport protocol that ports can be mapped for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    #[default]
    #[serde(alias = "TCP")]
    Tcp,
    #[serde(alias = "UDP")]
    Udp,
    #[serde(alias = "SCTP")]
    Sctp,
}

impl Protocol {
    /// Its name in nftables.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// The network configuration, resolved.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) version: Version,
    pub(crate) bridge: String,
    pub(crate) mtu: Option<u32>,
    pub(crate) is_default_gateway: bool,
    pub(crate) hairpin: bool,
    pub(crate) force_address: bool,
    /// One subnet per address family that a pod gets an address of.
    pub(crate) subnets: Vec<IpNet>,
    /// Directory of this network's reservations.
    pub(crate) data_dir: PathBuf,
    /// As written: only ADD reads it, so that a container with unreadable ports can still be taken away.
    port_mappings: serde_json::Value,
    pub(crate) has_previous_result: bool,
    /// For GC: what the runtime still knows of.
    pub(crate) valid_attachments: Vec<AttachmentId>,
}

impl Network {
    pub(crate) fn parse(input: &[u8]) -> Result<Self, Error> {
        let written: Written = serde_json::from_slice(input).map_err(Error::Decode)?;
        let version = Version::parse(&written.cni_version)?;
        check_name(&written.name)?;
        check_subnets(&written.subnets)?;
        let data_dir = written.data_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
        Ok(Self {
            version,
            bridge: written.bridge.unwrap_or_else(|| DEFAULT_BRIDGE.to_owned()),
            mtu: written.mtu.filter(|mtu| *mtu != 0),
            is_default_gateway: written.is_default_gateway,
            hairpin: written.hairpin_mode,
            force_address: written.force_address,
            subnets: written.subnets.iter().map(IpNet::trunc).collect(),
            data_dir: data_dir.join(&written.name),
            port_mappings: written.runtime_config.port_mappings,
            has_previous_result: written.prev_result.is_some(),
            valid_attachments: written.valid_attachments,
        })
    }

    /// The wanted host ports; entries without a host port are dropped.
    pub(crate) fn port_mappings(&self) -> Result<Vec<PortMapping>, Error> {
        let mappings: Option<Vec<PortMapping>> =
            serde_json::from_value(self.port_mappings.clone()).map_err(Error::Decode)?;
        Ok(mappings.into_iter().flatten().filter(|mapping| mapping.host_port != 0).collect())
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let fine = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if fine {
        return Ok(());
    }
    Err(Error::InvalidConfig { key: "name", problem: format!("not a network name: '{name}'") })
}

fn check_subnets(subnets: &[IpNet]) -> Result<(), Error> {
    let invalid = |problem| Err(Error::InvalidConfig { key: "subnets", problem });
    let of_family = |v6: bool| subnets.iter().filter(|net| net.addr().is_ipv6() == v6).count();
    if subnets.is_empty() {
        return invalid("at least one subnet is needed".to_owned());
    }
    if of_family(false) > 1 || of_family(true) > 1 {
        return invalid("at most one subnet per address family".to_owned());
    }
    // Network, gateway, broadcast and one pod.
    match subnets.iter().find(|net| net.max_prefix_len() - net.prefix_len() < 2) {
        Some(net) => invalid(format!("{net} has no room for a pod")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str =
        r#"{"cniVersion":"1.0.0","name":"cbr0","type":"skerry-cni","subnets":["10.42.0.5/24"]}"#;

    #[test]
    fn a_minimal_configuration_gets_k3s_defaults() {
        let network = Network::parse(MINIMAL.as_bytes()).unwrap();
        assert_eq!(network.bridge, "cni0");
        assert_eq!(network.data_dir, PathBuf::from("/var/lib/cni/networks/cbr0"));
        assert_eq!(network.subnets, ["10.42.0.0/24".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn port_mappings_are_read_as_specified_and_as_containerd_writes_them() {
        let parse = |mapping: &str| {
            let input =
                MINIMAL.replace('}', &format!(r#","runtimeConfig":{{"portMappings":[{mapping}]}}}}"#));
            Network::parse(input.as_bytes()).unwrap().port_mappings().unwrap()
        };
        let specified = parse(r#"{"hostPort":1,"containerPort":2,"protocol":"udp","hostIP":"10.0.0.1"}"#);
        let containerd = parse(r#"{"HostPort":1,"ContainerPort":2,"Protocol":"udp","HostIP":"10.0.0.1"}"#);
        assert_eq!(specified, containerd);
        assert_eq!(specified[0].protocol, Protocol::Udp);
        assert!(parse(r#"{"HostPort":0,"ContainerPort":2,"Protocol":"tcp","HostIP":""}"#).is_empty());
    }

    #[test]
    fn bad_configurations_are_refused_with_the_specified_code() {
        let cases = [
            ("not JSON", "{", 6),
            ("no version", r#"{"name":"a","subnets":["10.0.0.0/24"]}"#, 1),
            ("version of the future", r#"{"cniVersion":"2.0.0","name":"a","subnets":["10.0.0.0/24"]}"#, 1),
            ("no subnet", r#"{"cniVersion":"1.0.0","name":"a"}"#, 7),
            ("no room", r#"{"cniVersion":"1.0.0","name":"a","subnets":["10.0.0.0/31"]}"#, 7),
            (
                "name leaves the directory",
                r#"{"cniVersion":"1.0.0","name":"../a","subnets":["10.0.0.0/24"]}"#,
                7,
            ),
            (
                "two of a family",
                r#"{"cniVersion":"1.0.0","name":"a","subnets":["10.0.0.0/24","10.1.0.0/24"]}"#,
                7,
            ),
        ];
        for (name, input, code) in cases {
            let error = Network::parse(input.as_bytes()).map(drop).unwrap_err();
            assert_eq!(error.code(), code, "{name}: {error}");
        }
    }

    #[test]
    fn identifiers_that_could_leave_their_directory_are_refused() {
        assert!(check_container("../x").is_err());
        assert!(check_container("a/b").is_err());
        assert!(check_container("0af3-sandbox_1.x").is_ok());
        assert!(check_interface("eth0").is_ok());
        assert!(check_interface("a-name-of-sixteen").is_err());
        assert!(check_interface("et:h").is_err());
    }
}
