//! What the host's own programs say of what this crate writes. `./just setup` installs them.

#![cfg(feature = "fat")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use disk::guid::Guid;
use disk::{fat, gpt, verity};

const MIB: u64 = 1024 * 1024;

/// Runs a program and returns its output.
fn run(program: &str, arguments: &[&str]) -> String {
    let path = ["/usr/sbin", "/sbin", "/usr/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{program} is not installed: run `./just setup`"));
    let output = Command::new(path).args(arguments).env("LC_ALL", "C").output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

fn file_of(path: &Path, bytes: u64) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
    file
}

#[test]
fn sfdisk_takes_the_table_before_and_after_it_grew() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("disk");
    let mut disk = file_of(&path, 64 * MIB);
    let mut table = gpt::Table::new(Guid::from_content(&[b"disk"]), 64 * MIB, 512).unwrap();
    table.add("BOOT", Guid::ESP, Guid::from_content(&[b"boot"]), 8 * MIB).unwrap();
    table.add("STATE", Guid::LINUX_DATA, Guid::from_content(&[b"state"]), 4 * MIB).unwrap();
    table.commit(&mut disk, |disk| disk.sync_data()).unwrap();
    let arguments = ["--verify", path.to_str().unwrap()];
    let text = run("sfdisk", &arguments);
    assert!(text.contains("No errors detected"), "{text}");
    disk.set_len(256 * MIB).unwrap();
    let mut table = table.grow(256 * MIB).unwrap().unwrap();
    table.commit(&mut disk, |disk| disk.sync_data()).unwrap();
    let text = run("sfdisk", &arguments);
    assert!(text.contains("No errors detected"), "{text}");
    let text = run("sfdisk", &["--json", path.to_str().unwrap()]);
    assert!(text.contains(r#""name": "STATE""#) && text.contains(r#""start": 18432"#), "{text}");
}

#[test]
fn veritysetup_takes_the_tree() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, hashes) = (scratch.path().join("data"), scratch.path().join("hashes"));
    let bytes: Vec<u8> = (0..1000_u32 * 4096 / 4).flat_map(u32::to_le_bytes).collect();
    fs::write(&data, &bytes).unwrap();
    let tree = verity::build(&mut &bytes[..], Guid::from_content(&[b"tree"]), b"salt").unwrap();
    fs::write(&hashes, &tree.bytes).unwrap();
    let (data, hashes) = (data.to_str().unwrap(), hashes.to_str().unwrap());
    run("veritysetup", &["verify", data, hashes, &tree.root.to_string()]);
}

#[test]
fn fsck_finds_nothing_wrong_with_a_volume() {
    let scratch = tempfile::tempdir().unwrap();
    for bytes in [3 * MIB, 32 * MIB, 64 * MIB, 288 * MIB] {
        let path = scratch.path().join("volume");
        let mut disk = file_of(&path, bytes);
        let files: BTreeMap<_, _> = [
            ("loader/entries/skerry-a.conf".to_owned(), b"title Skerry\n".to_vec()),
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), vec![2; 5000]),
            ("a file with a long name.txt".to_owned(), vec![1; 300_000]),
        ]
        .into();
        fat::make(&mut disk, &fat::Format { bytes, label: "BOOT", id: 7 }, &files).unwrap();
        run("fsck.fat", &["-n", "-V", path.to_str().unwrap()]);
    }
}
