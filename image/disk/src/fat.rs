//! FAT volumes: what firmware reads and what people can edit on any computer.
//!
//! A volume that is made from the same files is the same, byte for byte: the identifier is given, times are those that
//! FAT begins with (1980-01-01), files lie one behind the other in the order of their names. Volumes from 33 MiB
//! on are FAT32, with the largest clusters up to 4 KiB that leave it FAT32; smaller ones are FAT16. FAT12 is neither
//! written nor read.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use thiserror::Error;

use directory::{Entry, Node};
use geometry::{Geometry, SECTOR_BYTES};

mod directory;
mod geometry;
mod read;
mod slice;
#[cfg(test)]
mod tests;

pub use read::{Found, Volume};
pub use slice::Slice;

const LABEL_BYTES: usize = 11;

/// Files of a volume: path with `/` between the parts and none in front, and content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// How a volume is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format<'a> {
    /// The volume's size; a rest of less than a sector of 512 bytes stays unused.
    pub bytes: u64,
    /// The name that file managers show: at most 11 ASCII characters. Lower case becomes upper case.
    pub label: &'a str,
    /// The volume's serial number.
    pub id: u32,
}

/// Why a volume cannot be made or read.
#[derive(Debug, Error)]
pub enum Error {
    /// A label that FAT has no room for.
    #[error("'{0}' cannot be a FAT label: at most 11 letters, digits, spaces, '-' and '_'")]
    Label(String),
    /// A size that neither FAT16 nor FAT32 can have.
    #[error("a FAT volume of {0} bytes cannot be made: it must have 3 MiB to 256 GiB")]
    Size(u64),
    /// A name that FAT cannot hold, or that differs from another only in case.
    #[error("'{path}' cannot be on a FAT volume: {problem}")]
    Name {
        /// Its path.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The files do not fit.
    #[error("'{path}' does not fit: the FAT volume has {bytes} bytes")]
    Full {
        /// The first file that does not fit.
        path: String,
        /// The room for files and directories.
        bytes: u64,
    },
    /// Not a FAT16 or FAT32 volume, or a damaged one.
    #[error("no FAT volume that can be read: {0}")]
    Damaged(&'static str),
    /// The volume could not be read or written.
    #[error("failed to {0} the FAT volume")]
    Io(&'static str, #[source] io::Error),
}

/// Makes a volume. Room that no file takes is not written, so that a new file with a length stays sparse.
pub fn make(disk: &mut (impl Write + Seek), format: &Format<'_>, files: &Files) -> Result<(), Error> {
    let label = label(format.label)?;
    let geometry = Geometry::for_volume(format.bytes).ok_or(Error::Size(format.bytes))?;
    let mut root = Node::root(files)?;
    let mut plan = Plan { geometry, next: 2, fat: geometry.empty_fat() };
    let root_cluster = plan.place_root(&mut root, &label)?;
    debug_assert!(root_cluster == geometry.root_cluster(), "the root directory comes first");
    plan.place(&mut root, "")?;
    let mut writer = Writer { disk, geometry };
    writer.write(format, &label, &plan).map_err(|source| Error::Io("write", source))?;
    writer.nodes(&root, None, &label).map_err(|source| Error::Io("write", source))
}

/// Adds files to a volume or replaces those that are there. The volume is made anew with what it had before.
pub fn put(disk: &mut (impl Read + Write + Seek), changes: &Files) -> Result<(), Error> {
    let mut volume = Volume::open(&mut *disk)?;
    let mut files = Files::new();
    for found in volume.list()? {
        let content =
            volume.read(&found.path)?.ok_or(Error::Damaged("a file that is listed is not there"))?;
        files.insert(found.path, content);
    }
    for (path, content) in changes {
        files.retain(|existing, _| !existing.eq_ignore_ascii_case(path));
        files.insert(path.clone(), content.clone());
    }
    let (label, id, bytes) = (volume.label().to_owned(), volume.id(), volume.bytes());
    make(disk, &Format { bytes, label: &label, id }, &files)
}

fn label(text: &str) -> Result<[u8; LABEL_BYTES], Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b" -_".contains(&byte);
    if text.is_empty() || text.len() > LABEL_BYTES || !text.bytes().all(fits) {
        return Err(Error::Label(text.to_owned()));
    }
    let mut label = [b' '; LABEL_BYTES];
    label[..text.len()].copy_from_slice(text.to_ascii_uppercase().as_bytes());
    Ok(label)
}

/// Where everything goes, before anything is written.
struct Plan {
    geometry: Geometry,
    /// The first cluster that is free.
    next: u32,
    fat: Vec<u8>,
}

// === impl Plan ===

impl Plan {
    /// FAT32 keeps the root directory in clusters, FAT16 has a place of a fixed size for it.
    fn place_root(&mut self, root: &mut Node<'_>, label: &[u8; LABEL_BYTES]) -> Result<u32, Error> {
        let bytes = root.directory_bytes(true);
        match self.geometry.root_bytes() {
            Some(room) if bytes > room => Err(Error::Full { path: "/".into(), bytes: room }),
            Some(_) => Ok(0),
            None => {
                let name = String::from_utf8_lossy(label).into_owned();
                root.cluster = self.take(bytes, &name)?;
                Ok(root.cluster)
            }
        }
    }

    /// Gives everything below a directory its clusters.
    fn place(&mut self, directory: &mut Node<'_>, path: &str) -> Result<(), Error> {
        for (name, node) in directory.children_mut() {
            let path = format!("{path}{name}");
            let bytes =
                node.content.map_or_else(|| node.directory_bytes(false), |content| content.len() as u64);
            if bytes > u64::from(u32::MAX) {
                return Err(Error::Name { path, problem: "it has 4 GiB or more" });
            }
            if bytes > 0 {
                node.cluster = self.take(bytes, &path)?;
            }
            self.place(node, &format!("{path}/"))?;
        }
        Ok(())
    }

    /// Takes clusters for a number of bytes, one behind the other.
    fn take(&mut self, bytes: u64, path: &str) -> Result<u32, Error> {
        let first = self.next;
        let free = u64::from(self.geometry.clusters + 2 - first);
        let wanted = bytes.div_ceil(self.geometry.cluster_bytes());
        if wanted > free {
            let bytes = u64::from(self.geometry.clusters) * self.geometry.cluster_bytes();
            return Err(Error::Full { path: path.to_owned(), bytes });
        }
        self.next += u32::try_from(wanted).expect("fewer than the volume has");
        for cluster in first..self.next {
            let next = if cluster + 1 == self.next { geometry::END_OF_CHAIN } else { cluster + 1 };
            self.geometry.set(&mut self.fat, cluster, next);
        }
        Ok(first)
    }
}

/// Puts the bytes where the plan wants them.
struct Writer<'a, D> {
    disk: &'a mut D,
    geometry: Geometry,
}

// === impl Writer ===

impl<D: Write + Seek> Writer<'_, D> {
    /// Everything in front of the files.
    fn write(&mut self, format: &Format<'_>, label: &[u8; LABEL_BYTES], plan: &Plan) -> io::Result<()> {
        self.at(0, &self.geometry.reserved_sectors(format.id, label, plan.next))?;
        for copy in 0..geometry::FATS {
            self.at(self.geometry.fat_offset(copy), &plan.fat)?;
        }
        Ok(())
    }

