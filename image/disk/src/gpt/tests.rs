//! Tests of the partition table.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1024 * 1024;
const DISK_ID: Guid = Guid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888);

fn guid(number: u128) -> Guid {
    Guid::from_u128(0xabcd_0000_0000_0000_0000_0000_0000_0000 + number)
}

/// ESP of 4 MiB, root of 2 MiB, STATE of 1 MiB.
fn table(disk_bytes: u64, sector_size: u32) -> Table {
    let mut table = Table::new(DISK_ID, disk_bytes, sector_size).unwrap();
    table.add("BOOT", Guid::ESP, guid(1), 4 * MIB).unwrap();
    table.add("ROOT-A", Guid::ROOT_X86_64, guid(2), 2 * MIB).unwrap().attributes = ATTRIBUTE_READ_ONLY;
    table.add("STATE", Guid::LINUX_DATA, guid(3), MIB).unwrap();
    table
}

fn write(disk: &mut Vec<u8>, table: &mut Table) {
    table.commit(&mut Cursor::new(disk), |_| Ok(())).unwrap();
}

fn read(disk: &[u8]) -> Result<(Table, Copy), Error> {
    Table::read(&mut Cursor::new(disk))
}

/// A disk that keeps what every flush found.
struct Recorder {
    disk: Cursor<Vec<u8>>,
    /// Offset and bytes of each write since the beginning.
    writes: Vec<(u64, Vec<u8>)>,
}

impl Write for Recorder {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writes.push((self.disk.position(), buffer.to_vec()));
        self.disk.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Recorder {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.disk.seek(to)
    }
}

#[test]
fn what_is_written_is_read_from_either_copy_with_either_sector_size() {
    for sector_size in [512, 4096] {
        let mut disk = vec![0; 16 * MIB as usize];
        let mut table = table(16 * MIB, sector_size);
        write(&mut disk, &mut table);
        assert_eq!(read(&disk).unwrap(), (table.clone(), Copy::Primary));
        disk[sector_size as usize + 60] ^= 1;
        let (found, copy) = read(&disk).unwrap();
        assert_eq!((found.partitions, copy), (table.partitions, Copy::Backup));
    }
}

/// The checksums are those of a table that `sfdisk --verify` and `sgdisk --verify` found whole.
#[test]
fn the_bytes_are_those_that_other_programs_took() {
    let mut disk = vec![0; 16 * MIB as usize];
    write(&mut disk, &mut table(16 * MIB, 512));
    assert_eq!(&disk[510..512], [0x55, 0xaa]);
    assert_eq!(disk[450], 0xee);
    assert_eq!(&disk[512..520], b"EFI PART");
    let number = |at: usize| u32::from_le_bytes(disk[at..at + 4].try_into().unwrap());
    assert_eq!(format!("{:08x} {:08x}", number(512 + 16), number(512 + 88)), "79786911 06db7089");
}

#[test]
fn partitions_lie_on_mib_borders_one_behind_the_other() {
    let table = table(16 * MIB, 512);
    let places: Vec<_> = table
        .partitions
        .iter()
        .map(|partition| (partition.number, table.offset_bytes(partition) / MIB, table.size_bytes(partition)))
        .collect();
    assert_eq!(places, [(1, 1, 4 * MIB), (2, 5, 2 * MIB), (3, 7, MIB)]);
    assert_eq!(table.by_name("STATE").unwrap().number, 3);
    assert_eq!(table.by_id(guid(2)).unwrap().name, "ROOT-A");
    assert!(table.by_name("ROOT").is_none());
}

#[test]
fn the_last_partition_grows_with_the_disk() {
    let before = table(16 * MIB, 512);
    assert_eq!(before.grow(16 * MIB + 4096).unwrap(), None);
    let grown = before.grow(64 * MIB).unwrap().unwrap();
    let state = grown.by_name("STATE").unwrap();
    // The last MiB holds the backup.
    assert_eq!(grown.size_bytes(state), 56 * MIB);
    assert_eq!(grown.partitions[..2], before.partitions[..2]);
    assert!(matches!(
        before.grow(8 * MIB),
        Err(Error::DiskTooSmall { disk_bytes, needed_bytes }) if disk_bytes == 8 * MIB && needed_bytes == 16 * MIB
    ));
}

