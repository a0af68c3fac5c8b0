//! The supervisor: what makes a directory of files a K3s server.
//!
//! It owns the public key infrastructure, the tokens and the kubeconfigs, at K3s's paths and with K3s's names and
//! lifetimes, so that tools and people that know K3s find them.
//!
//! All of it is plain, blocking file work that happens once at start; callers on an async runtime use a blocking thread.
//!
//! Current limitations: agents do not join yet, so nothing here listens on the network; and a `service.key` made by
//! K3s is an RSA key, which is kept and reported but cannot sign here yet.

pub mod kubeconfig;
pub mod pki;
pub mod token;

mod files;

pub use files::FileError;
