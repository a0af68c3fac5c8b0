//! The admin kubeconfig, handed to the machine's owner through a virtio-serial port, where the hypervisor gives it one.
//!
//! Only who runs the virtual machine can attach that port, so nothing is given away that they could not read from the disk. A
//! document ends with YAML's end-of-document line, and a newer one replaces it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::Interest;

use crate::board::{Board, Condition};
use crate::readiness::writable;

/// The port's name, which the virtual machine harness gives it.
const PORT_NAME: &str = "io.skerry.kubeconfig";
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
const END_OF_DOCUMENT: &str = "...\n";
/// A port that nobody reads must not keep us waiting.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hands the file out every time k3sd has become ready, for ever. Owned by the main task; ends on error.
pub(crate) async fn run(board: Board) -> io::Result<()> {
    let mut facts = board.watch();
    let ready = Condition::Service("k3sd");
    loop {
        facts.wait_for(|facts| facts.holds(ready)).await.map_err(io::Error::other)?;
        if let Some(port) = find_port(Path::new("/sys/class/virtio-ports")) {
            match fs::read_to_string(KUBECONFIG) {
                // Nobody there to read it is no problem of ours.
                Ok(text) => drop(
                    tokio::time::timeout(PATIENCE, write(&port, (text + END_OF_DOCUMENT).as_bytes())).await,
                ),
                // An agent administers nothing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        facts.wait_for(|facts| !facts.holds(ready)).await.map_err(io::Error::other)?;
    }
}

/// The device of the port, if there is one.
fn find_port(ports: &Path) -> Option<PathBuf> {
    fs::read_dir(ports).ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == PORT_NAME).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

async fn write(port: &Path, mut bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(port)?;
    let file = writable::<File>(file)?;
    while !bytes.is_empty() {
        let written = file.async_io(Interest::WRITABLE, |mut file| file.write(bytes)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let dir = std::env::temp_dir().join(format!("skerry-ports-{}", std::process::id()));
        for (device, name) in [("vport0p1", "org.qemu.guest_agent.0"), ("vport1p1", PORT_NAME)] {
            fs::create_dir_all(dir.join(device)).unwrap();
            fs::write(dir.join(device).join("name"), format!("{name}\n")).unwrap();
        }
        assert_eq!(find_port(&dir), Some(PathBuf::from("/dev/vport1p1")));
        assert_eq!(find_port(&dir.join("absent")), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
