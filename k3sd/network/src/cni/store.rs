//! Address reservations and attachment records: plain files under one lock, so that they survive crashes of anything.
//!
//! ```text
//! /var/lib/cni/networks/cbr0/
//!   lock                        held (flock) during every change; released by the kernel if the plugin dies
//!   last_reserved_ip.0          where the search for the next address starts, one file per subnet
//!   10.42.0.7                   "container\r\ninterface": this address is taken
//!   attachments/ID:eth0.json    namespace, addresses and host ports of one attachment
//!   boot                        the kernel's boot identifier when leaked reservations were last looked for
//! ```
//!
//! The reservations are in the format of the reference plugin `host-local`, so a node can be taken over from K3s and
//! given back. An attachment record is written before its reservations and removed after them, so a reservation without a
//! record, or with a namespace that is gone, is leaked and may be reclaimed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::config::{AttachmentId, PortMapping};
use super::error::Error;
use crate::netlink::Namespace;

const ATTACHMENTS: &str = "attachments";
const BOOT: &str = "boot";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const LOCK: &str = "lock";

/// What DEL, CHECK and reclamation need to know of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    #[serde(flatten)]
    pub(crate) id: AttachmentId,
    pub(crate) namespace: PathBuf,
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
    #[serde(default)]
    pub(crate) port_mappings: Vec<PortMapping>,
}

