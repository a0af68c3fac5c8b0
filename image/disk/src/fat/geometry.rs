//! Where the parts of a FAT volume lie, and the sectors that say so.

use super::LABEL_BYTES;

pub(super) const SECTOR_BYTES: u64 = 512;
/// Copies of the allocation table.
pub(super) const FATS: u64 = 2;
/// What a file's last cluster points to; the two widths keep their own lower bits.
pub(super) const END_OF_CHAIN: u32 = 0x0fff_ffff;

/// A volume with this many clusters or more is FAT32, one with fewer FAT16, one with fewer than the second FAT12.
const FAT32_CLUSTERS: u32 = 65_525;
const FAT16_CLUSTERS: u32 = 4_085;
const FAT32_MAX_CLUSTERS: u32 = 0x0fff_fff5;
/// Some programs are off by a few at the borders.
const MARGIN: u32 = 16;

const FAT32_RESERVED: u64 = 32;
const BACKUP_BOOT_SECTOR: usize = 6;
const FAT16_ROOT_ENTRIES: u64 = 512;
const MEDIA_FIXED_DISK: u8 = 0xf8;

/// Where things are. Offsets are from the volume's beginning, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) fat32: bool,
    pub(super) sectors: u64,
    pub(super) reserved: u64,
    pub(super) fats: u64,
    pub(super) fat_sectors: u64,
    /// FAT16 only.
    pub(super) root_entries: u64,
    pub(super) cluster_sectors: u64,
    pub(super) clusters: u32,
    /// FAT32 only.
    pub(super) root: u32,
}

impl Geometry {
    /// The geometry for a new volume of a size.
    pub(super) fn for_volume(bytes: u64) -> Option<Self> {
        let sectors = bytes / SECTOR_BYTES;
        u32::try_from(sectors).ok()?;
        let wide = [8, 4, 2, 1].into_iter().map(|cluster| Self::new(sectors, true, cluster));
        let narrow = [8, 4, 2, 1].into_iter().map(|cluster| Self::new(sectors, false, cluster));
        wide.chain(narrow).flatten().find(|found| {
            if found.fat32 {
                (FAT32_CLUSTERS + MARGIN..FAT32_MAX_CLUSTERS).contains(&found.clusters)
            } else {
                (FAT16_CLUSTERS + MARGIN..FAT32_CLUSTERS - MARGIN).contains(&found.clusters)
            }
        })
    }

    fn new(sectors: u64, fat32: bool, cluster_sectors: u64) -> Option<Self> {
        let (reserved, root_entries, width) =
            if fat32 { (FAT32_RESERVED, 0, 4) } else { (1, FAT16_ROOT_ENTRIES, 2) };
        let room = sectors.checked_sub(reserved + root_entries * 32 / SECTOR_BYTES)?;
        // A little more than needed: the tables themselves take room from the clusters.
        let fat_sectors = ((room / cluster_sectors + 2) * width).div_ceil(SECTOR_BYTES);
        let clusters = room.checked_sub(FATS * fat_sectors)? / cluster_sectors;
        Some(Self {
            fat32,
            sectors,
            reserved,
            fats: FATS,
            fat_sectors,
            root_entries,
            cluster_sectors,
            clusters: u32::try_from(clusters).ok()?,
            root: if fat32 { 2 } else { 0 },
        })
    }

