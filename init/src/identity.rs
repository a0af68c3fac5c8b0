//! Who this machine is, its randomness and its clock: what must be the same, or at least not go back, after a reboot.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_settime};

const MACHINE_ID: &str = "/var/lib/skerry/machine-id";
const SEED: &str = "/var/lib/skerry/random-seed";
const CLOCK: &str = "/var/lib/skerry/clock";
/// Its time stamp is when the image was made.
const IMAGE_STAMP: &str = "/usr/lib/os-release";
const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";
const SEED_LEN: usize = 512;

/// Values that vendors left in firmware; a machine id made from one would be shared.
const INVALID_UUIDS: &[&str] = &[
    "00000000000000000000000000000000",
    "ffffffffffffffffffffffffffffffff",
    "03000200040005000006000700080009",
];

/// The machine id: from STATE, else from the firmware's UUID, else random; with `keep`, kept on STATE.
pub(crate) fn machine_id(keep: bool) -> Result<String> {
    if let Some(id) = fs::read_to_string(MACHINE_ID).ok().and_then(|text| valid_id(text.trim())) {
        return Ok(id);
    }
    let firmware =
        fs::read_to_string(PRODUCT_UUID).ok().and_then(|text| valid_id(&text.trim().replace('-', "")));
    let id = match firmware {
        Some(id) => id,
        None => random_id().context("failed to make a machine id")?,
    };
    if keep {
        write_durably(Path::new(MACHINE_ID), format!("{id}\n").as_bytes(), 0o444)
            .context("failed to save the machine id")?;
    }
    Ok(id)
}

/// The name of a machine that was not given one.
pub(crate) fn default_hostname(machine_id: &str) -> String {
    format!("skerry-{}", &machine_id[..machine_id.len().min(6)])
}

/// Feeds the seed of the last run to the kernel and replaces it at once, so that it is never used twice. It is not credited as
/// entropy, because images get cloned; the kernel has its own sources for that.
pub(crate) fn stir_seed() -> Result<()> {
    if let Ok(old) = fs::read(SEED) {
        fs::write("/dev/urandom", old).context("failed to feed the saved seed to the kernel")?;
    }
    save_seed()
}

/// Saves fresh randomness for the next boot.
pub(crate) fn save_seed() -> Result<()> {
    let mut seed = [0; SEED_LEN];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut seed))
        .context("failed to read randomness")?;
    write_durably(Path::new(SEED), &seed, 0o600).context("failed to save the seed")
}

/// Moves the clock up to the image's date or the last time this machine knew, whichever is later. Never back.
pub(crate) fn raise_clock() -> Result<()> {
    let stamp = |path: &str| fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH);
    let floor = stamp(IMAGE_STAMP).max(stamp(CLOCK));
    if SystemTime::now() < floor {
        let since_epoch = floor.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        clock_settime(ClockId::CLOCK_REALTIME, since_epoch.into()).context("failed to set the clock")?;
    }
    Ok(())
}

/// Remembers the time for the next boot.
pub(crate) fn save_clock() -> Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(CLOCK);
    file.and_then(|file| file.set_times(FileTimes::new().set_modified(SystemTime::now())))
        .context("failed to save the time")
}

/// 32 lower-case hexadecimal digits that are not a known dummy.
fn valid_id(text: &str) -> Option<String> {
    let id = text.to_ascii_lowercase();
    let well_formed = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (well_formed && !INVALID_UUIDS.contains(&id.as_str()) && !id.starts_with("12345678")).then_some(id)
}

/// A random id with the bits of a version 4 UUID.
fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes beside, syncs and renames: after a power cut there is the old content or the new.
fn write_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_default_name_is_a_valid_node_name() {
        assert_eq!(default_hostname("a0b1c2d3e4f5"), "skerry-a0b1c2");
    }
}
