//! Replaces all files of a volume in one step, so that a reader sees the old set or the new one, never a mix.
//!
//! The layout is upstream's (`pkg/volume/util/atomic_writer.go`), because programs watch for it:
//!
//! ```text
//! volume/..2026_01_02_03_04_05.123/token     the files
//! volume/..data -> ..2026_01_02_03_04_05.123 renamed over the old link: the one atomic step
//! volume/token -> ..data/token               what programs open
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Content and permission bits of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
}

/// Makes `dir` hold exactly `files`, by relative path. Does nothing when it does already.
pub(super) fn write(dir: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    let old = std::fs::read_link(dir.join(DATA)).ok();
    if old.is_some() && holds(&dir.join(DATA), files) {
        return Ok(());
    }
    let fresh = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    write_all(&dir.join(&fresh), files)?;
    let link = dir.join(NEW_DATA);
    remove_if_there(&link)?;
    symlink(&fresh, &link)?;
    std::fs::rename(&link, dir.join(DATA))?;
    link_names(dir, files)?;
    // Our own links name a neighbour; anything else is not ours to remove.
    if let Some(old) = old.as_deref().and_then(own_name) {
        std::fs::remove_dir_all(dir.join(old))?;
    }
    Ok(())
}

/// First part of each path: what must be visible at the top of the volume.
fn top_names(files: &BTreeMap<String, File>) -> BTreeSet<PathBuf> {
    files
        .keys()
        .filter_map(|path| Path::new(path).components().next())
        .map(|part| part.as_os_str().into())
        .collect()
}

fn link_names(dir: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    let wanted = top_names(files);
    for name in &wanted {
        if dir.join(name).symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), dir.join(name))?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let name = PathBuf::from(entry?.file_name());
        if !name.to_string_lossy().starts_with("..") && !wanted.contains(&name) {
            remove_if_there(&dir.join(name))?;
        }
    }
    Ok(())
}

fn write_all(dir: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    std::fs::create_dir(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    for (name, file) in files {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, &file.content)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// The name of one of our payload directories: a single component such as `..2026_01_02_03_04_05.123`.
fn own_name(target: &Path) -> Option<&str> {
    let name = target.to_str()?;
    (name.starts_with("..20") && !name.contains('/')).then_some(name)
}

fn holds(dir: &Path, files: &BTreeMap<String, File>) -> bool {
    let same = |(name, file): (&String, &File)| {
        let path = dir.join(name);
        let mode = path.metadata().map(|metadata| metadata.permissions().mode() & 0o777);
        // `fsGroup` may have added bits.
        mode.is_ok_and(|mode| mode & file.mode == file.mode & 0o777)
            && std::fs::read(&path).is_ok_and(|content| content == file.content)
    };
    count_files(dir) == files.len() && files.iter().all(same)
}

fn count_files(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, File> {
        let file = |text: &str| File { content: text.as_bytes().to_vec(), mode: 0o644 };
        list.iter().map(|(name, text)| ((*name).to_owned(), file(text))).collect()
    }

    fn read(dir: &Path, name: &str) -> Option<String> {
        std::fs::read_to_string(dir.join(name)).ok()
    }

    #[test]
    fn a_planted_link_is_replaced_and_what_it_leads_to_stays() {
        for (target, ours) in
            [("/etc", false), ("../elsewhere", false), ("..", false), ("..2026_01_02.3", true)]
        {
            assert_eq!(own_name(Path::new(target)).is_some(), ours, "{target}");
        }
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, volume.join(DATA)).unwrap();
        write(&volume, &BTreeMap::from([("key".to_owned(), File { content: b"new".to_vec(), mode: 0o644 })]))
            .unwrap();
        assert!(outside.exists());
        assert_eq!(std::fs::read(volume.join("key")).unwrap(), b"new");
    }

    #[test]
    fn an_update_swaps_all_files_at_once_and_drops_the_old_ones() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "1")])).unwrap();
        let first = std::fs::read_link(dir.path().join(DATA)).unwrap();
        assert_eq!(read(dir.path(), "sub/b").as_deref(), Some("1"));
        write(dir.path(), &files(&[("a", "2"), ("c", "2")])).unwrap();
        assert_eq!(read(dir.path(), "a").as_deref(), Some("2"));
        assert_eq!(read(dir.path(), "c").as_deref(), Some("2"));
        assert!(!dir.path().join("sub").exists() && !dir.path().join(first).exists());
    }

    #[test]
    fn the_same_files_are_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &files(&[("a", "1")])).unwrap();
        let first = std::fs::read_link(dir.path().join(DATA)).unwrap();
        write(dir.path(), &files(&[("a", "1")])).unwrap();
        assert_eq!(std::fs::read_link(dir.path().join(DATA)).unwrap(), first);
    }
}
