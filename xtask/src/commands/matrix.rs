//! `cargo xtask matrix`: every backend × every scenario, with the real `ipc` binary.

use super::{Command, Given};
use crate::{isolation::Isolation, report::Report, stages};
use std::process::ExitCode;

pub(crate) const COMMAND: Command = Command {
    name: "matrix",
    summary: "drive the `ipc` binary: every backend in every scenario",
    options: &[],
    run,
};

fn run(_given: &Given) -> ExitCode {
    println!("isolation: {}", Isolation::enter());
    let mut report = Report::default();
    report.run(stages::MATRIX.name, stages::MATRIX.run);
    report.close()
}
