//! The test program behind `crash` and `soak`, run for as long as it takes, with what it
//! prints shown as it comes.

use crate::{isolation::Isolation, workspace};
use std::{process::ExitCode, sync::Once};

/// Runs the test program, built with these arguments of `cargo test`.
pub(super) fn run(build: &[&str], arguments: &[&str]) -> ExitCode {
    static ISOLATED: Once = Once::new();
    ISOLATED.call_once(|| println!("isolation: {}", Isolation::enter()));
    let mut command = workspace::cargo(&["test", "--quiet", "--package", "ipc-shm", "--test", "survival"]);
    match command.args(build).arg("--").args(arguments).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: cargo can't be run: {error}");
            ExitCode::FAILURE
        }
    }
}
