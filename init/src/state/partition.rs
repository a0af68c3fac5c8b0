//! Growing the STATE partition to the end of its disk: an image is written to media of any size.

use std::fs::File;

use anyhow::{Context, Result};
use disk::gpt::{Copy, Partition, Table};

use crate::block::{self, Device, PartOf};
use crate::board::{Board, note};
use crate::console::say;
use crate::state::NAME;

/// Grows every partition named `STATE` that is the last one of a disk with room behind it. A failure costs only the room.
pub(super) fn grow_all(devices: &[Device], board: &Board) {
    let whole = |device: &&Device| device.has_partitions && !device.read_only;
    for disk in devices.iter().filter(whole) {
        let (own, all) = (disk.clone(), devices.to_vec());
        // One that does not answer is told elsewhere.
        if let Ok(grown) = block::ask(&disk.name, move || grow(&own, &all)) {
            note(board, &format!("partition table of {}", disk.name), grown);
        }
    }
}

fn grow(disk: &Device, devices: &[Device]) -> Result<()> {
    // A damaged primary is none of our business here; the kernel would show no partitions.
    let Ok((table, Copy::Primary)) = disk.table_unlimited() else { return Ok(()) };
    let Some((mut table, state)) = grown(&table, disk.size)? else { return Ok(()) };
    let (start, length) = (table.offset_bytes(&state), table.size_bytes(&state));
    let mut file = File::options().read(true).write(true).open(disk.node())?;
    table.commit(&mut file, |file| file.sync_data())?;
    // The disk is in use, so the kernel would not read the table again.
    let number = u32::try_from(state.number).context("a partition with a high number")?;
    sys::block::resize_partition(&file, number, start, length)
        .context("the table is written, but the kernel does not take it before the next boot")?;
    let place = PartOf { disk: disk.name.clone(), number: state.number };
    let name =
        devices.iter().find(|device| device.part_of.as_ref() == Some(&place)).map(|device| &device.name);
    say!("state grew the partition {} to {} MiB", name.unwrap_or(&disk.name), length >> 20);
    Ok(())
}

/// The table for a disk of `bytes`, and STATE in it; none if STATE is not last or has all there is.
fn grown(table: &Table, bytes: u64) -> Result<Option<(Table, Partition)>> {
    let last = table.partitions.iter().max_by_key(|partition| partition.last);
    let Some(number) = last.filter(|partition| partition.name == NAME).map(|partition| partition.number)
    else {
        return Ok(None);
    };
    let Some(table) = table.grow(bytes)? else { return Ok(None) };
    let state = table.partitions.iter().find(|partition| partition.number == number).cloned();
    Ok(state.map(|state| (table, state)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use disk::guid::Guid;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A root of 2 MiB, then `last` of 1 MiB, on a disk of 8 MiB.
    fn table(last: &str) -> Table {
        let mut table = Table::new(Guid::from_u128(1), 8 * MIB, 512).unwrap();
        table.add("ROOT-A", Guid::ROOT_X86_64, Guid::from_u128(2), 2 * MIB).unwrap();
        table.add(last, Guid::LINUX_DATA, Guid::from_u128(3), MIB).unwrap();
        table
    }

    #[test]
    fn state_grows_to_the_end_of_a_larger_disk_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(8 * MIB).unwrap();
        table(NAME).commit(&mut file, |file| file.sync_data()).unwrap();
        file.write_all_at(b"the root", MIB).unwrap();
        file.set_len(1024 * MIB).unwrap();
        let (before, _) = Table::read(&mut file).unwrap();
        let (mut after, state) = grown(&before, 1024 * MIB).unwrap().unwrap();
        assert_eq!((state.number, after.offset_bytes(&state)), (2, 3 * MIB));
        // What is left is the backup's MiB.
        assert_eq!(after.size_bytes(&state), 1020 * MIB);
        after.commit(&mut file, |file| file.sync_data()).unwrap();
        let (read, copy) = Table::read(&mut file).unwrap();
        assert_eq!((read.partitions.as_slice(), copy), (after.partitions.as_slice(), Copy::Primary));
        assert_eq!(grown(&read, 1024 * MIB).unwrap(), None);
        let mut kept = [0; 8];
        file.read_exact_at(&mut kept, MIB).unwrap();
        assert_eq!(&kept, b"the root");
    }

    #[test]
    fn what_is_not_named_state_and_a_smaller_disk_are_left_alone() {
        assert_eq!(grown(&table("DATA"), 1024 * MIB).unwrap(), None);
        let error = grown(&table(NAME), 4 * MIB).unwrap_err();
        assert!(error.to_string().contains("too small"), "{error}");
    }
}
