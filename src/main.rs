//! foldfs
fn main() {}
