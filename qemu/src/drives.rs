//! Disks: blank ones, copies of an image, and small volumes with files for the guest to read.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Size of a state disk that is made here. The file is sparse.
pub(crate) const STATE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// What a copy reads at once; runs of zeros of this size are left out of it.
const COPY_BYTES: usize = 256 * 1024;

/// The disk that outlives the machine. When the machine boots from a whole disk, it is that disk's copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// A new one, deleted with the [`crate::Vm`].
    #[default]
    Fresh,
    /// This file; it is made if there is none.
    File(PathBuf),
    /// None: the machine keeps its state in memory. A whole disk is then attached read-only.
    None,
}

/// A disk of the machine, beside those of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// A raw image.
    pub file: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

// === impl State ===

impl State {
    /// A blank disk of `size`, if it is not there yet; nothing for a machine without one.
    pub(crate) fn prepare(&self, scratch: &Path, size: u64) -> Result<Option<PathBuf>, Error> {
        let path = match self {
            Self::Fresh => scratch.join("state.img"),
            Self::File(path) => path.clone(),
            Self::None => return Ok(None),
        };
        if !path.exists() {
            blank(&path, size).map_err(Error::host(format!("make the state disk '{}'", path.display())))?;
        }
        Ok(Some(path))
    }

    /// A copy of the whole disk `image`, if it is not there yet: of `size`, or with room for the state of a node after it, as
    /// on a medium that it is flashed to.
    pub(crate) fn prepare_copy(
        &self,
        scratch: &Path,
        image: &Path,
        size: Option<u64>,
    ) -> Result<Disk, Error> {
        let file = match self {
            Self::Fresh => scratch.join("disk.img"),
            Self::File(path) => path.clone(),
            Self::None => return Ok(Disk { file: image.to_owned(), read_only: true }),
        };
        if !file.exists() {
            let partial = file.with_extension("partial");
            fs::metadata(image)
                .and_then(|image_file| {
                    copy(image, &partial, Some(size.unwrap_or(image_file.len() + STATE_BYTES)))
                })
                .and_then(|()| fs::rename(&partial, &file))
                .map_err(Error::host(format!("copy '{}' to '{}'", image.display(), file.display())))?;
        }
        Ok(Disk { file, read_only: false })
    }
}

/// Makes a sparse file of nothing but zeros.
///
/// # Errors
/// When the file cannot be made.
pub fn blank(path: &Path, size: u64) -> io::Result<()> {
    File::create(path)?.set_len(size)
}

/// Copies a disk, leaving holes where it is zero. With a `size` the copy is cut or lengthened to it.
///
/// # Errors
/// When either file cannot be used.
pub fn copy(from: &Path, to: &Path, size: Option<u64>) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::create(to)?;
    let length = size.unwrap_or(source.metadata()?.len());
    let mut left = length;
    let mut buffer = vec![0; COPY_BYTES];
    while left > 0 {
        let wanted = usize::try_from(left).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
        let got = source.read(&mut buffer[..wanted])?;
        if got == 0 {
            break;
        }
        if buffer[..got].iter().all(|&byte| byte == 0) {
            target.seek(SeekFrom::Current(i64::try_from(got).map_err(io::Error::other)?))?;
        } else {
            target.write_all(&buffer[..got])?;
        }
        left -= u64::try_from(got).map_err(io::Error::other)?;
    }
    target.set_len(length)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_state_file_is_made_blank_and_then_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("disk.img");
        let state = State::File(path.clone());
        assert_eq!(state.prepare(scratch.path(), STATE_BYTES).unwrap(), Some(path.clone()));
        assert_eq!(fs::metadata(&path).unwrap().len(), STATE_BYTES);
        fs::write(&path, b"kept").unwrap();
        state.prepare(scratch.path(), STATE_BYTES).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_holes_where_there_are_none() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        let mut bytes = vec![0; 5 * COPY_BYTES + 7];
        bytes[3 * COPY_BYTES] = 1;
        *bytes.last_mut().unwrap() = 2;
        fs::write(&from, &bytes).unwrap();
        copy(&from, &to, None).unwrap();
        assert_eq!(fs::read(&to).unwrap(), bytes);
        assert!(fs::metadata(&to).unwrap().blocks() < fs::metadata(&from).unwrap().blocks());
    }

    #[test]
    fn a_copy_can_be_longer_or_shorter() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        fs::write(&from, b"disk").unwrap();
        copy(&from, &to, Some(6)).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"disk\0\0");
        copy(&from, &to, Some(2)).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"di");
    }

    #[test]
    fn the_copy_of_a_whole_disk_has_room_for_state_and_is_then_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let image = scratch.path().join("image");
        fs::write(&image, b"disk").unwrap();
        let state = State::File(scratch.path().join("copy"));
        let Disk { file, read_only } = state.prepare_copy(scratch.path(), &image, None).unwrap();
        assert!(!read_only);
        assert_eq!(fs::metadata(&file).unwrap().len(), 4 + STATE_BYTES);
        fs::write(&file, b"kept").unwrap();
        state.prepare_copy(scratch.path(), &image, None).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn a_machine_without_state_gets_the_whole_disk_read_only() {
        let disk = State::None.prepare_copy(Path::new("/x"), Path::new("/image"), None).unwrap();
        assert_eq!(disk, Disk { file: "/image".into(), read_only: true });
    }
}
