//! The initramfs: a cpio archive in the "newc" format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst),
//! compressed with zstd.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// Compresses well and still unpacks fast; the archive is made once and read at every boot.
const ZSTD_LEVEL: i32 = 19;

/// Name of the archive's last entry.
const TRAILER: &str = "TRAILER!!!";

const MODE_DIRECTORY: u32 = 0o040_755;
const MODE_FILE: u32 = 0o100_644;
const MODE_PROGRAM: u32 = 0o100_755;
const MODE_LINK: u32 = 0o120_777;

#[derive(Debug)]
struct Entry {
    mode: u32,
    bytes: Vec<u8>,
}

/// An archive under construction. Entries are sorted, owned by root and have no times, so the same content gives the
/// same bytes.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    entries: BTreeMap<String, Entry>,
}

impl Initramfs {
    /// Adds a directory and those above it. The path is relative to the root.
    pub(crate) fn directory(&mut self, path: &str) {
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            self.entries
                .entry(path[..end].to_owned())
                .or_insert(Entry { mode: MODE_DIRECTORY, bytes: Vec::new() });
        }
    }

    /// Adds a data file.
    pub(crate) fn file(&mut self, path: &str, bytes: &[u8]) {
        self.add(path, MODE_FILE, bytes);
    }

    /// Adds a file that may be executed.
    pub(crate) fn program(&mut self, path: &str, bytes: &[u8]) {
        self.add(path, MODE_PROGRAM, bytes);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, MODE_LINK, target.as_bytes());
    }

    fn add(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), Entry { mode, bytes: bytes.to_owned() });
    }

    /// The compressed archive. Its length is a multiple of four, so that another archive may follow.
    pub(crate) fn finish(&self) -> io::Result<Vec<u8>> {
        let mut packed = zstd::encode_all(&self.archive()?[..], ZSTD_LEVEL)?;
        pad(&mut packed);
        Ok(packed)
    }

    /// The archive as it is, for content that is compressed already.
    pub(crate) fn finish_uncompressed(&self) -> io::Result<Vec<u8>> {
        self.archive()
    }

    fn archive(&self) -> io::Result<Vec<u8>> {
        let mut archive = Vec::new();
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            write_entry(&mut archive, inode, path, entry)?;
        }
        write_entry(&mut archive, 0, TRAILER, &Entry { mode: 0, bytes: Vec::new() })?;
        // Archives are padded to blocks of 512 bytes.
        archive.resize(archive.len().next_multiple_of(512), 0);
        Ok(archive)
    }
}

/// Thirteen numbers of eight hexadecimal digits, the name, the content, each padded to four bytes.
fn write_entry(archive: &mut Vec<u8>, inode: u32, name: &str, entry: &Entry) -> io::Result<()> {
    let size = u32::try_from(entry.bytes.len()).map_err(io::Error::other)?;
    let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
    let links = if entry.mode == MODE_DIRECTORY { 2 } else { 1 };
    let [uid, gid, time, device, check] = [0; 5];
    let numbers =
        [inode, entry.mode, uid, gid, links, time, size, device, device, device, device, name_size, check];
    archive.write_all(b"070701")?;
    for number in numbers {
        write!(archive, "{number:08x}")?;
    }
    archive.write_all(name.as_bytes())?;
    archive.push(0);
    pad(archive);
    archive.write_all(&entry.bytes)?;
    pad(archive);
    Ok(())
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Initramfs {
        let mut initramfs = Initramfs::default();
        initramfs.program("init", b"#!init");
        initramfs.file("usr/lib/modules/6.12/modules.dep", b"a:\n");
        initramfs.link("lib", "usr/lib");
        initramfs
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let paths: Vec<_> = sample().entries.into_keys().collect();
        let expected = [
            "init",
            "lib",
            "usr",
            "usr/lib",
            "usr/lib/modules",
            "usr/lib/modules/6.12",
            "usr/lib/modules/6.12/modules.dep",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn the_archive_is_what_cpio_reads() {
        let archive = sample().archive().unwrap();
        let mut command = Command::new("cpio");
        command.args(["--list", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cpio = command.spawn().expect("cpio is installed by `./just setup`");
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let listed = cpio.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("usr/lib/modules/6.12/modules.dep"));
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(sample().finish().unwrap(), sample().finish().unwrap());
    }
}
