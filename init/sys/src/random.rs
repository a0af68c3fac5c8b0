//! The kernel's random pool (include/uapi/linux/random.h).

use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{self, Opcode, Setter, opcode};

/// The most that one call takes.
const CAPACITY: usize = 512;
const RNDADDENTROPY: Opcode = opcode::write::<[c_int; 2]>(b'R', 0x03);

/// `struct rand_pool_info` with its bytes.
#[repr(C)]
struct PoolInfo {
    entropy_bits: c_int,
    len: c_int,
    bytes: [u8; CAPACITY],
}

/// Mixes `seed` into the pool and counts `bits` of it as entropy, which nobody else may know. `random` is `/dev/random` or
/// `/dev/urandom`.
///
/// # Errors
/// If the seed is longer than 512 bytes, claims more entropy than it has bits, or the caller is not privileged.
pub fn add_entropy(random: impl AsFd, seed: &[u8], bits: u32) -> io::Result<()> {
    if seed.len() > CAPACITY || bits as usize > seed.len() * 8 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut info = PoolInfo { entropy_bits: bits as c_int, len: seed.len() as c_int, bytes: [0; CAPACITY] };
    info.bytes[..seed.len()].copy_from_slice(seed);
    // SAFETY: the kernel reads the two integers and then `len` bytes after them, all inside `PoolInfo`, and writes nothing.
    unsafe { Ok(ioctl::ioctl(random, Setter::<RNDADDENTROPY, PoolInfo>::new(info))?) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_seed_cannot_claim_more_bits_than_it_has() {
        let random = File::open("/dev/urandom").unwrap();
        let refused = |seed: &[u8], bits| add_entropy(&random, seed, bits).unwrap_err().kind();
        assert_eq!(refused(&[1], 9), io::ErrorKind::InvalidInput);
        assert_eq!(refused(&[0; CAPACITY + 1], 0), io::ErrorKind::InvalidInput);
    }
}
