//! The image of a whole disk.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use disk::fat::{self, Slice};
use disk::gpt::{Copy, Partition, Table};
use disk::guid::Guid;
use disk::verity::RootHash;

use super::{Sized, list_biggest, root};
use crate::erofs::read::Image;
use crate::partitions::{BOOT, ROOT, VERITY};

/// Prints the partitions and what is in them. Returns what is wrong.
pub(super) fn describe(
    out: &mut impl Write,
    path: &Path,
    table: &Table,
    copy: Copy,
    biggest: usize,
) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    writeln!(
        out,
        "disk {}, {} bytes, sectors of {} bytes",
        table.disk_id,
        table.disk_bytes(),
        table.sector_size
    )?;
    if copy == Copy::Backup {
        faults.push("the first copy of the partition table is damaged".to_owned());
    }
    for partition in &table.partitions {
        writeln!(
            out,
            "{:>3} {:<14}{:>12} bytes at {:>12}  {}  {}",
            partition.number,
            partition.name,
            table.size_bytes(partition),
            table.offset_bytes(partition),
            partition.id,
            kind(partition.kind),
        )?;
    }
    let open = |partition: &Partition| -> anyhow::Result<Slice<File>> {
        let file = File::open(path).with_context(|| format!("failed to open '{}'", path.display()))?;
        Ok(Slice::new(file, table.offset_bytes(partition), table.size_bytes(partition)))
    };
    if let Some(partition) = table.by_name(BOOT) {
        match boot_files(open(partition)?) {
            Ok(files) => {
                writeln!(out, "{BOOT}:")?;
                list_biggest(out, files, biggest)?;
            }
            Err(error) => faults.push(format!("{BOOT}: {error}")),
        }
    }
    for (data, hashes) in ROOT.into_iter().zip(VERITY) {
        let Some((data, hashes)) = table.by_name(data).zip(table.by_name(hashes)) else { continue };
        let Some(image) =
            Image::open(open(data)?).with_context(|| format!("failed to read {}", data.name))?
        else {
            writeln!(out, "{}: blank", data.name)?;
            continue;
        };
        write!(out, "{}: ", data.name)?;
        if let Err(error) = root::describe(out, image, biggest) {
            faults.push(format!("{}: {error:#}", data.name));
        }
        let wanted = RootHash::from_partition_ids(data.id, hashes.id);
        faults.extend(root::check(out, &data.name, &mut open(data)?, &mut open(hashes)?, Some(&wanted))?);
    }
    Ok(faults)
}

fn boot_files(slice: Slice<File>) -> Result<Vec<Sized>, fat::Error> {
    let files = fat::Volume::open(slice)?.list()?;
    Ok(files.into_iter().map(|file| Sized { path: file.path, bytes: file.bytes, stored: None }).collect())
}

fn kind(kind: Guid) -> String {
    let known = [
        (Guid::ESP, "EFI system"),
        (Guid::ROOT_X86_64, "root (x86-64)"),
        (Guid::ROOT_VERITY_X86_64, "root hashes (x86-64)"),
        (Guid::ROOT_AARCH64, "root (arm64)"),
        (Guid::ROOT_VERITY_AARCH64, "root hashes (arm64)"),
        (Guid::LINUX_DATA, "Linux"),
        (Guid::VARIABLE_DATA, "variable data"),
        (Guid::BASIC_DATA, "basic data"),
    ];
    known
        .iter()
        .find(|(guid, _)| *guid == kind)
        .map_or_else(|| kind.to_string(), |(_, name)| (*name).to_owned())
}
