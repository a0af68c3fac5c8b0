//! The deploy controller: objects in manifest files are kept applied, as K3s does for `server/manifests`.
//!
//! A file is an add-on, named by its base name up to the first dot. Its objects carry the labels and annotations of K3s's
//! apply (`objectset.rio.cattle.io/*`), by which an object that disappears from the file is found and deleted, also after a
//! restart; fields that the file never set are left alone. Deleting a file does not delete its objects.
//!
//! ```text
//! inotify ──► files (which file is which add-on) ──► manifest (documents) ──► apply (three-way patch, prune)
//! ```
//!
//! Files are applied one after the other in path order. What fails is tried again with growing delays; a document that
//! cannot be read is reported with its number and line, and the others go on. Nothing is polled.
//!
//! Current limitations: there are no `Addon` objects yet; what happens is told in events and in the log.

mod apply;
mod files;
mod manifest;
mod ownership;
mod threeway;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Backoff, Informers, Recorder};
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::apply::Applier;
use self::files::{Found, Tree};
use self::ownership::{ADDON_API_VERSION, ADDON_KIND, ADDON_NAMESPACE, Owner};
use self::watch::Watch;

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Which manifests are deployed.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Directories, searched with everything below them. A file hides those of the same add-on name in later directories,
    /// so that users can replace what an image brings.
    pub dirs: Vec<PathBuf>,
    /// Add-ons whose objects are to be deleted instead (`--disable`): base names without extension, or names of
    /// directories above the files.
    pub disable: Vec<String>,
}

/// Runs the controller until `cancel`. Problems with files or objects are reported and tried again; an error means that
/// directories cannot be watched at all.
pub async fn run(
    config: Config,
    client: kube::Client,
    _informers: Informers,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let recorder = Recorder::new(client.clone(), "deploy", "", cancel.clone());
    let mut controller = Controller {
        disable: config.disable.iter().cloned().collect(),
        dirs: config.dirs,
        applier: Applier::new(client),
        recorder: recorder.clone(),
        tree: Tree::default(),
        pending: BTreeMap::new(),
        applied: BTreeMap::new(),
    };
    let work = controller.run();
    let result = cancel.run_until_cancelled(work).await.unwrap_or(Ok(()));
    // Its task ends with the token.
    if cancel.is_cancelled() {
        recorder.stopped().await;
    }
    result
}

struct Controller {
    dirs: Vec<PathBuf>,
    disable: HashSet<String>,
    applier: Applier,
    recorder: Recorder,
    tree: Tree,
    /// Files to work on, and when.
    pending: BTreeMap<PathBuf, Pending>,
    /// Digest of the content of each file that is applied completely.
    applied: BTreeMap<PathBuf, Vec<u8>>,
}

struct Pending {
    due: Instant,
    backoff: Backoff,
}

impl Pending {
    fn now() -> Self {
        Self { due: Instant::now(), backoff: Backoff::new(RETRY_FIRST, RETRY_MAX) }
    }
}

