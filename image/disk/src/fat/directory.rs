//! The tree of a volume's files, and what directories say of them.

use std::collections::BTreeMap;

use super::{Error, Files, LABEL_BYTES};

pub(super) const ENTRY_BYTES: usize = 32;
pub(super) const ATTRIBUTE_LABEL: u8 = 0x08;
pub(super) const ATTRIBUTE_DIRECTORY: u8 = 0x10;
pub(super) const ATTRIBUTE_LONG_NAME: u8 = 0x0f;
const ATTRIBUTE_ARCHIVE: u8 = 0x20;
/// UTF-16 units that an entry of a long name holds, and where.
pub(super) const LONG_NAME_UNITS: usize = 13;
pub(super) const LONG_NAME_PLACES: [usize; LONG_NAME_UNITS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
const LAST_LONG_ENTRY: u8 = 0x40;
/// 1980-01-01, the first day that FAT knows. Midnight is 0.
const FIRST_DAY: [u8; 2] = 0x0021_u16.to_le_bytes();

/// A name of eight and three characters, padded with spaces.
type ShortName = [u8; 11];

/// A file or a directory.
#[derive(Debug, Default)]
pub(super) struct Node<'a> {
    /// A file's content; a directory has none.
    pub(super) content: Option<&'a [u8]>,
    /// Its first cluster; 0 when it has none.
    pub(super) cluster: u32,
    short: ShortName,
    children: BTreeMap<&'a str, Node<'a>>,
}

// === impl Node ===

impl<'a> Node<'a> {
    /// The tree of all files.
    pub(super) fn root(files: &'a Files) -> Result<Self, Error> {
        let mut root = Self::default();
        for (path, content) in files {
            let wrong = |problem| Error::Name { path: path.clone(), problem };
            let mut node = &mut root;
            for name in path.split('/') {
                check_name(name).map_err(wrong)?;
                if node.content.is_some() {
                    return Err(wrong("a part of its path is a file"));
                }
                if node.children.keys().any(|&other| other != name && other.eq_ignore_ascii_case(name)) {
                    return Err(wrong("it differs from another one in case alone"));
                }
                node = node.children.entry(name).or_default();
            }
            if !node.children.is_empty() {
                return Err(wrong("it is a directory, too"));
            }
            node.content = Some(content);
        }
        root.shorten();
        Ok(root)
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&'a str, &Self)> {
        self.children.iter().map(|(name, node)| (*name, node))
    }

    pub(super) fn children_mut(&mut self) -> impl Iterator<Item = (&'a str, &mut Self)> {
        self.children.iter_mut().map(|(name, node)| (*name, node))
    }

    /// Bytes of a directory's entries. The root has the volume's label, others have entries for themselves and above.
    pub(super) fn directory_bytes(&self, root: bool) -> u64 {
        let own = if root { 1 } else { 2 };
        let entries: usize =
            self.children.iter().map(|(name, node)| 1 + long_entries(name, &node.short)).sum();
        ((own + entries) * ENTRY_BYTES) as u64
    }

