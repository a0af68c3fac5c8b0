//! Tests of the choice.

use std::cell::Cell;
use std::future::pending;
use std::os::unix::fs::FileExt;

use super::*;
use crate::block::PartOf;
use crate::board::Facts;
use crate::cmdline::Cmdline;
use crate::config;

fn wish() -> Wish {
    Wish { policy: StatePolicy::Auto, format: true, root: "/dev/root".to_owned() }
}

/// A disk whose name begins with what is on it.
fn disk(name: &str) -> Candidate {
    let device = Device {
        name: name.to_owned(),
        part_of: None,
        has_partitions: false,
        read_only: false,
        size: SMALLEST,
    };
    Candidate { device, name: None }
}

/// A partition named `STATE` on `parent`.
fn partition(name: &str, parent: &str) -> Candidate {
    let mut candidate = disk(name);
    candidate.device.part_of = Some(PartOf { disk: parent.to_owned(), number: 1 });
    candidate.name = Some(NAME.to_owned());
    candidate
}

fn kind_by_name(candidate: &Candidate) -> Kind {
    match candidate.device.name.get(..2) {
        Some("st") => Kind::State,
        Some("da") => Kind::Damaged,
        Some("un") => Kind::Unfinished,
        Some("bl") => Kind::Blank,
        _ => Kind::Foreign,
    }
}

fn found(candidate: Candidate) -> Option<Found> {
    Some(Found { kind: kind_by_name(&candidate), device: candidate.device })
}

fn chosen(candidates: Vec<Candidate>) -> Option<Found> {
    choose(candidates, &wish(), kind_by_name)
}

#[test]
fn what_is_nearest_to_state_wins_and_of_equals_the_first() {
    let all = ["fo1", "bl1", "bl2", "un1", "da1", "st1", "st2"];
    for (skipped, wanted) in [(0, "st1"), (2, "da1"), (3, "un1"), (4, "bl1")] {
        let candidates = all[..all.len() - skipped].iter().map(|name| disk(name)).collect();
        assert_eq!(chosen(candidates), found(disk(wanted)));
    }
    assert_eq!(chosen(vec![disk("fo1")]), None);
}

#[test]
fn the_disk_of_the_root_comes_before_the_others_and_a_named_partition_before_a_disk() {
    let root = Candidate { name: Some("ROOT-A".to_owned()), ..partition("root", "vdb") };
    let candidates = |names: [(&str, &str); 2]| {
        let mut all = vec![root.clone()];
        all.extend(names.map(|(name, parent)| partition(name, parent)));
        all
    };
    let states = candidates([("st1", "vda"), ("st2", "vdb")]);
    assert_eq!(chosen(states), found(partition("st2", "vdb")));
    let one_with_data = candidates([("st1", "vda"), ("bl2", "vdb")]);
    assert_eq!(chosen(one_with_data), found(partition("st1", "vda")), "what has data wins");
    assert_eq!(chosen(vec![disk("bl1"), partition("bl2", "vda")]), found(partition("bl2", "vda")));
}

#[tokio::test(start_paused = true)]
async fn a_state_that_comes_within_the_quiet_period_wins_over_a_blank_disk() {
    let looks = Cell::new(0);
    let look = async || {
        looks.set(looks.get() + 1);
        chosen(if looks.get() < 3 { vec![disk("bl1")] } else { vec![disk("bl1"), disk("st1")] })
    };
    let event = async || tokio::time::sleep(QUIET / 2).await;
    let first = search(look, event, || tokio::time::sleep(QUIET), pending()).await;
    assert_eq!((first, looks.get()), (found(disk("st1")), 3));
}

