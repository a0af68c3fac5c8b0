//! The image, booted.
//!
//! Under emulation a boot takes most of a minute, and the whole suite has a quarter of an hour: each test is worth several,
//! and scenarios that can share a boot do. `tests::machine` starts machines, a few at a time, and shows the console of one
//! whose test fails. `docs/testing.md` says how to write one.

mod boot;
mod config;
mod disk;
mod network;
mod restart;
mod roles;
mod supervision;
