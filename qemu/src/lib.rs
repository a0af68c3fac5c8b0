//! Boots the appliance in QEMU: a library for tests, and the command `qemu run` for people.
//!
//! ```no_run
//! # async fn example() -> Result<(), qemu::Error> {
//! use std::{path::Path, time::Duration};
//!
//! let mut vm = qemu::Vm::builder(Path::new("build/image")).forward(30080).boot().await?;
//! vm.wait_line(qemu::READY_LINE, Duration::from_secs(300)).await?;
//! println!("page at http://127.0.0.1:{}/", vm.forwarded(30080).expect("it was asked for"));
//! vm.powerdown(Duration::from_secs(60)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The guest gets the image's kernel and initramfs directly, the root file system as a read-only disk, a blank disk
//! for its state, one network card whose ports are forwarded from the host's loopback address, a serial console, and
//! a port through which it hands out its admin kubeconfig ([`Vm::kubeconfig`]). The harness holds QEMU's life: when
//! the [`Vm`] is dropped or the process dies, QEMU ends.

mod accelerator;
mod arch;
mod builder;
mod cluster;
mod command_line;
mod console;
mod drives;
mod error;
mod forward;
mod image;
mod kubeconfig;
mod netboot;
mod qmp;
mod vm;
mod volume;

pub use accelerator::Accelerator;
pub use arch::{Arch, UnknownArch};
pub use builder::{Builder, Start};
pub use cluster::{Cluster, random_token};
pub use command_line::{LAN_NETWORK, Lan, USER_NETWORK};
pub use console::{Console, Echo};
pub use drives::{Disk, State, blank, copy};
pub use error::Error;
pub use forward::Forward;
pub use qmp::Event;
pub use vm::Vm;
pub use volume::{CONFIG_LABEL, NOCLOUD_LABEL, Volume};

/// What the console says, once, when every service is ready and the node is Ready.
pub const READY_LINE: &str = "skerry: ready";
