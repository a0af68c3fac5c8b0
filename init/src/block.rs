//! The block devices there are, and what the kernel says about each.

use std::fs;
use std::path::{Path, PathBuf};

/// Devices that are never a disk to look at: memory, loops, mapped and optical devices.
const NOT_DISKS: &[&str] = &["ram", "loop", "zram", "dm-", "md", "sr", "fd", "nbd"];
/// The unit of `/sys/class/block/*/size`, whatever the device's own sector size is.
const SECTOR: u64 = 512;

/// A disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Kernel name, such as `vda1`.
    pub(crate) name: String,
    /// Whether it is a partition of another device.
    pub(crate) is_partition: bool,
    /// Whether it has partitions.
    pub(crate) has_partitions: bool,
    /// Whether the kernel refuses writes.
    pub(crate) read_only: bool,
    /// Size in bytes.
    pub(crate) size: u64,
}

impl Device {
    /// The device node.
    pub(crate) fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
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
    let has_partitions = fs::read_dir(&dir)
        .map(|entries| entries.flatten().any(|entry| entry.path().join("partition").exists()))
        .unwrap_or(false);
    Device {
        is_partition: dir.join("partition").exists(),
        has_partitions,
        read_only: number("ro") != 0,
        size: number("size") * SECTOR,
        name,
    }
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
}
