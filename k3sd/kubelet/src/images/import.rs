//! Imports image tarballs into containerd, so that a node needs no registry.
//!
//! A tarball is an OCI image layout or the output of `docker save`, plain or compressed with gzip or zstd.
//! Blobs that the content store has are skipped by digest, so an import can be repeated at every start and
//! one that was cut short goes on where it stopped. A damaged tarball is reported by name; the others go on.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::types::Descriptor;
use rustix::fs::inotify::WatchFlags;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cri::Cri;
use crate::images::archive::{BlobRef, Document, SavedImage, StoredFile, full_name};
use crate::images::store::Store;
use crate::inotify::Inotify;

/// Piece of a blob handed to the store at once.
const CHUNK: usize = 1 << 20;
/// Blobs up to this size are looked at as possible manifests.
const MAX_DOCUMENT: u64 = 4 << 20;
/// K3s builds its tarballs with a zstd window of up to 32 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;
/// A directory must be quiet for this long before it is read again; K3s waits as long.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the CRI plug-in may take to notice an image it has not pulled itself.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a tarball was not imported, or not wholly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The file cannot be read, or is not a tar archive, or ends early.
    #[error("the archive cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// Neither `index.json` nor `manifest.json`.
    #[error("it is neither an OCI image layout nor a docker archive (no index.json, no manifest.json)")]
    NoIndex,
    /// A JSON document in it makes no sense.
    #[error("{name} is not valid: {source}")]
    Document {
        /// File in the tarball, or digest.
        name: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A blob's bytes are not what its name says.
    #[error("blob {expected} has digest {actual}: the file is damaged")]
    Digest {
        /// From the blob's file name.
        expected: String,
        /// Computed.
        actual: String,
    },
    /// Something refers to a blob that is not there.
    #[error("{owner} refers to {missing}, which is not in the archive")]
    Missing {
        /// The referring document.
        owner: String,
        /// Digest or file name.
        missing: String,
    },
    /// It holds images but no names for them.
    #[error("none of its images has a name")]
    NoNames,
    /// containerd refused something.
    #[error("containerd: {}", .0.message())]
    Store(#[from] tonic::Status),
}

/// Imports every tarball below `dirs`, in order of their names. Never fails as a whole.
pub(crate) async fn import_all(cri: &Cri, dirs: &[PathBuf]) {
    for dir in dirs {
        for file in tarballs(dir) {
            import_reported(cri, &file).await;
        }
    }
}

/// Imports again whenever a tarball was put into one of `dirs`, until cancelled. Directories that are not there
/// (or cannot be watched) now are left out.
pub(crate) async fn import_changes(
    cri: &Cri,
    dirs: &[PathBuf],
    cancel: &CancellationToken,
) -> std::io::Result<()> {
    let inotify = Inotify::new()?;
    let mut watched = Vec::new();
    for dir in dirs {
        match inotify.add(dir, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO) {
            Ok(()) => watched.push(dir.clone()),
            Err(error) => debug!(dir = %dir.display(), %error, "directory of images not watched"),
        }
    }
    while let Some(changed) = cancel.run_until_cancelled(inotify.changed()).await {
        changed?;
        // Several files are often copied in a row.
        while tokio::time::timeout(SETTLE, inotify.changed()).await.is_ok() {}
        if cancel.run_until_cancelled(import_all(cri, &watched)).await.is_none() {
            break;
        }
    }
    Ok(())
}

async fn import_reported(cri: &Cri, file: &Path) {
    match import(cri, file).await {
        Ok(names) => info!(file = %file.display(), images = names.join(" "), "image tarball imported"),
        Err(error) => warn!(file = %file.display(), %error, "image tarball not imported"),
    }
}

/// Files with a tarball's ending below `dir`, sorted; nothing when the directory is not there.
fn tarballs(dir: &Path) -> Vec<PathBuf> {
    const ENDINGS: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"];
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                pending.push(path);
            } else if ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Imports one tarball and returns the names of its images, once CRI knows them.
pub(crate) async fn import(cri: &Cri, file: &Path) -> Result<Vec<String>, ImportError> {
    let store = Store::new(cri.channel()).leased().await?;
    let result = import_leased(&store, file).await;
    if let Err(status) = store.release().await {
        debug!(error = status.message(), "lease not released, it will expire");
    }
    let names = result?;
    for name in &names {
        wait_until_visible(cri, name).await;
    }
    Ok(names)
}

async fn import_leased(store: &Store, file: &Path) -> Result<Vec<String>, ImportError> {
    let (reading, path, handle) = (store.clone(), file.to_owned(), Handle::current());
    // Decompression and hashing are blocking work; the uploads are awaited from that thread.
    let contents = tokio::task::spawn_blocking(move || read_tarball(&reading, &path, &handle))
        .await
        .map_err(|error| std::io::Error::other(error.to_string()))??;
    let mut images = contents.named_images()?;
    if images.is_empty() {
        images = contents.saved_images(store).await?;
    }
    if images.is_empty() {
        return Err(ImportError::NoNames);
    }
    let mut names = Vec::with_capacity(images.len());
    for (name, target) in images {
        contents.link(store, &target).await?;
        put_image(store, &name, &target).await?;
        names.push(name);
    }
    Ok(names)
}

/// What one pass over a tarball found.
#[derive(Default)]
struct Contents {
    /// Small blobs by digest; manifests are among them.
    documents: HashMap<String, Vec<u8>>,
    /// Everything outside `blobs/` that went into the store, by its path.
    files: HashMap<String, StoredFile>,
    index: Option<Vec<u8>>,
    saved: Option<Vec<u8>>,
}

fn parse<'a, T: serde::Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, ImportError> {
    serde_json::from_slice(bytes).map_err(|source| ImportError::Document { name: name.to_owned(), source })
}

