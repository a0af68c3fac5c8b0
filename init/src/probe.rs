//! What is on a disk, from its first bytes: EROFS, ext4, nothing at all, or something that is not ours.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Both superblocks we know start here.
const SUPERBLOCK_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1` (fs/erofs/erofs_fs.h).
const EROFS_MAGIC: u32 = 0xE0F5_E1E2;
/// `EXT4_SUPER_MAGIC` (fs/ext4/ext4.h).
const EXT4_MAGIC: u16 = 0xEF53;
/// Where the first backup of an ext4 superblock is, as e2fsck wants it and in bytes.
pub(crate) const BACKUP_BLOCK: &str = "32768";
const BACKUP_OFFSET: u64 = 32768 * 4096;
/// Enough for either superblock.
const HEAD_LEN: usize = 4096;
/// How much of both ends must be zero for a disk to count as blank: room for any partition table (GPT keeps a copy at the end)
/// and for the superblocks of the common file systems, RAID members and LVM volumes.
pub(crate) const BLANK_LEN: u64 = 1 << 20;

/// What a disk begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// An EROFS with this volume label.
    Erofs(String),
    /// An ext2, ext3 or ext4 with this volume label.
    Ext4(String),
    /// Zeros, or anything else.
    Other,
}

/// Reads the start of `device` and names what is there.
pub(crate) fn content(device: &Path) -> io::Result<Content> {
    Ok(identify(&read_head(device)?))
}

/// The size in bytes of the ext4 on `device`; none if there is no such file system.
pub(crate) fn ext4_size(device: &Path) -> io::Result<Option<u64>> {
    Ok(size_of_ext4(&read_head(device)?))
}

fn read_head(device: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_LEN);
    File::open(device)?.take(HEAD_LEN as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Blocks (low half at 4, high half at 0x150) times block size (1024 shifted by what is at 0x18).
fn size_of_ext4(head: &[u8]) -> Option<u64> {
    let superblock = head.get(SUPERBLOCK_OFFSET..)?;
    (superblock.get(0x38..0x3A)? == EXT4_MAGIC.to_le_bytes()).then_some(())?;
    let number = |at: usize| Some(u32::from_le_bytes(superblock.get(at..at + 4)?.try_into().ok()?));
    let blocks = u64::from(number(0x150)?) << 32 | u64::from(number(4)?);
    blocks.checked_mul(1024u64.checked_shl(number(0x18)?)?)
}

/// Names what `head`, the first bytes of a disk, belongs to.
pub(crate) fn identify(head: &[u8]) -> Content {
    let Some(superblock) = head.get(SUPERBLOCK_OFFSET..) else { return Content::Other };
    if superblock.get(..4) == Some(&EROFS_MAGIC.to_le_bytes()) {
        return Content::Erofs(label(superblock.get(64..80)));
    }
    if superblock.get(0x38..0x3A) == Some(&EXT4_MAGIC.to_le_bytes()) {
        return Content::Ext4(label(superblock.get(0x78..0x88)));
    }
    Content::Other
}

/// The label in the first backup of an ext4's superblock, where there is one: in blocks of 4096 bytes every group has 32768, and
/// the second one begins with it.
pub(crate) fn backup_label(device: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(device)?;
    file.seek(SeekFrom::Start(BACKUP_OFFSET))?;
    let mut head = vec![0; SUPERBLOCK_OFFSET];
    file.take(HEAD_LEN as u64 - SUPERBLOCK_OFFSET as u64).read_to_end(&mut head)?;
    Ok(match identify(&head) {
        Content::Ext4(label) => Some(label),
        _ => None,
    })
}

/// Whether the first [`BLANK_LEN`] bytes of `disk` are all zero.
pub(crate) fn begins_blank(disk: &Path) -> io::Result<bool> {
    zeros(&mut File::open(disk)?)
}

/// Whether the first and the last [`BLANK_LEN`] bytes of `disk` are all zero.
pub(crate) fn is_blank(disk: &Path) -> io::Result<bool> {
    let mut file = File::open(disk)?;
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    if !zeros(&mut file)? {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(size.saturating_sub(BLANK_LEN)))?;
    zeros(&mut file)
}

fn zeros(file: &mut File) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    let mut limited = file.take(BLANK_LEN);
    loop {
        match limited.read(&mut buffer)? {
            0 => return Ok(true),
            n if buffer[..n].iter().any(|&byte| byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

fn label(field: Option<&[u8]>) -> String {
    let bytes = field.unwrap_or_default();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(offset: usize, bytes: &[u8], label_offset: usize, label: &[u8]) -> Vec<u8> {
        let mut head = vec![0; HEAD_LEN];
        head[offset..offset + bytes.len()].copy_from_slice(bytes);
        head[label_offset..label_offset + label.len()].copy_from_slice(label);
        head
    }

    #[test]
    fn erofs_and_ext4_are_told_apart_with_their_labels() {
        let erofs = with(1024, &[0xE2, 0xE1, 0xF5, 0xE0], 1024 + 64, b"skerry-root");
        assert_eq!(identify(&erofs), Content::Erofs("skerry-root".to_owned()));
        let ext4 = with(1024 + 0x38, &[0x53, 0xEF], 1024 + 0x78, b"STATE");
        assert_eq!(identify(&ext4), Content::Ext4("STATE".to_owned()));
    }

    #[test]
    fn the_size_of_an_ext4_is_blocks_times_block_size() {
        let mut head = with(1024 + 0x38, &[0x53, 0xEF], 1024 + 4, &524_288u32.to_le_bytes());
        head[1024 + 0x18] = 2;
        assert_eq!(size_of_ext4(&head), Some(2 << 30));
        assert_eq!(size_of_ext4(&[0; HEAD_LEN]), None);
    }

    #[test]
    fn short_or_unknown_heads_are_other() {
        assert_eq!(identify(&[0; 1024]), Content::Other);
        assert_eq!(identify(&with(510, &[0x55, 0xAA], 0, b"")), Content::Other);
    }

    #[test]
    fn a_backup_table_at_the_end_makes_a_disk_not_blank() {
        let path = std::env::temp_dir().join(format!("skerry-blank-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        assert!(is_blank(&path).unwrap());
        std::os::unix::fs::FileExt::write_at(&file, b"EFI PART", (8 << 20) - 512).unwrap();
        assert!(!is_blank(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
