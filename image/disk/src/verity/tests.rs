//! Tests of the hash tree. The hashes are those of `veritysetup format` 2.6.1 with the same salt and UUID.

use super::*;

/// A block per number, so that no two are the same.
fn data(blocks: u64) -> Vec<u8> {
    (0..blocks).flat_map(|block| [block.to_le_bytes(); BLOCK_SIZE / 8].concat()).collect()
}

const ID: Guid = Guid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const SALT: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

fn tree(blocks: u64) -> Tree {
    build(&mut &data(blocks)[..], ID, &SALT).unwrap()
}

fn check(data: &[u8], hashes: &[u8], wanted: Option<&RootHash>) -> Result<(Superblock, RootHash), Error> {
    verify(&mut &data[..], &mut &hashes[..], wanted)
}

#[test]
fn trees_of_one_two_and_three_levels_are_veritysetups() {
    // Blocks of data, bytes of the hash device, root hash, SHA-256 of the hash device.
    let cases = [
        (
            1,
            4096,
            "04c94e489488c1f6e2ab1fae3283ab07b693fe079b723246e8bccf7851d03e7d",
            "b99792021757eddfa2081aeb55e76be8d04ebaa50a5dc079596a6cd22f9544a8",
        ),
        (
            128,
            2 * 4096,
            "5846e84a69bb753d87366c1598a7e1ee089df0a35012c68b8214388306f9ceb8",
            "b1931d5167f70896ebc9a50b8bdfd8ebb6b7c2d9e5bb2f88f8cb40ce13c8b90f",
        ),
        (
            129,
            4 * 4096,
            "fca13bff29b02736c3fd53d95bc3c260c7dedd2412fbf2eaad5d9c9090ee26c3",
            "452984a627a9219958da5dde2aebf0a24d7bb8d47f2ebb98b6ff62552ba88ca0",
        ),
        (
            16385,
            133 * 4096,
            "0df54bbc5bf244eb41a8eeebd215e16f46984f9f3c8ca31cc2c1137582dd79d5",
            "5a8e076389175211c74fd32dba2f67fc251504227ea4e360fb685b80a23cf484",
        ),
    ];
    for (blocks, bytes, root, device) in cases {
        let tree = tree(blocks);
        assert_eq!(tree.root.to_string(), root, "{blocks} blocks");
        assert_eq!(tree.bytes.len(), bytes, "{blocks} blocks");
        assert_eq!(tree.superblock.hash_bytes(), bytes as u64, "{blocks} blocks");
        let digest = RootHash(Sha256::digest(&tree.bytes).into());
        assert_eq!(digest.to_string(), device, "{blocks} blocks");
    }
}

#[test]
fn a_superblock_is_read_as_it_was_written() {
    let superblock = Superblock { id: ID, data_blocks: 300, salt: vec![7; 256] };
    assert_eq!(Superblock::parse(&superblock.encode().unwrap()).unwrap(), superblock);
    let too_long = Superblock { salt: vec![7; 257], ..superblock.clone() };
    assert!(matches!(too_long.encode(), Err(Error::Salt(257))));
    let bytes = superblock.encode().unwrap();
    for (at, wanted) in [(0, "signature"), (8, "version"), (32, "digest"), (65, "blocks"), (81, "salt")] {
        let mut bytes = bytes;
        bytes[at] ^= 0x40;
        let error = Superblock::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(wanted), "byte {at}: {error}");
    }
    assert!(Superblock::parse(&bytes[..511]).is_err());
}

#[test]
fn every_flipped_bit_is_found_and_its_block_named() {
    let (data, tree) = (data(300), tree(300));
    assert_eq!(check(&data, &tree.bytes, Some(&tree.root)).unwrap().1, tree.root);

    let mut bad = data.clone();
    bad[200 * BLOCK_SIZE + 17] ^= 4;
    assert!(matches!(check(&bad, &tree.bytes, None), Err(Error::Damaged { what: "data", block: 200 })));

    // 300 blocks: the top is block 1, three blocks of leaves follow.
    let mut bad = tree.bytes.clone();
    bad[3 * BLOCK_SIZE] ^= 1;
    assert!(matches!(check(&data, &bad, None), Err(Error::Damaged { what: "hash tree", block: 3 })));

    let mut bad = tree.bytes.clone();
    bad[BLOCK_SIZE + 4 * DIGEST_SIZE] ^= 1;
    let error = check(&data, &bad, Some(&tree.root)).unwrap_err();
    assert!(matches!(error, Error::OtherRoot { .. }), "{error}");
}