    /// The geometry that a boot sector describes.
    pub(super) fn parse(sector: &[u8; SECTOR_BYTES as usize]) -> Result<Self, &'static str> {
        let short = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
        let long = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes"));
        let or = |short: u64, long: u32| if short == 0 { u64::from(long) } else { short };
        if sector[510..] != [0x55, 0xaa] {
            return Err("no boot sector");
        }
        if short(11) != SECTOR_BYTES {
            return Err("sectors of other than 512 bytes");
        }
        let mut this = Self {
            fat32: short(17) == 0,
            sectors: or(short(19), long(32)),
            reserved: short(14),
            fats: u64::from(sector[16]),
            fat_sectors: or(short(22), long(36)),
            root_entries: short(17),
            cluster_sectors: u64::from(sector[13]),
            clusters: 0,
            root: 0,
        };
        let front = this.data_sector();
        if this.cluster_sectors == 0 || this.reserved == 0 || this.fats == 0 || front >= this.sectors {
            return Err("sizes in the boot sector that cannot be");
        }
        this.clusters =
            u32::try_from((this.sectors - front) / this.cluster_sectors).map_err(|_| "too many clusters")?;
        if this.fat32 {
            this.root = long(44);
        }
        if this.clusters < FAT16_CLUSTERS || this.fat32 != (this.clusters >= FAT32_CLUSTERS) {
            return Err("neither FAT16 nor FAT32");
        }
        if (u64::from(this.clusters) + 2) * this.width() > this.fat_sectors * SECTOR_BYTES {
            return Err("an allocation table that is too small");
        }
        Ok(this)
    }

    /// Bytes of an entry of the allocation table.
    pub(super) fn width(&self) -> u64 {
        if self.fat32 { 4 } else { 2 }
    }

    fn data_sector(&self) -> u64 {
        self.reserved + self.fats * self.fat_sectors + self.root_entries * 32 / SECTOR_BYTES
    }

    pub(super) fn cluster_bytes(&self) -> u64 {
        self.cluster_sectors * SECTOR_BYTES
    }

    pub(super) fn cluster_offset(&self, cluster: u32) -> u64 {
        (self.data_sector() + u64::from(cluster - 2) * self.cluster_sectors) * SECTOR_BYTES
    }

    pub(super) fn fat_offset(&self, copy: u64) -> u64 {
        (self.reserved + copy * self.fat_sectors) * SECTOR_BYTES
    }

    /// The room of FAT16's root directory; FAT32's has no limit.
    pub(super) fn root_bytes(&self) -> Option<u64> {
        (!self.fat32).then_some(self.root_entries * 32)
    }

    pub(super) fn root_offset(&self) -> u64 {
        (self.reserved + self.fats * self.fat_sectors) * SECTOR_BYTES
    }

    pub(super) fn root_cluster(&self) -> u32 {
        self.root
    }

    /// An allocation table without files.
    pub(super) fn empty_fat(&self) -> Vec<u8> {
        let mut fat = vec![0; (self.fat_sectors * SECTOR_BYTES) as usize];
        self.set(&mut fat, 0, END_OF_CHAIN & !0xff | u32::from(MEDIA_FIXED_DISK));
        // Also says that the volume was unmounted and is whole.
        self.set(&mut fat, 1, END_OF_CHAIN);
        fat
    }

    pub(super) fn set(&self, fat: &mut [u8], cluster: u32, value: u32) {
        let width = self.width() as usize;
        fat[cluster as usize * width..][..width].copy_from_slice(&value.to_le_bytes()[..width]);
    }

    /// What follows a cluster; `None` at the end of a file, or where the table makes no sense.
    pub(super) fn next(&self, entry: &[u8]) -> Option<u32> {
        let mut bytes = [0; 4];
        bytes[..entry.len()].copy_from_slice(entry);
        let next = u32::from_le_bytes(bytes) & END_OF_CHAIN;
        (2..self.clusters + 2).contains(&next).then_some(next)
    }

    /// The sectors in front of the allocation table: boot sector, and for FAT32 the count of free clusters and copies.
    pub(super) fn reserved_sectors(&self, id: u32, label: &[u8; LABEL_BYTES], next_free: u32) -> Vec<u8> {
        let mut bytes = vec![0; (self.reserved * SECTOR_BYTES) as usize];
        let boot = self.boot_sector(id, label);
        bytes[..boot.len()].copy_from_slice(&boot);
        if self.fat32 {
            let info = self.info_sector(next_free);
            let size = SECTOR_BYTES as usize;
            bytes[size..2 * size].copy_from_slice(&info);
            bytes[BACKUP_BOOT_SECTOR * size..][..size].copy_from_slice(&boot);
            bytes[(BACKUP_BOOT_SECTOR + 1) * size..][..size].copy_from_slice(&info);
        }
        bytes
    }

    fn boot_sector(&self, id: u32, label: &[u8; LABEL_BYTES]) -> [u8; SECTOR_BYTES as usize] {
        let mut sector = [0; SECTOR_BYTES as usize];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        // A jump over the fields, as every FAT volume has it; nothing boots from here.
        put(0, if self.fat32 { &[0xeb, 0x58, 0x90] } else { &[0xeb, 0x3c, 0x90] });
        put(3, b"SKERRY  ");
        put(11, &(SECTOR_BYTES as u16).to_le_bytes());
        put(13, &[self.cluster_sectors as u8]);
        put(14, &(self.reserved as u16).to_le_bytes());
        put(16, &[FATS as u8]);
        put(17, &(self.root_entries as u16).to_le_bytes());
        put(21, &[MEDIA_FIXED_DISK]);
        // Sectors per track and heads, for programs that still ask.
        put(24, &63_u16.to_le_bytes());
        put(26, &255_u16.to_le_bytes());
        match u16::try_from(self.sectors) {
            Ok(sectors) if !self.fat32 => put(19, &sectors.to_le_bytes()),
            _ => put(32, &(self.sectors as u32).to_le_bytes()),
        }
        let tail = if self.fat32 {
            put(36, &(self.fat_sectors as u32).to_le_bytes());
            put(44, &self.root.to_le_bytes());
            put(48, &1_u16.to_le_bytes());
            put(50, &(BACKUP_BOOT_SECTOR as u16).to_le_bytes());
            64
        } else {
            put(22, &(self.fat_sectors as u16).to_le_bytes());
            36
        };
        // Drive number, then the mark of the three fields behind it.
        put(tail, &[0x80, 0, 0x29]);
        put(tail + 3, &id.to_le_bytes());
        put(tail + 7, label);
        put(tail + 18, if self.fat32 { b"FAT32   " } else { b"FAT16   " });
        put(510, &[0x55, 0xaa]);
        sector
    }

    fn info_sector(&self, next_free: u32) -> [u8; SECTOR_BYTES as usize] {
        let mut sector = [0; SECTOR_BYTES as usize];
        sector[..4].copy_from_slice(b"RRaA");
        sector[484..488].copy_from_slice(b"rrAa");
        sector[488..492].copy_from_slice(&(self.clusters + 2 - next_free).to_le_bytes());
        sector[492..496].copy_from_slice(&next_free.to_le_bytes());
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }
}
