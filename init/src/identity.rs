//! Who this machine is, its randomness and its clock: what must be the same, or at least not go back, after a reboot.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_settime};
use sha2::{Digest, Sha256};

const MACHINE_ID: &str = "/var/lib/skerry/machine-id";
const SEED: &str = "/var/lib/skerry/random-seed";
const CLOCK: &str = "/var/lib/skerry/clock";
/// No machine with this program is older: the first second of 2026. For images that have no date.
const NOT_BEFORE: Duration = Duration::from_secs(1_767_225_600);
/// Its time stamp is that of the image.
const IMAGE_STAMP: &str = "/usr/lib/os-release";
const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";
/// A device tree's; Raspberry Pis and most boards have one.
const BOARD_SERIAL: &str = "/sys/firmware/devicetree/base/serial-number";
/// As much as the kernel takes at once.
const SEED_LEN: usize = 512;
/// The id of the machine that saved the seed stands before it.
const OWNER_LEN: usize = 32;
/// How often the time is saved besides at the end, for machines that are never shut down. Seldom, because flash wears out.
const SAVE_CLOCK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Values that vendors left in firmware; a machine id made from one would be shared.
const INVALID_UUIDS: &[&str] = &[
    "00000000000000000000000000000000",
    "ffffffffffffffffffffffffffffffff",
    "03000200040005000006000700080009",
];

/// The machine id: from STATE, else from the firmware, else random; with `keep`, kept on STATE.
pub(crate) fn machine_id(keep: bool) -> Result<String> {
    if let Some(id) = fs::read_to_string(MACHINE_ID).ok().and_then(|text| valid_id(text.trim())) {
        return Ok(id);
    }
    let id = match firmware_id() {
        Some(id) => id,
        None => random_id().context("failed to make a machine id")?,
    };
    if keep {
        write_durably(Path::new(MACHINE_ID), format!("{id}\n").as_bytes(), 0o444)
            .context("failed to save the machine id")?;
    }
    Ok(id)
}

/// What the firmware knows: a UUID on PCs and in virtual machines, a serial number on boards. So that a machine that keeps nothing is
/// the same one after a restart.
fn firmware_id() -> Option<String> {
    let uuid = fs::read_to_string(PRODUCT_UUID).ok();
    let serial = || fs::read_to_string(BOARD_SERIAL).ok();
    uuid.and_then(|text| valid_id(&text.trim().replace('-', ""))).or_else(|| id_from_serial(&serial()?))
}

/// The node password of a machine that keeps nothing: the same after each restart, else the server would take it for another
/// machine that wants its name. Only who has the token can tell it. `None` where the firmware does not know the machine.
pub(crate) fn lasting_node_password(token: &str) -> Option<String> {
    Some(node_password(&firmware_id()?, token))
}

/// 32 hexadecimal digits, as K3s makes them from randomness.
fn node_password(firmware_id: &str, token: &str) -> String {
    let digest = Sha256::digest(format!("skerry node password\n{firmware_id}\n{token}"));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a machine that was not given one. Of the id no part will do: vendors begin or end all of theirs with the same.
pub(crate) fn default_hostname(machine_id: &str) -> String {
    let hash = fnv1a(machine_id);
    // Both halves, since its last bytes alone depend too little on what comes first.
    format!("skerry-{:08x}", (hash >> 96) as u32 ^ (hash >> 32) as u32 ^ hash as u32)
}

/// Feeds the seed of the last run to the kernel. It is replaced before it counts, so that it never counts twice, whatever happens
/// between; and it counts as randomness only on the machine that saved it, by the firmware's word, because disks get cloned.
pub(crate) fn stir_seed() -> Result<()> {
    let old = fs::read(SEED).ok();
    let old = old.as_deref().and_then(|old| judge_seed(old, firmware_id().as_deref()));
    renew(
        old,
        |seed, bits| {
            let random = File::open("/dev/urandom").context("failed to open the kernel's randomness")?;
            sys::random::add_entropy(random, seed, bits)
                .context("failed to feed the saved seed to the kernel")
        },
        save_seed,
    )
}

/// In this order: what is saved for the next time must come from what the last time left, or the first boots of a machine whose kernel
/// knows no randomness yet would hand down as little; and what counts must be gone from the disk.
fn renew(
    old: Option<(&[u8], u32)>,
    mut feed: impl FnMut(&[u8], u32) -> Result<()>,
    save: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if let Some((seed, _)) = old {
        feed(seed, 0)?;
    }
    save()?;
    match old {
        Some((seed, bits)) if bits > 0 => feed(seed, bits),
        _ => Ok(()),
    }
}

/// Saves randomness for the next boot, and before it whose it is.
pub(crate) fn save_seed() -> Result<()> {
    let mut content = firmware_id().unwrap_or_default().into_bytes();
    content.resize(OWNER_LEN + SEED_LEN, 0);
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut content[OWNER_LEN..]))
        .context("failed to read randomness")?;
    write_durably(Path::new(SEED), &content, 0o600).context("failed to save the seed")
}