    /// Gives everything in the tree a short name, and no two of a directory the same one.
    fn shorten(&mut self) {
        let mut taken: Vec<ShortName> =
            self.children.keys().filter_map(|name| plain_short_name(name)).collect();
        for (name, node) in &mut self.children {
            node.short = plain_short_name(name).unwrap_or_else(|| {
                let short = (1..).map(|number| numbered_short_name(name, number));
                let short = short.into_iter().find(|short| !taken.contains(short));
                let short = short.expect("there are more numbers than files");
                taken.push(short);
                short
            });
            node.shorten();
        }
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if matches!(name, "" | "." | "..") {
        return Err("a part of its path has no name");
    }
    if name.encode_utf16().count() > 255 {
        return Err("a part of its path has more than 255 characters");
    }
    if name.chars().any(|c| c.is_control() || r#""*/:<>?\|"#.contains(c)) || name.ends_with(['.', ' ']) {
        return Err("a part of its path has a character that FAT has not");
    }
    Ok(())
}

fn is_short(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"!#$%&'()-@^_`{}~".contains(&byte)
}

/// The short name of a name that needs no long one.
fn plain_short_name(name: &str) -> Option<ShortName> {
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    let fits = (1..=8).contains(&base.len())
        && extension.len() <= 3
        && (name.contains('.') != extension.is_empty())
        && base.bytes().chain(extension.bytes()).all(is_short);
    fits.then(|| pad(base.as_bytes(), extension.as_bytes()))
}

/// `LONGNA~1.TXT`.
fn numbered_short_name(name: &str, number: u32) -> ShortName {
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let clean = |text: &str| -> Vec<u8> {
        text.bytes().map(|byte| byte.to_ascii_uppercase()).filter(|&byte| is_short(byte)).collect()
    };
    let tail = format!("~{number}");
    let mut base = clean(base);
    base.truncate(8 - tail.len());
    base.extend(tail.as_bytes());
    let mut extension = clean(extension);
    extension.truncate(3);
    pad(&base, &extension)
}

fn pad(base: &[u8], extension: &[u8]) -> ShortName {
    let mut short = [b' '; 11];
    short[..base.len()].copy_from_slice(base);
    short[8..8 + extension.len()].copy_from_slice(extension);
    short
}

/// Entries that a name needs in front of its short one.
fn long_entries(name: &str, short: &ShortName) -> usize {
    if plain_short_name(name).as_ref() == Some(short) {
        return 0;
    }
    name.encode_utf16().count().div_ceil(LONG_NAME_UNITS)
}

/// Entries of directories.
pub(super) struct Entry;

// === impl Entry ===

impl Entry {
    /// The volume's label.
    pub(super) fn label(label: &[u8; LABEL_BYTES]) -> [u8; ENTRY_BYTES] {
        Self::short(label, ATTRIBUTE_LABEL, 0, 0)
    }

    /// A directory's entries for itself and for the one above.
    pub(super) fn dots(own: u32, parent: u32) -> Vec<u8> {
        let dot = Self::short(&pad(b".", b""), ATTRIBUTE_DIRECTORY, own, 0);
        [dot, Self::short(&pad(b"..", b""), ATTRIBUTE_DIRECTORY, parent, 0)].concat()
    }

    /// All entries of a file or a directory.
    pub(super) fn of(name: &str, node: &Node<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let units: Vec<u16> = name.encode_utf16().collect();
        let checksum = checksum(&node.short);
        // The end of the name comes first.
        for number in (1..=long_entries(name, &node.short)).rev() {
            let last = number * LONG_NAME_UNITS >= units.len();
            bytes.extend(Self::long(&units[(number - 1) * LONG_NAME_UNITS..], number as u8, last, checksum));
        }
        let (attributes, size) = match node.content {
            Some(content) => (ATTRIBUTE_ARCHIVE, content.len() as u32),
            None => (ATTRIBUTE_DIRECTORY, 0),
        };
        bytes.extend(Self::short(&node.short, attributes, node.cluster, size));
        bytes
    }

    fn short(name: &ShortName, attributes: u8, cluster: u32, size: u32) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..11].copy_from_slice(name);
        entry[11] = attributes;
        // Days of creation, last access and last change.
        for at in [16, 18, 24] {
            entry[at..at + 2].copy_from_slice(&FIRST_DAY);
        }
        entry[20..22].copy_from_slice(&cluster.to_le_bytes()[2..]);
        entry[26..28].copy_from_slice(&cluster.to_le_bytes()[..2]);
        entry[28..].copy_from_slice(&size.to_le_bytes());
        entry
    }

    fn long(units: &[u16], number: u8, last: bool, checksum: u8) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[0] = number | if last { LAST_LONG_ENTRY } else { 0 };
        entry[11] = ATTRIBUTE_LONG_NAME;
        entry[13] = checksum;
        // The name, a zero, and then ones.
        let padded = units.iter().copied().chain([0]).chain(std::iter::repeat(0xffff));
        for (at, unit) in LONG_NAME_PLACES.into_iter().zip(padded) {
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entry
    }
}

/// Ties a long name to its short one.
fn checksum(short: &ShortName) -> u8 {
    short.iter().fold(0_u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte))
}
