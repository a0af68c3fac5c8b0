//! Finding the hash device of a root hash, and the data that belongs to it, by reading a few blocks of each.

use std::io::{Read, Seek, SeekFrom};

use sha2::{Digest, Sha256};

use super::{BLOCK_SIZE, DIGEST_SIZE, DIGESTS_PER_BLOCK, Error, Hash, RootHash, Superblock, digest};

/// A hash device whose first blocks lead to a root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// Its superblock.
    pub superblock: Superblock,
    /// The digest of the data's first block.
    first: Hash,
}

impl Recognised {
    /// Whether `block` is the first one of the data.
    pub fn begins_with(&self, block: &[u8; BLOCK_SIZE]) -> bool {
        digest(&Sha256::new_with_prefix(&self.superblock.salt), block) == self.first
    }
}

/// Follows the tree on a hash device from its top to the first block of the data, checking each block on the way: four reads for
/// a root file system. Everything beside that path may still be damaged; the kernel finds that when it reads there.
///
/// # Errors
/// If the device begins with no superblock, belongs to another root hash, or is damaged on the way.
pub fn recognise(hashes: &mut (impl Read + Seek), wanted: &RootHash) -> Result<Recognised, Error> {
    let superblock = Superblock::parse(&block_at(hashes, 0)?)?;
    let salted = Sha256::new_with_prefix(&superblock.salt);
    let mut expected = wanted.0;
    let mut at = 1;
    for (depth, blocks) in levels(superblock.data_blocks).into_iter().rev().enumerate() {
        let block = block_at(hashes, at)?;
        let found = digest(&salted, &block);
        if found != expected {
            return Err(match depth {
                0 => Error::OtherRoot { found: RootHash(found), wanted: *wanted },
                _ => Error::Damaged { what: "hash tree", block: at },
            });
        }
        expected.copy_from_slice(&block[..DIGEST_SIZE]);
        at += blocks;
    }
    Ok(Recognised { superblock, first: expected })
}

/// Blocks of each level of the tree over `data_blocks` blocks, from the leaves up.
fn levels(data_blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut size = data_blocks;
    while size > 1 {
        size = size.div_ceil(DIGESTS_PER_BLOCK as u64);
        levels.push(size);
    }
    levels
}

fn block_at(device: &mut (impl Read + Seek), index: u64) -> Result<[u8; BLOCK_SIZE], Error> {
    let mut block = [0; BLOCK_SIZE];
    device
        .seek(SeekFrom::Start(index.saturating_mul(BLOCK_SIZE as u64)))
        .and_then(|_| device.read_exact(&mut block))
        .map_err(|source| Error::Io { what: "the hashes", source })?;
    Ok(block)
}