#[tokio::test(start_paused = true)]
async fn a_blank_disk_waits_for_drivers_and_quiet_and_state_itself_for_nothing() {
    let board = Board::new(Facts::default());
    let start = tokio::time::Instant::now();
    let silence = async || pending().await;
    let labelled = search(async || chosen(vec![disk("st1")]), silence, || settled(&board), pending()).await;
    assert_eq!((labelled, start.elapsed()), (found(disk("st1")), Duration::ZERO));
    for kind in ["bl1", "un1", "da1"] {
        board.update(|facts| facts.drivers_loaded = false);
        let other = search(async || chosen(vec![disk(kind)]), silence, || settled(&board), pending());
        let mut other = std::pin::pin!(other);
        assert!(tokio::time::timeout(PATIENCE, &mut other).await.is_err(), "drivers are still being loaded");
        board.update(|facts| facts.drivers_loaded = true);
        let start = tokio::time::Instant::now();
        assert_eq!(other.await, found(disk(kind)));
        assert!(start.elapsed() >= QUIET);
    }
}

#[tokio::test(start_paused = true)]
async fn memory_waits_for_drivers_and_longer_for_disks_that_are_late() {
    for (late, wanted) in [(false, PATIENCE), (true, SLOW_PATIENCE)] {
        let board = Board::new(Facts::default());
        let silence = async || pending().await;
        let nothing = search(async || None, silence, || settled(&board), patience(&board, || late));
        let mut nothing = std::pin::pin!(nothing);
        let drivers = DRIVERS - Duration::from_secs(1);
        assert!(tokio::time::timeout(drivers, &mut nothing).await.is_err(), "drivers are being loaded");
        board.update(|facts| facts.drivers_loaded = true);
        let start = tokio::time::Instant::now();
        assert_eq!((nothing.await, start.elapsed()), (None, wanted));
    }
    // Drivers that never come are not waited for.
    let board = Board::new(Facts::default());
    let start = tokio::time::Instant::now();
    patience(&board, || false).await;
    assert_eq!(start.elapsed(), DRIVERS + PATIENCE);
}

