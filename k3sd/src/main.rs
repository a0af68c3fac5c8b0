//! k3sd.
fn main() {}
