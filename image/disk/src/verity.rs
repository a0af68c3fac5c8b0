//! dm-verity: superblock, hash tree and device-mapper table line.
//!
//! Format version 1 ("normal"), SHA-256, blocks of 4096 bytes: what `veritysetup format` makes without options and
//! what the kernel's documentation describes (admin-guide/device-mapper/verity). The hash device begins with the
//! superblock; the tree follows from its second block on, the top level first.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::guid::Guid;

mod recognise;

pub use recognise::{Recognised, recognise};

/// Bytes of a data block and of a hash block.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes of the superblock's structure; it has a whole block to itself.
pub const SUPERBLOCK_SIZE: usize = 512;

const DIGEST_SIZE: usize = 32;
const DIGESTS_PER_BLOCK: usize = BLOCK_SIZE / DIGEST_SIZE;
const MAX_SALT: usize = 256;
const SIGNATURE: &[u8; 8] = b"verity\0\0";
const ALGORITHM: &[u8] = b"sha256";

type Hash = [u8; DIGEST_SIZE];

/// The digest at the tree's top: who knows it knows every byte of the data.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootHash(pub [u8; 32]);

/// What a hash device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Identifies the tree. Nothing depends on it.
    pub id: Guid,
    /// Blocks of data.
    pub data_blocks: u64,
    /// Goes into every digest before the block; at most 256 bytes.
    pub salt: Vec<u8>,
}

/// A hash device's content.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The superblock.
    pub superblock: Superblock,
    /// The tree's top.
    pub root: RootHash,
    /// All bytes of the hash device, the superblock's block among them.
    pub bytes: Vec<u8>,
}

/// Why a tree cannot be built, read or believed.
#[derive(Debug, Error)]
pub enum Error {
    /// Data or hashes could not be read.
    #[error("failed to read {what}")]
    Io {
        /// "the data" or "the hashes".
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Data that ends within a block.
    #[error("the data's last block has {0} bytes instead of 4096")]
    PartialBlock(usize),
    /// No data at all.
    #[error("there is no data to hash")]
    Empty,
    /// A salt that the superblock has no room for.
    #[error("a salt of {0} bytes is too long: 256 are the most")]
    Salt(usize),
    /// Not a superblock, or one of a kind that is not used here.
    #[error("no verity superblock: {0}")]
    Superblock(&'static str),
    /// The tree does not lead to the root hash that was asked for.
    #[error("the hash tree belongs to the root hash {found}, not to {wanted}")]
    OtherRoot {
        /// What the tree leads to.
        found: RootHash,
        /// What was asked for.
        wanted: RootHash,
    },
    /// The stored tree is not the one that follows from the data.
    #[error("block {block} of the {what} is damaged (byte {} on)", .block * BLOCK_SIZE as u64)]
    Damaged {
        /// "data" or "hash tree".
        what: &'static str,
        /// The first bad block.
        block: u64,
    },
}

/// A text that is no root hash.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no root hash: wanted 64 hexadecimal digits")]
pub struct ParseRootHashError(String);

/// What the kernel does when it meets a damaged block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCorruption {
    /// Reads fail with an input/output error.
    Fail,
    /// The machine restarts.
    Restart,
    /// The kernel panics.
    Panic,
}

// === impl RootHash ===

impl RootHash {
    /// The GUIDs of the partitions that hold data and hashes: the first and the last half of the root hash
    /// (discoverable partitions specification). So the root hash alone finds both.
    pub fn partition_ids(&self) -> (Guid, Guid) {
        let half = |from: usize| Guid(self.0[from..from + 16].try_into().expect("sixteen bytes"));
        (half(0), half(16))
    }

    /// The root hash whose partitions have these GUIDs.
    pub fn from_partition_ids(data: Guid, hashes: Guid) -> Self {
        let mut bytes = [0; DIGEST_SIZE];
        bytes[..16].copy_from_slice(&data.0);
        bytes[16..].copy_from_slice(&hashes.0);
        Self(bytes)
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootHash({self})")
    }
}

impl FromStr for RootHash {
    type Err = ParseRootHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseRootHashError(text.to_owned());
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * DIGEST_SIZE {
            return Err(refused());
        }
        let mut hash = [0; DIGEST_SIZE];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or_else(refused);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).expect("two hexadecimal digits");
        }
        Ok(Self(hash))
    }
}

