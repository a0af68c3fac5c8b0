//! Small volumes with files for the guest to read, such as a configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use disk::fat;

use crate::error::Error;

/// The label under which the appliance looks for `config.toml`.
pub const CONFIG_LABEL: &str = "CONFIG";
/// The label under which it looks for NoCloud's files.
pub const NOCLOUD_LABEL: &str = "CIDATA";
/// Disks consist of whole ones.
const SECTOR_BYTES: u64 = 512;
/// Room beside the files, for directories and tables.
const ROOM_BYTES: u64 = 8 * 1024 * 1024;
/// The serial number of a volume; nobody tells volumes apart by it.
const VOLUME_ID: u32 = 0x5353_4b59;
/// What a configuration is called on its volume.
const CONFIG_FILE: &str = "config.toml";
/// The files by which a directory is known to be for NoCloud.
const NOCLOUD_FILES: [&str; 3] = ["user-data", "meta-data", "network-config"];

/// A FAT volume: a label, and files in its top directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Up to 11 letters.
    pub label: String,
    /// Name and content.
    pub files: fat::Files,
}

// === impl Volume ===

impl Volume {
    /// A volume labelled `CONFIG` with this text as `config.toml`.
    pub fn config(toml: &str) -> Self {
        Self::new(CONFIG_LABEL).file(CONFIG_FILE, toml)
    }

    /// A volume without files.
    pub fn new(label: &str) -> Self {
        Self { label: label.to_owned(), files: fat::Files::new() }
    }

    /// With one more file.
    #[must_use]
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name.to_owned(), content.into());
        self
    }

    /// What a person means by a path: a file is a `config.toml`; a directory's files are taken by their names, for
    /// NoCloud if there are any of its files among them.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn from_path(path: &Path) -> Result<Self, Error> {
        let read = |path: &Path| {
            fs::read(path).map_err(Error::host(format!("read the configuration '{}'", path.display())))
        };
        if !path.is_dir() {
            return Ok(Self::new(CONFIG_LABEL).file(CONFIG_FILE, read(path)?));
        }
        let mut files = fat::Files::new();
        for (name, path) in
            list(path).map_err(Error::host(format!("list the configuration '{}'", path.display())))?
        {
            files.insert(name, read(&path)?);
        }
        let nocloud = NOCLOUD_FILES.iter().any(|name| files.contains_key(*name));
        let label = if nocloud { NOCLOUD_LABEL } else { CONFIG_LABEL };
        Ok(Self { label: label.to_owned(), files })
    }

    /// Writes it, without a partition table, as the whole of a new disk.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let content: usize = self.files.values().map(Vec::len).sum();
        let bytes = ROOM_BYTES + u64::try_from(content).unwrap_or(u64::MAX / 2);
        let bytes = bytes.next_multiple_of(SECTOR_BYTES);
        let format = fat::Format { bytes, label: &self.label, id: VOLUME_ID };
        let mut file = fs::File::create(path)
            .and_then(|file| file.set_len(bytes).map(|()| file))
            .map_err(Error::host(format!("make the volume '{}'", path.display())))?;
        fat::make(&mut file, &format, &self.files)
            .map_err(|source| Error::Volume { label: self.label.clone(), source })
    }
}

fn list(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.path().is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_a_file_of_nocloud_is_for_nocloud() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("config.toml"), "[node]").unwrap();
        assert_eq!(Volume::from_path(scratch.path()).unwrap(), Volume::config("[node]"));
        fs::write(scratch.path().join("user-data"), "#cloud-config").unwrap();
        let volume = Volume::from_path(scratch.path()).unwrap();
        assert_eq!(volume.label, NOCLOUD_LABEL);
        assert_eq!(volume.files["user-data"], b"#cloud-config");
    }

    #[test]
    fn a_written_volume_has_the_label_and_the_files() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("volume");
        Volume::config("[node]\n").write(&path).unwrap();
        let mut volume = fat::Volume::open(fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(volume.label(), CONFIG_LABEL);
        assert_eq!(volume.read(CONFIG_FILE).unwrap().unwrap(), b"[node]\n");
    }

    #[test]
    fn a_file_of_any_name_becomes_the_configuration() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("mine.toml");
        fs::write(&path, "[node]").unwrap();
        assert_eq!(Volume::from_path(&path).unwrap(), Volume::config("[node]"));
        assert!(Volume::from_path(&scratch.path().join("absent")).is_err());
    }
}
