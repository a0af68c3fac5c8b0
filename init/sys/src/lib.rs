//! What PID 1 asks of the kernel, and k3sd of the allocator, and no crate offers: ioctls and a few calls, behind safe functions.
//!
//! This is the one crate of the workspace with unsafe code. Each function does one call with arguments that it owns, and
//! gives back what the kernel said; what is asked for, in which order, and what a failure means is decided elsewhere. Before
//! anything is added here, look into `nix` and `rustix`: system calls that they wrap do not belong here.
//!
//! | module | device or call |
//! | --- | --- |
//! | [`dm`] | `/dev/mapper/control`: mapped devices |
//! | [`block`] | disks: size, partitions of a disk that is in use |
//! | [`clock`] | `adjtimex(2)`, `/dev/rtc`: steering the clock, and the one on a battery |
//! | [`packet`] | packet sockets: whole frames on a link |
//! | [`random`] | `/dev/random`: entropy that counts |
//! | [`watchdog`] | `/dev/watchdog`: timeout and its reason |
//! | [`kexec`] | `kexec_file_load(2)` |
//! | [`memory`] | `madvise(2)`, `malloc_trim(3)`: code and freed memory that are not needed any more |
//! | [`signal`] | `kill(2)` with any number |

#![deny(clippy::undocumented_unsafe_blocks)]

pub mod block;
pub mod clock;
pub mod dm;
pub mod kexec;
pub mod memory;
pub mod packet;
pub mod random;
pub mod signal;
pub mod watchdog;