/// The reservations of one network. Holding one means holding its lock.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the store and waits for its lock.
    pub(crate) fn lock(directory: &Path) -> Result<Self, Error> {
        let attachments = directory.join(ATTACHMENTS);
        fs::create_dir_all(&attachments).map_err(io_error("create directory", &attachments))?;
        let path = directory.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(io_error("open", &path))?;
        lock.lock().map_err(io_error("lock", &path))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    /// Reserves one address of each subnet for `attachment` and records it. An attachment that has reservations already
    /// (an ADD that was cut off) gives them back first.
    pub(crate) fn reserve(&self, mut attachment: Attachment, subnets: &[IpNet]) -> Result<Attachment, Error> {
        self.release(&attachment.id)?;
        let taken = self.taken()?;
        attachment.addresses.clear();
        for (place, subnet) in subnets.iter().enumerate() {
            let last = self.last_reserved(place);
            let address = next_free(*subnet, last, &taken).ok_or(Error::Exhausted { subnet: *subnet })?;
            attachment.addresses.push(address);
        }
        self.write_record(&attachment)?;
        for (place, address) in attachment.addresses.iter().enumerate() {
            let owner = format!("{}\r\n{}", attachment.id.container, attachment.id.interface);
            self.replace(&self.directory.join(address.to_string()), owner.as_bytes())?;
            let last = self.directory.join(format!("last_reserved_ip.{place}"));
            self.replace(&last, address.to_string().as_bytes())?;
        }
        Ok(attachment)
    }

    /// Gives back everything of an attachment; the record as it was, or `None` if there was none.
    pub(crate) fn release(&self, id: &AttachmentId) -> Result<Option<Attachment>, Error> {
        let record = self.find(id)?;
        // Without a record (written by host-local, or torn by a power cut) the reservations have to be searched.
        let addresses = match &record {
            Some(record) => record.addresses.clone(),
            None => self.taken()?.into_iter().collect(),
        };
        for address in addresses {
            if self.owner(address).as_ref() == Some(id) {
                remove(&self.directory.join(address.to_string()))?;
            }
        }
        remove(&self.record_path(id))?;
        Ok(record)
    }

    /// The record of an attachment. A damaged one counts as none.
    pub(crate) fn find(&self, id: &AttachmentId) -> Result<Option<Attachment>, Error> {
        read_record(&self.record_path(id))
    }

    /// Every attachment on record.
    pub(crate) fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        let directory = self.directory.join(ATTACHMENTS);
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).map_err(io_error("list", &directory))? {
            let path = entry.map_err(io_error("list", &directory))?.path();
            found.extend(read_record(&path)?);
        }
        Ok(found)
    }

    /// Releases what belongs to containers that are gone, and returns their records.
    pub(crate) fn reclaim(&self) -> Result<Vec<Attachment>, Error> {
        self.reclaim_unless(|attachment| Namespace::exists(&attachment.namespace))
    }

    /// Releases every attachment that `keep` refuses, and every reservation without an attachment.
    pub(crate) fn reclaim_unless(
        &self,
        keep: impl Fn(&Attachment) -> bool,
    ) -> Result<Vec<Attachment>, Error> {
        let (kept, gone): (Vec<_>, Vec<_>) = self.attachments()?.into_iter().partition(|known| keep(known));
        for attachment in &gone {
            self.release(&attachment.id)?;
        }
        for address in self.taken()? {
            let owner = self.owner(address);
            if !kept.iter().any(|known| Some(&known.id) == owner.as_ref()) {
                remove(&self.directory.join(address.to_string()))?;
            }
        }
        Ok(gone)
    }

    /// Whether the machine has been started since this was last asked: every namespace of before is gone then.
    pub(crate) fn is_new_boot(&self) -> Result<bool, Error> {
        let current = fs::read_to_string(BOOT_ID).map_err(io_error("read", Path::new(BOOT_ID)))?;
        let path = self.directory.join(BOOT);
        if fs::read_to_string(&path).is_ok_and(|seen| seen == current) {
            return Ok(false);
        }
        self.replace(&path, current.as_bytes())?;
        Ok(true)
    }

    fn taken(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let entries = fs::read_dir(&self.directory).map_err(io_error("list", &self.directory))?;
        let mut taken = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(io_error("list", &self.directory))?.file_name();
            taken.extend(name.to_str().and_then(|name| name.parse::<IpAddr>().ok()));
        }
        Ok(taken)
    }

    fn owner(&self, address: IpAddr) -> Option<AttachmentId> {
        let text = fs::read_to_string(self.directory.join(address.to_string())).ok()?;
        let mut lines = text.trim().lines();
        let container = lines.next()?.trim().to_owned();
        // host-local before version 0.7 wrote the container only; those are long gone.
        let interface = lines.next()?.trim().to_owned();
        Some(AttachmentId { container, interface })
    }

    fn last_reserved(&self, place: usize) -> Option<IpAddr> {
        let path = self.directory.join(format!("last_reserved_ip.{place}"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    fn record_path(&self, id: &AttachmentId) -> PathBuf {
        self.directory.join(ATTACHMENTS).join(format!("{}:{}.json", id.container, id.interface))
    }

    fn write_record(&self, attachment: &Attachment) -> Result<(), Error> {
        let text = serde_json::to_vec(attachment).expect("a record is plain data");
        self.replace(&self.record_path(&attachment.id), &text)
    }

    /// Under the lock one temporary name is enough.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        let temporary = self.directory.join(".new");
        fs::write(&temporary, content).map_err(io_error("write", &temporary))?;
        fs::rename(&temporary, path).map_err(io_error("write", path))
    }
}

fn read_record(path: &Path) -> Result<Option<Attachment>, Error> {
    match fs::read(path) {
        Ok(content) => Ok(serde_json::from_slice(&content).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// The gateway of a subnet: its first address, as in host-local and flannel.
pub(crate) fn gateway(subnet: IpNet) -> IpAddr {
    from_number(subnet, number(subnet.network()) + 1)
}

/// The first free address after `last`, around the end of the subnet if need be. Going round gives an address the
/// longest rest before it is used again. Never the network's, the gateway's or the broadcast address.
fn next_free(subnet: IpNet, last: Option<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let first = number(subnet.network()) + 2;
    let end = number(subnet.broadcast());
    // IPv6 has no broadcast address.
    let end = if subnet.addr().is_ipv6() { end } else { end - 1 };
    let start = match last {
        Some(last) if subnet.contains(&last) && (first..end).contains(&number(last)) => number(last) + 1,
        _ => first,
    };
    (start..=end)
        .chain(first..start)
        .map(|candidate| from_number(subnet, candidate))
        .find(|candidate| !taken.contains(candidate))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn from_number(subnet: IpNet, number: u128) -> IpAddr {
    match subnet {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(number).expect("inside an IPv4 subnet").into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests;
