//! Pod and service networking of one node: the CNI plugin, the node's network agent and the service proxy.
//!
//! Everything here talks to the kernel through netlink (links, addresses, routes) and `nft -f` (rules), one nftables
//! table per concern, every change one atomic transaction:
//!
//! | part | what it owns |
//! | --- | --- |
//! | [`cni`] | bridge `cni0`, a veth per pod, addresses, table `skerry-hostports` |
//! | [`agent`] | the CNI configuration, `subnet.env`, sysctls, routes to other nodes, table `skerry-masq` |
//! | [`proxy`] | ClusterIP, NodePort, external and load-balancer addresses, table `skerry-services` |
//!
//! Current limitations: nodes must be neighbours on one network (no encapsulating flannel backend), and network policies are not enforced.

pub mod agent;
pub mod cni;
mod conntrack;
pub mod netlink;
pub mod nft;
pub mod proxy;
mod sysctl;
