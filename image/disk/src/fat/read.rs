//! Reading a FAT volume.

use std::io::{self, Read, Seek, SeekFrom};

use super::directory::{
    ATTRIBUTE_DIRECTORY, ATTRIBUTE_LABEL, ATTRIBUTE_LONG_NAME, ENTRY_BYTES, LONG_NAME_PLACES,
};
use super::geometry::{Geometry, SECTOR_BYTES};
use super::{Error, LABEL_BYTES};

/// No path of a volume that makes sense is deeper.
const MAX_DEPTH: usize = 32;
const DELETED: u8 = 0xe5;

/// A file as [`Volume::list`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Path with `/` between the parts and none in front.
    pub path: String,
    /// Size.
    pub bytes: u64,
}

/// A volume that can be read.
#[derive(Debug)]
pub struct Volume<D> {
    disk: D,
    geometry: Geometry,
    id: u32,
    label: String,
}

/// An entry of a directory.
struct Item {
    name: String,
    directory: bool,
    cluster: u32,
    bytes: u64,
}

// === impl Volume ===

impl<D: Read + Seek> Volume<D> {
    /// Reads the boot sector.
    pub fn open(mut disk: D) -> Result<Self, Error> {
        let mut sector = [0; SECTOR_BYTES as usize];
        let read = disk.rewind().and_then(|()| disk.read_exact(&mut sector));
        read.map_err(|source| Error::Io("read", source))?;
        let geometry = Geometry::parse(&sector).map_err(Error::Damaged)?;
        let tail = if geometry.fat32 { 64 } else { 36 } + 3;
        let id = u32::from_le_bytes(sector[tail..tail + 4].try_into().expect("four bytes"));
        let label = String::from_utf8_lossy(&sector[tail + 4..][..LABEL_BYTES]).trim_end().to_owned();
        Ok(Self { disk, geometry, id, label })
    }

    /// The volume's name.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The volume's serial number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The volume's size.
    pub fn bytes(&self) -> u64 {
        self.geometry.sectors * SECTOR_BYTES
    }

    /// All files, sorted by path.
    pub fn list(&mut self) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        self.walk(0, "", 0, &mut found)?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// A file's content; `None` when there is no such file. Case does not matter.
    pub fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut cluster = 0;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            let items = self.items(cluster)?;
            let Some(item) = items.into_iter().find(|item| item.name.eq_ignore_ascii_case(part)) else {
                return Ok(None);
            };
            match (parts.peek(), item.directory) {
                (Some(_), true) => cluster = item.cluster,
                (None, false) => return self.content(item.cluster, Some(item.bytes)).map(Some),
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    fn walk(
        &mut self,
        cluster: u32,
        prefix: &str,
        depth: usize,
        found: &mut Vec<Found>,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::Damaged("directories within directories without end"));
        }
        for item in self.items(cluster)? {
            let path = format!("{prefix}{}", item.name);
            if item.directory {
                self.walk(item.cluster, &format!("{path}/"), depth + 1, found)?;
            } else {
                found.push(Found { path, bytes: item.bytes });
            }
        }
        Ok(())
    }

    /// The entries of a directory; cluster 0 is the root's.
    fn items(&mut self, cluster: u32) -> Result<Vec<Item>, Error> {
        let bytes = match (cluster, self.geometry.root_bytes()) {
            (0, Some(room)) => self.bytes_at(self.geometry.root_offset(), room as usize)?,
            (0, None) => self.content(self.geometry.root_cluster(), None)?,
            _ => self.content(cluster, None)?,
        };
        Ok(parse_items(&bytes))
    }

    /// What a chain of clusters holds: a number of bytes, or all of it.
    fn content(&mut self, first: u32, bytes: Option<u64>) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        let mut next = (2..self.geometry.clusters + 2).contains(&first).then_some(first);
        while let Some(cluster) = next.filter(|_| bytes.is_none_or(|bytes| (content.len() as u64) < bytes)) {
            if content.len() as u64 > self.bytes() {
                return Err(Error::Damaged("a file without end"));
            }
            let offset = self.geometry.cluster_offset(cluster);
            content.extend(self.bytes_at(offset, self.geometry.cluster_bytes() as usize)?);
            let width = self.geometry.width();
            let entry = self.geometry.fat_offset(0) + u64::from(cluster) * width;
            let entry = self.bytes_at(entry, width as usize)?;
            next = self.geometry.next(&entry);
        }
        if let Some(bytes) = bytes {
            if (content.len() as u64) < bytes {
                return Err(Error::Damaged("a file that ends before its size"));
            }
            content.truncate(bytes as usize);
        }
        Ok(content)
    }

    fn bytes_at(&mut self, offset: u64, count: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; count];
        let read = |disk: &mut D, bytes: &mut [u8]| -> io::Result<()> {
            disk.seek(SeekFrom::Start(offset))?;
            disk.read_exact(bytes)
        };
        read(&mut self.disk, &mut bytes).map_err(|source| Error::Io("read", source))?;
        Ok(bytes)
    }
}

fn parse_items(bytes: &[u8]) -> Vec<Item> {
    let mut items = Vec::new();
    let mut long: Vec<u16> = Vec::new();
    for entry in bytes.chunks_exact(ENTRY_BYTES) {
        let attributes = entry[11];
        match entry[0] {
            0 => break,
            DELETED => {}
            _ if attributes & ATTRIBUTE_LONG_NAME == ATTRIBUTE_LONG_NAME => {
                let units = LONG_NAME_PLACES.map(|at| u16::from_le_bytes([entry[at], entry[at + 1]]));
                let end = units.iter().position(|&unit| unit == 0).unwrap_or(units.len());
                long.splice(..0, units[..end].iter().copied());
                continue;
            }
            _ if attributes & ATTRIBUTE_LABEL != 0 || entry[0] == b'.' => {}
            _ => items.push(item(entry, &long)),
        }
        long.clear();
    }
    items
}

fn item(entry: &[u8], long: &[u16]) -> Item {
    let short = |part: &[u8]| String::from_utf8_lossy(part).trim_end().to_owned();
    let name = if !long.is_empty() {
        String::from_utf16_lossy(long)
    } else if entry[8..11] == *b"   " {
        short(&entry[..8])
    } else {
        format!("{}.{}", short(&entry[..8]), short(&entry[8..11]))
    };
    Item {
        name,
        directory: entry[11] & ATTRIBUTE_DIRECTORY != 0,
        cluster: u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]]),
        bytes: u64::from(u32::from_le_bytes(entry[28..32].try_into().expect("four bytes"))),
    }
}
