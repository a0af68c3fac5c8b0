//! An initramfs: one cpio archive behind the other, compressed with zstd or not.

use std::io::{Cursor, Read, Write};

use anyhow::{Context, bail, ensure};

use super::{Sized, list_biggest, root};
use crate::build::ROOT_HASH_PATH;
use crate::erofs::read::Image;

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const NEWC: &[u8; 6] = b"070701";
const HEADER_BYTES: usize = 110;
const TRAILER: &str = "TRAILER!!!";

/// A file of an archive.
struct Entry {
    path: String,
    bytes: Vec<u8>,
}

/// Whether a file that begins so is an initramfs.
pub(super) fn is_one(start: &[u8]) -> bool {
    start.starts_with(&ZSTD) || start.starts_with(NEWC)
}

/// Prints what an initramfs has.
pub(super) fn describe(out: &mut impl Write, bytes: &[u8], biggest: usize) -> anyhow::Result<()> {
    let mut rest = bytes;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        if rest[0] == 0 {
            // Padding between archives.
            rest = &rest[1..];
        } else if rest.starts_with(&ZSTD) {
            let (archive, behind) = unpack(rest)?;
            read(&archive, &mut entries)?;
            rest = behind;
        } else {
            rest = &rest[read(rest, &mut entries)?..];
        }
    }
    let modules = entries.iter().filter(|entry| entry.path.ends_with(".ko")).count();
    writeln!(
        out,
        "initramfs, {} bytes, {} files, {modules} of them kernel modules",
        bytes.len(),
        entries.len()
    )?;
    let sizes = entries.iter().map(|entry| Sized {
        path: entry.path.clone(),
        bytes: entry.bytes.len() as u64,
        stored: None,
    });
    list_biggest(out, sizes.collect(), biggest)?;
    for entry in &entries {
        if entry.path == ROOT_HASH_PATH {
            writeln!(out, "root hash {}", String::from_utf8_lossy(&entry.bytes).trim())?;
        }
        if let Some(image) = Image::open(Cursor::new(&entry.bytes))? {
            write!(out, "/{}: ", entry.path)?;
            root::describe(out, image, biggest)?;
        }
    }
    Ok(())
}

/// Unpacks one frame. Returns what was in it and what is behind it.
fn unpack(bytes: &[u8]) -> anyhow::Result<(Vec<u8>, &[u8])> {
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(bytes).context("failed to begin unpacking")?.single_frame();
    let mut archive = Vec::new();
    decoder.read_to_end(&mut archive).context("the compressed archive is damaged")?;
    Ok((archive, decoder.finish()))
}

/// Reads the regular files of one archive. Returns its length.
fn read(archive: &[u8], entries: &mut Vec<Entry>) -> anyhow::Result<usize> {
    let mut at = 0;
    loop {
        let header = archive.get(at..at + HEADER_BYTES).context("the archive ends early")?;
        ensure!(header.starts_with(NEWC), "no entry of a cpio archive (newc) at byte {at}");
        let [mode, size, name_size] = [14, 54, 94].map(|field| hexadecimal(&header[field..field + 8]));
        let (mode, size, name_size) = (mode?, size? as usize, name_size? as usize);
        let name_at = at + HEADER_BYTES;
        let content_at = (name_at + name_size).next_multiple_of(4);
        let name = archive.get(name_at..name_at + name_size).context("the archive ends early")?;
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        let content = archive.get(content_at..content_at + size).context("the archive ends early")?;
        at = (content_at + size).next_multiple_of(4);
        if name == TRAILER {
            return Ok(at.min(archive.len()));
        }
        if mode & 0o170_000 == 0o100_000 {
            entries.push(Entry { path: name, bytes: content.to_vec() });
        }
    }
}

fn hexadecimal(digits: &[u8]) -> anyhow::Result<u32> {
    match std::str::from_utf8(digits).ok().and_then(|text| u32::from_str_radix(text, 16).ok()) {
        Some(number) => Ok(number),
        None => bail!("'{}' is no number of a cpio archive", String::from_utf8_lossy(digits)),
    }
}
