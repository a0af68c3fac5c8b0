//! The CNI plugin `skerry-cni`: bridge, addresses and host ports of pods in one small program.
//!
//! containerd starts it for every pod, so it does what the reference plugins `flannel`, `bridge`, `host-local`, `loopback`
//! and `portmap` do together, in one process on one thread. It speaks the specification's versions 0.3.1, 0.4.0, 1.0.0
//! and 1.1.0. The configuration, besides the specification's own keys:
//!
//! | key | meaning | default |
//! | --- | --- | --- |
//! | `bridge` | name of the bridge | `cni0` |
//! | `mtu` | MTU of bridge and pods | the kernel's |
//! | `isDefaultGateway` | the bridge has the gateway's address, pods a default route by it | false |
//! | `hairpinMode` | a pod may reach itself through the bridge | false |
//! | `forceAddress` | replace another address of the bridge | false |
//! | `subnets` | one subnet per address family | required |
//! | `dataDir` | directory of reservations, in which the network's name is a directory | `/var/lib/cni/networks` |
//!
//! Under the plugin type `loopback` it brings up `lo` and nothing else, for containerd before 2.0.
//!
//! Current limitations: no `bandwidth` capability, no static addresses.

mod config;
mod error;
mod hostports;
mod interfaces;
mod loopback;
mod result;
mod store;

pub(crate) use self::store::gateway;

use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use self::config::{Command, Network, Target, Version};
use self::error::Error;
use self::store::{Attachment, Store};

/// The names under which this program is a CNI plugin: plugin types are names of programs.
pub const PROGRAM_NAMES: [&str; 2] = ["skerry-cni", TYPE_LOOPBACK];
const TYPE_LOOPBACK: &str = "loopback";

/// Runs the plugin on the process's environment and standard streams.
pub fn main() -> ExitCode {
    let mut input = Vec::new();
    // An unreadable input is an empty one, which fails to decode below.
    let _ = std::io::stdin().take(MAX_INPUT_BYTES).read_to_end(&mut input);
    let (answer, code) = match run(&input) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => {
            let report = error.report(&answer_version(&input));
            (serde_json::to_value(report).expect("a report is plain data"), ExitCode::FAILURE)
        }
    };
    if !answer.is_null() && writeln!(std::io::stdout(), "{answer}").is_err() {
        return ExitCode::FAILURE;
    }
    code
}

/// Configurations are a few hundred bytes; with a previous result and many ports a few thousand.
const MAX_INPUT_BYTES: u64 = 4 << 20;

fn run(input: &[u8]) -> Result<Value, Error> {
    let command = Command::from_environment()?;
    if command == Command::Version {
        return Ok(versions(input));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Unavailable { problem: error.to_string() })?;
    let (kind, version) = config::kind(input)?;
    if kind == TYPE_LOOPBACK {
        return runtime.block_on(loopback::run(command, version));
    }
    let network = Network::parse(input)?;
    runtime.block_on(async {
        match command {
            Command::Add => add(&network, &Target::from_environment()?).await,
            Command::Del => delete(&network, &Target::from_environment()?).await.map(|()| Value::Null),
            Command::Check => check(&network, &Target::from_environment()?).await.map(|()| Value::Null),
            Command::Gc => collect(&network).await.map(|()| Value::Null),
            Command::Status => status(&network).map(|()| Value::Null),
            Command::Version => Ok(versions(input)),
        }
    })
}

/// The version to answer in: the configuration's if it can be read, else the newest.
fn answer_version(input: &[u8]) -> String {
    let newest = Version::V1_1_0.text();
    let asked = serde_json::from_slice::<Value>(input).ok();
    asked
        .and_then(|asked| asked["cniVersion"].as_str().map(str::to_owned))
        .unwrap_or_else(|| newest.to_owned())
}

fn versions(input: &[u8]) -> Value {
    json!({ "cniVersion": answer_version(input), "supportedVersions": Version::ALL_TEXT })
}

async fn add(network: &Network, target: &Target) -> Result<Value, Error> {
    let namespace = target.namespace()?;
    let attachment = reserve(network, target).await?;
    let connected = async {
        // A veth of an ADD that was cut off.
        interfaces::disconnect(&target.id).await?;
        let outcome = interfaces::connect(network, &target.id, namespace, &attachment.addresses).await?;
        hostports::open(network, &attachment).await?;
        Ok(outcome.render(network.version))
    };
    match connected.await {
        Ok(result) => Ok(result),
        Err(error) => {
            // The first error is the one to tell; what cannot be undone now, DEL or reclamation will.
            let _ = delete(network, target).await;
            Err(error)
        }
    }
}

/// Reserves addresses; looks for leaked ones first after a start of the machine, and when there are no others left.
async fn reserve(network: &Network, target: &Target) -> Result<Attachment, Error> {
    let wanted = Attachment {
        id: target.id.clone(),
        namespace: target.namespace()?.clone(),
        addresses: Vec::new(),
        port_mappings: network.port_mappings()?,
    };
    let (reserved, gone) = {
        let store = Store::lock(&network.data_dir)?;
        let mut gone = if store.is_new_boot()? { store.reclaim()? } else { Vec::new() };
        let mut reserved = store.reserve(wanted.clone(), &network.subnets);
        if matches!(reserved, Err(Error::Exhausted { .. })) {
            gone.extend(store.reclaim()?);
            reserved = store.reserve(wanted, &network.subnets);
        }
        (reserved, gone)
    };
    for leaked in &gone {
        withdraw(leaked).await?;
    }
    reserved
}

async fn delete(network: &Network, target: &Target) -> Result<(), Error> {
    let record = Store::lock(&network.data_dir)?.find(&target.id)?;
    match &record {
        Some(attachment) => withdraw(attachment).await?,
        None => interfaces::disconnect(&target.id).await?,
    }
    // Last, so that nobody gets the address while the kernel still has it.
    Store::lock(&network.data_dir)?.release(&target.id).map(drop)
}

/// Takes an attachment out of the kernel.
async fn withdraw(attachment: &Attachment) -> Result<(), Error> {
    hostports::close(attachment).await?;
    interfaces::disconnect(&attachment.id).await
}

async fn check(network: &Network, target: &Target) -> Result<(), Error> {
    if network.version >= Version::V0_4_0 && !network.has_previous_result {
        let problem = "is required for CHECK".to_owned();
        return Err(Error::InvalidConfig { key: "prevResult", problem });
    }
    let record = Store::lock(&network.data_dir)?.find(&target.id)?;
    let attachment = record.ok_or_else(|| Error::UnknownContainer {
        container: target.id.container.clone(),
        interface: target.id.interface.clone(),
    })?;
    interfaces::check(network, &target.id, target.namespace()?, &attachment.addresses).await
}

/// Removes every attachment that the runtime does not know of.
async fn collect(network: &Network) -> Result<(), Error> {
    let valid = &network.valid_attachments;
    let gone = Store::lock(&network.data_dir)?.reclaim_unless(|known| valid.contains(&known.id))?;
    for attachment in &gone {
        withdraw(attachment).await?;
    }
    Ok(())
}

/// Ready when reservations can be kept.
fn status(network: &Network) -> Result<(), Error> {
    Store::lock(&network.data_dir).map(drop).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Error::Unavailable { problem: format!("{error}{cause}") }
    })
}
