//! Small volumes with files for the guest to read, such as a configuration.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The label under which the appliance looks for `config.toml`.
pub const CONFIG_LABEL: &str = "CONFIG";
/// The label under which it looks for NoCloud's files.
pub const NOCLOUD_LABEL: &str = "CIDATA";
/// Disks consist of whole ones.
const SECTOR_BYTES: u64 = 512;
/// Room beside the files, for directories and tables.
const VOLUME_BYTES: u64 = 8 * 1024 * 1024;
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
    pub files: BTreeMap<String, Vec<u8>>,
}

// === impl Volume ===

impl Volume {
    /// A volume labelled `CONFIG` with this text as `config.toml`.
    pub fn config(toml: &str) -> Self {
        Self::new(CONFIG_LABEL).file(CONFIG_FILE, toml)
    }

    /// A volume without files.
    pub fn new(label: &str) -> Self {
        Self { label: label.to_owned(), files: BTreeMap::new() }
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
        let mut files = BTreeMap::new();
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
        self.format(path).map_err(Error::host(format!("make the volume '{}'", path.display())))
    }

    fn format(&self, path: &Path) -> io::Result<()> {
        let mut label = [b' '; 11];
        for (slot, byte) in label.iter_mut().zip(self.label.bytes()) {
            *slot = byte;
        }
        let content: usize = self.files.values().map(Vec::len).sum();
        let mut file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let content = u64::try_from(content).map_err(io::Error::other)?;
        file.set_len((VOLUME_BYTES + content).next_multiple_of(SECTOR_BYTES))?;
        fatfs::format_volume(&mut file, fatfs::FormatVolumeOptions::new().volume_label(label))?;
        let volume = fatfs::FileSystem::new(&mut file, fatfs::FsOptions::new())?;
        for (name, content) in &self.files {
            volume.root_dir().create_file(name)?.write_all(content)?;
        }
        volume.unmount()
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
    use std::io::Read as _;

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
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let volume = fatfs::FileSystem::new(file, fatfs::FsOptions::new()).unwrap();
        assert!(volume.volume_label_as_bytes().starts_with(CONFIG_LABEL.as_bytes()));
        let mut text = String::new();
        volume.root_dir().open_file(CONFIG_FILE).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "[node]\n");
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
