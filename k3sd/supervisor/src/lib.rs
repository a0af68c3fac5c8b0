//! The supervisor: what makes a directory of files a K3s server.
//!
//! It owns the public key infrastructure, the tokens, the kubeconfigs and the protocol by which machines join, at K3s's paths and with
//! K3s's names and lifetimes, so that tools, machines and people that know K3s find them.
//!
//! [`pki`], [`token`] and [`kubeconfig`] are plain, blocking file work that happens once at start; callers on an async runtime use a
//! blocking thread. [`join`] and [`node_password`] are asynchronous.
//!
//! Current limitations: servers do not join each other; there is no tunnel, so servers reach kubelets by the nodes' addresses.

pub mod join;
pub mod kubeconfig;
pub mod node_password;
pub mod pki;
pub mod token;

mod files;

pub use files::FileError;
