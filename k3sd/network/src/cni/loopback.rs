//! Plugin type `loopback`: brings up `lo` of a container.
//!
//! containerd before 2.0 runs a program of this name for every pod, besides the configured network. Our ADD has brought
//! `lo` up already or is about to; doing it twice costs nothing.

use std::path::Path;

use serde_json::{Value, json};

use super::config::{Command, Target, Version};
use super::error::Error;
use crate::netlink::{Namespace, Netlink};

const INTERFACE: &str = "lo";

/// Runs one command.
pub(crate) async fn run(command: Command, version: Version) -> Result<Value, Error> {
    match command {
        Command::Add => add(Target::from_environment()?.namespace()?, version).await,
        Command::Check => check(Target::from_environment()?.namespace()?).await.map(|()| Value::Null),
        // The interface goes with its namespace.
        Command::Del | Command::Gc | Command::Status | Command::Version => Ok(Value::Null),
    }
}

async fn add(namespace: &Path, version: Version) -> Result<Value, Error> {
    let netlink = Netlink::open_in(&Namespace::open(namespace)?)?;
    let link = netlink.link(INTERFACE).await?;
    netlink.set_up(&link).await?;
    let addresses = netlink.addresses(&link).await?;
    let ips = addresses.iter().map(|address| {
        let mut value = json!({ "address": address.to_string(), "interface": 0 });
        if version < Version::V1_0_0 {
            value["version"] = json!(if address.addr().is_ipv6() { "6" } else { "4" });
        }
        value
    });
    Ok(json!({
        "cniVersion": version.text(),
        "interfaces": [{ "name": INTERFACE, "mac": link.mac_text(), "sandbox": namespace.to_string_lossy() }],
        "ips": ips.collect::<Vec<_>>(),
        "dns": {},
    }))
}

async fn check(namespace: &Path) -> Result<(), Error> {
    let link = Netlink::open_in(&Namespace::open(namespace)?)?.link(INTERFACE).await?;
    if link.up {
        return Ok(());
    }
    Err(Error::Changed { problem: format!("'{INTERFACE}' is down") })
}