#[test]
fn data_or_hashes_that_end_early_are_damaged() {
    let (data, tree) = (data(300), tree(300));
    let short = check(&data[..299 * BLOCK_SIZE], &tree.bytes, None);
    assert!(matches!(short, Err(Error::Damaged { what: "data", block: 299 })));
    let short = check(&data, &tree.bytes[..4 * BLOCK_SIZE], None);
    assert!(matches!(short, Err(Error::Damaged { what: "hash tree", block: 4 })));
    let partial = build(&mut &data[..BLOCK_SIZE + 1], ID, &SALT);
    assert!(matches!(partial, Err(Error::PartialBlock(1))));
    assert!(matches!(build(&mut &[][..], ID, &SALT), Err(Error::Empty)));
}

#[test]
fn what_follows_the_data_on_its_partition_is_not_looked_at() {
    let (mut data, tree) = (data(300), tree(300));
    data.extend([0xff; 2 * BLOCK_SIZE]);
    let mut hashes = tree.bytes.clone();
    hashes.extend([0xff; BLOCK_SIZE]);
    check(&data, &hashes, Some(&tree.root)).unwrap();
}

#[test]
fn the_table_line_is_the_kernels() {
    let tree = tree(300);
    let line = tree.superblock.table_line("8:2", "8:3", &tree.root, OnCorruption::Panic);
    assert_eq!(
        line,
        format!("1 8:2 8:3 4096 4096 300 1 sha256 {} deadbeef 1 panic_on_corruption", tree.root)
    );
    let plain = Superblock { salt: Vec::new(), ..tree.superblock.clone() };
    assert!(plain.table_line("a", "b", &tree.root, OnCorruption::Fail).ends_with(" -"));
    assert_eq!(plain.sectors(), 2400);
}

#[test]
fn a_root_hash_names_both_partitions() {
    let text = "4f68bce3e8cd4db196e7fbcaf984b7092c7357edebd246d9aec123d437ec2bf5";
    let root: RootHash = format!("{text}\n").parse().unwrap();
    assert_eq!(root.to_string(), text);
    assert_eq!(root.partition_ids(), (Guid::ROOT_X86_64, Guid::ROOT_VERITY_X86_64));
    assert_eq!(RootHash::from_partition_ids(Guid::ROOT_X86_64, Guid::ROOT_VERITY_X86_64), root);
    for bad in ["", &text[1..], &text.replace('4', "g"), &text.replacen("4f", "é", 1)] {
        assert!(bad.parse::<RootHash>().is_err(), "{bad}");
    }
}

#[test]
fn a_hash_device_is_recognised_by_its_root_hash_and_knows_the_first_block_of_the_data() {
    for blocks in [1, 128, 129, 16385] {
        let tree = tree(blocks);
        let found = recognise(&mut io::Cursor::new(&tree.bytes), &tree.root).unwrap();
        assert_eq!(found.superblock, tree.superblock);
        let mut first: [u8; BLOCK_SIZE] = data(1).try_into().unwrap();
        assert!(found.begins_with(&first), "{blocks} blocks");
        first[77] ^= 1;
        assert!(!found.begins_with(&first), "{blocks} blocks");
    }
}

#[test]
fn another_tree_and_a_damaged_one_are_told_apart() {
    let tree = tree(16385);
    let recognise = |bytes: &[u8], root: &RootHash| recognise(&mut io::Cursor::new(bytes), root);
    let other = RootHash([7; 32]);
    assert!(
        matches!(recognise(&tree.bytes, &other), Err(Error::OtherRoot { wanted, .. }) if wanted == other)
    );
    // Block 0 is the superblock, 1 the top; 2 and 3 the level below it, then the leaves.
    for block in [2, 4] {
        let mut bytes = tree.bytes.clone();
        bytes[block * BLOCK_SIZE + 9] ^= 1;
        let error = recognise(&bytes, &tree.root).unwrap_err();
        assert!(matches!(error, Error::Damaged { block: found, .. } if found == block as u64), "{error}");
    }
    assert!(matches!(recognise(&[0; BLOCK_SIZE], &tree.root), Err(Error::Superblock(_))));
    assert!(matches!(recognise(&tree.bytes[..BLOCK_SIZE], &tree.root), Err(Error::Io { .. })));
}