/// Cuts the power after every sector of a growth. What the disk then shows is the old table or the new one.
#[test]
fn a_power_cut_at_any_sector_leaves_the_old_or_the_new_table() {
    for sector_size in [512, 4096] {
        let mut before = table(16 * MIB, sector_size);
        let mut old = vec![0; 16 * MIB as usize];
        write(&mut old, &mut before);
        old.resize(64 * MIB as usize, 0);

        let mut after = before.grow(64 * MIB).unwrap().unwrap();
        let mut recorder = Recorder { disk: Cursor::new(old.clone()), writes: Vec::new() };
        after.commit(&mut recorder, |_| Ok(())).unwrap();

        let mut disk = old;
        let mut seen_new = false;
        for (offset, bytes) in &recorder.writes {
            for (index, sector) in bytes.chunks(sector_size as usize).enumerate() {
                let at = *offset as usize + index * sector_size as usize;
                disk[at..at + sector.len()].copy_from_slice(sector);
                let (found, copy) = read(&disk).unwrap();
                assert_eq!(copy, Copy::Primary, "Linux reads no other");
                let is_new = found.partitions == after.partitions;
                assert!(is_new || found.partitions == before.partitions);
                assert!(is_new || !seen_new, "never back to the old table");
                seen_new |= is_new;
            }
        }
        assert!(seen_new);
    }
}

#[test]
fn entries_change_places_at_every_write() {
    let mut disk = vec![0; 16 * MIB as usize];
    let mut table = table(16 * MIB, 512);
    write(&mut disk, &mut table);
    let entries_at = |disk: &[u8]| u64::from_le_bytes(disk[512 + 72..512 + 80].try_into().unwrap());
    let first = entries_at(&disk);
    write(&mut disk, &mut table);
    assert_ne!(entries_at(&disk), first);
    write(&mut disk, &mut table);
    assert_eq!(entries_at(&disk), first);
}

#[test]
fn a_table_for_a_larger_disk_is_read_and_not_grown() {
    let mut disk = vec![0; 64 * MIB as usize];
    let mut table = table(64 * MIB, 512);
    write(&mut disk, &mut table);
    disk.truncate(32 * MIB as usize);
    let (found, _) = read(&disk).unwrap();
    let error = found.grow(32 * MIB).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the disk is too small for its partitions: it has 32 MiB, the partition table wants 64 MiB"
    );
}

#[test]
fn a_blank_disk_and_a_disk_with_a_damaged_table_are_told_apart() {
    let mut disk = vec![0; 16 * MIB as usize];
    assert!(matches!(read(&disk), Err(Error::NotFound(Damage::Signature))));
    assert!(matches!(read(&[]), Err(Error::NotFound(Damage::Truncated))));
    write(&mut disk, &mut table(16 * MIB, 512));
    let end = disk.len();
    disk[end - 512..].fill(0);
    disk[512 + 40] ^= 1;
    assert!(matches!(read(&disk), Err(Error::NotFound(Damage::HeaderChecksum))));
}

#[test]
fn a_table_that_cannot_be_is_not_written() {
    type Spoil = fn(&mut Table);
    let cases: [(&str, Spoil); 5] = [
        ("overlaps", |table| table.partitions[1].first = table.partitions[0].last),
        ("GUID of another", |table| table.partitions[1].id = table.partitions[0].id),
        ("number of another", |table| table.partitions[1].number = 1),
        ("more than 36", |table| table.partitions[0].name = "x".repeat(37)),
        ("begins where", |table| table.partitions[0].first = 1),
    ];
    for (wanted, spoil) in cases {
        let mut table = table(16 * MIB, 512);
        spoil(&mut table);
        let error = table.commit(&mut Cursor::new(Vec::new()), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains(wanted), "{wanted}: {error}");
    }
    let mut table = table(16 * MIB, 512);
    assert!(matches!(table.add("BIG", Guid::LINUX_DATA, guid(9), 9 * MIB), Err(Error::DiskTooSmall { .. })));
}

proptest! {
    /// Whatever bytes change, reading never panics, and finds a table that was written or none.
    #[test]
    fn damage_never_gives_another_table(hits in prop::collection::vec((0_usize..2 * 34 * 512, 1_u8..), 1..8)) {
        let mut disk = vec![0; 16 * MIB as usize];
        let mut table = table(16 * MIB, 512);
        write(&mut disk, &mut table);
        for (at, bits) in hits {
            // Half of the range is the primary's, half the backup's.
            let at = if at < 34 * 512 { at } else { disk.len() - at + 34 * 512 - 1 };
            disk[at] ^= bits;
        }
        if let Ok((found, _)) = read(&disk) {
            prop_assert_eq!(found.partitions, table.partitions);
        }
    }
}