fn write_hex(f: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

// === impl Superblock ===

impl Superblock {
    /// Reads a superblock from the beginning of a hash device.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let Some(bytes) = bytes.get(..SUPERBLOCK_SIZE) else { return Err(Error::Superblock("too short")) };
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if !bytes.starts_with(SIGNATURE) {
            return Err(Error::Superblock("no signature"));
        }
        if number(8) != 1 || number(12) != 1 {
            return Err(Error::Superblock("a version other than 1"));
        }
        if bytes[32..64].split(|&byte| byte == 0).next() != Some(ALGORITHM) {
            return Err(Error::Superblock("a digest other than sha256"));
        }
        if number(64) as usize != BLOCK_SIZE || number(68) as usize != BLOCK_SIZE {
            return Err(Error::Superblock("blocks of other than 4096 bytes"));
        }
        let salt_size = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        if salt_size > MAX_SALT {
            return Err(Error::Superblock("a salt that is too long"));
        }
        let data_blocks = u64::from_le_bytes(bytes[72..80].try_into().expect("eight bytes"));
        if data_blocks == 0 {
            return Err(Error::Superblock("no data blocks"));
        }
        Ok(Self {
            id: Guid(bytes[16..32].try_into().expect("sixteen bytes")),
            data_blocks,
            salt: bytes[88..88 + salt_size].to_vec(),
        })
    }

    /// The superblock's bytes.
    pub fn encode(&self) -> Result<[u8; SUPERBLOCK_SIZE], Error> {
        if self.salt.len() > MAX_SALT {
            return Err(Error::Salt(self.salt.len()));
        }
        let mut bytes = [0; SUPERBLOCK_SIZE];
        bytes[..8].copy_from_slice(SIGNATURE);
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&1_u32.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id.0);
        bytes[32..32 + ALGORITHM.len()].copy_from_slice(ALGORITHM);
        bytes[64..68].copy_from_slice(&(BLOCK_SIZE as u32).to_le_bytes());
        bytes[68..72].copy_from_slice(&(BLOCK_SIZE as u32).to_le_bytes());
        bytes[72..80].copy_from_slice(&self.data_blocks.to_le_bytes());
        bytes[80..82].copy_from_slice(&(self.salt.len() as u16).to_le_bytes());
        bytes[88..88 + self.salt.len()].copy_from_slice(&self.salt);
        Ok(bytes)
    }

    /// Bytes of the data.
    pub fn data_bytes(&self) -> u64 {
        self.data_blocks * BLOCK_SIZE as u64
    }

    /// Bytes of the hash device: the superblock's block and the tree.
    pub fn hash_bytes(&self) -> u64 {
        let mut blocks = 1;
        let mut level = self.data_blocks;
        while level > 1 {
            level = level.div_ceil(DIGESTS_PER_BLOCK as u64);
            blocks += level;
        }
        blocks * BLOCK_SIZE as u64
    }

    /// The device's length in sectors of 512 bytes, which device-mapper asks for beside the table line.
    pub fn sectors(&self) -> u64 {
        self.data_bytes() / 512
    }

    /// The parameters of device-mapper's `verity` target. Devices are paths or `MAJOR:MINOR`.
    pub fn table_line(&self, data: &str, hashes: &str, root: &RootHash, on: OnCorruption) -> String {
        let mut salt = String::new();
        write_hex(&mut salt, &self.salt).expect("a String can always be written to");
        if salt.is_empty() {
            salt.push('-');
        }
        let options = match on {
            OnCorruption::Fail => "",
            OnCorruption::Restart => " 1 restart_on_corruption",
            OnCorruption::Panic => " 1 panic_on_corruption",
        };
        format!(
            "1 {data} {hashes} {BLOCK_SIZE} {BLOCK_SIZE} {} 1 sha256 {root} {salt}{options}",
            self.data_blocks
        )
    }
}

// === building and checking ===

/// Hashes data to its end. Only the digests are kept in memory: 0.8 % of the data.
pub fn build(data: &mut impl Read, id: Guid, salt: &[u8]) -> Result<Tree, Error> {
    if salt.len() > MAX_SALT {
        return Err(Error::Salt(salt.len()));
    }
    let salted = Sha256::new_with_prefix(salt);
    let leaves = hash_data(data, &salted, |_, _| Ok(()))?;
    if leaves.is_empty() {
        return Err(Error::Empty);
    }
    let superblock = Superblock { id, data_blocks: leaves.len() as u64, salt: salt.to_vec() };
    let (root, levels) = raise(leaves, &salted);
    let mut bytes = superblock.encode()?.to_vec();
    bytes.resize(BLOCK_SIZE, 0);
    for level in levels.iter().rev() {
        bytes.extend_from_slice(level);
    }
    Ok(Tree { superblock, root, bytes })
}

