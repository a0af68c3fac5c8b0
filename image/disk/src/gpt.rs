//! GUID partition tables: read, write, and grow to a larger disk.
//!
//! # Power cuts
//!
//! A table is on the disk twice: at its beginning (primary) and at its end (backup). Linux uses the primary alone and
//! takes it only when header and entries fit together, so a primary that is rewritten in place has a moment in which
//! the disk has no partitions. [`Table::commit`] has no such moment. There is room for the primary's entries twice
//! before the first partition; new entries go where the old ones are not, and one write of one sector, the header,
//! turns from the old to the new:
//!
//! 1. backup entries and backup header (the primary is whole and old), flush;
//! 2. primary entries in the free place (the primary is whole and old), flush;
//! 3. primary header (the primary is whole and new), flush;
//! 4. protective MBR, whose only change is the disk's size, flush.
//!
//! A cut anywhere leaves a table that is wholly old or wholly new. When a disk grows, the old backup becomes part of
//! the last partition; it is left alone until the new backup is written.

use std::io::{self, Read, Seek, SeekFrom, Write};

use thiserror::Error;

use crate::guid::Guid;

mod codec;
#[cfg(test)]
mod tests;

/// Entries that a table has room for, and the bytes of one.
pub const ENTRY_COUNT: usize = 128;
const ENTRY_SIZE: usize = 128;
const ENTRIES_BYTES: usize = ENTRY_COUNT * ENTRY_SIZE;

/// Partitions begin and end at multiples of this, for flash and for RAID.
pub const ALIGNMENT_BYTES: u64 = 1024 * 1024;

/// Attribute: the file system is to be mounted read-only (discoverable partitions specification).
pub const ATTRIBUTE_READ_ONLY: u64 = 1 << 60;
/// Attribute: the file system is to grow with the partition.
pub const ATTRIBUTE_GROW: u64 = 1 << 59;
/// Attribute: other systems are not to mount it by themselves.
pub const ATTRIBUTE_NO_AUTO: u64 = 1 << 63;

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Bytes of a logical sector: 512 or 4096. All addresses below count these.
    pub sector_size: u32,
    /// Sectors of the disk that the table was made for.
    pub disk_sectors: u64,
    /// The disk's own GUID.
    pub disk_id: Guid,
    /// First and last sector that partitions may have.
    pub first_usable: u64,
    /// See `first_usable`.
    pub last_usable: u64,
    /// Partitions in the order of their numbers.
    pub partitions: Vec<Partition>,
    /// Where the primary's entries are; [`Table::commit`] writes to the other place.
    entries: u64,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1: Linux calls it `sda1` or `nvme0n1p1`.
    pub number: usize,
    /// What it is for.
    pub kind: Guid,
    /// Its own GUID: Linux's PARTUUID.
    pub id: Guid,
    /// First sector.
    pub first: u64,
    /// Last sector; it belongs to the partition.
    pub last: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// Name, at most 36 UTF-16 units.
    pub name: String,
}

/// Which of the two copies a table was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// At the beginning of the disk.
    Primary,
    /// At the end of the disk: the primary is damaged.
    Backup,
}

/// Why there is no table to work with.
#[derive(Debug, Error)]
pub enum Error {
    /// The disk could not be read or written.
    #[error("failed to {what} the partition table")]
    Io {
        /// "read" or "write".
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Neither copy is whole. The reason is the primary's.
    #[error("the disk has no GUID partition table that is whole: {0}")]
    NotFound(Damage),
    /// The table describes more sectors than there are.
    #[error(
        "the disk is too small for its partitions: it has {} MiB, the partition table wants {} MiB",
        .disk_bytes / 1024 / 1024, .needed_bytes.div_ceil(1024 * 1024)
    )]
    DiskTooSmall {
        /// Bytes of the disk.
        disk_bytes: u64,
        /// Bytes that the table needs.
        needed_bytes: u64,
    },
    /// The table cannot be written as asked.
    #[error("partition {number} '{name}' {problem}")]
    Partition {
        /// Its number.
        number: usize,
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Sectors that are neither 512 nor 4096 bytes.
    #[error("a sector of {0} bytes is not supported: only 512 and 4096 are")]
    SectorSize(u32),
}