/// The seed in a saved file, and how many bits of it count on the machine with the firmware id `own`.
fn judge_seed<'a>(saved: &'a [u8], own: Option<&str>) -> Option<(&'a [u8], u32)> {
    let (owner, seed) = saved.split_at_checked(OWNER_LEN)?;
    let seed = &seed[..seed.len().min(SEED_LEN)];
    let ours = own.is_some_and(|own| owner == own.as_bytes());
    Some((seed, if ours { u32::try_from(seed.len() * 8).ok()? } else { 0 }))
}

/// When the image was made, as time since 1970: it cannot be earlier than that. A saved time is no such floor, since a wrong one would
/// keep the clock wrong for ever.
pub(crate) fn image_time() -> Duration {
    made(Path::new(IMAGE_STAMP)).duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Moves the clock up to the image's date or the last time this machine knew, as far as STATE is there to tell. Never back.
pub(crate) fn raise_clock() -> Result<()> {
    let floor = floor(Path::new(IMAGE_STAMP), Path::new(CLOCK));
    if SystemTime::now() < floor {
        let since_epoch = floor.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        clock_settime(ClockId::CLOCK_REALTIME, since_epoch.into()).context("failed to set the clock")?;
    }
    Ok(())
}

/// The latest that is known of the time.
fn floor(image: &Path, clock: &Path) -> SystemTime {
    made(image).max(stamp(clock))
}

/// The date of an image with this file in it.
fn made(image: &Path) -> SystemTime {
    stamp(image).max(UNIX_EPOCH + NOT_BEFORE)
}

fn stamp(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH)
}

/// Remembers the time for the next boot.
pub(crate) fn save_clock() -> Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(CLOCK);
    file.and_then(|file| file.set_times(FileTimes::new().set_modified(SystemTime::now())))
        .context("failed to save the time")
}

/// Saves the time once in a while, for ever. Owned by the main task; ends only on error.
pub(crate) async fn keep_clock() -> Result<()> {
    loop {
        tokio::time::sleep(SAVE_CLOCK_EVERY).await;
        save_clock()?;
    }
}

/// 32 lower-case hexadecimal digits that are not a known dummy.
fn valid_id(text: &str) -> Option<String> {
    let id = text.to_ascii_lowercase();
    let well_formed = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (well_formed && !INVALID_UUIDS.contains(&id.as_str()) && !id.starts_with("12345678")).then_some(id)
}

/// An id from a board's serial number, which is too short to be one.
fn id_from_serial(text: &str) -> Option<String> {
    let serial = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    if serial.len() < 4 || serial.bytes().all(|byte| byte == b'0') {
        return None;
    }
    Some(version_4(fnv1a(serial).to_be_bytes()))
}

/// FNV-1a (128 bits) spreads what differs little; there is nothing to keep secret.
fn fnv1a(text: &str) -> u128 {
    let (basis, prime) =
        (0x6C62_272E_07BB_0142_62B8_2175_6295_C58D_u128, 0x0100_0000_0000_0000_0000_013B_u128);
    text.bytes().fold(basis, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(prime))
}

/// A random id with the bits of a version 4 UUID.
fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(version_4(bytes))
}

