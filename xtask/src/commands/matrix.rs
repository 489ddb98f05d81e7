//! `cargo xtask matrix`: every backend × every scenario, with the real `ipc` binary.

use super::Command;
use crate::{isolation::Isolation, report::Report, stages};
use std::process::ExitCode;

pub(crate) const COMMAND: Command =
    Command { name: "matrix", summary: "drive the `ipc` binary: every backend in every scenario", run };

fn run() -> ExitCode {
    println!("isolation: {}", Isolation::enter());
    let mut report = Report::default();
    report.run(stages::MATRIX.name, stages::MATRIX.run);
    report.close()
}
