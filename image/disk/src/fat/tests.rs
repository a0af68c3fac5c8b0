//! Tests of FAT volumes.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1024 * 1024;

fn files() -> Files {
    [
        ("EFI/BOOT/BOOTX64.EFI", vec![0x4d; 100_000]),
        ("loader/entries/skerry-a.conf", b"title Skerry\n".to_vec()),
        ("loader/entries/skerry-b.conf", b"title Skerry\n".to_vec()),
        ("a name of more than thirteen characters and of more than twenty-six", vec![1; 4096]),
        ("config.toml.example", b"# nothing\n".to_vec()),
        ("empty", Vec::new()),
    ]
    .map(|(path, content)| (path.to_owned(), content))
    .into()
}

fn volume(bytes: u64, files: &Files) -> Result<Cursor<Vec<u8>>, Error> {
    let mut disk = Cursor::new(vec![0xee; bytes as usize]);
    make(&mut disk, &Format { bytes, label: "boot", id: 0x1234_abcd }, files)?;
    Ok(disk)
}

#[test]
fn files_are_read_as_they_were_written() {
    for bytes in [3 * MIB, 32 * MIB, 64 * MIB, 288 * MIB] {
        let mut volume = Volume::open(volume(bytes, &files()).unwrap()).unwrap();
        let found = volume.list().unwrap();
        assert!(found.iter().map(|file| &file.path).eq(files().keys()), "{found:?}");
        for (path, content) in files() {
            assert_eq!(volume.read(&path).unwrap(), Some(content), "{path}");
        }
        assert!(volume.read("efi/boot/bootx64.efi").unwrap().is_some());
        assert_eq!(volume.read("config.toml").unwrap(), None);
        assert_eq!(volume.read("EFI/BOOT").unwrap(), None);
        assert_eq!((volume.label(), volume.id(), volume.bytes()), ("BOOT", 0x1234_abcd, bytes));
    }
}

/// Firmware may know FAT32 alone; the type follows from the number of clusters and from nothing else.
#[test]
fn the_type_and_the_clusters_follow_from_the_size() {
    let cases =
        [(3 * MIB, false, 512), (32 * MIB, false, 4096), (64 * MIB, true, 512), (288 * MIB, true, 4096)];
    for (bytes, fat32, cluster_bytes) in cases {
        let geometry = Geometry::for_volume(bytes).unwrap();
        assert_eq!((geometry.fat32, geometry.cluster_bytes()), (fat32, cluster_bytes), "{bytes}");
    }
    for bytes in [0, MIB, 1 << 50] {
        assert_eq!(Geometry::for_volume(bytes), None);
    }
    assert!(matches!(volume(MIB, &files()), Err(Error::Size(MIB))));
}

#[test]
fn volumes_of_the_same_files_are_the_same() {
    let make = || volume(4 * MIB, &files()).unwrap().into_inner();
    assert!(make() == make());
}

#[test]
fn room_that_no_file_takes_is_not_written() {
    let disk = volume(64 * MIB, &files()).unwrap().into_inner();
    let untouched = disk.iter().filter(|&&byte| byte == 0xee).count();
    assert!(untouched > 62 << 20, "{untouched}");
}

#[test]
fn files_can_be_added_and_replaced() {
    let mut disk = volume(4 * MIB, &files()).unwrap();
    let changes = [("efi/boot/bootx64.efi", "short"), ("config.toml", "[node]\n")];
    let changes = changes.map(|(path, content)| (path.to_owned(), content.as_bytes().to_vec())).into();
    put(&mut disk, &changes).unwrap();
    let mut volume = Volume::open(disk).unwrap();
    assert_eq!(volume.read("EFI/BOOT/BOOTX64.EFI").unwrap().unwrap(), b"short");
    assert_eq!(volume.read("config.toml").unwrap().unwrap(), b"[node]\n");
    assert_eq!(volume.list().unwrap().len(), files().len() + 1);
    assert_eq!(volume.id(), 0x1234_abcd);
}

#[test]
fn a_full_volume_is_an_error_that_names_the_file() {
    let big = [("a/big".to_owned(), vec![1; 4 << 20])].into();
    let error = volume(3 * MIB, &big).unwrap_err();
    assert!(matches!(&error, Error::Full { path, .. } if path == "a/big"), "{error}");
}

#[test]
fn names_and_labels_that_fat_cannot_hold_are_refused() {
    for bad in ["", "twelve chars", "a/b", "é"] {
        assert!(matches!(label(bad), Err(Error::Label(_))), "{bad}");
    }
    assert_eq!(&label("cidata").unwrap(), b"CIDATA     ");
    for bad in [&["a:b"][..], &["a//b"], &["../a"], &["a."], &["a", "A"], &["a", "a/b"], &["dir/a", "DIR/b"]]
    {
        let files = bad.iter().map(|&path| (path.to_owned(), Vec::new())).collect();
        assert!(matches!(volume(3 * MIB, &files), Err(Error::Name { .. })), "{bad:?}");
    }
}

#[test]
fn a_slice_ends_where_its_part_ends() {
    let mut disk = Cursor::new(vec![7; 100]);
    let mut slice = Slice::new(&mut disk, 10, 20);
    slice.seek(SeekFrom::End(-5)).unwrap();
    assert!(slice.write_all(&[1; 6]).is_err());
    slice.seek(SeekFrom::Start(15)).unwrap();
    let mut rest = Vec::new();
    slice.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [1; 5]);
    assert_eq!(disk.get_ref()[29..31], [1, 7]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever bytes change, reading ends and does not panic.
    #[test]
    fn damage_is_survived(hits in prop::collection::vec((0_usize..64 * 1024, any::<u8>()), 1..16)) {
        let mut disk = volume(3 * MIB, &files()).unwrap().into_inner();
        for (at, byte) in hits {
            disk[at] = byte;
        }
        if let Ok(mut volume) = Volume::open(Cursor::new(disk)) {
            for found in volume.list().unwrap_or_default() {
                let _ = volume.read(&found.path);
            }
        }
    }
}
