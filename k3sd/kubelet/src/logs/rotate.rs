//! Keeps container logs from filling the disk: a log beyond its size is set aside and compressed, the oldest go.
//!
//! Sizes and names are upstream's (`pkg/kubelet/logs/container_log_manager.go`): `0.log` becomes
//! `0.log.20260102-030405`, and with the next rotation `0.log.20260102-030405.gz`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::agent::Agent;
use crate::cri::Cri;

/// `containerLogMaxSize` and `containerLogMaxFiles`.
const MAX_SIZE: u64 = 10 << 20;
const MAX_FILES: usize = 5;
/// `containerLogMonitorInterval`. Only sizes are read, and only of this node's running containers.
const INTERVAL: Duration = Duration::from_secs(10);

/// Looks at the logs of running containers until cancelled.
pub(crate) async fn rotate_forever(agent: Arc<Agent>, cancel: CancellationToken) {
    while cancel.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        for log in agent.books.running_logs() {
            let path = agent.config.pod_log_dir.join(&log.path);
            if path.metadata().is_ok_and(|metadata| metadata.len() > MAX_SIZE) {
                rotate(agent.cri(), &log.container_id, &path).await;
            }
        }
    }
}

async fn rotate(cri: &Cri, id: &str, path: &Path) {
    let aside = suffixed(path, &Timestamp::now().strftime(".%Y%m%d-%H%M%S").to_string());
    if let Err(error) = make_room(path).and_then(|()| std::fs::rename(path, &aside)) {
        warn!(log = %path.display(), %error, "log not rotated");
        return;
    }
    match cri.reopen_container_log(id).await {
        Ok(()) => debug!(log = %path.display(), "log rotated"),
        Err(error) => {
            warn!(log = %path.display(), %error, "log not reopened, it goes on under its old name");
            // Better one long log than a lost one.
            let _ = std::fs::rename(&aside, path);
        }
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Compresses what was set aside before, and removes the oldest, so that the new one is within the limit.
fn make_room(path: &Path) -> io::Result<()> {
    let mut old = Vec::new();
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    for entry in std::fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            old.push(entry.path());
        }
    }
    // Names end in the time, so they sort by age.
    old.sort();
    // The log in use and the one about to be set aside count as well.
    while old.len() + 2 > MAX_FILES {
        std::fs::remove_file(old.remove(0))?;
    }
    for file in old.iter().filter(|file| file.extension().is_none_or(|extension| extension != "gz")) {
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(suffixed(file, ".gz"))?, flate2::Compression::fast());
        io::copy(&mut File::open(file)?, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        std::fs::remove_file(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_logs_are_compressed_and_the_oldest_removed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.1.gz", "0.log.2.gz", "0.log.3.gz", "0.log.4"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        make_room(&log).unwrap();
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.2.gz", "0.log.3.gz", "0.log.4.gz"]);
    }
}
