//! What lies on the appliance's disk: partition table, verity tree and FAT volume.
//!
//! The image builder writes these, PID 1 reads and grows them, the tests check them. Everything here works on bytes
//! and on what implements `Read`, `Write` and `Seek`: no system calls, no privileges, no loop devices.
//!
//! - [`gpt`]: the partition table: read, write, grow, in an order that a power cut cannot hurt
//! - [`verity`]: dm-verity's superblock, hash tree and table line
//! - [`guid`]: the identifiers of both
//! - `fat`: FAT volumes from a list of files; only with the feature `fat`, which PID 1 does without
//!
//! It does not find disks, tell the kernel of new sizes or set up device-mapper: that is PID 1's.

pub mod gpt;
pub mod guid;
pub mod verity;

#[cfg(feature = "fat")]
pub mod fat;
