//! The bytes of a partition table.

use std::io::{self, Read, Seek, SeekFrom};

use super::{Damage, ENTRIES_BYTES, ENTRY_COUNT, ENTRY_SIZE, Partition, Table};
use crate::guid::Guid;

/// UTF-16 units of a name.
pub(super) const NAME_UNITS: usize = 36;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_SIZE: usize = 92;
/// No table in use has more: 128 entries of 128 bytes are 16 KiB.
const MAX_ENTRIES_BYTES: usize = 1024 * 1024;

/// The header's fields, at their places.
mod at {
    pub(super) const REVISION: usize = 8;
    pub(super) const HEADER_SIZE: usize = 12;
    pub(super) const HEADER_CRC: usize = 16;
    pub(super) const MY_LBA: usize = 24;
    pub(super) const ALTERNATE_LBA: usize = 32;
    pub(super) const FIRST_USABLE: usize = 40;
    pub(super) const LAST_USABLE: usize = 48;
    pub(super) const DISK_ID: usize = 56;
    pub(super) const ENTRIES_LBA: usize = 72;
    pub(super) const ENTRY_COUNT: usize = 80;
    pub(super) const ENTRY_SIZE: usize = 84;
    pub(super) const ENTRIES_CRC: usize = 88;
}

/// Reads the copy of a table whose header is at an address. The outer error is the disk's, the inner the table's.
pub(super) fn read_at(
    disk: &mut (impl Read + Seek),
    address: u64,
    sector_size: u32,
) -> io::Result<Result<Table, Damage>> {
    let mut header = [0; HEADER_SIZE];
    if !read_exact_at(disk, address * u64::from(sector_size), &mut header)? {
        return Ok(Err(Damage::Truncated));
    }
    let (entries_lba, count, size) = match check_header(&header, address) {
        Ok(found) => found,
        Err(damage) => return Ok(Err(damage)),
    };
    let mut entries = vec![0; count * size];
    let Some(offset) = entries_lba.checked_mul(u64::from(sector_size)) else {
        return Ok(Err(Damage::Addresses));
    };
    if !read_exact_at(disk, offset, &mut entries)? {
        return Ok(Err(Damage::Truncated));
    }
    if crc32(&entries) != u32_at(&header, at::ENTRIES_CRC) {
        return Ok(Err(Damage::EntriesChecksum));
    }
    Ok(decode(&header, &entries, size, sector_size))
}

