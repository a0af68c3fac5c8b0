//! `image flash`: a disk image goes onto a disk, is read back, and gets its configuration.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use disk::fat::{self, Slice};
use disk::gpt::Table;
use rustix::fs::{Advice, OFlags, fadvise};

use crate::partitions::BOOT;

/// Bytes that are written or compared at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Where PID 1 looks for it.
const CONFIGURATION: &str = "config.toml";

/// The command line of `image flash`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The image: disk.img
    image: PathBuf,
    /// The disk, such as /dev/sdX. Everything on it is lost
    disk: PathBuf,
    /// Put this file onto the BOOT partition as config.toml
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Runs `image flash`.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let config = options.config.as_deref().map(crate::source::read).transpose()?;
    let image = File::open(&options.image)
        .with_context(|| format!("failed to open '{}'", options.image.display()))?;
    let (table, _) = Table::read(&mut &image)
        .with_context(|| format!("'{}' is no image of a disk", options.image.display()))?;
    refuse_if_used(&options.disk, Path::new("/"))?;
    let name = options.disk.display();
    let mut disk = open_exclusively(&options.disk).with_context(|| format!("failed to open '{name}'"))?;
    let bytes = disk.seek(SeekFrom::End(0)).with_context(|| format!("failed to measure '{name}'"))?;
    // Before the first byte is written.
    let grown = table.grow(bytes).with_context(|| format!("'{name}' cannot hold the image"))?;

    eprintln!("writing {} MiB to '{name}'", table.disk_bytes() >> 20);
    copy(&image, &mut disk, table.disk_bytes()).with_context(|| format!("failed to write '{name}'"))?;
    eprintln!("reading them back");
    compare(&image, &disk, table.disk_bytes())
        .with_context(|| format!("'{name}' does not keep what is written to it"))?;
    if let Some(config) = config {
        let partition = table.by_name(BOOT).context("the image has no BOOT partition")?;
        let mut boot = Slice::new(&disk, table.offset_bytes(partition), table.size_bytes(partition));
        fat::put(&mut boot, &[(CONFIGURATION.to_owned(), config)].into())
            .with_context(|| format!("failed to write {CONFIGURATION} to '{name}'"))?;
    }
    if let Some(mut grown) = grown {
        grown
            .commit(&mut disk, |disk| disk.sync_data())
            .with_context(|| format!("failed to write the partition table of '{name}'"))?;
    }
    disk.sync_all().with_context(|| format!("failed to finish '{name}'"))?;
    eprintln!("done: '{name}' can be taken out");
    Ok(())
}

/// Fails with "device or resource busy" when the kernel uses the disk for anything: a mount, swap, a volume group.
fn open_exclusively(path: &Path) -> io::Result<File> {
    let exclusive = OFlags::EXCL.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(path)
}

/// Refuses a disk that this machine uses, and says for what. `root` is where `proc` and `sys` are.
fn refuse_if_used(disk: &Path, root: &Path) -> anyhow::Result<()> {
    let name = disk.display();
    let metadata = fs::metadata(disk).with_context(|| format!("failed to look at '{name}'"))?;
    if metadata.is_file() {
        return Ok(());
    }
    ensure!(metadata.file_type().is_block_device(), "'{name}' is neither a disk nor a file");
    let number = metadata.rdev();
    let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let sys = root.join("sys/dev/block").join(&number);
    ensure!(!sys.join("partition").exists(), "'{name}' is a partition; the image is one of a whole disk");
    let numbers = numbers_of(&sys, number)?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).context("failed to read the mounts")?;
    if let Some(place) = mounted_at(&mounts, &numbers) {
        bail!("'{name}' is in use: a part of it is mounted at '{place}'");
    }
    Ok(())
}

/// Device numbers of a disk and of its partitions.
fn numbers_of(sys: &Path, own: String) -> anyhow::Result<Vec<String>> {
    let mut numbers = vec![own];
    for entry in fs::read_dir(sys).with_context(|| format!("failed to list '{}'", sys.display()))? {
        let path = entry?.path();
        if path.join("partition").exists() {
            numbers.push(fs::read_to_string(path.join("dev"))?.trim().to_owned());
            ensure!(
                fs::read_dir(path.join("holders")).map_or(true, |mut holders| holders.next().is_none()),
                "'{}' is in use: it is a part of another device",
                path.file_name().unwrap_or_default().to_string_lossy()
            );
        }
    }
    Ok(numbers)
}

/// Where one of these devices is mounted (proc_pid_mountinfo(5): the third field is the device, the fifth the place).
fn mounted_at<'a>(mountinfo: &'a str, numbers: &[String]) -> Option<&'a str> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(2);
        let device = fields.next()?;
        let place = fields.nth(1)?;
        numbers.iter().any(|number| number == device).then_some(place)
    })
}

