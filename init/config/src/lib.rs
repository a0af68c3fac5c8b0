//! What a machine can be told: the types of the node configuration, and how its sources become one of them.
//!
//! # Background
//!
//! A machine hears from several sources: the image's defaults, a `config.toml` (or NoCloud files) on a partition, credentials
//! of the hypervisor, words on the kernel command line. Each source becomes a [`Layer`]: a tree of values that remember where
//! they were written. [`resolve`] lays the layers over each other, a later one winning value by value, and reads the
//! result into a [`NodeConfig`]. Everything that is wrong, in whatever layer, comes back as a [`Mistake`] with its source, its key,
//! what was given and what is allowed: all of them at once, because whoever corrects them may have to carry a card to a machine.
//!
//! # How to read it
//!
//! [`tree`](Layer) and `read` are the mechanism; every section of the document is a module that holds its types and says how they are
//! read (`node`, [`network`], [`time`], ...). A section's module is the one place to touch for a new key.
//!
//! # What it does not do
//!
//! No file is opened and nothing is applied here: that is PID 1's. So all of it can be tested, and run on any machine, with text alone.

mod base64;
mod boot;
mod decide;
mod document;
mod emit;
mod files;
pub mod k3s;
mod kernel;
mod log;
mod mistake;
pub mod network;
mod nocloud;
mod node;
mod read;
mod registries;
pub mod time;
mod toml_text;
mod tree;
mod value;
mod words;
mod yaml;

pub use base64::decode as decode_base64;
pub use boot::{Boot, RootSource, StatePolicy, Watchdog};
pub use decide::{Decision, Origin, Sources};
pub use document::{NodeConfig, Resolved, resolve};
pub use files::{File, PLACES};
pub use kernel::{Module, Sysctl};
pub use log::{Level, Log};
pub use mistake::Mistake;
pub use nocloud::{Cloud, CloudFiles};
pub use node::{Node, Role, Token};
pub use registries::{Access, Auth, Mirror, Registries, Tls, registries_yaml};
pub use toml_text::MAX_LEN;
pub use tree::Layer;
pub use value::{host_name, interface_name};
pub use words::{COMMAND_LINE, PREFIX};
