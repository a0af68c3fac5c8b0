//! The image of a whole disk: partition table, BOOT, two slots of root and verity hashes, STATE.
//!
//! Slot A has the system, slot B and STATE are blank: an update fills the one, the first boot makes the other and grows
//! it to the end of the disk. The file is sparse.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, ensure};
use disk::fat::{self, Slice};
use disk::gpt::{self, Table};
use disk::guid::Guid;
use disk::verity::RootHash;

use crate::target::{Partitions, Target};

const MIB: u64 = 1024 * 1024;
/// Logical sectors of nearly all disks.
const SECTOR_BYTES: u32 = 512;
/// What is shipped cannot grow later: of a slot, so much may be full.
const FULL_PERCENT: u64 = 70;

/// Names of partitions.
pub(crate) const BOOT: &str = "BOOT";
pub(crate) const ROOT: [&str; 2] = ["ROOT-A", "ROOT-B"];
pub(crate) const VERITY: [&str; 2] = ["ROOT-A-VERITY", "ROOT-B-VERITY"];
pub(crate) const STATE: &str = "STATE";

/// What goes onto the disk.
pub(crate) struct Content<'a> {
    pub(crate) target: &'a Target,
    /// Which build it is; the identifiers of everything without content follow from it.
    pub(crate) build: &'a str,
    pub(crate) boot: &'a fat::Files,
    pub(crate) root: &'a Path,
    pub(crate) hashes: &'a Path,
    pub(crate) root_hash: RootHash,
}

/// Writes the image.
pub(crate) fn write(content: &Content<'_>, path: &Path) -> anyhow::Result<()> {
    let mut table = table(content)?;
    let mut disk = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .and_then(|file| file.set_len(table.disk_bytes()).map(|()| file))
        .with_context(|| format!("failed to make '{}'", path.display()))?;
    table.commit(&mut disk, |_| Ok(()))?;
    write_boot(&mut disk, &table, content)?;
    copy(&mut disk, &table, ROOT[0], content.root)?;
    copy(&mut disk, &table, VERITY[0], content.hashes)
}

/// Refuses a root file system that leaves its successors no room.
pub(crate) fn check_size(partitions: &Partitions, root: &Path) -> anyhow::Result<()> {
    let bytes = root.metadata().with_context(|| format!("failed to look at '{}'", root.display()))?.len();
    let room = partitions.root * MIB * FULL_PERCENT / 100;
    ensure!(
        bytes <= room,
        "'{}' has {} MiB; of a slot of {} MiB at most {FULL_PERCENT} % may be full",
        root.display(),
        bytes.div_ceil(MIB),
        partitions.root
    );
    Ok(())
}

fn table(content: &Content<'_>) -> anyhow::Result<Table> {
    let sizes = &content.target.partitions;
    let id = |what: &str| {
        Guid::from_content(&[what.as_bytes(), content.target.name.as_bytes(), content.build.as_bytes()])
    };
    // A MiB in front and a MiB behind are the partition table's.
    let mib = 2 + sizes.boot + 2 * (sizes.root + sizes.verity) + sizes.state;
    let mut table = Table::new(id("disk"), mib * MIB, SECTOR_BYTES)?;
    let (root_type, verity_type) = content.target.processor.root_types();
    let (root_id, verity_id) = content.root_hash.partition_ids();
    table.add(BOOT, Guid::ESP, id(BOOT), sizes.boot * MIB)?;
    for (slot, ids) in [(root_id, verity_id), (id(ROOT[1]), id(VERITY[1]))].into_iter().enumerate() {
        table.add(ROOT[slot], root_type, ids.0, sizes.root * MIB)?.attributes = gpt::ATTRIBUTE_READ_ONLY;
        table.add(VERITY[slot], verity_type, ids.1, sizes.verity * MIB)?.attributes =
            gpt::ATTRIBUTE_READ_ONLY;
    }
    table.add(STATE, Guid::LINUX_DATA, id(STATE), sizes.state * MIB)?.attributes = gpt::ATTRIBUTE_GROW;
    Ok(table)
}