#[test]
fn a_controller_without_a_disk_may_have_one_coming_unless_its_driver_would_know() {
    for (class, wanted) in [
        ("0x010700", true),
        ("0x010802", true),
        ("0x010601", false),
        ("0x010180", false),
        ("0x020000", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let controller = path("devices/pci0000:00/0000:00:05.0");
        let disk = controller.join("host0/target0:0:0/0:0:0:0/block/sda");
        for made in [&disk, &path("bus/pci/devices"), &path("class/block")] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(controller.join("class"), format!("{class}\n")).unwrap();
        std::os::unix::fs::symlink(&controller, path("bus/pci/devices/0000:00:05.0")).unwrap();
        assert_eq!(disks_are_late(dir.path()), wanted, "{class}");
        std::os::unix::fs::symlink(&disk, path("class/block/sda")).unwrap();
        assert!(!disks_are_late(dir.path()), "{class} with a disk");
    }
}

#[test]
fn a_usb_host_without_targets_has_disks_to_come() {
    let dir = tempfile::tempdir().unwrap();
    let class = dir.path().join("class");
    for (host, path) in [("host0", "pci/ata1/host0"), ("host1", "pci/usb1/1-1/host1")] {
        fs::create_dir_all(class.join(host)).unwrap();
        fs::create_dir_all(dir.path().join(path)).unwrap();
        std::os::unix::fs::symlink(dir.path().join(path), class.join(host).join("device")).unwrap();
    }
    assert!(unscanned_usb_host(&class));
    fs::create_dir(dir.path().join("pci/usb1/1-1/host1/target1:0:0")).unwrap();
    assert!(!unscanned_usb_host(&class));
}

#[test]
fn no_disk_is_formatted_with_a_mistake_in_the_configuration_but_our_own_partition_is() {
    let cases = [
        ("skerry.role=server", StatePolicy::Auto, true),
        ("skerry.role=server skerry.state=disk", StatePolicy::Disk, true),
        ("skerry.role=server skerry.state=rma", StatePolicy::Auto, false),
        ("skerry.role=server skerry.state=disk skerry.ip=x", StatePolicy::Auto, false),
        ("skerry.role=server skerry.stat=ram", StatePolicy::Auto, false),
        ("skerry.state=disk", StatePolicy::Disk, false),
    ];
    for (words, policy, format) in cases {
        let wish = Wish::new(&config::from_cmdline(&Cmdline::parse(words)), "/dev/root".to_owned());
        assert_eq!((wish.policy, wish.format), (policy, format), "{words}");
        let choose = |candidates| choose(candidates, &wish, kind_by_name);
        assert_eq!(choose(vec![disk("bl1")]), format.then(|| found(disk("bl1")).unwrap()), "{words}");
        assert_eq!(choose(vec![disk("bl1"), disk("st1")]), found(disk("st1")), "{words}");
        assert_eq!(choose(vec![partition("bl1", "vda")]), found(partition("bl1", "vda")), "{words}");
    }
}

#[test]
fn what_cannot_hold_state_is_never_chosen() {
    let with = |change: fn(&mut Device)| {
        let mut candidate = disk("st1");
        change(&mut candidate.device);
        candidate
    };
    let read_only = with(|device| device.read_only = true);
    let tiny = with(|device| device.size = SMALLEST - 1);
    assert_eq!(chosen(vec![read_only, tiny]), None);
    let mut root = disk("bl1");
    root.device.name = "root".to_owned();
    assert_eq!(choose(vec![root], &wish(), |_| Kind::Blank), None, "the root is no STATE");
}

/// A file in place of a disk, with some bytes in it.
fn content(size: u64, bytes: &[(u64, &[u8])]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    for (at, bytes) in bytes {
        file.as_file().write_all_at(bytes, *at).unwrap();
    }
    file
}

/// As much of an ext4 superblock as anyone here looks at.
fn superblock(label: &str) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[0x38..0x3A].copy_from_slice(&0xEF53_u16.to_le_bytes());
    bytes[0x78..0x78 + label.len()].copy_from_slice(label.as_bytes());
    bytes
}

#[test]
fn a_device_is_known_by_its_content_and_the_name_of_its_partition() {
    const SIZE: u64 = 256 << 20;
    const BACKUP: u64 = 128 << 20;
    let (state, other) = (superblock(NAME), superblock("DATA"));
    let used: &[u8] = b"used before";
    let (whole, part) = (disk("x"), partition("x1", "x"));
    let unnamed = Candidate { name: None, ..part.clone() };
    type Case<'a> = (&'a str, &'a [(u64, &'a [u8])], Kind, Kind, Kind);
    let cases: [Case<'_>; 7] = [
        ("nothing", &[], Kind::Blank, Kind::Blank, Kind::Foreign),
        ("STATE", &[(1024, &state)], Kind::State, Kind::State, Kind::State),
        ("another label", &[(1024, &other)], Kind::Foreign, Kind::State, Kind::Foreign),
        ("zeros, then leftovers", &[(SIZE - 20, used)], Kind::Foreign, Kind::Blank, Kind::Foreign),
        ("something else", &[(0, used)], Kind::Foreign, Kind::Damaged, Kind::Foreign),
        (
            "only a backup superblock",
            &[(0, used), (BACKUP, &state)],
            Kind::Damaged,
            Kind::Damaged,
            Kind::Damaged,
        ),
        (
            "someone's backup superblock",
            &[(0, used), (BACKUP, &other)],
            Kind::Foreign,
            Kind::Damaged,
            Kind::Foreign,
        ),
    ];
    for (what, bytes, of_disk, of_named, of_unnamed) in cases {
        let file = content(SIZE, bytes);
        let kinds = [&whole, &part, &unnamed].map(|candidate| kind_of(file.path(), candidate).unwrap());
        assert_eq!(kinds, [of_disk, of_named, of_unnamed], "{what}");
    }
}