fn version_4(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes beside, syncs and renames: after a power cut there is the old content or the new, and the new if this has returned.
pub(crate) fn write_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_password_follows_from_machine_and_token() {
        let password = node_password("a0b1", "secret");
        assert_eq!(password.len(), 32);
        assert_eq!(password, node_password("a0b1", "secret"));
        assert_ne!(password, node_password("a0b2", "secret"));
        assert_ne!(password, node_password("a0b1", "secreT"));
    }

    #[test]
    fn dummy_firmware_ids_are_refused() {
        assert!(valid_id("03000200040005000006000700080009").is_none());
        assert!(valid_id("12345678123412341234123412341234").is_none());
        assert!(valid_id("xyz").is_none());
        let upper = "A0B1C2D3E4F5061728394A5B6C7D8E9F";
        assert_eq!(valid_id(upper).as_deref(), Some(upper.to_ascii_lowercase().as_str()));
    }

    #[test]
    fn a_random_id_is_a_version_4_uuid() {
        let id = random_id().unwrap();
        assert_eq!(valid_id(&id).as_ref(), Some(&id));
        assert_eq!(&id[12..13], "4");
    }

    #[test]
    fn boards_are_told_apart_by_their_serial_numbers() {
        let id = id_from_serial("10000000a1b2c3d4\0").unwrap();
        assert_eq!(valid_id(&id).as_ref(), Some(&id));
        assert_ne!(id_from_serial("10000000a1b2c3d5\0").as_ref(), Some(&id));
        assert_eq!(id_from_serial("10000000a1b2c3d4"), Some(id));
        assert!(id_from_serial("0000000000000000\0").is_none() && id_from_serial("\0").is_none());
    }

    #[test]
    fn a_seed_counts_only_on_the_machine_that_saved_it() {
        let own = "a0b1c2d3e4f5061728394a5b6c7d8e9f";
        let saved = [own.as_bytes(), &[7; SEED_LEN]].concat();
        assert_eq!(judge_seed(&saved, Some(own)), Some((&[7; SEED_LEN][..], 4096)));
        assert_eq!(judge_seed(&saved, None).unwrap().1, 0);
        let nobodys = [0; OWNER_LEN + SEED_LEN];
        assert_eq!(judge_seed(&nobodys, Some(own)).unwrap().1, 0);
        assert_eq!(judge_seed(b"short", Some(own)), None);
    }

    #[test]
    fn machines_of_one_vendor_have_different_default_names() {
        // Dell writes "LL", "D" and the service tag, whose letters are what differs.
        let ids = [
            "4c4c45440042331080475ac04f4d3733",
            "4c4c45440042331080485ac04f4d3733",
            "4c4c45440042331080475ac04f4d3734",
            "4c4c45440043331080475ac04f4d3733",
        ];
        let names: std::collections::BTreeSet<_> = ids.map(default_hostname).into();
        assert_eq!(names.len(), ids.len(), "{names:?}");
        for name in names {
            let digits = name.strip_prefix("skerry-").unwrap();
            assert!(digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{name}");
        }
    }

    #[test]
    fn an_old_seed_is_stirred_in_before_a_new_one_is_made_and_counts_when_that_is_saved() {
        let steps = std::cell::RefCell::new(Vec::new());
        let feed = |_: &[u8], bits| {
            steps.borrow_mut().push(format!("feed {bits}"));
            Ok(())
        };
        let save = || {
            steps.borrow_mut().push("save".to_owned());
            Ok(())
        };
        renew(Some((b"old", 24)), feed, save).unwrap();
        assert_eq!(steps.take(), ["feed 0", "save", "feed 24"]);
        renew(Some((b"another machine's", 0)), feed, save).unwrap();
        assert_eq!(steps.take(), ["feed 0", "save"]);
        renew(Some((b"old", 24)), feed, || anyhow::bail!("the disk is full")).unwrap_err();
        assert_eq!(steps.take(), ["feed 0"]);
    }

    #[test]
    fn the_clock_never_begins_before_the_image_the_last_time_or_this_program() {
        let dir = tempfile::tempdir().unwrap();
        let stamped = |name: &str, seconds| {
            let path = dir.path().join(name);
            let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(seconds));
            File::create(&path).unwrap().set_times(times).unwrap();
            path
        };
        let (epoch, early, late) =
            (stamped("epoch", 0), stamped("early", 1_800_000_000), stamped("late", 1_900_000_000));
        let none = dir.path().join("none");
        let seconds = |image, clock| floor(image, clock).duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds(&epoch, &none), NOT_BEFORE.as_secs());
        assert_eq!(seconds(&early, &none), 1_800_000_000);
        assert_eq!(seconds(&early, &late), 1_900_000_000);
        assert_eq!(seconds(&late, &early), 1_900_000_000);
    }
}
