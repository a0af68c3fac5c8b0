//! Reading an EROFS image: what it is called, and which files it has. (Kernel: Documentation/filesystems/erofs.rst and
//! fs/erofs/erofs_fs.h.)
//!
//! Names and sizes of everything; content only of files that are not compressed, which small ones are not.

use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, bail, ensure};
use disk::guid::Guid;

const SUPERBLOCK_OFFSET: u64 = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Inodes are numbered in units of this.
const SLOT_BYTES: u64 = 32;
const DIRECTORY_ENTRY_BYTES: usize = 12;
const MODE_TYPE: u16 = 0o170_000;
const MODE_DIRECTORY: u16 = 0o040_000;
const MODE_FILE: u16 = 0o100_000;
/// Directories of no tree that makes sense are deeper or larger.
const MAX_DEPTH: usize = 64;
const MAX_READ: u64 = 16 * 1024 * 1024;

/// An image that can be read.
pub(crate) struct Image<D> {
    disk: D,
    block_bits: u8,
    blocks: u64,
    meta: u64,
    root: u64,
    id: Guid,
    label: String,
}

/// A file, by its size and by the room that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) stored: u64,
    inode: u64,
}

#[derive(Debug, Clone, Copy)]
struct Inode {
    mode: u16,
    bytes: u64,
    layout: Layout,
    /// The first block, or the number of compressed blocks.
    blocks: u64,
    /// Where a tail that shares the inode's block lies.
    tail: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Plain,
    Inline,
    Compressed,
    Other,
}

// === impl Image ===

impl<D: Read + Seek> Image<D> {
    /// Reads the superblock; `None` when there is none.
    pub(crate) fn open(mut disk: D) -> anyhow::Result<Option<Self>> {
        let mut bytes = [0; 128];
        disk.seek(SeekFrom::Start(SUPERBLOCK_OFFSET))?;
        match disk.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if number(&bytes, 0) != MAGIC {
            return Ok(None);
        }
        let block_bits = bytes[12];
        ensure!((9..=16).contains(&block_bits), "an EROFS with blocks of 2^{block_bits} bytes");
        let label = bytes[64..80].split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(Some(Self {
            disk,
            block_bits,
            blocks: number(&bytes, 36).into(),
            meta: u64::from(number(&bytes, 40)) << block_bits,
            root: short(&bytes, 14).into(),
            id: Guid(bytes[48..64].try_into().expect("sixteen bytes")),
            label: String::from_utf8_lossy(label).into_owned(),
        }))
    }

    /// The file system's label.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The file system's UUID.
    pub(crate) fn id(&self) -> Guid {
        self.id
    }

