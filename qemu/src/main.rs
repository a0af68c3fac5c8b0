//! qemu.
fn main() {}
