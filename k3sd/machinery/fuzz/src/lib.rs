//! What is fuzzed: each function takes any bytes, and panics if the code under it breaks a promise.
//!
//! `cargo +nightly fuzz run apply` in this directory's parent looks for such bytes; `tests/fuzz.rs` beside it runs the same functions over a
//! small corpus that it makes, so that they are right and stay so.
//!
//! Input that wants several documents has one a line.

mod targets;

pub use targets::{apply, patches, protobuf, quantity, selectors};
