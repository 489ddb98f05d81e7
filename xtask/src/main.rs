//! `cargo xtask COMMAND`: the chores of the workspace, one file per command.
//!
//! It drives the other crates from outside, by `cargo` and by the binaries they make, and
//! depends on none of them. The pattern is <https://github.com/matklad/cargo-xtask>.

#![forbid(unsafe_code)]

mod commands;
mod isolation;
mod leftovers;
mod marks;
mod matrix;
mod process;
mod report;
mod stages;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    commands::dispatch(&arguments)
}