/// Fills a buffer; false when the disk ends before.
fn read_exact_at(disk: &mut (impl Read + Seek), offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
    disk.seek(SeekFrom::Start(offset))?;
    match disk.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Checks all that a header says of itself. Returns where the entries are, how many, and how large one is.
fn check_header(header: &[u8; HEADER_SIZE], address: u64) -> Result<(u64, usize, usize), Damage> {
    if !header.starts_with(SIGNATURE) {
        return Err(Damage::Signature);
    }
    // Later revisions may have longer headers; none exists.
    if u32_at(header, at::HEADER_SIZE) as usize != HEADER_SIZE {
        return Err(Damage::Sizes);
    }
    let mut zeroed = *header;
    zeroed[at::HEADER_CRC..at::HEADER_CRC + 4].fill(0);
    if crc32(&zeroed) != u32_at(header, at::HEADER_CRC) {
        return Err(Damage::HeaderChecksum);
    }
    let (count, size) = (u32_at(header, at::ENTRY_COUNT) as usize, u32_at(header, at::ENTRY_SIZE) as usize);
    if size < ENTRY_SIZE || size % 8 != 0 || count.saturating_mul(size) > MAX_ENTRIES_BYTES {
        return Err(Damage::Sizes);
    }
    let (first, last) = (u64_at(header, at::FIRST_USABLE), u64_at(header, at::LAST_USABLE));
    let end = u64_at(header, at::ALTERNATE_LBA).max(address);
    if u64_at(header, at::MY_LBA) != address || first > last || last >= end || end == u64::MAX {
        return Err(Damage::Addresses);
    }
    Ok((u64_at(header, at::ENTRIES_LBA), count, size))
}

fn decode(
    header: &[u8; HEADER_SIZE],
    entries: &[u8],
    entry_size: usize,
    sector_size: u32,
) -> Result<Table, Damage> {
    let (my, alternate) = (u64_at(header, at::MY_LBA), u64_at(header, at::ALTERNATE_LBA));
    let partitions: Vec<Partition> = entries
        .chunks_exact(entry_size)
        .enumerate()
        .filter(|(_, entry)| guid_at(entry, 0) != Guid::NIL)
        .map(|(index, entry)| decode_entry(index + 1, entry))
        .collect();
    let (first_usable, last_usable) = (u64_at(header, at::FIRST_USABLE), u64_at(header, at::LAST_USABLE));
    if partitions.iter().any(|partition| {
        partition.first > partition.last || partition.first < first_usable || partition.last > last_usable
    }) {
        return Err(Damage::Addresses);
    }
    Ok(Table {
        sector_size,
        disk_sectors: my.max(alternate) + 1,
        disk_id: guid_at(header, at::DISK_ID),
        first_usable,
        last_usable,
        partitions,
        // What the backup says of its own entries is of no use to the primary. The primary is damaged then, and the
        // place that most programs use is as good as any.
        entries: if my == 1 { u64_at(header, at::ENTRIES_LBA) } else { 2 },
    })
}

fn decode_entry(number: usize, entry: &[u8]) -> Partition {
    let units: Vec<u16> = entry[56..ENTRY_SIZE]
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .take_while(|&unit| unit != 0)
        .collect();
    Partition {
        number,
        kind: guid_at(entry, 0),
        id: guid_at(entry, 16),
        first: u64_at(entry, 32),
        last: u64_at(entry, 40),
        attributes: u64_at(entry, 48),
        name: String::from_utf16_lossy(&units),
    }
}

/// The array of entries.
pub(super) fn entries(table: &Table) -> Vec<u8> {
    let mut bytes = vec![0; ENTRIES_BYTES];
    for partition in &table.partitions {
        let entry = &mut bytes[(partition.number - 1) * ENTRY_SIZE..][..ENTRY_SIZE];
        entry[..16].copy_from_slice(&partition.kind.to_disk());
        entry[16..32].copy_from_slice(&partition.id.to_disk());
        put_u64(entry, 32, partition.first);
        put_u64(entry, 40, partition.last);
        put_u64(entry, 48, partition.attributes);
        for (index, unit) in partition.name.encode_utf16().take(NAME_UNITS).enumerate() {
            entry[56 + 2 * index..][..2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    bytes
}

/// The sector of a header.
pub(super) fn header(table: &Table, entries: &[u8], my: u64, alternate: u64, entries_at: u64) -> Vec<u8> {
    let mut sector = vec![0; table.sector_size as usize];
    sector[..8].copy_from_slice(SIGNATURE);
    put_u32(&mut sector, at::REVISION, REVISION);
    put_u32(&mut sector, at::HEADER_SIZE, HEADER_SIZE as u32);
    put_u64(&mut sector, at::MY_LBA, my);
    put_u64(&mut sector, at::ALTERNATE_LBA, alternate);
    put_u64(&mut sector, at::FIRST_USABLE, table.first_usable);
    put_u64(&mut sector, at::LAST_USABLE, table.last_usable);
    sector[at::DISK_ID..at::DISK_ID + 16].copy_from_slice(&table.disk_id.to_disk());
    put_u64(&mut sector, at::ENTRIES_LBA, entries_at);
    put_u32(&mut sector, at::ENTRY_COUNT, ENTRY_COUNT as u32);
    put_u32(&mut sector, at::ENTRY_SIZE, ENTRY_SIZE as u32);
    put_u32(&mut sector, at::ENTRIES_CRC, crc32(entries));
    let checksum = crc32(&sector[..HEADER_SIZE]);
    put_u32(&mut sector, at::HEADER_CRC, checksum);
    sector
}

/// The sector that keeps programs without knowledge of GPT away: one MBR partition over the whole disk.
pub(super) fn protective_mbr(table: &Table) -> Vec<u8> {
    let mut sector = vec![0; table.sector_size as usize];
    let sectors = u32::try_from(table.disk_sectors - 1).unwrap_or(u32::MAX);
    let entry = &mut sector[446..462];
    // Cylinder, head and sector of the first and, out of reach, of the last sector.
    entry[..8].copy_from_slice(&[0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    put_u32(entry, 8, 1);
    put_u32(entry, 12, sectors);
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

fn guid_at(bytes: &[u8], offset: usize) -> Guid {
    Guid::from_disk(bytes[offset..offset + 16].try_into().expect("sixteen bytes"))
}

fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// CRC-32 as Ethernet and GPT have it. Bit by bit: it runs over 16 KiB, and this needs neither a table nor a crate.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
