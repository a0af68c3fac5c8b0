//! The little that is needed from ELF files: which libraries a program needs, and a kernel module's own description.
//!
//! Only 64-bit little-endian files are read, as both of the project's architectures have. Offsets from the file are
//! never trusted: a damaged file is an error, not a panic.

use thiserror::Error;

const MAGIC: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const DATA_LITTLE_ENDIAN: u8 = 1;
/// Offset of the processor's number.
const MACHINE: u64 = 18;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// Why an ELF file could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Error {
    #[error("not a 64-bit little-endian ELF file")]
    NotElf64,
    #[error("damaged ELF file: {0} lies outside the file")]
    OutOfBounds(&'static str),
}

/// What a program asks of the dynamic loader.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// The loader's path; `None` for a static program and for a library.
    pub(crate) interpreter: Option<String>,
    /// Names of the libraries, in order.
    pub(crate) needed: Vec<String>,
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// Whether these bytes begin like an ELF file.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The number of the processor that a program is for (ELF: `e_machine`).
pub(crate) fn machine(bytes: &[u8]) -> Result<u16, Error> {
    check_header(bytes)?;
    u16_at(bytes, MACHINE, "header")
}

/// Reads the libraries that a program or library needs.
pub(crate) fn dynamic(bytes: &[u8]) -> Result<Dynamic, Error> {
    check_header(bytes)?;
    let segments = segments(bytes)?;
    let mut result = Dynamic::default();
    if let Some(segment) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        result.interpreter = Some(string(bytes, segment.offset, "interpreter")?);
    }
    let Some(table) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return Ok(result);
    };
    let mut names = Vec::new();
    let mut strings = None;
    for entry in 0..table.size / 16 {
        let at = table.offset.saturating_add(entry * 16);
        let (tag, value) = (u64_at(bytes, at, "dynamic table")?, u64_at(bytes, at + 8, "dynamic table")?);
        match tag {
            DT_NULL => break,
            DT_NEEDED => names.push(value),
            DT_STRTAB => strings = Some(value),
            _ => {}
        }
    }
    if names.is_empty() {
        return Ok(result);
    }
    let strings = strings
        .and_then(|address| file_offset(&segments, address))
        .ok_or(Error::OutOfBounds("string table"))?;
    for name in names {
        result.needed.push(string(bytes, strings.saturating_add(name), "library name")?);
    }
    Ok(result)
}

/// The content of a section by its name, or `None` if there is no such section.
pub(crate) fn section<'a>(bytes: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Error> {
    check_header(bytes)?;
    let table = u64_at(bytes, 0x28, "section table")?;
    let entry_size = u64::from(u16_at(bytes, 0x3a, "section table")?);
    let count = u64::from(u16_at(bytes, 0x3c, "section table")?);
    let names_index = u64::from(u16_at(bytes, 0x3e, "section table")?);
    let names_header = table.saturating_add(names_index * entry_size);
    let names = u64_at(bytes, names_header.saturating_add(0x18), "section names")?;
    for index in 0..count {
        let header = table.saturating_add(index * entry_size);
        let name_offset = u64::from(u32_at(bytes, header, "section header")?);
        if string(bytes, names.saturating_add(name_offset), "section name")? == name {
            let offset = u64_at(bytes, header.saturating_add(0x18), "section header")?;
            let size = u64_at(bytes, header.saturating_add(0x20), "section header")?;
            return range(bytes, offset, size, "section").map(Some);
        }
    }
    Ok(None)
}

fn check_header(bytes: &[u8]) -> Result<(), Error> {
    let good = is_elf(bytes) && bytes.get(4) == Some(&CLASS_64) && bytes.get(5) == Some(&DATA_LITTLE_ENDIAN);
    if good { Ok(()) } else { Err(Error::NotElf64) }
}

fn segments(bytes: &[u8]) -> Result<Vec<Segment>, Error> {
    let what = "program header";
    let table = u64_at(bytes, 0x20, what)?;
    let entry_size = u64::from(u16_at(bytes, 0x36, what)?);
    let count = u64::from(u16_at(bytes, 0x38, what)?);
    (0..count)
        .map(|index| {
            let at = table.saturating_add(index * entry_size);
            Ok(Segment {
                kind: u32_at(bytes, at, what)?,
                offset: u64_at(bytes, at.saturating_add(8), what)?,
                address: u64_at(bytes, at.saturating_add(16), what)?,
                size: u64_at(bytes, at.saturating_add(32), what)?,
            })
        })
        .collect()
}

/// Where in the file the byte at a memory address lies.
fn file_offset(segments: &[Segment], address: u64) -> Option<u64> {
    let holds = |segment: &&Segment| {
        segment.kind == PT_LOAD && address >= segment.address && address - segment.address < segment.size
    };
    let segment = segments.iter().find(holds)?;
    segment.offset.checked_add(address - segment.address)
}

fn range<'a>(bytes: &'a [u8], offset: u64, size: u64, what: &'static str) -> Result<&'a [u8], Error> {
    let start = usize::try_from(offset).map_err(|_| Error::OutOfBounds(what))?;
    let size = usize::try_from(size).map_err(|_| Error::OutOfBounds(what))?;
    let end = start.checked_add(size).ok_or(Error::OutOfBounds(what))?;
    bytes.get(start..end).ok_or(Error::OutOfBounds(what))
}

fn array<const N: usize>(bytes: &[u8], offset: u64, what: &'static str) -> Result<[u8; N], Error> {
    range(bytes, offset, N as u64, what)?.try_into().map_err(|_| Error::OutOfBounds(what))
}

fn u16_at(bytes: &[u8], offset: u64, what: &'static str) -> Result<u16, Error> {
    array(bytes, offset, what).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: u64, what: &'static str) -> Result<u32, Error> {
    array(bytes, offset, what).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: u64, what: &'static str) -> Result<u64, Error> {
    array(bytes, offset, what).map(u64::from_le_bytes)
}

/// A string that ends with a zero byte.
fn string(bytes: &[u8], offset: u64, what: &'static str) -> Result<String, Error> {
    let start = usize::try_from(offset).map_err(|_| Error::OutOfBounds(what))?;
    let rest = bytes.get(start..).ok_or(Error::OutOfBounds(what))?;
    let end = rest.iter().position(|&byte| byte == 0).ok_or(Error::OutOfBounds(what))?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this_program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn a_dynamic_program_names_its_loader_and_the_c_library() {
        let dynamic = dynamic(&this_program()).unwrap();
        assert!(dynamic.interpreter.is_some_and(|path| path.contains("ld-linux")));
        assert!(dynamic.needed.iter().any(|name| name.starts_with("libc.so")), "{:?}", dynamic.needed);
    }

    #[test]
    fn sections_are_found_by_name() {
        let program = this_program();
        let interpreter = section(&program, ".interp").unwrap().unwrap();
        assert!(String::from_utf8_lossy(interpreter).contains("ld-linux"));
        assert_eq!(section(&program, ".no_such_section").unwrap(), None);
    }

    #[test]
    fn a_file_cut_short_is_an_error_and_never_a_panic() {
        let mut program = this_program();
        program.truncate(64 * 1024);
        for length in (0..program.len()).step_by(61) {
            let _ = dynamic(&program[..length]);
            let _ = section(&program[..length], ".modinfo");
        }
        assert_eq!(dynamic(b"#!/bin/sh\n"), Err(Error::NotElf64));
    }
}
