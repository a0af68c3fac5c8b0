//! Which devices hold the root and its hash tree.
//!
//! The root hash names both partitions (its halves are their GUIDs: discoverable partitions specification). Where they are no
//! partitions, as in a virtual machine that gets each as a disk of its own, they are known by their content: a tree that
//! leads to the root hash, and data whose first block is the one that the tree names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use disk::guid::Guid;
use disk::verity::{self, BLOCK_SIZE, Recognised, RootHash};

use crate::block::{self, Device, Partition};
use crate::config::RootSource;
use crate::probe::{self, Content};

/// What to look for.
pub(super) struct Search<'a> {
    /// What was configured.
    pub(super) source: &'a RootSource,
    /// The root hash to insist on.
    pub(super) hash: Option<RootHash>,
}

/// A root.
pub(super) enum Found {
    /// On this device; nobody knows whether it is what it should be.
    Plain(PathBuf),
    /// With a hash tree.
    Verified(Pair),
}

/// Data and the tree over it.
pub(crate) struct Pair {
    /// The device with the file system.
    pub(crate) data: PathBuf,
    /// The device with the hash tree.
    pub(crate) hashes: PathBuf,
    /// What the tree says of itself.
    pub(crate) tree: Recognised,
    /// What it leads to.
    pub(crate) hash: RootHash,
}

impl Search<'_> {
    /// Looks once. None if something is not there yet; an error if something is there and wrong.
    pub(super) fn look(&self, devices: &[Device]) -> Result<Option<Found>> {
        let partitions = block::partitions(devices);
        let Some(hash) = self.hash else {
            return Ok(self.candidates(devices, &partitions).into_iter().next().map(Found::Plain));
        };
        let Some((hashes, tree)) = hash_device(&hash, devices, &partitions)? else { return Ok(None) };
        let fits = |node: &PathBuf| {
            let own = tree.clone();
            ask(devices, node, move |node| begins(node, &own)).unwrap_or(false)
        };
        let data = match self.source {
            RootSource::Auto => {
                let named = nodes_of(&partitions, hash.partition_ids().0);
                if named.is_empty() {
                    devices.iter().map(Device::node).find(fits).into_iter().collect()
                } else {
                    named
                }
            }
            _ => self.candidates(devices, &partitions),
        };
        let Some(first) = data.first() else { return Ok(None) };
        // A second disk may have the image, too, and sound.
        let Some(data) = data.iter().find(|node| fits(node)).cloned() else {
            bail!(
                "the root filesystem on {} is not the one that belongs to the root hash {hash}: its first block differs. It is damaged, \
                 or it is another image's; write the image again",
                first.display()
            );
        };
        Ok(Some(Found::Verified(Pair { data, hashes, tree, hash })))
    }

    /// The devices that a configured source names.
    fn candidates(&self, devices: &[Device], partitions: &[Partition]) -> Vec<PathBuf> {
        let erofs = |node: &Path| match ask(devices, node, probe::content) {
            Ok(Ok(Content::Erofs(label))) => Some(label),
            _ => None,
        };
        match self.source {
            RootSource::Auto => Vec::new(),
            RootSource::Device(path) => {
                let path = PathBuf::from(path);
                Vec::from_iter(erofs(&path).map(|_| path))
            }
            RootSource::Label(wanted) => {
                let fits = |node: &PathBuf| erofs(node).is_some_and(|label| label == *wanted);
                devices.iter().map(Device::node).filter(fits).collect()
            }
            RootSource::PartUuid(wanted) => {
                let wanted = wanted.parse::<Guid>().ok();
                let fits = |partition: &&Partition| Some(partition.id) == wanted;
                partitions.iter().filter(fits).map(|partition| partition.device.node()).collect()
            }
        }
    }

    /// What is not there.
    pub(super) fn missing(&self, devices: &[Device]) -> String {
        let partitions = block::partitions(devices);
        if let Some(hash) = &self.hash {
            match hash_device(hash, devices, &partitions) {
                Ok(Some((node, _))) => {
                    let root = match self.source {
                        RootSource::Auto => String::new(),
                        source => format!(" ({})", name(source)),
                    };
                    return format!(
                        "no disk with the root filesystem{root} that belongs to the hash tree on {}",
                        node.display()
                    );
                }
                _ => return format!("no disk with the hash tree of the root hash {hash}"),
            }
        }
        format!("no disk with an EROFS root filesystem ({})", name(self.source))
    }
}

