//! Partition tables that the kernel does not take: mended where that loses nothing, explained where it would.
//!
//! Linux shows no partition of a disk whose primary table is damaged, even if the backup at its end is whole, nor of a disk that
//! is smaller than its table says.

use std::fs::File;

use anyhow::{Context, Result, bail};
use disk::gpt::{Copy, Error, Table};
use disk::verity::RootHash;

use crate::block::Device;
use crate::console::say;

/// Looks at every disk without partitions, of which the kernel may just not have taken the table. True if one was mended, so
/// that there are partitions now. Only disks with our root are touched.
pub(super) fn mend(devices: &[Device], hash: &RootHash) -> Result<bool> {
    let (root, _) = hash.partition_ids();
    let mut mended = false;
    let bare = |device: &&Device| device.part_of.is_none() && !device.has_partitions;
    for disk in devices.iter().filter(bare) {
        let Ok((mut table, copy)) = disk.table() else { continue };
        if table.by_id(root).is_none() {
            continue;
        }
        if table.disk_bytes() > disk.size {
            let error = too_small(&table, disk.size);
            bail!(
                "{}: {error}; the image does not fit on it, or was cut short when it was written",
                disk.name
            );
        }
        if copy == Copy::Backup && !disk.read_only {
            restore(disk, &mut table).with_context(|| {
                format!(
                    "{}: the partition table at its beginning is damaged and could not be restored",
                    disk.name
                )
            })?;
            say!("problem: {}: the damaged partition table was restored from its backup", disk.name);
            mended = true;
        }
    }
    Ok(mended)
}

fn restore(disk: &Device, table: &mut Table) -> Result<()> {
    let mut file = File::options().read(true).write(true).open(disk.node())?;
    table.commit(&mut file, |file| file.sync_data())?;
    sys::block::reread_partitions(&file).context("the kernel did not read it again")
}

/// Why a disk that ends too early is refused.
fn too_small(table: &Table, disk_bytes: u64) -> Error {
    Error::DiskTooSmall { disk_bytes, needed_bytes: table.disk_bytes() }
}

/// A disk, in a few words for whoever looks for the right one.
pub(super) fn describe(disk: &Device) -> String {
    let size = disk.size >> 20;
    let name = &disk.name;
    match disk.table() {
        Ok((table, _)) if table.disk_bytes() > disk.size => {
            format!("{name}: {}", too_small(&table, disk.size))
        }
        Ok((table, copy)) => {
            let names: Vec<_> = table.partitions.iter().map(|partition| partition.name.as_str()).collect();
            let note = if copy == Copy::Backup { ", partition table damaged" } else { "" };
            format!("{name}, {size} MiB, partitions {}{note}", names.join(" "))
        }
        Err(_) => format!("{name}, {size} MiB, no GPT partitions"),
    }
}