/// What is wrong with a copy of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damage {
    /// No "EFI PART".
    #[error("no signature")]
    Signature,
    /// A header of a size or an entry of a size that no version has.
    #[error("sizes in the header that cannot be")]
    Sizes,
    /// The header's checksum does not fit.
    #[error("the header's checksum is wrong")]
    HeaderChecksum,
    /// The entries' checksum does not fit.
    #[error("the entries' checksum is wrong")]
    EntriesChecksum,
    /// The header says that it is elsewhere, or its sectors are in an impossible order.
    #[error("the header's addresses cannot be")]
    Addresses,
    /// The disk ends before the header or the entries.
    #[error("the disk ends too early")]
    Truncated,
}

// === impl Partition ===

impl Partition {
    /// Number of sectors.
    pub fn sectors(&self) -> u64 {
        self.last - self.first + 1
    }
}

// === impl Table ===

impl Table {
    /// An empty table for a disk of a size. Partitions may lie between the first and the last full MiB.
    pub fn new(disk_id: Guid, disk_bytes: u64, sector_size: u32) -> Result<Self, Error> {
        if !matches!(sector_size, 512 | 4096) {
            return Err(Error::SectorSize(sector_size));
        }
        let disk_sectors = disk_bytes / u64::from(sector_size);
        let needed_bytes = 3 * ALIGNMENT_BYTES;
        if disk_bytes < needed_bytes {
            return Err(Error::DiskTooSmall { disk_bytes, needed_bytes });
        }
        Ok(Self {
            sector_size,
            disk_sectors,
            disk_id,
            first_usable: ALIGNMENT_BYTES / u64::from(sector_size),
            last_usable: last_usable(disk_sectors, sector_size),
            partitions: Vec::new(),
            entries: 2,
        })
    }

    /// Adds a partition behind the last one, on a MiB border. Its size is rounded up to MiB.
    pub fn add(&mut self, name: &str, kind: Guid, id: Guid, bytes: u64) -> Result<&mut Partition, Error> {
        let alignment = ALIGNMENT_BYTES / u64::from(self.sector_size);
        let behind = self.partitions.iter().map(|partition| partition.last + 1).max();
        let first = behind.unwrap_or(self.first_usable).next_multiple_of(alignment);
        let sectors = bytes.max(1).div_ceil(ALIGNMENT_BYTES) * alignment;
        let number = self.partitions.iter().map(|partition| partition.number).max().unwrap_or(0) + 1;
        let last = first + sectors - 1;
        self.partitions.push(Partition {
            number,
            kind,
            id,
            first,
            last,
            attributes: 0,
            name: name.to_owned(),
        });
        self.check()?;
        Ok(self.partitions.last_mut().expect("one was just added"))
    }

