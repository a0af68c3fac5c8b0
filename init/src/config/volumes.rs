//! The volume that a configuration is on.
//!
//! The one labelled `CONFIG`; else the one labelled `cidata`; else the first FAT partition, one named `BOOT` before others, since
//! that is where people put files with a card reader. Two with the same label cannot both be meant, so that is a mistake.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use node_config::{CloudFiles, Layer, Mistake};

use super::label::{self, FileSystem};
use super::{Part, mistake, read_capped, unreadable};
use crate::block;
use crate::board::Board;

const MOUNT_POINT: &str = "/run/skerry/config";
const DOCUMENT: &str = "config.toml";
const CONFIG: &str = "CONFIG";
const CIDATA: &str = "cidata";
const BOOT: &str = "BOOT";
/// How long drivers may take to load before what is there has to do.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long no more device may have come after that.
const QUIET: Duration = Duration::from_millis(700);
/// How long a USB disk may take to answer.
const USB_PATIENCE: Duration = Duration::from_secs(3);

/// A volume that could be it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Volume {
    /// Kernel name, such as `vda1`.
    device: String,
    file_system: FileSystem,
    /// The partition's name in its table.
    partition: String,
}

impl Volume {
    fn is_labelled(&self, label: &str) -> bool {
        self.file_system.label.eq_ignore_ascii_case(label) || self.partition.eq_ignore_ascii_case(label)
    }

    fn node(&self) -> String {
        format!("/dev/{}", self.device)
    }

    /// What mistakes call a file on it: people know the label, the device tells it from others.
    fn name_of(&self, file: &str) -> String {
        match [&self.file_system.label, &self.partition].into_iter().find(|name| !name.is_empty()) {
            Some(label) => format!("{} ({label})/{file}", self.node()),
            None => format!("{}/{file}", self.node()),
        }
    }
}

/// Waits while a volume may yet come: always for USB and optical drives, which are slow, and for anything when nothing that is
/// there says what this machine is. `satisfied` tells the latter. False if there was nothing to wait for.
pub(super) async fn wait(board: &Board, satisfied: bool) -> bool {
    if satisfied && !slow_buses(Path::new("/sys/bus")) {
        return false;
    }
    let mut facts = board.watch();
    // What is there after that has to do; the sender lives as long as the board.
    let _ = tokio::time::timeout(PATIENCE, facts.wait_for(|facts| facts.drivers_loaded)).await;
    tokio::time::sleep(QUIET).await;
    let deadline = tokio::time::Instant::now() + USB_PATIENCE;
    while crate::state::find::usb_disks_are_coming() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(QUIET / 7).await;
    }
    true
}

/// Whether there is a USB controller, or storage or an optical drive without its driver.
fn slow_buses(buses: &Path) -> bool {
    let below = |dir: &str| {
        let entries = fs::read_dir(buses.join(dir)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let holds = |file: &Path, start: &str| fs::read_to_string(file).is_ok_and(|text| text.starts_with(start));
    let driven = |device: &Path| device.join("driver").exists();
    // Classes of PCI devices: storage, and serial buses of the kind USB (PCI Code and ID Assignment Specification).
    below("pci/devices").iter().any(|device| {
        let class = device.join("class");
        holds(&class, "0x0c03") || holds(&class, "0x01") && !driven(device)
    }) || !below("usb/devices").is_empty()
        // Disks and SCSI hosts (virtio specification, section 5).
        || below("virtio/devices").iter().any(|device| {
            let kind = device.join("device");
            (holds(&kind, "0x0002") || holds(&kind, "0x0008")) && !driven(device)
        })
        // SCSI's device type 5.
        || below("scsi/devices")
            .iter()
            .any(|device| holds(&device.join("type"), "5") && !device.join("block").exists())
}

/// Reads what is on the volume; nothing if there is none.
pub(super) fn read() -> Vec<Part> {
    match choose(&all()) {
        Ok(Some(volume)) => read_volume(volume),
        Ok(None) => Vec::new(),
        Err(mistake) => vec![Part::wrong(mistake)],
    }
}

fn all() -> Vec<Volume> {
    let optical = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let optical = optical
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("sr"));
    block::devices()
        .into_iter()
        .filter(|device| !device.has_partitions)
        .map(|device| device.name)
        .chain(optical)
        .filter_map(|device| {
            let node = Path::new("/dev").join(&device);
            let file_system = block::ask(&disk_of(&device), move || label::look(&node)).flatten().ok()??;
            let partition = partition_name(&device);
            Some(Volume { device, file_system, partition })
        })
        .collect()
}

fn disk_of(device: &str) -> String {
    block::disk_of(&format!("/dev/{device}")).unwrap_or_else(|| device.to_owned())
}

fn partition_name(device: &str) -> String {
    let uevent = fs::read_to_string(format!("/sys/class/block/{device}/uevent")).unwrap_or_default();
    uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=")).unwrap_or_default().to_owned()
}

fn choose(volumes: &[Volume]) -> Result<Option<&Volume>, Mistake> {
    for label in [CONFIG, CIDATA] {
        let labelled: Vec<_> = volumes.iter().filter(|volume| volume.is_labelled(label)).collect();
        match labelled[..] {
            [] => {}
            [volume] => return Ok(Some(volume)),
            _ => {
                let nodes: Vec<_> = labelled.into_iter().map(Volume::node).collect();
                let name = format!("partitions labelled {label}");
                return Err(mistake(
                    &name,
                    &nodes.join(" and "),
                    "one of them; remove the others or rename them",
                ));
            }
        }
    }
    let mut fat = volumes.iter().filter(|volume| volume.file_system.kind == "vfat");
    let boot = fat.clone().find(|volume| volume.is_labelled(BOOT));
    Ok(boot.or_else(|| fat.next()))
}

fn read_volume(volume: &Volume) -> Vec<Part> {
    let meant = [CONFIG, CIDATA, BOOT].iter().any(|label| volume.is_labelled(label));
    let own = volume.clone();
    let read = move || with_mounted(&own, || read_files(&own));
    match block::ask(&disk_of(&volume.device), read).flatten() {
        Ok(parts) if parts.is_empty() && volume.is_labelled(CONFIG) => {
            let allowed = "config.toml, or NoCloud's user-data, meta-data or network-config";
            vec![Part::wrong(mistake(&volume.name_of(DOCUMENT), "no such file", allowed))]
        }
        Ok(parts) => parts,
        // Someone's camera card is no configuration, whatever is wrong with it.
        Err(_) if !meant => Vec::new(),
        Err(error) => {
            let given = format!("a {} file system that cannot be mounted ({error})", volume.file_system.kind);
            vec![Part::wrong(mistake(
                &volume.name_of(DOCUMENT),
                &given,
                "a sound FAT or ISO 9660 file system",
            ))]
        }
    }
}

fn with_mounted<T>(volume: &Volume, read: impl FnOnce() -> T) -> io::Result<T> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fs::create_dir_all(MOUNT_POINT)?;
    mount(Some(volume.node().as_str()), MOUNT_POINT, Some(volume.file_system.kind), flags, None::<&str>)?;
    let result = read();
    umount2(MOUNT_POINT, MntFlags::MNT_DETACH)?;
    Ok(result)
}

