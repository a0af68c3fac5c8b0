//! Disks: their size, and partitions that change while they are in use (include/uapi/linux/fs.h, blkpg.h).

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::AsFd;
use std::ptr;

use rustix::ioctl::{self, Getter, NoArg, Opcode, Setter, opcode};

/// `BLKGETSIZE64`; the kernel declares it with `size_t` and writes 64 bits.
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
const BLKRRPART: Opcode = opcode::none(0x12, 95);
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);
const BLKPG: Opcode = opcode::none(0x12, 105);
const BLKPG_RESIZE_PARTITION: c_int = 3;

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    op: c_int,
    flags: c_int,
    data_len: c_int,
    data: *mut c_void,
}

/// `struct blkpg_partition`; the kernel ignores the two names.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// Size of the disk or partition in bytes.
///
/// # Errors
/// If it is no block device.
pub fn size(device: impl AsFd) -> io::Result<u64> {
    // SAFETY: the kernel writes one u64 for this opcode, into the Getter's own memory.
    unsafe { Ok(ioctl::ioctl(device, Getter::<BLKGETSIZE64, u64>::new())?) }
}

/// Makes the kernel read the partition table again.
///
/// # Errors
/// `EBUSY` if a partition is in use: then only [`resize_partition`] helps.
pub fn reread_partitions(disk: impl AsFd) -> io::Result<()> {
    // SAFETY: the opcode takes no argument and touches no memory of ours.
    unsafe { Ok(ioctl::ioctl(disk, NoArg::<BLKRRPART>::new())?) }
}

/// Writes what is cached of the device and forgets it, so that the next read is from the disk.
///
/// # Errors
/// If the device fails, or the caller may not.
pub fn flush_cache(device: impl AsFd) -> io::Result<()> {
    // SAFETY: the opcode takes no argument and touches no memory of ours.
    unsafe { Ok(ioctl::ioctl(device, NoArg::<BLKFLSBUF>::new())?) }
}

/// Tells the kernel that partition `number` of `disk` has `length` bytes from `start` now, also while it is mounted. The
/// table on the disk is not touched.
///
/// # Errors
/// If there is no such partition, it overlaps another one, or the disk is smaller.
pub fn resize_partition(disk: impl AsFd, number: u32, start: u64, length: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: start.try_into().map_err(invalid)?,
        length: length.try_into().map_err(invalid)?,
        number: number.try_into().map_err(invalid)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let argument = BlkpgArgument {
        op: BLKPG_RESIZE_PARTITION,
        flags: 0,
        data_len: size_of::<BlkpgPartition>() as c_int,
        data: ptr::from_mut(&mut partition).cast(),
    };
    // SAFETY: the kernel reads one `blkpg_ioctl_arg` and, through its pointer, one `blkpg_partition`; both have the kernel's
    // layout and live until the call returns.
    unsafe { Ok(ioctl::ioctl(disk, Setter::<BLKPG, BlkpgArgument>::new(argument))?) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<BlkpgArgument>(), size_of::<BlkpgPartition>()), (24, 152));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let null = File::open("/dev/null").unwrap();
        assert!(size(&null).is_err());
        assert!(reread_partitions(&null).is_err());
        assert!(resize_partition(&null, 1, 0, u64::MAX).is_err());
    }
}
