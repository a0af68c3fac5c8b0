//! Disks that are damaged, too small, larger than their image, full, or without power at the wrong moment.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::gpt::{Partition, Table};
use qemu::{Builder, Disk, State};
use tests::image;
use tests::machine::{STEP, boot, machine};

const MIB: u64 = 1024 * 1024;
/// What the first stage says when it has done its part.
const ROOT_MOUNTED: &str = "skerry: root mounted";
const STATE_READY: &str = "skerry: state ready";

/// The image's whole disk.
fn system_disk() -> PathBuf {
    image().join("disk.img")
}

/// A copy of the image's disk, of `bytes` if given, with `change` made to it.
fn changed(dir: &Path, bytes: Option<u64>, change: impl FnOnce(&mut File, &Table)) -> PathBuf {
    let path = dir.join("changed.img");
    qemu::copy(&system_disk(), &path, bytes).unwrap();
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    let (table, _) = Table::read(&mut File::open(system_disk()).unwrap()).unwrap();
    change(&mut file, &table);
    path
}

fn partition<'a>(table: &'a Table, name: &str) -> &'a Partition {
    table.by_name(name).unwrap_or_else(|| panic!("the image has no partition {name}"))
}

/// Flips one bit.
fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// A machine whose system disk is `path`, and which has no other.
fn alone_with(path: &Path) -> Builder {
    machine().system_disk(path).state(State::None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_root_or_its_hashes_stops_the_boot_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    // One in the first block of the root, one at the end of the hash tree's path to it, and one in every other block.
    type Damage = fn(&File, u64, u64, u64);
    let cases: [(Damage, &str); 3] = [
        (|file, root, _, _| flip(file, root + 1100), "its first block differs"),
        (|file, _, hashes, _| flip(file, hashes + 2 * 4096 + 5), "the hash tree of the root filesystem"),
        (
            |file, root, _, size| (1..size / 4096).for_each(|block| flip(file, root + block * 4096 + 77)),
            "is damaged: it does not match the root hash",
        ),
    ];
    for (damage, wanted) in cases {
        let path = changed(dir.path(), None, |file, table| {
            let (root, hashes) = (partition(table, "ROOT-A"), partition(table, "ROOT-A-VERITY"));
            let size = root_bytes(file, table);
            damage(file, table.offset_bytes(root), table.offset_bytes(hashes), size);
        });
        let mut vm = boot(alone_with(&path)).await;
        vm.line(wanted).await;
        assert!(!vm.console().contains(ROOT_MOUNTED), "{wanted}: it booted all the same");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_damaged_while_the_machine_runs_is_told_and_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = changed(dir.path(), None, |_, _| {});
    let mut vm = boot(alone_with(&path).restarts()).await;
    vm.line(ROOT_MOUNTED).await;
    // One bit in each block: whatever is read first from here on is damaged.
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    let (table, _) = Table::read(&mut File::open(system_disk()).unwrap()).unwrap();
    let (root, size) = (table.offset_bytes(partition(&table, "ROOT-A")), root_bytes(&mut file, &table));
    (0..size / 4096).for_each(|block| flip(&file, root + block * 4096 + 77));
    let line = vm.line("does not match the root hash").await;
    assert!(line.contains("block ") && line.contains("Write the image again"), "{line}");
    vm.line("skerry: rebooting in").await;
    vm.wait_event("RESET", STEP).await.unwrap();
}

/// Bytes of the file system in the root partition: the blocks in its verity superblock.
fn root_bytes(file: &mut File, table: &Table) -> u64 {
    let mut superblock = [0; 512];
    file.seek(SeekFrom::Start(table.offset_bytes(partition(table, "ROOT-A-VERITY")))).unwrap();
    file.read_exact(&mut superblock).unwrap();
    disk::verity::Superblock::parse(&superblock).unwrap().data_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_ends_before_its_partitions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = changed(dir.path(), None, |file, _| {
        let len = file.metadata().unwrap().len();
        file.set_len(len - 20 * MIB).unwrap();
    });
    let mut vm = boot(alone_with(&path)).await;
    let line = vm.line("too small for its partitions").await;
    assert!(line.contains("MiB"), "{line}");
    assert!(!vm.console().contains(ROOT_MOUNTED), "it booted all the same");
}

/// What an image on an SD card goes through.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_on_a_larger_disk_fills_it_whenever_the_power_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = changed(dir.path(), Some(3 * 1024 * MIB), |_, _| {});
    // The image's own disk is there to read only and never becomes STATE; this one is.
    let card = || machine().state(State::None).disk(Disk { file: path.clone(), read_only: false });
    for moment in ["skerry: state grew the partition", "skerry: state formatting", STATE_READY] {
        let mut vm = boot(card()).await;
        vm.line(moment).await;
        vm.cut_power().await;
    }
    let mut vm = boot(card()).await;
    let line = vm.line(STATE_READY).await;
    assert!(line.contains("/dev/vdb"), "{line}");
    assert!(!vm.console().contains("formatting"), "it was made anew");
    vm.cut_power().await;
    let state = |path: &Path| {
        let mut file = File::open(path).unwrap();
        let (table, _) = Table::read(&mut file).unwrap();
        table.size_bytes(partition(&table, "STATE"))
    };
    let before = state(&path);
    assert!(before > 1024 * MIB, "STATE has {} MiB", before / MIB);

    File::options().write(true).open(&path).unwrap().set_len(5 * 1024 * MIB).unwrap();
    let mut vm = boot(card()).await;
    vm.line("skerry: state growing the file system").await;
    vm.line(STATE_READY).await;
    vm.cut_power().await;
    assert_eq!(state(&path), before + 2 * 1024 * MIB);
}

/// A state disk with a file in it, made on the host.
fn state_disk(dir: &Path, bytes: u64, content: &[u8]) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("kept"), content).unwrap();
    let path = dir.join("state.img");
    File::create(&path).unwrap().set_len(bytes).unwrap();
    let mut mke2fs = tool("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-L", "STATE", "-d"]).arg(&tree);
    assert!(mke2fs.arg(&path).status().unwrap().success());
    path
}