/// Zeros are written, too: what a disk had before could be taken for a file system.
fn copy(mut image: &File, disk: &mut File, bytes: u64) -> io::Result<()> {
    image.rewind()?;
    disk.rewind()?;
    let mut from = image.take(bytes);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = read_full(&mut from, &mut chunk)?;
        if count == 0 {
            return disk.sync_all();
        }
        disk.write_all(&chunk[..count])?;
    }
}

fn compare(mut image: &File, mut disk: &File, bytes: u64) -> anyhow::Result<()> {
    // Ask the disk and not the memory that still has what was written.
    fadvise(disk, 0, None, Advice::DontNeed).context("failed to drop cached blocks")?;
    image.rewind()?;
    disk.rewind()?;
    let (mut wanted, mut found) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut offset = 0;
    while offset < bytes {
        let count = usize::try_from(bytes - offset).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        image.read_exact(&mut wanted[..count]).context("failed to read the image")?;
        disk.read_exact(&mut found[..count]).context("failed to read back")?;
        ensure!(wanted[..count] == found[..count], "it differs from the image after byte {offset}");
        offset += count as u64;
    }
    Ok(())
}

fn read_full(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::fat::Volume;
    use disk::guid::Guid;

    const MIB: u64 = 1024 * 1024;

    /// A disk of 12 MiB: BOOT of 4 MiB and STATE of 2 MiB.
    fn image(path: &Path) {
        let mut disk = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        disk.set_len(12 * MIB).unwrap();
        let mut table = Table::new(Guid::from_u128(1), 12 * MIB, 512).unwrap();
        table.add(BOOT, Guid::ESP, Guid::from_u128(2), 4 * MIB).unwrap();
        table.add("STATE", Guid::LINUX_DATA, Guid::from_u128(3), 2 * MIB).unwrap();
        table.commit(&mut disk, |_| Ok(())).unwrap();
        let boot = table.by_name(BOOT).unwrap();
        let mut slice = Slice::new(disk, table.offset_bytes(boot), table.size_bytes(boot));
        let files = [("loader.conf".to_owned(), b"timeout 0\n".to_vec())].into();
        fat::make(&mut slice, &fat::Format { bytes: 4 * MIB, label: BOOT, id: 1 }, &files).unwrap();
    }

    fn flash(scratch: &Path, disk_bytes: u64) -> anyhow::Result<PathBuf> {
        let (from, to, config) = (scratch.join("disk.img"), scratch.join("disk"), scratch.join("mine.toml"));
        image(&from);
        // What was there before.
        fs::write(&to, vec![0xff; disk_bytes as usize]).unwrap();
        fs::write(&config, "[node]\n").unwrap();
        run(&Options { image: from, disk: to.clone(), config: Some(config) })?;
        Ok(to)
    }

    #[test]
    fn a_larger_disk_is_filled_and_has_the_configuration() {
        let scratch = tempfile::tempdir().unwrap();
        let mut disk = File::open(flash(scratch.path(), 32 * MIB).unwrap()).unwrap();
        let (table, _) = Table::read(&mut disk).unwrap();
        let state = table.by_name("STATE").unwrap();
        assert_eq!(table.size_bytes(state), 26 * MIB);
        let mut first = vec![1; 4096];
        disk.seek(SeekFrom::Start(table.offset_bytes(state))).unwrap();
        disk.read_exact(&mut first).unwrap();
        assert_eq!(first, [0; 4096], "STATE is blank, whatever the disk had before");
        let boot = table.by_name(BOOT).unwrap();
        let slice = Slice::new(&disk, table.offset_bytes(boot), table.size_bytes(boot));
        let mut volume = Volume::open(slice).unwrap();
        assert_eq!(volume.read(CONFIGURATION).unwrap().unwrap(), b"[node]\n");
        assert!(volume.read("loader.conf").unwrap().is_some());
    }

    #[test]
    fn a_smaller_disk_is_refused_before_anything_is_written() {
        let scratch = tempfile::tempdir().unwrap();
        let error = format!("{:#}", flash(scratch.path(), 8 * MIB).unwrap_err());
        assert!(error.contains("it has 8 MiB, the partition table wants 12 MiB"), "{error}");
        assert!(fs::read(scratch.path().join("disk")).unwrap().iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn what_is_mounted_is_found_by_its_device() {
        let text = "29 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n30 29 0:5 / /dev rw - devtmpfs udev rw\n";
        assert_eq!(mounted_at(text, &["254:0".into(), "254:1".into()]), Some("/"));
        assert_eq!(mounted_at(text, &["254:0".into(), "254:2".into()]), None);
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let from = scratch.path().join("disk.img");
        image(&from);
        let options =
            |image: &Path, disk: &str| Options { image: image.into(), disk: disk.into(), config: None };
        let error = run(&options(&from, "/dev/null")).unwrap_err().to_string();
        assert!(error.contains("neither a disk nor a file"), "{error}");
        let error = run(&options(Path::new("/proc/version"), "/dev/null")).unwrap_err().to_string();
        assert!(error.contains("is no image of a disk"), "{error}");
    }
}