    /// A directory and all below it.
    fn nodes(
        &mut self,
        directory: &Node<'_>,
        parent: Option<u32>,
        label: &[u8; LABEL_BYTES],
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        match parent {
            None => bytes.extend(Entry::label(label)),
            Some(parent) => {
                bytes.extend(Entry::dots(directory.cluster, parent));
            }
        }
        for (name, node) in directory.children() {
            bytes.extend(Entry::of(name, node));
        }
        let offset = match (parent, self.geometry.root_bytes()) {
            (None, Some(room)) => {
                bytes.resize(room as usize, 0);
                self.geometry.root_offset()
            }
            _ => {
                let whole = (bytes.len() as u64).next_multiple_of(self.geometry.cluster_bytes());
                bytes.resize(whole as usize, 0);
                self.geometry.cluster_offset(directory.cluster)
            }
        };
        self.at(offset, &bytes)?;
        // The root directory is cluster 0 to those below it, whatever its number.
        let here = if parent.is_none() { 0 } else { directory.cluster };
        for (_, node) in directory.children() {
            match node.content {
                Some([]) => {}
                Some(content) => self.at(self.geometry.cluster_offset(node.cluster), content)?,
                None => self.nodes(node, Some(here), label)?,
            }
        }
        Ok(())
    }

    fn at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(offset.is_multiple_of(SECTOR_BYTES));
        self.disk.seek(SeekFrom::Start(offset))?;
        self.disk.write_all(bytes)
    }
}