fn write_boot(disk: &mut File, table: &Table, content: &Content<'_>) -> anyhow::Result<()> {
    let partition = table.by_name(BOOT).context("the table has no BOOT")?;
    let bytes = table.size_bytes(partition);
    let serial = partition.id.0;
    let id = u32::from_be_bytes([serial[0], serial[1], serial[2], serial[3]]);
    let mut slice = Slice::new(disk, table.offset_bytes(partition), bytes);
    fat::make(&mut slice, &fat::Format { bytes, label: BOOT, id }, content.boot)
        .context("failed to make the BOOT partition")
}

fn copy(disk: &mut File, table: &Table, name: &str, from: &Path) -> anyhow::Result<()> {
    let partition = table.by_name(name).with_context(|| format!("the table has no {name}"))?;
    let mut source = File::open(from).with_context(|| format!("failed to open '{}'", from.display()))?;
    let bytes = source.metadata().with_context(|| format!("failed to look at '{}'", from.display()))?.len();
    let room = table.size_bytes(partition);
    ensure!(bytes <= room, "'{}' has {bytes} bytes, partition {name} has room for {room}", from.display());
    disk.seek(SeekFrom::Start(table.offset_bytes(partition)))
        .and_then(|_| io::copy(&mut source, disk))
        .with_context(|| format!("failed to write partition {name}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target;

    fn write_to(path: &Path, build: &str) -> Table {
        let mut target = Target::find(target::DEFAULT).unwrap();
        target.partitions = Partitions { boot: 4, root: 1, verity: 1, state: 1 };
        let scratch = tempfile::tempdir().unwrap();
        let (root, hashes) = (scratch.path().join("root"), scratch.path().join("hashes"));
        std::fs::write(&root, vec![7; 8192]).unwrap();
        let tree = disk::verity::build(&mut &[7; 8192][..], Guid::NIL, b"").unwrap();
        std::fs::write(&hashes, &tree.bytes).unwrap();
        let boot = [("config.toml.example".to_owned(), b"#".to_vec())].into();
        let content = Content {
            target: &target,
            build,
            boot: &boot,
            root: &root,
            hashes: &hashes,
            root_hash: tree.root,
        };
        write(&content, path).unwrap();
        Table::read(&mut File::open(path).unwrap()).unwrap().0
    }

    #[test]
    fn the_root_hash_finds_both_partitions_of_slot_a() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("disk.img");
        let table = write_to(&path, "b");
        let names: Vec<&str> = table.partitions.iter().map(|partition| partition.name.as_str()).collect();
        assert_eq!(names, ["BOOT", "ROOT-A", "ROOT-A-VERITY", "ROOT-B", "ROOT-B-VERITY", "STATE"]);
        let root: RootHash = disk::verity::build(&mut &[7; 8192][..], Guid::NIL, b"").unwrap().root;
        let (data, hashes) = root.partition_ids();
        let open = |id: Guid| {
            let partition = table.by_id(id).unwrap();
            let disk = File::open(&path).unwrap();
            Slice::new(disk, table.offset_bytes(partition), table.size_bytes(partition))
        };
        disk::verity::verify(&mut open(data), &mut open(hashes), Some(&root)).unwrap();
    }

    #[test]
    fn builds_have_their_own_identifiers_and_one_build_always_the_same_bytes() {
        let scratch = tempfile::tempdir().unwrap();
        let [first, again, other] = ["a", "b", "c"].map(|name| scratch.path().join(name));
        let table = write_to(&first, "b");
        write_to(&again, "b");
        let read = |path: &Path| crate::digest::of_file(path).unwrap();
        assert_eq!(read(&first), read(&again));
        assert_ne!(table.disk_id, write_to(&other, "c").disk_id);
    }

    #[test]
    fn a_root_that_fills_its_slot_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("root");
        let partitions = Partitions { boot: 288, root: 10, verity: 1, state: 64 };
        File::create(&path).unwrap().set_len(7 * MIB).unwrap();
        check_size(&partitions, &path).unwrap();
        File::create(&path).unwrap().set_len(7 * MIB + 1).unwrap();
        let error = check_size(&partitions, &path).unwrap_err().to_string();
        assert!(error.contains("has 8 MiB; of a slot of 10 MiB"), "{error}");
    }
}
