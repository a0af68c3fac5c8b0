//! What lies on the appliance's disk: partition table and verity tree.
//!
//! The image builder writes these, PID 1 reads and grows them, the tests check them. Everything here works on bytes
//! and on what implements `Read`, `Write` and `Seek`: no system calls, no privileges, no loop devices.
//!
//! - [`gpt`]: the partition table: read, write, grow, in an order that a power cut cannot hurt
//! - [`verity`]: dm-verity's superblock, hash tree and table line
//! - [`guid`]: the identifiers of both
//!
//! It does not find disks, tell the kernel of new sizes or set up device-mapper: that is PID 1's.

pub mod gpt;
pub mod guid;
pub mod verity;
