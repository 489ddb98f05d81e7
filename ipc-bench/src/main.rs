//! ipc-bench
fn main() {}
