//! What ADD answers: the result object of the CNI specification, in each version's form.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::config::Version;

/// One interface of the result.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    /// Path of the container's namespace; `None` for interfaces of the host.
    pub(crate) sandbox: Option<String>,
}

/// One address of the container's interface.
#[derive(Debug, Clone)]
pub(crate) struct Assigned {
    pub(crate) address: IpNet,
    pub(crate) gateway: IpAddr,
}

/// The outcome of ADD.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) interfaces: Vec<Interface>,
    /// Index of the container's interface in `interfaces`.
    pub(crate) container: usize,
    pub(crate) addresses: Vec<Assigned>,
    pub(crate) default_routes: bool,
}

impl Outcome {
    pub(crate) fn render(&self, version: Version) -> Value {
        let interfaces: Vec<Value> =
            self.interfaces.iter().map(|interface| render_interface(interface, version)).collect();
        let ips: Vec<Value> =
            self.addresses.iter().map(|address| self.render_address(address, version)).collect();
        let routes: Vec<Value> =
            self.addresses.iter().filter(|_| self.default_routes).map(render_default_route).collect();
        json!({
            "cniVersion": version.text(),
            "interfaces": interfaces,
            "ips": ips,
            "routes": routes,
            "dns": {},
        })
    }

    fn render_address(&self, assigned: &Assigned, version: Version) -> Value {
        let mut value = json!({
            "address": assigned.address.to_string(),
            "gateway": assigned.gateway.to_string(),
            "interface": self.container,
        });
        // Removed in 1.0.0: the address tells its family.
        if version < Version::V1_0_0 {
            value["version"] = json!(if assigned.gateway.is_ipv6() { "6" } else { "4" });
        }
        value
    }
}

fn render_interface(interface: &Interface, version: Version) -> Value {
    let mut value = json!({ "name": interface.name, "mac": interface.mac });
    if let Some(sandbox) = &interface.sandbox {
        value["sandbox"] = json!(sandbox);
    }
    if version >= Version::V1_1_0 {
        value["mtu"] = json!(interface.mtu);
    }
    value
}

fn render_default_route(assigned: &Assigned) -> Value {
    let destination = if assigned.gateway.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
    json!({ "dst": destination, "gw": assigned.gateway.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_gets_its_own_form() {
        let outcome = Outcome {
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                mac: "0a:58:0a:2a:00:02".to_owned(),
                mtu: 1450,
                sandbox: Some("/var/run/netns/a".to_owned()),
            }],
            container: 0,
            addresses: vec![Assigned {
                address: "10.42.0.2/24".parse().unwrap(),
                gateway: "10.42.0.1".parse().unwrap(),
            }],
            default_routes: true,
        };
        let old = outcome.render(Version::V0_4_0);
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["interfaces"][0].get("mtu"), None);
        assert_eq!(old["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.42.0.1"}]));
        let new = outcome.render(Version::V1_1_0);
        assert_eq!(new["ips"][0].get("version"), None);
        assert_eq!(new["interfaces"][0]["mtu"], 1450);
    }
}