/// How a source is written.
fn name(source: &RootSource) -> String {
    match source {
        RootSource::Auto => "skerry.root=auto".to_owned(),
        RootSource::Label(label) => format!("skerry.root=LABEL={label}"),
        RootSource::PartUuid(guid) => format!("skerry.root=PARTUUID={guid}"),
        RootSource::Device(path) => format!("skerry.root={path}"),
    }
}

/// The device with the tree that leads to `hash`.
fn hash_device(
    hash: &RootHash,
    devices: &[Device],
    partitions: &[Partition],
) -> Result<Option<(PathBuf, Recognised)>> {
    let (_, id) = hash.partition_ids();
    let named = nodes_of(partitions, id);
    let is_named = !named.is_empty();
    let places = if is_named { named } else { devices.iter().map(Device::node).collect() };
    let own = *hash;
    let mut wrong = None;
    for node in places {
        let recognised = ask(devices, &node, move |node| recognise(node, &own));
        match recognised.unwrap_or_else(|source| Err(unreadable(source))) {
            Ok(tree) => return Ok(Some((node, tree))),
            // By its name, or because its top is the right one, it is the one.
            Err(error) if is_named || matches!(error, verity::Error::Damaged { .. }) => {
                let what = format!(
                    "the hash tree of the root filesystem on {} cannot be used; write the image again",
                    node.display()
                );
                wrong.get_or_insert(anyhow::Error::new(error).context(what));
            }
            Err(_) => {}
        }
    }
    wrong.map_or(Ok(None), Err)
}

/// The partitions with this PARTUUID: more than one where more than one disk has the image.
fn nodes_of(partitions: &[Partition], id: Guid) -> Vec<PathBuf> {
    let fits = |partition: &&Partition| partition.id == id;
    partitions.iter().filter(fits).map(|partition| partition.device.node()).collect()
}

/// Asks the disk that `node` is on.
fn ask<T: Send + 'static>(
    devices: &[Device],
    node: &Path,
    question: impl FnOnce(&Path) -> T + Send + 'static,
) -> io::Result<T> {
    let disk = devices.iter().find(|device| device.node() == node).map(Device::disk);
    let disk = disk.map_or_else(|| node.display().to_string(), str::to_owned);
    let node = node.to_owned();
    block::ask(&disk, move || question(&node))
}

fn unreadable(source: io::Error) -> verity::Error {
    verity::Error::Io { what: "the hashes", source }
}

fn recognise(node: &Path, hash: &RootHash) -> Result<Recognised, verity::Error> {
    let mut file = File::open(node).map_err(unreadable)?;
    verity::recognise(&mut file, hash)
}

/// Whether `node` begins with the block that the tree names first.
fn begins(node: &Path, tree: &Recognised) -> bool {
    let mut block = [0; BLOCK_SIZE];
    let read = File::open(node).and_then(|mut file| file.read_exact(&mut block));
    read.is_ok() && tree.begins_with(&block)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// An EROFS of two blocks as far as anyone here looks, and the tree over it.
    fn image() -> (Vec<u8>, verity::Tree) {
        let mut data = vec![0; 2 * BLOCK_SIZE];
        data[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
        let tree = verity::build(&mut &data[..], Guid::NIL, b"salt").unwrap();
        (data, tree)
    }

    #[test]
    fn a_named_root_is_taken_only_with_the_tree_that_names_its_first_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        let (data, tree) = image();
        fs::write(&path, &data).unwrap();
        let recognised = verity::recognise(&mut std::io::Cursor::new(&tree.bytes), &tree.root).unwrap();
        assert!(begins(&path, &recognised));
        let source = RootSource::Device(path.display().to_string());
        let plain = Search { source: &source, hash: None }.look(&[]).unwrap();
        assert!(matches!(plain, Some(Found::Plain(found)) if found == path));
        let search = Search { source: &source, hash: Some(tree.root) };
        assert!(search.look(&[]).unwrap().is_none(), "a root hash without its tree is waited for");
        assert!(search.missing(&[]).contains("hash tree of the root hash"));
        let mut flipped = data;
        flipped[4000] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(!begins(&path, &recognised));
    }
}
