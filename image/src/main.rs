//! image.
fn main() {}
