//! Tests of the search over several disks.

use std::fs::File;
use std::path::PathBuf;

use disk::gpt::Table;
use disk::guid::Guid;
use disk::verity::{self, BLOCK_SIZE, Tree};

use super::*;
use crate::block::PartOf;

const MIB: u64 = 1 << 20;

/// A root file system as far as anyone here looks, and the tree over it.
fn image() -> (Vec<u8>, Tree) {
    let mut data = vec![0; 2 * BLOCK_SIZE];
    data[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    let tree = verity::build(&mut &data[..], Guid::NIL, b"salt").unwrap();
    (data, tree)
}

/// A device whose node is this file: joined to a directory, a path that begins at the root stays what it is.
fn device(path: PathBuf, content: &[u8], part_of: Option<PartOf>) -> Device {
    fs::write(&path, content).unwrap();
    let (name, size) = (path.display().to_string(), content.len() as u64);
    Device { name, has_partitions: part_of.is_none(), part_of, read_only: false, size }
}

/// A disk with the image, and its two partitions.
fn disk(dir: &Path, name: &str, data: &[u8], tree: &Tree) -> Vec<Device> {
    let path = dir.join(name);
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(8 * MIB).unwrap();
    let (root, hashes) = tree.root.partition_ids();
    let mut table = Table::new(Guid::from_u128(1), 8 * MIB, 512).unwrap();
    table.add("ROOT-A", Guid::ROOT_X86_64, root, MIB).unwrap();
    table.add("ROOT-A-VERITY", Guid::LINUX_DATA, hashes, MIB).unwrap();
    table.commit(&mut file, |file| file.sync_data()).unwrap();
    let whole = device(path.clone(), &fs::read(&path).unwrap(), None);
    let part = |number, content: &[u8]| {
        let place = PartOf { disk: whole.name.clone(), number };
        device(dir.join(format!("{name}{number}")), content, Some(place))
    };
    vec![whole.clone(), part(1, data), part(2, &tree.bytes)]
}

fn chosen(tree: &Tree, devices: &[Device]) -> Result<PathBuf> {
    let search = Search { source: &RootSource::Auto, hash: Some(tree.root) };
    match look(&search, || devices.to_vec())? {
        Some(Found::Verified(pair)) => Ok(pair.data),
        _ => bail!("nothing"),
    }
}

#[test]
fn of_two_disks_with_the_image_the_sound_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (data, tree) = image();
    let mut flipped = data.clone();
    flipped[77] ^= 1;
    let sick = disk(dir.path(), "a", &flipped, &tree);
    let sound = disk(dir.path(), "b", &data, &tree);
    let mut sick_hashes = disk(dir.path(), "c", &data, &tree);
    sick_hashes[2] =
        device(dir.path().join("c2"), &vec![0; tree.bytes.len()], sick_hashes[2].part_of.clone());
    let of_sound = dir.path().join("b1");
    assert_eq!(chosen(&tree, &[sick.clone(), sound.clone()].concat()).unwrap(), of_sound);
    let hashes_of_another = [sick_hashes.clone(), sick.clone(), sound].concat();
    let taken = chosen(&tree, &hashes_of_another).unwrap();
    assert_eq!(taken, dir.path().join("c1"), "each half may come from another disk");
    let told = |devices: &[Device]| format!("{:#}", chosen(&tree, devices).unwrap_err());
    assert!(told(&sick).contains("its first block differs"));
    assert!(told(&sick_hashes).contains("the hash tree of the root filesystem"));
}

#[test]
fn a_cut_copy_of_the_image_stops_the_boot_only_if_there_is_no_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let (data, tree) = image();
    let mut cut = disk(dir.path(), "a", &data, &tree).remove(0);
    cut.has_partitions = false;
    cut.size -= MIB;
    let error = chosen(&tree, std::slice::from_ref(&cut)).unwrap_err();
    assert!(format!("{error:#}").contains("too small for its partitions"), "{error:#}");
    let mut both = vec![cut];
    both.extend(disk(dir.path(), "b", &data, &tree));
    assert_eq!(chosen(&tree, &both).unwrap(), dir.path().join("b1"));
}