impl Contents {
    /// Images of an OCI layout with the names `index.json` gives them.
    fn named_images(&self) -> Result<Vec<(String, BlobRef)>, ImportError> {
        let Some(index) = &self.index else {
            return if self.saved.is_some() { Ok(Vec::new()) } else { Err(ImportError::NoIndex) };
        };
        let index: Document = parse("index.json", index)?;
        let named = index.manifests.into_iter().filter_map(|mut entry| {
            let name = entry.image_name()?;
            entry.annotations.clear();
            Some((name, entry))
        });
        Ok(named.collect())
    }

    /// Images of a `docker save` archive; writes the manifests it does not contain.
    async fn saved_images(&self, store: &Store) -> Result<Vec<(String, BlobRef)>, ImportError> {
        let Some(saved) = &self.saved else { return Ok(Vec::new()) };
        let saved: Vec<SavedImage> = parse("manifest.json", saved)?;
        let mut images = Vec::new();
        for image in saved {
            let manifest = image
                .to_manifest(&self.files)
                .map_err(|missing| ImportError::Missing { owner: "manifest.json".to_owned(), missing })?;
            let bytes = serde_json::to_vec(&manifest).map_err(std::io::Error::from)?;
            let digest = sha256(&bytes);
            let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
            let mut upload = store.begin(&format!("skerry-import-{digest}"), size).await?;
            upload.write(bytes).await?;
            upload.commit(&digest, manifest.gc_labels()).await?;
            let target = BlobRef { media_type: manifest.media_type, digest, size, ..BlobRef::default() };
            let names = image.repo_tags.unwrap_or_default();
            images.extend(names.iter().map(|name| (full_name(name), target.clone())));
        }
        Ok(images)
    }

    /// Ties a manifest's or index's children to it, and checks that what must be there is there.
    async fn link(&self, store: &Store, target: &BlobRef) -> Result<(), ImportError> {
        let mut pending = vec![target.clone()];
        let mut seen = HashSet::new();
        while let Some(blob) = pending.pop() {
            if !seen.insert(blob.digest.clone()) {
                continue;
            }
            // Written by us a moment ago, labels and all.
            let Some(bytes) = self.documents.get(&blob.digest) else { continue };
            let document: Document = parse(&blob.digest, bytes)?;
            let missing = |digest: &str| ImportError::Missing {
                owner: blob.digest.clone(),
                missing: digest.to_owned(),
            };
            for child in document.config.iter().chain(&document.layers) {
                store.blob(&child.digest).await?.ok_or_else(|| missing(&child.digest))?;
            }
            // Of a multi-platform index only the platforms that were saved are there; that is no damage.
            pending.extend(document.manifests.iter().cloned());
            let info = store.blob(&blob.digest).await?.ok_or_else(|| missing(&blob.digest))?;
            store.label_blob(info, document.gc_labels()).await?;
        }
        Ok(())
    }
}

async fn put_image(store: &Store, name: &str, target: &BlobRef) -> Result<(), ImportError> {
    store
        .blob(&target.digest)
        .await?
        .ok_or_else(|| ImportError::Missing { owner: name.to_owned(), missing: target.digest.clone() })?;
    if let Some(image) = store.image(name).await?
        && image.target.as_ref().is_some_and(|present| present.digest == target.digest)
    {
        debug!(image = name, "image is there already");
        return Ok(());
    }
    let labels = HashMap::from([
        ("io.cri-containerd.pinned".to_owned(), "pinned".to_owned()),
        ("io.cri-containerd.image".to_owned(), "managed".to_owned()),
    ]);
    let media_type =
        if target.media_type.is_empty() { super::archive::OCI_MANIFEST } else { &target.media_type };
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: target.digest.clone(),
        size: target.size,
        ..Default::default()
    };
    Ok(store.put_image(name, descriptor, labels).await?)
}

/// The CRI plug-in learns of images by containerd's events; a pod started before that would not find its own.
async fn wait_until_visible(cri: &Cri, name: &str) {
    let visible = async {
        let mut pause = Duration::from_millis(5);
        while !matches!(cri.image_status(name).await, Ok(Some(_))) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    };
    if tokio::time::timeout(VISIBLE_TIMEOUT, visible).await.is_err() {
        warn!(image = name, "imported image is not visible to CRI");
    }
}

// === Reading, on a blocking thread ===

