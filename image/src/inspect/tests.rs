//! Tests of inspecting.

use super::*;
use crate::initramfs::Initramfs;
use crate::lock::Component;

fn look_at(path: &Path) -> (String, anyhow::Result<Vec<String>>) {
    let mut out = Vec::new();
    let faults = look(&mut out, path, 5);
    (String::from_utf8(out).unwrap(), faults)
}

#[test]
fn a_changed_a_cut_and_a_missing_file_are_told_apart() {
    let scratch = tempfile::tempdir().unwrap();
    let output = Output { name: "x".into(), bytes: 3, sha256: digest::of_bytes(b"abc") };
    let look = |content: Option<&str>| {
        let _ = fs::remove_file(scratch.path().join("x"));
        if let Some(content) = content {
            fs::write(scratch.path().join("x"), content).unwrap();
        }
        check(scratch.path(), &output).unwrap()
    };
    assert_eq!(look(Some("abc")), None);
    assert!(look(Some("abd")).unwrap().starts_with("changed"));
    assert_eq!(look(Some("ab")).unwrap(), "2 bytes long");
    assert_eq!(look(None).unwrap(), "missing");
}

fn lock() -> Lock {
    Lock {
        version: Lock::VERSION,
        target: "t".into(),
        release: "0.1.0".into(),
        build: "b".into(),
        debug: false,
        origin: Origin::Debian,
        compression: "zstd,3".into(),
        kernel: "6.12".into(),
        root_hash: "00".into(),
        outputs: vec![Output { name: "x".into(), bytes: 3, sha256: "ab".into() }],
        components: Vec::new(),
        programs: Vec::new(),
        boot_files: Vec::new(),
        packages: Vec::new(),
    }
}

#[test]
fn a_lock_that_was_written_can_be_read_and_an_older_one_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    lock().write(scratch.path()).unwrap();
    assert_eq!(Lock::read(scratch.path()).unwrap().outputs[0].name, "x");
    fs::write(scratch.path().join(Lock::FILE), "version = 1\nkernel = '6'\n").unwrap();
    let error = Lock::read(scratch.path()).unwrap_err().to_string();
    assert!(error.contains("format 1") && error.contains("build the image again"), "{error}");
}

#[test]
fn a_directory_with_a_missing_file_is_described_and_refused() {
    let scratch = tempfile::tempdir().unwrap();
    lock().write(scratch.path()).unwrap();
    let (text, faults) = look_at(scratch.path());
    assert!(text.starts_with("Skerry 0.1.0 for t, build b\n"), "{text}");
    assert_eq!(faults.unwrap(), ["x: missing"]);
}

/// The initramfs of a network boot: a compressed archive and one that is not behind it.
#[test]
fn archives_behind_each_other_are_all_read() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("initramfs.img");
    let mut first = Initramfs::default();
    first.file("roothash", b"abc\n");
    first.file("usr/lib/modules/a.ko", &[1; 100]);
    let mut second = Initramfs::default();
    second.file("root.erofs", &[2; 5000]);
    let mut bytes = first.finish().unwrap();
    bytes.extend(second.finish_uncompressed().unwrap());
    fs::write(&path, &bytes).unwrap();
    let (text, faults) = look_at(&path);
    assert_eq!(faults.unwrap(), [""; 0]);
    assert!(text.contains("3 files, 1 of them kernel modules"), "{text}");
    assert!(text.contains("5000              root.erofs") && text.contains("root hash abc"), "{text}");

    bytes.truncate(bytes.len() - 2000);
    fs::write(&path, &bytes).unwrap();
    let error = format!("{:#}", look_at(&path).1.unwrap_err());
    assert!(error.contains("initramfs.img") && error.contains("ends early"), "{error}");
}

#[test]
fn a_file_of_another_kind_and_no_file_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("vmlinuz");
    fs::write(&path, "MZ").unwrap();
    let error = look_at(&path).1.unwrap_err().to_string();
    assert!(error.contains("vmlinuz' is nothing that can be inspected"), "{error}");
    let error = look_at(&scratch.path().join("none")).1.unwrap_err().to_string();
    assert!(error.contains("failed to open"), "{error}");
}

#[test]
fn parts_of_a_root_are_listed_from_the_lock_beside_it() {
    let scratch = tempfile::tempdir().unwrap();
    let components = vec![
        Component { name: "containerd".into(), bytes: 50, stored: Some(20) },
        Component { name: "k3sd".into(), bytes: 30, stored: Some(10) },
    ];
    Lock { components, ..lock() }.write(scratch.path()).unwrap();
    let mut out = Vec::new();
    root::list_components(&mut out, &scratch.path().join(output::ROOT)).unwrap();
    let text = String::from_utf8(out).unwrap();
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        words[1..],
        [vec!["50", "20", "containerd"], vec!["30", "10", "k3sd"], vec!["80", "30", "all"]]
    );

    let mut out = Vec::new();
    root::list_components(&mut out, Path::new("/nowhere/root.erofs")).unwrap();
    assert!(out.is_empty());
}
