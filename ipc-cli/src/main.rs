//! ipc-cli
fn main() {}