fn read_tarball(store: &Store, path: &Path, handle: &Handle) -> Result<Contents, ImportError> {
    let mut contents = Contents::default();
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(decompressed(path)?);
    let mut entries = 0_usize;
    for entry in archive.entries()? {
        let mut entry = entry?;
        entries += 1;
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {}
            tar::EntryType::Symlink => {
                links.extend(entry.link_name()?.map(|target| (name, target.into_owned())));
                continue;
            }
            _ => continue,
        }
        read_file(&mut contents, store, handle, &name, &mut entry)?;
    }
    if entries == 0 {
        return Err(std::io::Error::other("it holds no files").into());
    }
    resolve_links(&mut contents, links);
    Ok(contents)
}

fn read_file(
    contents: &mut Contents,
    store: &Store,
    handle: &Handle,
    name: &str,
    entry: &mut tar::Entry<'_, impl Read>,
) -> Result<(), ImportError> {
    let size = entry.size();
    if name == "index.json" || name == "manifest.json" {
        let mut bytes = Vec::new();
        entry.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
        *(if name == "index.json" { &mut contents.index } else { &mut contents.saved }) = Some(bytes);
        return Ok(());
    }
    if let Some(hex) = name.strip_prefix("blobs/sha256/") {
        let digest = format!("sha256:{hex}");
        let stored = store_blob(contents, store, handle, &digest, size, entry)?;
        contents.files.insert(name.to_owned(), stored);
    } else if name.ends_with(".tar") || name.ends_with(".tar.gz") || name.ends_with(".json") {
        let stored = upload(store, handle, &format!("skerry-import-{name}"), None, size, entry)?;
        contents.files.insert(name.to_owned(), stored);
    }
    Ok(())
}

fn store_blob(
    contents: &mut Contents,
    store: &Store,
    handle: &Handle,
    digest: &str,
    size: u64,
    entry: &mut impl Read,
) -> Result<StoredFile, ImportError> {
    let length = i64::try_from(size).unwrap_or(i64::MAX);
    let present = handle.block_on(store.blob(digest))?.is_some_and(|info| info.size == length);
    if size > MAX_DOCUMENT {
        if present {
            return Ok(StoredFile { digest: digest.to_owned(), size: length, gzip: true });
        }
        return upload(store, handle, &format!("skerry-import-{digest}"), Some(digest), size, entry);
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    let gzip = bytes.starts_with(&GZIP_MAGIC);
    if present {
        check_digest(digest, sha256(&bytes))?;
    } else {
        upload(store, handle, &format!("skerry-import-{digest}"), Some(digest), size, &mut bytes.as_slice())?;
    }
    if bytes.starts_with(b"{") {
        contents.documents.insert(digest.to_owned(), bytes);
    }
    Ok(StoredFile { digest: digest.to_owned(), size: length, gzip })
}

/// Sends one file to the content store; `expected` is its digest when the archive says it.
fn upload(
    store: &Store,
    handle: &Handle,
    reference: &str,
    expected: Option<&str>,
    size: u64,
    reader: &mut impl Read,
) -> Result<StoredFile, ImportError> {
    let length = i64::try_from(size).unwrap_or(i64::MAX);
    let mut upload = handle.block_on(store.begin(reference, length))?;
    let mut hasher = Sha256::new();
    let mut gzip = None;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK.min(usize::try_from(size).unwrap_or(CHUNK)));
        reader.take(CHUNK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        gzip.get_or_insert(chunk.starts_with(&GZIP_MAGIC));
        hasher.update(&chunk);
        handle.block_on(upload.write(chunk))?;
    }
    let actual = format!("sha256:{}", hex(&hasher.finalize()));
    if let Some(expected) = expected {
        check_digest(expected, actual.clone())?;
    }
    handle.block_on(upload.commit(&actual, HashMap::new()))?;
    Ok(StoredFile { digest: actual, size: length, gzip: gzip.unwrap_or_default() })
}

fn check_digest(expected: &str, actual: String) -> Result<(), ImportError> {
    if expected == actual {
        return Ok(());
    }
    Err(ImportError::Digest { expected: expected.to_owned(), actual })
}

/// Old `docker save` stores a repeated layer as a link to the first one.
fn resolve_links(contents: &mut Contents, links: Vec<(String, PathBuf)>) {
    for (name, target) in links {
        let dir = Path::new(&name).parent().unwrap_or(Path::new(""));
        let mut resolved = PathBuf::new();
        for part in dir.join(target).components() {
            match part {
                std::path::Component::ParentDir => {
                    resolved.pop();
                }
                std::path::Component::CurDir => {}
                other => resolved.push(other),
            }
        }
        if let Some(file) = contents.files.get(resolved.to_string_lossy().as_ref()).cloned() {
            contents.files.insert(name, file);
        }
    }
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Opens a tarball; the first bytes, not the file name, say how it is compressed.
fn decompressed(path: &Path) -> std::io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    let read = file.read(&mut magic)?;
    file.rewind()?;
    if magic[..read].starts_with(&GZIP_MAGIC) {
        Ok(Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))))
    } else if magic[..read].starts_with(&ZSTD_MAGIC) {
        let mut decoder = zstd::Decoder::new(file)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(BufReader::new(file)))
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
