//! dm-verity under the root: every block is checked against the hash tree when it is read.
//!
//! It is set up twice. First so that a damaged block is an error for its reader, because then the first stage can say what is
//! wrong in its own words when mounting or reading the next stage fails. When all that is read, the same device gets a table
//! under which the kernel panics: from there on nobody would look at an error, and no program may run with pages it could not read.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use disk::verity::OnCorruption;
use sys::dm::{Control, Target};

use crate::console::say;
use crate::modules::Tables;
use crate::root::{NEW_ROOT, Pair, mount_erofs};

/// The mapped device.
const NAME: &str = "root";
/// How the kernel reports a damaged block in the device's status.
const CORRUPTED: &str = "C";

/// Maps `pair`, mounts the result as the root, and reads `program` through it, which is to be started next.
pub(crate) fn mount(pair: &Pair, program: &Path, modules: &mut Tables) -> Result<()> {
    // Without the first there is no control node; asking for the second finds both.
    if let Err(error) = modules.load_named("dm_verity") {
        say!("problem: {error}");
    }
    let control =
        Control::open().context("failed to reach the device mapper; is dm_mod in the initramfs?")?;
    let node = map(&control, pair).context("failed to set up dm-verity; the kernel's log says more")?;
    let checked = mount_erofs(&node).and_then(|()| read_whole(program));
    if let Err(error) = checked {
        return Err(explain(&control, pair, error));
    }
    load(&control, pair, OnCorruption::Panic).context("failed to make dm-verity strict")
}

/// Makes the device and returns its node.
fn map(control: &Control, pair: &Pair) -> Result<PathBuf> {
    let minor = control.create(NAME)?;
    load(control, pair, OnCorruption::Fail)?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

fn load(control: &Control, pair: &Pair, on: OnCorruption) -> io::Result<()> {
    let superblock = &pair.tree.superblock;
    let parameters = superblock.table_line(
        &pair.data.display().to_string(),
        &pair.hashes.display().to_string(),
        &pair.hash,
        on,
    );
    let target = Target { sectors: superblock.sectors(), kind: "verity", parameters: &parameters };
    control.load_read_only(NAME, &target)?;
    control.resume(NAME)
}

/// The pages stay in memory, so starting the program reads none of them again.
fn read_whole(program: &Path) -> Result<()> {
    let path = Path::new(NEW_ROOT).join(program.strip_prefix("/").unwrap_or(program));
    File::open(&path)
        .and_then(|mut file| io::copy(&mut file, &mut io::sink()))
        .with_context(|| format!("failed to read {} of the root filesystem", program.display()))?;
    Ok(())
}

/// Tells damage from other failures.
fn explain(control: &Control, pair: &Pair, error: anyhow::Error) -> anyhow::Error {
    match control.status(NAME) {
        Ok(status) if status.starts_with(CORRUPTED) => anyhow!(
            "the root filesystem on {} is damaged: it does not match the root hash {} ({error:#}). Write the image again; if it \
             happens again, replace the disk",
            pair.data.display(),
            pair.hash
        ),
        _ => error,
    }
}
