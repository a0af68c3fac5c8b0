//! init.
fn main() {}
