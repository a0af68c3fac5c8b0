//! What a server tells its agents about the cluster: the body of `/v1-k3s/config`.
//!
//! The names are those of K3s's Go structure (`pkg/daemons/config`, `Control`). Of its many fields these are the ones that agents,
//! ours and K3s's, act on; K3s fills in what is missing with zero values.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The settings of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Settings {
    /// Networks of pods.
    #[serde(rename = "ClusterIPRanges", deserialize_with = "nullable")]
    pub cluster_ip_ranges: Vec<Cidr>,
    /// The first of them.
    #[serde(rename = "ClusterIPRange")]
    pub cluster_ip_range: Option<Cidr>,
    /// Networks of Services.
    #[serde(rename = "ServiceIPRanges", deserialize_with = "nullable")]
    pub service_ip_ranges: Vec<Cidr>,
    /// The first of them.
    #[serde(rename = "ServiceIPRange")]
    pub service_ip_range: Option<Cidr>,
    /// Addresses that pods ask for names.
    #[serde(rename = "ClusterDNSs", deserialize_with = "nullable")]
    pub cluster_dnss: Vec<IpAddr>,
    /// The first of them.
    #[serde(rename = "ClusterDNS", deserialize_with = "address")]
    pub cluster_dns: Option<IpAddr>,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Ports of Services of type NodePort.
    pub service_node_port_range: Option<PortRange>,
    /// How pods of different nodes reach each other.
    pub flannel_backend: String,
    /// Whether IPv6 pods are masqueraded.
    #[serde(rename = "FlannelIPv6Masq")]
    pub flannel_ipv6_masq: bool,
    /// Whether nodes reach each other by their external addresses.
    #[serde(rename = "FlannelExternalIP")]
    pub flannel_external_ip: bool,
    /// Which connections go through the agents' tunnels.
    pub egress_selector_mode: String,
    /// Port of the API.
    #[serde(rename = "HTTPSPort")]
    pub https_port: u16,
    /// Port of these endpoints.
    pub supervisor_port: u16,
    /// Address published for the API.
    #[serde(rename = "AdvertiseIP")]
    pub advertise_ip: String,
    /// Port published for the API.
    pub advertise_port: u16,
    /// Name of the server's own node.
    pub server_node_name: String,
    /// Whether nodes run no service proxy.
    pub disable_kube_proxy: bool,
    /// Whether there is no cloud controller.
    #[serde(rename = "DisableCCM")]
    pub disable_ccm: bool,
    /// Whether network policies are not enforced.
    #[serde(rename = "DisableNPC")]
    pub disable_npc: bool,
    /// Whether Services of type LoadBalancer get no proxies.
    #[serde(rename = "DisableServiceLB")]
    pub disable_service_lb: bool,
    /// Whether there is no Helm controller.
    pub disable_helm_controller: bool,
}

/// `null` is what Go writes for an empty list.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An empty text is what Go writes for no address.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(serde::de::Error::custom) }
}

/// A network as Go's `net.IPNet` is encoded: address as text, mask as base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub IpNet);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GoNet {
    #[serde(rename = "IP")]
    ip: IpAddr,
    mask: String,
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mask = match self.0.netmask() {
            IpAddr::V4(mask) => STANDARD.encode(mask.octets()),
            IpAddr::V6(mask) => STANDARD.encode(mask.octets()),
        };
        GoNet { ip: self.0.network(), mask }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let net = GoNet::deserialize(deserializer)?;
        let mask = STANDARD.decode(&net.mask).map_err(serde::de::Error::custom)?;
        let mask = <[u8; 4]>::try_from(mask.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(mask.as_slice()).map(IpAddr::from))
            .map_err(|_| serde::de::Error::custom("a mask has 4 or 16 bytes"))?;
        IpNet::with_netmask(net.ip, mask).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Ports from `base` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortRange {
    /// The first.
    pub base: u16,
    /// How many.
    pub size: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_as_go_does() {
        let net = Cidr("10.42.0.0/16".parse().unwrap());
        assert_eq!(serde_json::to_string(&net).unwrap(), r#"{"IP":"10.42.0.0","Mask":"//8AAA=="}"#);
        let net: Cidr =
            serde_json::from_str(r#"{"IP":"fd00:42::","Mask":"/////////wAAAAAAAAAAAA=="}"#).unwrap();
        assert_eq!(net.0.to_string(), "fd00:42::/56");
    }

    #[test]
    fn what_another_server_leaves_out_or_adds_does_not_matter() {
        let text = r#"{"ClusterIPRanges":null,"ClusterDNS":"","FlannelBackend":"vxlan","Skips":{},"HTTPSPort":6443}"#;
        let settings: Settings = serde_json::from_str(text).unwrap();
        assert_eq!(settings.flannel_backend, "vxlan");
        assert_eq!(settings.https_port, 6443);
        assert_eq!(settings.cluster_ip_ranges, []);
        let again: Settings = serde_json::from_str(&serde_json::to_string(&settings).unwrap()).unwrap();
        assert_eq!(again, settings);
    }
}
