//! Partition tables that the kernel does not take: mended where that loses nothing, explained where it would.
//!
//! Linux shows no partition of a disk whose primary table is damaged, even if the backup at its end is whole, nor of a disk that
//! is smaller than its table says.

use std::fs::File;

use anyhow::{Context, Error, Result, bail};
use disk::gpt::{Copy, Table};
use disk::verity::RootHash;

use crate::block::Device;
use crate::console::say;

/// What became of the tables.
#[derive(Default)]
pub(super) struct Mended {
    /// One was restored, so that there are partitions now.
    pub(super) any: bool,
    /// The first that cannot be, on a disk that has our root, or a copy of it.
    pub(super) wrong: Option<Error>,
}

/// Looks at every disk without partitions, of which the kernel may just not have taken the table. Only disks with our root are touched.
pub(super) fn mend(devices: &[Device], hash: &RootHash) -> Mended {
    let (root, _) = hash.partition_ids();
    let mut mended = Mended::default();
    let bare = |device: &&Device| device.part_of.is_none() && !device.has_partitions;
    for disk in devices.iter().filter(bare) {
        let Ok((table, copy)) = disk.table() else { continue };
        if table.by_id(root).is_none() {
            continue;
        }
        match mend_one(disk, table, copy) {
            Ok(any) => mended.any |= any,
            // Another disk may have the image whole.
            Err(error) => drop(mended.wrong.get_or_insert(error)),
        }
    }
    mended
}

fn mend_one(disk: &Device, mut table: Table, copy: Copy) -> Result<bool> {
    if table.disk_bytes() > disk.size {
        bail!("{}; the image does not fit on it, or was cut short when it was written", disk.describe());
    }
    if copy != Copy::Backup || disk.read_only {
        return Ok(false);
    }
    restore(disk, &mut table).with_context(|| {
        format!("{}: the partition table at its beginning is damaged and could not be restored", disk.name)
    })?;
    say!("problem: {}: the damaged partition table was restored from its backup", disk.name);
    Ok(true)
}

fn restore(disk: &Device, table: &mut Table) -> Result<()> {
    let mut file = File::options().read(true).write(true).open(disk.node())?;
    table.commit(&mut file, |file| file.sync_data())?;
    sys::block::reread_partitions(&file).context("the kernel did not read it again")
}
