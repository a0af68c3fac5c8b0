//! Whether a volume is a FAT or an ISO 9660, and its label, from its first bytes.
//!
//! Formats: Microsoft's FAT specification 1.03 (BPB, and the directory entry that holds the label, which is the one that Windows
//! changes), ECMA-119 section 8.4 (primary volume descriptor).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where ISO 9660 keeps its first volume descriptor.
const DESCRIPTOR_OFFSET: u64 = 16 * 2048;
/// More of a directory than this is not searched for the label, which comes first.
const MOST_ENTRIES: u64 = 512;
const ENTRY_LEN: u64 = 32;
/// Attributes of an entry: the low six bits, and the one that says "label".
const ATTRIBUTES: u8 = 0x3F;
const IS_LABEL: u8 = 0x08;

/// A file system that a configuration may be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileSystem {
    /// What the kernel calls it.
    pub(super) kind: &'static str,
    /// Its label, without blanks at the end.
    pub(super) label: String,
}

/// Looks at a device; none if it holds neither.
pub(super) fn look(device: &Path) -> io::Result<Option<FileSystem>> {
    let file = File::open(device)?;
    match fat(&file)? {
        Some(fat) => Ok(Some(fat)),
        None => iso(&file),
    }
}

fn fat(file: &File) -> io::Result<Option<FileSystem>> {
    let mut sector = [0; 512];
    if file.read_exact_at(&mut sector, 0).is_err() {
        return Ok(None);
    }
    let Some(layout) = Layout::of(&sector) else { return Ok(None) };
    let label = match layout.label_entry(file)? {
        Some(label) => label,
        None => layout.label_in_header(&sector),
    };
    Ok(Some(FileSystem { kind: "vfat", label }))
}

/// Where a FAT keeps its top directory.
struct Layout {
    directory: u64,
    entries: u64,
    /// The label's offset in the first sector.
    label: usize,
}

impl Layout {
    fn of(sector: &[u8; 512]) -> Option<Self> {
        let short = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
        let long = |at: usize| short(at) | short(at + 2) << 16;
        let (bytes, cluster, reserved, copies) =
            (short(11), u64::from(sector[13]), short(14), u64::from(sector[16]));
        let sane = sector[510..] == [0x55, 0xAA]
            && [512, 1024, 2048, 4096].contains(&bytes)
            && cluster.is_power_of_two()
            && reserved > 0
            && (1..=2).contains(&copies)
            && sector[21] >= 0xF0;
        let (is_fat16, is_fat32) = (sector[54..57] == *b"FAT", sector[82..87] == *b"FAT32");
        if !sane || !(is_fat16 || is_fat32) {
            return None;
        }
        let table = if short(22) != 0 { short(22) } else { long(36) };
        let data = (reserved + copies * table) * bytes;
        if is_fat32 && short(17) == 0 {
            let first = long(44).checked_sub(2)?;
            let entries = cluster * bytes / ENTRY_LEN;
            return Some(Self { directory: data + first * cluster * bytes, entries, label: 71 });
        }
        Some(Self { directory: data, entries: short(17), label: 43 })
    }

    fn label_entry(&self, file: &File) -> io::Result<Option<String>> {
        let mut entry = [0; ENTRY_LEN as usize];
        for index in 0..self.entries.min(MOST_ENTRIES) {
            // The device may be shorter than its header says; then there is no label to find.
            if file.read_exact_at(&mut entry, self.directory + index * ENTRY_LEN).is_err() || entry[0] == 0 {
                return Ok(None);
            }
            if entry[11] & ATTRIBUTES == IS_LABEL && entry[0] != 0xE5 {
                return Ok(Some(trimmed(&entry[..11])));
            }
        }
        Ok(None)
    }

    /// Says `NO NAME` where there is none.
    fn label_in_header(&self, sector: &[u8; 512]) -> String {
        let label = trimmed(&sector[self.label..self.label + 11]);
        if label == "NO NAME" { String::new() } else { label }
    }
}

fn iso(file: &File) -> io::Result<Option<FileSystem>> {
    let mut descriptor = [0; 72];
    if file.read_exact_at(&mut descriptor, DESCRIPTOR_OFFSET).is_err() || descriptor[..6] != *b"\x01CD001" {
        return Ok(None);
    }
    Ok(Some(FileSystem { kind: "iso9660", label: trimmed(&descriptor[40..72]) }))
}

fn trimmed(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches([' ', '\0']).to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A FAT16 with two tables of one sector each, whose header and top directory carry labels.
    fn volume(in_header: &[u8; 11], in_directory: Option<&[u8; 11]>) -> Vec<u8> {
        let mut bytes = vec![0; 8 * 512];
        bytes[11..13].copy_from_slice(&512u16.to_le_bytes());
        bytes[13..24].copy_from_slice(&[1, 1, 0, 2, 16, 0, 8, 0, 0xF8, 1, 0]);
        bytes[43..54].copy_from_slice(in_header);
        bytes[54..62].copy_from_slice(b"FAT16   ");
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
        if let Some(label) = in_directory {
            bytes[3 * 512..3 * 512 + 11].copy_from_slice(b"CONFIG  TOM");
            bytes[3 * 512 + 11] = 0x20;
            bytes[3 * 512 + 32..3 * 512 + 43].copy_from_slice(label);
            bytes[3 * 512 + 43] = 0x08;
        }
        bytes
    }

    fn looked(bytes: &[u8]) -> Option<FileSystem> {
        let path = std::env::temp_dir().join(format!("skerry-label-{}-{}", std::process::id(), bytes.len()));
        File::create(&path).unwrap().write_all(bytes).unwrap();
        let found = look(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        found
    }

    #[test]
    fn the_label_in_the_directory_wins_over_the_one_in_the_header() {
        let mut bytes = volume(b"OLD        ", Some(b"CONFIG     "));
        assert_eq!(looked(&bytes), Some(FileSystem { kind: "vfat", label: "CONFIG".to_owned() }));
        bytes = volume(b"OLD        ", None);
        bytes.push(0);
        assert_eq!(looked(&bytes).unwrap().label, "OLD");
        bytes = volume(b"NO NAME    ", None);
        bytes.extend([0, 0]);
        assert_eq!(looked(&bytes).unwrap().label, "");
    }

    #[test]
    fn a_boot_sector_alone_is_no_fat_and_a_short_device_is_no_error() {
        let mut bytes = vec![0; 512];
        bytes[510..].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(looked(&bytes), None);
        assert_eq!(looked(&[0; 100]), None);
        let mut cut = volume(b"CONFIG     ", None);
        cut.truncate(600);
        assert_eq!(looked(&cut).unwrap().label, "CONFIG");
    }

    #[test]
    fn an_iso_is_known_by_its_descriptor() {
        let mut bytes = vec![0; DESCRIPTOR_OFFSET as usize + 2048];
        let at = DESCRIPTOR_OFFSET as usize;
        bytes[at..at + 6].copy_from_slice(b"\x01CD001");
        bytes[at + 40..at + 72].copy_from_slice(format!("{:<32}", "cidata").as_bytes());
        assert_eq!(looked(&bytes), Some(FileSystem { kind: "iso9660", label: "cidata".to_owned() }));
    }
}
