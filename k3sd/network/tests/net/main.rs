//! Tests against the real kernel: every test makes its own network namespaces and leaves nothing behind.
//!
//! They need root (or the right to make namespaces) and `nft`; without these they say so and pass.

mod api;
mod cni;
mod node;
mod space;