    /// The partition with a GUID.
    pub fn by_id(&self, id: Guid) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.id == id)
    }

    /// The first partition with a name.
    pub fn by_name(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.name == name)
    }

    /// Where a partition begins, in bytes from the beginning of the disk.
    pub fn offset_bytes(&self, partition: &Partition) -> u64 {
        partition.first * u64::from(self.sector_size)
    }

    /// A partition's size in bytes.
    pub fn size_bytes(&self, partition: &Partition) -> u64 {
        partition.sectors() * u64::from(self.sector_size)
    }

    /// Bytes of the disk that the table was made for.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_sectors * u64::from(self.sector_size)
    }

    /// Reads the table of a disk, with either size of sector: the primary, or the backup at the disk's end when the
    /// primary is damaged.
    ///
    /// A table that was made for a larger disk is returned as it is; [`Table::grow`] refuses it.
    pub fn read(disk: &mut (impl Read + Seek)) -> Result<(Self, Copy), Error> {
        let read = |source| Error::Io { what: "read", source };
        let bytes = disk.seek(SeekFrom::End(0)).map_err(read)?;
        let mut reason = Damage::Signature;
        for sector_size in [512, 4096] {
            match codec::read_at(disk, 1, sector_size).map_err(read)? {
                Ok(table) => return Ok((table, Copy::Primary)),
                Err(Damage::Signature) => {}
                Err(damage) => reason = damage,
            }
        }
        for sector_size in [512, 4096] {
            let last = (bytes / u64::from(sector_size)).saturating_sub(1);
            if let Ok(table) = codec::read_at(disk, last, sector_size).map_err(read)? {
                return Ok((table, Copy::Backup));
            }
        }
        Err(Error::NotFound(reason))
    }

    /// The table for the same partitions on a disk of another size: the backup moves to the new end, and the partition
    /// that lies last reaches up to there, on a MiB border. `None` when there is less than a MiB to gain.
    pub fn grow(&self, disk_bytes: u64) -> Result<Option<Self>, Error> {
        let sector = u64::from(self.sector_size);
        if disk_bytes < self.disk_bytes() {
            return Err(Error::DiskTooSmall { disk_bytes, needed_bytes: self.disk_bytes() });
        }
        if disk_bytes - self.disk_bytes() < ALIGNMENT_BYTES {
            return Ok(None);
        }
        let mut grown = self.clone();
        grown.disk_sectors = disk_bytes / sector;
        grown.last_usable = last_usable(grown.disk_sectors, self.sector_size);
        let alignment = ALIGNMENT_BYTES / sector;
        let end = (grown.last_usable + 1) / alignment * alignment;
        if let Some(partition) = grown.partitions.iter_mut().max_by_key(|partition| partition.last) {
            partition.last = partition.last.max(end - 1);
        }
        grown.check()?;
        Ok(Some(grown))
    }

    /// Writes the table to its disk in an order that a power cut cannot hurt; see the module's text. `sync` must make
    /// what was written before last, such as `File::sync_data`.
    pub fn commit<D: Write + Seek>(
        &mut self,
        disk: &mut D,
        mut sync: impl FnMut(&mut D) -> io::Result<()>,
    ) -> Result<(), Error> {
        self.check()?;
        let sector = u64::from(self.sector_size);
        let entries = codec::entries(self);
        let place = self.other_place();
        let backup = self.disk_sectors - 1;
        let backup_entries = backup - entries_sectors(self.sector_size);
        let mut write = |steps: &[(u64, &[u8])]| -> io::Result<()> {
            for (address, bytes) in steps {
                disk.seek(SeekFrom::Start(address * sector))?;
                disk.write_all(bytes)?;
            }
            disk.flush()?;
            sync(disk)
        };
        let failed = |source| Error::Io { what: "write", source };
        let backup_header = codec::header(self, &entries, backup, 1, backup_entries);
        write(&[(backup_entries, &entries), (backup, &backup_header)]).map_err(failed)?;
        write(&[(place, &entries)]).map_err(failed)?;
        write(&[(1, &codec::header(self, &entries, 1, backup, place))]).map_err(failed)?;
        write(&[(0, &codec::protective_mbr(self))]).map_err(failed)?;
        self.entries = place;
        Ok(())
    }

    /// Where the primary's entries are not. A disk that another program partitioned may have no room for two.
    fn other_place(&self) -> u64 {
        let sectors = entries_sectors(self.sector_size);
        let second = 2 + sectors;
        let in_front =
            self.partitions.iter().map(|partition| partition.first).min().unwrap_or(self.first_usable);
        if self.entries == 2 && second + sectors <= in_front.min(self.first_usable) { second } else { 2 }
    }

    /// Whether the table can be written: everything inside the disk, nothing twice.
    fn check(&self) -> Result<(), Error> {
        let wrong = |partition: &Partition, problem| Error::Partition {
            number: partition.number,
            name: partition.name.clone(),
            problem,
        };
        for (index, partition) in self.partitions.iter().enumerate() {
            if !(1..=ENTRY_COUNT).contains(&partition.number) {
                return Err(wrong(partition, "has a number that the table has no room for"));
            }
            if partition.kind == Guid::NIL {
                return Err(wrong(partition, "has no type"));
            }
            if partition.name.encode_utf16().count() > codec::NAME_UNITS {
                return Err(wrong(partition, "has a name of more than 36 characters"));
            }
            if partition.first > partition.last || partition.first < self.first_usable {
                return Err(wrong(partition, "begins where no partition can"));
            }
            if partition.last > self.last_usable {
                return Err(Error::DiskTooSmall {
                    disk_bytes: self.disk_bytes(),
                    needed_bytes: self.disk_bytes()
                        + (partition.last - self.last_usable) * u64::from(self.sector_size),
                });
            }
            for other in &self.partitions[..index] {
                if partition.number == other.number {
                    return Err(wrong(partition, "has the number of another one"));
                }
                if partition.id == other.id {
                    return Err(wrong(partition, "has the GUID of another one"));
                }
                if partition.first <= other.last && other.first <= partition.last {
                    return Err(wrong(partition, "overlaps another one"));
                }
            }
        }
        Ok(())
    }
}

/// Sectors of the entries.
fn entries_sectors(sector_size: u32) -> u64 {
    (ENTRIES_BYTES as u64).div_ceil(u64::from(sector_size))
}

/// The last sector before the backup.
fn last_usable(disk_sectors: u64, sector_size: u32) -> u64 {
    disk_sectors - 2 - entries_sectors(sector_size)
}