/// NoCloud's files, and `config.toml` over them.
fn read_files(volume: &Volume) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut cloud = CloudFiles::new(&volume.name_of(""));
    let mut found = false;
    for name in CloudFiles::NAMES {
        match read_capped(&Path::new(MOUNT_POINT).join(name)) {
            Ok(bytes) => {
                found = true;
                cloud.add(name, bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => parts.push(Part::wrong(unreadable(&volume.name_of(name), &error))),
        }
    }
    if found {
        let cloud = cloud.read();
        parts.push(Part { layer: Some(cloud.layer), mistakes: cloud.mistakes, ignored: cloud.ignored });
    }
    let document = Path::new(MOUNT_POINT).join(DOCUMENT);
    match read_capped(&document) {
        Ok(bytes) => parts.push(Part::of(Layer::toml(&volume.name_of(DOCUMENT), &bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => parts.push(Part::wrong(unreadable(&volume.name_of(DOCUMENT), &error))),
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(device: &str, kind: &'static str, label: &str, partition: &str) -> Volume {
        Volume {
            device: device.to_owned(),
            file_system: FileSystem { kind, label: label.to_owned() },
            partition: partition.to_owned(),
        }
    }

    #[test]
    fn a_label_wins_over_a_place_and_boot_over_other_fats() {
        let camera = volume("sda1", "vfat", "EOS_DIGITAL", "");
        let boot = volume("vda1", "vfat", "BOOT", "BOOT");
        let cidata = volume("sr0", "iso9660", "cidata", "");
        let config = volume("sdb1", "vfat", "config", "");
        let cases = [
            (vec![camera.clone(), boot.clone(), cidata.clone(), config.clone()], Some(&config)),
            (vec![camera.clone(), boot.clone(), cidata.clone()], Some(&cidata)),
            (vec![camera.clone(), boot.clone()], Some(&boot)),
            (vec![camera.clone()], Some(&camera)),
            (vec![], None),
        ];
        for (volumes, expected) in cases {
            assert_eq!(choose(&volumes).unwrap(), expected);
        }
    }

    #[test]
    fn two_volumes_labelled_config_are_a_mistake_that_names_both() {
        let volumes = [volume("vdb", "vfat", "CONFIG", ""), volume("vdc1", "vfat", "", "CONFIG")];
        let told = choose(&volumes).unwrap_err().to_string();
        assert!(told.contains("/dev/vdb and /dev/vdc1"), "{told}");
    }

    #[test]
    fn storage_without_a_driver_is_waited_for() {
        let cases = [
            ("pci/devices/0000:00:04.0", "class", "0x010000\n", true),
            ("pci/devices/0000:00:04.0", "class", "0x020000\n", false),
            ("virtio/devices/virtio3", "device", "0x0002\n", true),
            ("virtio/devices/virtio3", "device", "0x0008\n", true),
            ("virtio/devices/virtio3", "device", "0x0001\n", false),
        ];
        for (device, file, content, wanted) in cases {
            let dir = tempfile::tempdir().unwrap();
            let device = dir.path().join(device);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join(file), content).unwrap();
            assert_eq!(slow_buses(dir.path()), wanted, "{content}");
            fs::create_dir(device.join("driver")).unwrap();
            assert!(!slow_buses(dir.path()), "{content} with a driver");
        }
    }

    #[test]
    fn an_iso_without_the_label_is_not_read() {
        assert_eq!(choose(&[volume("sr0", "iso9660", "Debian 13", "")]), Ok(None));
    }
}
