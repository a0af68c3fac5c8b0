//! The block devices there are: what the kernel says about each, and what a partition table says about its partitions.

mod ask;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use disk::gpt::{self, Copy, Table};
use disk::guid::Guid;

pub(crate) use self::ask::{ask, complaints, tell};

/// Devices that are never a disk to look at: memory, loops, mapped and optical devices.
const NOT_DISKS: &[&str] = &["ram", "loop", "zram", "dm-", "md", "sr", "fd", "nbd"];
/// The unit of `/sys/class/block/*/size`, whatever the device's own sector size is.
const SECTOR: u64 = 512;

/// A disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Kernel name, such as `vda1`.
    pub(crate) name: String,
    /// The disk and the number there, if it is a partition.
    pub(crate) part_of: Option<PartOf>,
    /// Whether it has partitions.
    pub(crate) has_partitions: bool,
    /// Whether the kernel refuses writes.
    pub(crate) read_only: bool,
    /// Size in bytes.
    pub(crate) size: u64,
}

/// Where a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartOf {
    /// Kernel name of the disk.
    pub(crate) disk: String,
    /// Its number there, from 1.
    pub(crate) number: usize,
}

/// A partition with what its disk's table says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// The device.
    pub(crate) device: Device,
    /// PARTUUID.
    pub(crate) id: Guid,
    /// PARTLABEL.
    pub(crate) name: String,
}

impl Device {
    /// The device node.
    pub(crate) fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Reads the partition table that it holds. An error if the disk does not answer.
    pub(crate) fn table(&self) -> Result<(Table, Copy), gpt::Error> {
        let own = self.clone();
        ask(self.disk(), move || own.table_unlimited())
            .map_err(|source| gpt::Error::Io { what: "read", source })?
    }

    /// The same for one who asks already: waits as long as the disk takes.
    pub(crate) fn table_unlimited(&self) -> Result<(Table, Copy), gpt::Error> {
        File::open(self.node())
            .map_err(|source| gpt::Error::Io { what: "read", source })
            .and_then(|mut file| Table::read(&mut file))
    }

    /// The disk it is on: itself, unless it is a partition.
    pub(crate) fn disk(&self) -> &str {
        self.part_of.as_ref().map_or(&self.name, |part| &part.disk)
    }

    /// A disk in a few words, for whoever looks for the right one.
    pub(crate) fn describe(&self) -> String {
        let (name, size) = (&self.name, self.size >> 20);
        match self.table() {
            Ok((table, _)) if table.disk_bytes() > self.size => {
                let error =
                    gpt::Error::DiskTooSmall { disk_bytes: self.size, needed_bytes: table.disk_bytes() };
                format!("{name}: {error}")
            }
            Ok((table, copy)) => {
                let names: Vec<_> =
                    table.partitions.iter().map(|partition| partition.name.as_str()).collect();
                let note = if copy == Copy::Backup { ", partition table damaged" } else { "" };
                format!("{name}, {size} MiB, partitions {}{note}", names.join(" "))
            }
            Err(gpt::Error::Io { source, .. }) => format!("{name}, {size} MiB, unreadable ({source})"),
            Err(_) => format!("{name}, {size} MiB, without a GPT"),
        }
    }
}

/// The disk that the device at this path is on.
pub(crate) fn disk_of(node: &str) -> Option<String> {
    let devices = devices();
    let device = devices.iter().find(|device| device.node() == Path::new(node))?;
    Some(device.disk().to_owned())
}

/// The partitions that the kernel found, with names and ids, which it does not tell.
pub(crate) fn partitions(devices: &[Device]) -> Vec<Partition> {
    let tables = devices.iter().filter(|device| device.has_partitions).filter_map(|disk| {
        let (table, _) = disk.table().ok()?;
        Some((disk, table))
    });
    tables
        .flat_map(|(disk, table)| {
            let of_disk = |entry: gpt::Partition| {
                let place = PartOf { disk: disk.name.clone(), number: entry.number };
                let device = devices.iter().find(|device| device.part_of.as_ref() == Some(&place))?;
                Some(Partition { device: device.clone(), id: entry.id, name: entry.name })
            };
            table.partitions.into_iter().filter_map(of_disk).collect::<Vec<_>>()
        })
        .collect()
}

/// Every disk and partition, in the order people count them: `vda`, `vdb`, ..., `vdz`, `vdaa`; `sda2` before `sda10`.
pub(crate) fn devices() -> Vec<Device> {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut devices: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)))
        .map(|name| describe(Path::new("/sys/class/block"), name))
        .filter(|device| device.size > 0)
        .collect();
    devices.sort_by_key(|device| natural(&device.name));
    devices
}

fn describe(base: &Path, name: String) -> Device {
    let dir = base.join(&name);
    let number = |file: &str| -> u64 {
        fs::read_to_string(dir.join(file)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    // The link leads to `.../block/vda/vda1` for a partition.
    let part_of = fs::read_to_string(dir.join("partition")).ok().and_then(|number| {
        let place = fs::canonicalize(&dir).ok()?;
        let disk = place.parent()?.file_name()?.to_string_lossy().into_owned();
        Some(PartOf { disk, number: number.trim().parse().ok()? })
    });
    let has_partitions = fs::read_dir(&dir)
        .map(|entries| entries.flatten().any(|entry| entry.path().join("partition").exists()))
        .unwrap_or(false);
    Device { part_of, has_partitions, read_only: number("ro") != 0, size: number("size") * SECTOR, name }
}

/// A key that sorts `vdb` before `vdaa` and `sda2` before `sda10`.
fn natural(name: &str) -> (usize, String, u64) {
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name[letters.len()..].parse().unwrap_or(0);
    (letters.len(), letters.to_owned(), number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = vec!["vdaa", "sda10", "vdb", "sda2", "vda", "sda"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["sda", "sda2", "sda10", "vda", "vdb", "vdaa"]);
    }

    #[test]
    fn a_partition_knows_its_disk_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("devices/block/nvme0n1");
        let part = disk.join("nvme0n1p2");
        let class = dir.path().join("class");
        fs::create_dir_all(&part).unwrap();
        fs::create_dir(&class).unwrap();
        fs::write(part.join("partition"), "2\n").unwrap();
        fs::write(part.join("size"), "8\n").unwrap();
        for device in [&disk, &part] {
            std::os::unix::fs::symlink(device, class.join(device.file_name().unwrap())).unwrap();
        }
        let found = describe(&class, "nvme0n1p2".to_owned());
        assert_eq!(found.part_of, Some(PartOf { disk: "nvme0n1".to_owned(), number: 2 }));
        assert_eq!((found.disk(), found.size), ("nvme0n1", 8 * SECTOR));
        let whole = describe(&class, "nvme0n1".to_owned());
        assert_eq!((whole.part_of.as_ref(), whole.disk()), (None, "nvme0n1"));
        assert!(whole.has_partitions);
    }
}