/// Checks data against its hash device and, when one is given, against a root hash. Returns the superblock and the root
/// hash that the tree leads to; names the first damaged block otherwise.
pub fn verify(
    data: &mut impl Read,
    hashes: &mut impl Read,
    wanted: Option<&RootHash>,
) -> Result<(Superblock, RootHash), Error> {
    let read = |source| Error::Io { what: "the hashes", source };
    let mut first = [0; BLOCK_SIZE];
    hashes.read_exact(&mut first).map_err(read)?;
    let superblock = Superblock::parse(&first)?;
    // Grown as it is read, so that a superblock that lies about the size costs no memory.
    let mut stored = Vec::new();
    hashes.take(superblock.hash_bytes() - BLOCK_SIZE as u64).read_to_end(&mut stored).map_err(read)?;
    if stored.len() as u64 + BLOCK_SIZE as u64 != superblock.hash_bytes() {
        return Err(Error::Damaged { what: "hash tree", block: (stored.len() / BLOCK_SIZE) as u64 + 1 });
    }
    let salted = Sha256::new_with_prefix(&superblock.salt);
    let expect = |found: RootHash| match wanted {
        Some(&wanted) if wanted != found => Err(Error::OtherRoot { found, wanted }),
        _ => Ok(found),
    };
    // One block has no tree: its digest is the root hash.
    let top = check_tree(&stored, &superblock, &salted)?.map(expect).transpose()?;
    let leaf_blocks = top.map_or(0, |_| superblock.data_blocks.div_ceil(DIGESTS_PER_BLOCK as u64) as usize);
    let leaves = &stored[stored.len() - leaf_blocks * BLOCK_SIZE..];
    let data = &mut data.take(superblock.data_bytes());
    let found = hash_data(data, &salted, |index, digest| {
        if top.is_none() || leaves[index * DIGEST_SIZE..].starts_with(digest) {
            return Ok(());
        }
        Err(Error::Damaged { what: "data", block: index as u64 })
    })?;
    if (found.len() as u64) < superblock.data_blocks {
        return Err(Error::Damaged { what: "data", block: found.len() as u64 });
    }
    let root = top.map_or_else(|| expect(RootHash(found[0])), Ok)?;
    Ok((superblock, root))
}

/// The digests of all blocks of data; `each` sees them as they come and may stop the work.
fn hash_data(
    data: &mut impl Read,
    salted: &Sha256,
    mut each: impl FnMut(usize, &Hash) -> Result<(), Error>,
) -> Result<Vec<Hash>, Error> {
    let mut digests = Vec::new();
    let mut block = [0; BLOCK_SIZE];
    loop {
        match read_block(data, &mut block).map_err(|source| Error::Io { what: "the data", source })? {
            0 => return Ok(digests),
            BLOCK_SIZE => {}
            partial => return Err(Error::PartialBlock(partial)),
        }
        let digest = digest(salted, &block);
        each(digests.len(), &digest)?;
        digests.push(digest);
    }
}

/// Reads a block, or what is left of the data.
fn read_block(data: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match data.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn digest(salted: &Sha256, block: &[u8]) -> Hash {
    salted.clone().chain_update(block).finalize().into()
}

/// Builds the levels above the leaves' digests. Returns the root hash and the levels, the lowest first.
fn raise(leaves: Vec<Hash>, salted: &Sha256) -> (RootHash, Vec<Vec<u8>>) {
    let mut levels = Vec::new();
    let mut digests = leaves;
    while digests.len() > 1 {
        let mut level = digests.concat();
        level.resize(level.len().next_multiple_of(BLOCK_SIZE), 0);
        digests = level.chunks_exact(BLOCK_SIZE).map(|block| digest(salted, block)).collect();
        levels.push(level);
    }
    (RootHash(digests[0]), levels)
}

/// Checks that each block of a stored tree is the one that the block above it names. Returns the root hash; `None` for
/// the tree of a single block of data, which is empty.
fn check_tree(stored: &[u8], superblock: &Superblock, salted: &Sha256) -> Result<Option<RootHash>, Error> {
    // Blocks of each level, from the leaves up.
    let mut sizes = Vec::new();
    let mut size = superblock.data_blocks as usize;
    while size > 1 {
        size = size.div_ceil(DIGESTS_PER_BLOCK);
        sizes.push(size);
    }
    if sizes.is_empty() {
        return Ok(None);
    }
    let block = |index: usize| &stored[index * BLOCK_SIZE..][..BLOCK_SIZE];
    let mut start = 0;
    for pair in sizes.windows(2).rev() {
        let [below, here] = [pair[0], pair[1]];
        for index in 0..below {
            let named = &block(start + index / DIGESTS_PER_BLOCK)[index % DIGESTS_PER_BLOCK * DIGEST_SIZE..];
            if !named.starts_with(&digest(salted, block(start + here + index))) {
                // The superblock is block 0.
                return Err(Error::Damaged { what: "hash tree", block: (start + here + index) as u64 + 1 });
            }
        }
        start += here;
    }
    Ok(Some(RootHash(digest(salted, block(0)))))
}

#[cfg(test)]
mod tests;