/// One of e2fsprogs, which may be where only root looks.
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// The file's content, whether or not a directory leads to it: it is the first inode that mke2fs gives away.
fn kept(path: &Path) -> Vec<u8> {
    tool("debugfs").args(["-R", "cat <12>"]).arg(path).output().unwrap().stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_repaired_without_loss_or_left_until_someone_decides() {
    let dir = tempfile::tempdir().unwrap();
    let path = state_disk(dir.path(), 1024 * MIB, b"precious");
    let with_state = || machine().state(State::File(path.clone()));
    // The superblock is gone; its backups are not.
    File::options().write(true).open(&path).unwrap().write_all_at(&[0xA5; 2048], 1024).unwrap();
    let mut vm = boot(with_state()).await;
    vm.line("is repaired; nothing was lost").await;
    vm.line(STATE_READY).await;
    vm.cut_power().await;
    assert_eq!(kept(&path), b"precious");

    // The root directory is gone, and the journal has no copy of it: what was in it can be kept, its names cannot.
    assert!(tool("e2fsck").arg("-p").arg(&path).status().unwrap().code() < Some(4));
    assert!(tool("debugfs").args(["-w", "-R", "clri <2>"]).arg(&path).status().unwrap().success());
    let mut vm = boot(with_state()).await;
    let line = vm.line("repairing it may lose data").await;
    assert!(line.contains("skerry.state=repair"), "{line}");
    vm.line("maintenance: no service is started").await;
    vm.cut_power().await;
    assert_eq!(kept(&path), b"precious");

    let mut vm = boot(with_state().append("skerry.state=repair")).await;
    vm.line(STATE_READY).await;
    vm.cut_power().await;
    assert_eq!(kept(&path), b"precious", "what had no name any more is in lost+found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_state_boots_and_says_so_and_a_cut_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = state_disk(dir.path(), 512 * MIB, &vec![0x5A; 470 * MIB as usize]);
    let with_state = || machine().state(State::File(path.clone()));
    let mut vm = boot(with_state()).await;
    vm.line("is full").await;
    vm.line(STATE_READY).await;
    vm.cut_power().await;

    File::options().write(true).open(&path).unwrap().set_len(400 * MIB).unwrap();
    let mut vm = boot(with_state()).await;
    vm.line("is cut short").await;
    vm.cut_power().await;
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(&vec![0; (512 - 400) * MIB as usize]).unwrap();
    assert_eq!(kept(&path).len() as u64, 470 * MIB);
}