    /// Bytes of the file system.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks << self.block_bits
    }

    /// All regular files, by path.
    pub(crate) fn files(&mut self) -> anyhow::Result<Vec<Found>> {
        let mut found = Vec::new();
        self.walk(self.root, "", 0, &mut found).context("the EROFS is damaged")?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// A file's content; `None` when it is compressed.
    pub(crate) fn content(&mut self, file: &Found) -> anyhow::Result<Option<Vec<u8>>> {
        let inode = self.inode(file.inode)?;
        match inode.layout {
            Layout::Plain | Layout::Inline => self.read(&inode).map(Some),
            _ => Ok(None),
        }
    }

    fn walk(&mut self, number: u64, path: &str, depth: usize, found: &mut Vec<Found>) -> anyhow::Result<()> {
        ensure!(depth < MAX_DEPTH, "directories within directories without end");
        let inode = self.inode(number)?;
        match inode.mode & MODE_TYPE {
            MODE_FILE => found.push(Found {
                path: path.to_owned(),
                bytes: inode.bytes,
                stored: match inode.layout {
                    Layout::Compressed => inode.blocks << self.block_bits,
                    _ => inode.bytes,
                },
                inode: number,
            }),
            MODE_DIRECTORY => {
                let bytes = self.read(&inode)?;
                for block in bytes.chunks(1 << self.block_bits) {
                    for (name, child) in entries(block)? {
                        self.walk(child, &format!("{path}/{name}"), depth + 1, found)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn inode(&mut self, number: u64) -> anyhow::Result<Inode> {
        let offset = self.meta + number * SLOT_BYTES;
        let mut bytes = [0; 64];
        self.disk.seek(SeekFrom::Start(offset))?;
        self.disk.read_exact(&mut bytes).context("an inode outside the file system")?;
        let format = short(&bytes, 0);
        let extended = format & 1 != 0;
        let attributes = match u64::from(short(&bytes, 2)) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        Ok(Inode {
            mode: short(&bytes, 4),
            bytes: if extended {
                u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"))
            } else {
                self::number(&bytes, 8).into()
            },
            layout: match format >> 1 & 7 {
                0 => Layout::Plain,
                2 => Layout::Inline,
                1 | 3 => Layout::Compressed,
                _ => Layout::Other,
            },
            blocks: self::number(&bytes, 16).into(),
            tail: offset + if extended { 64 } else { 32 } + attributes,
        })
    }

    /// The content of what is not compressed.
    fn read(&mut self, inode: &Inode) -> anyhow::Result<Vec<u8>> {
        ensure!(inode.bytes <= MAX_READ, "a directory of {} bytes", inode.bytes);
        let tail = match inode.layout {
            Layout::Plain => 0,
            Layout::Inline => inode.bytes & ((1 << self.block_bits) - 1),
            _ => bail!("a directory that is compressed"),
        };
        let mut bytes = vec![0; inode.bytes as usize];
        let (whole, rest) = bytes.split_at_mut((inode.bytes - tail) as usize);
        for (part, offset) in [(whole, inode.blocks << self.block_bits), (rest, inode.tail)] {
            if !part.is_empty() {
                self.disk.seek(SeekFrom::Start(offset))?;
                self.disk.read_exact(part).context("content outside the file system")?;
            }
        }
        Ok(bytes)
    }
}

/// Names and inodes of a block of a directory, without itself and the one above. The names follow the entries; one ends
/// where the next begins.
fn entries(block: &[u8]) -> anyhow::Result<Vec<(String, u64)>> {
    let head = |index: usize| block.get(index * DIRECTORY_ENTRY_BYTES..(index + 1) * DIRECTORY_ENTRY_BYTES);
    let first = head(0).context("a directory without entries")?;
    let count = usize::from(short(first, 8)) / DIRECTORY_ENTRY_BYTES;
    let mut found = Vec::new();
    for index in 0..count {
        let entry = head(index).context("a directory that ends early")?;
        let start = usize::from(short(entry, 8));
        let end = match index + 1 < count {
            true => usize::from(short(head(index + 1).context("a directory that ends early")?, 8)),
            false => block.len(),
        };
        let name = block.get(start..end).context("a name outside its directory")?;
        let name = String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or_default());
        if !matches!(&*name, "" | "." | "..") {
            let inode = u64::from_le_bytes(entry[..8].try_into().expect("eight bytes"));
            found.push((name.into_owned(), inode));
        }
    }
    Ok(found)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Root directory in slot 0 of block 1, `a` (3 bytes, inline) in slot 4, `b` (compressed into two blocks) in slot 8.
    fn sample() -> Vec<u8> {
        let mut disk = vec![0; 8192];
        put(&mut disk, 1024, &MAGIC.to_le_bytes());
        disk[1024 + 12] = 12;
        put(&mut disk, 1024 + 36, &2_u32.to_le_bytes());
        put(&mut disk, 1024 + 40, &1_u32.to_le_bytes());
        put(&mut disk, 1024 + 64, b"skerry-root");
        let mut inode = |slot: usize, layout: u16, mode: u16, bytes: u32, blocks: u32| {
            let at = 4096 + slot * 32;
            put(&mut disk, at, &(layout << 1).to_le_bytes());
            put(&mut disk, at + 4, &mode.to_le_bytes());
            put(&mut disk, at + 8, &bytes.to_le_bytes());
            put(&mut disk, at + 16, &blocks.to_le_bytes());
        };
        inode(0, 2, 0o040_755, 4 * 12 + 5, 0);
        inode(4, 2, 0o100_644, 3, 0);
        inode(8, 3, 0o100_644, 100_000, 2);
        let names: [(u64, u16, &[u8]); 4] = [(0, 48, b"."), (0, 49, b".."), (4, 51, b"a"), (8, 52, b"b")];
        for (index, (inode, offset, name)) in names.into_iter().enumerate() {
            let at = 4096 + 32 + index * 12;
            put(&mut disk, at, &inode.to_le_bytes());
            put(&mut disk, at + 8, &offset.to_le_bytes());
            put(&mut disk, 4096 + 32 + usize::from(offset), name);
        }
        put(&mut disk, 4096 + 5 * 32, b"abc");
        disk
    }

    #[test]
    fn files_have_sizes_and_small_ones_content() {
        let mut image = Image::open(Cursor::new(sample())).unwrap().unwrap();
        assert_eq!((image.label(), image.bytes()), ("skerry-root", 8192));
        let files = image.files().unwrap();
        let found: Vec<_> = files.iter().map(|file| (&file.path[..], file.bytes, file.stored)).collect();
        assert_eq!(found, [("/a", 3, 3), ("/b", 100_000, 8192)]);
        assert_eq!(image.content(&files[0]).unwrap().unwrap(), b"abc");
        assert_eq!(image.content(&files[1]).unwrap(), None);
    }

    #[test]
    fn what_is_no_erofs_or_a_damaged_one_is_told() {
        assert!(Image::open(Cursor::new(vec![0; 8192])).unwrap().is_none());
        assert!(Image::open(Cursor::new(Vec::new())).unwrap().is_none());
        // A directory that is its own child.
        let mut disk = sample();
        put(&mut disk, 4096 + 32 + 2 * 12, &0_u64.to_le_bytes());
        let error = Image::open(Cursor::new(disk)).unwrap().unwrap().files().unwrap_err();
        assert!(format!("{error:#}").contains("without end"), "{error:#}");
    }
}