impl Controller {
    async fn run(&mut self) -> anyhow::Result<()> {
        for dir in &self.dirs {
            // A place for users to put files; of a read-only image it is there or it is not wanted.
            if let Err(error) = fs::create_dir_all(dir) {
                debug!(path = %dir.display(), error = %error, "no manifest directory");
            }
        }
        let mut watch = Watch::new()?;
        self.rescan(&mut watch, None);
        loop {
            while let Some(path) = self.next_due() {
                self.work(&path).await;
            }
            let due = self.pending.values().map(|pending| pending.due).min();
            tokio::select! {
                changed = watch.changes() => {
                    let changed = changed?;
                    self.rescan(&mut watch, Some(&changed));
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Looks at the directories again. Only files in `changed` are read again (`None`: all), since others may be in the
    /// middle of being written.
    fn rescan(&mut self, watch: &mut Watch, changed: Option<&BTreeSet<PathBuf>>) {
        let tree = files::scan(&self.dirs, watch);
        for path in tree.files.keys() {
            let touched = changed.is_none_or(|changed| changed.iter().any(|at| path.starts_with(at)));
            // A file can also come to light because another no longer hides or skips it.
            let appeared = !self.tree.files.contains_key(path) && self.tree.hidden.contains(path);
            if touched || appeared {
                self.pending.insert(path.clone(), Pending::now());
            }
        }
        self.pending.retain(|path, _| tree.files.contains_key(path));
        self.applied.retain(|path, _| tree.files.contains_key(path));
        self.tree = tree;
    }

    fn next_due(&self) -> Option<PathBuf> {
        let now = Instant::now();
        self.pending.iter().find(|(_, pending)| pending.due <= now).map(|(path, _)| path.clone())
    }

    async fn work(&mut self, path: &Path) {
        let Some(found) = self.tree.files.get(path).cloned() else { return };
        let owner = Owner::of_file(path);
        let done = if found.is_disabled(&self.disable) {
            self.withdraw(path, &found, &owner).await
        } else {
            self.deploy(path, &owner).await
        };
        if done {
            self.pending.remove(path);
        } else if let Some(pending) = self.pending.get_mut(path) {
            pending.due = Instant::now() + pending.backoff.next_delay();
        }
    }

    /// Applies a file; false if that is to be tried again.
    async fn deploy(&mut self, path: &Path, owner: &Owner) -> bool {
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
            Err(error) => {
                self.report(
                    owner,
                    path,
                    "ReadManifestFailed",
                    &format!("Read manifest at {path:?} failed: {error}"),
                );
                return false;
            }
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, &content).as_ref().to_vec();
        if self.applied.get(path) == Some(&digest) {
            return true;
        }
        let documents = manifest::parse(&content);
        for problem in &documents.problems {
            let message = format!("Parse manifest at {path:?} failed: {problem}");
            self.report(owner, path, "ParseManifestFailed", &message);
        }
        self.note(owner, "ApplyingManifest", format!("Applying manifest at {path:?}"));
        // An object of a document that cannot be read must not be taken for one that was removed.
        let prune = documents.problems.is_empty();
        let failures = self.applier.apply(owner, documents.objects, prune).await;
        if failures.is_empty() {
            if documents.problems.is_empty() {
                info!(path = %path.display(), "manifest applied");
                self.note(owner, "AppliedManifest", format!("Applied manifest at {path:?}"));
            }
            // Reading the same text again would find the same problems: wait for the file to change.
            self.applied.insert(path.to_owned(), digest);
            return true;
        }
        for failure in failures {
            let message = format!("Applying manifest at {path:?} failed: {failure}");
            self.report(owner, path, "ApplyManifestFailed", &message);
        }
        false
    }

    /// Deletes the objects of a disabled file and, where possible, the file; false if that is to be tried again.
    async fn withdraw(&mut self, path: &Path, found: &Found, owner: &Owner) -> bool {
        let failures = self.applier.apply(owner, Vec::new(), true).await;
        for failure in &failures {
            let message = format!("Deleting manifest at {path:?} failed: {failure}");
            self.report(owner, path, "ApplyManifestFailed", &message);
        }
        if !failures.is_empty() {
            return false;
        }
        if found.may_be_removed {
            match fs::remove_file(path) {
                Ok(()) => self.note(owner, "DeletingManifest", format!("Deleting manifest at {path:?}")),
                Err(error) => debug!(path = %path.display(), error = %error, "disabled manifest stays"),
            }
        }
        info!(path = %path.display(), "add-on is disabled");
        true
    }

    fn note(&self, owner: &Owner, reason: &str, message: String) {
        self.recorder.event(&reference(owner), "Normal", reason, message);
    }

    fn report(&self, owner: &Owner, path: &Path, reason: &str, message: &str) {
        warn!(path = %path.display(), reason, "{message}");
        self.recorder.event(&reference(owner), "Warning", reason, message);
    }
}

/// The object that K3s's events are about.
fn reference(owner: &Owner) -> ObjectReference {
    ObjectReference {
        api_version: Some(ADDON_API_VERSION.to_owned()),
        kind: Some(ADDON_KIND.to_owned()),
        namespace: Some(ADDON_NAMESPACE.to_owned()),
        name: Some(owner.name().to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests;
