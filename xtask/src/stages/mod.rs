//! The stages of `test-all`, one file each; a stage is what one can repair by itself.

mod bench;
mod dependencies;
mod docs;
mod format;
mod lints;
mod matrix;
mod policy;
mod programs;
mod suites;
mod targets;

use crate::{process, report::Outcome, workspace};
use std::{process::Command, time::Duration};

/// A part of `test-all`.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    /// Whether there is nothing to test without it.
    pub(crate) essential: bool,
    pub(crate) run: fn() -> Outcome,
}

impl Stage {
    const fn new(name: &'static str, run: fn() -> Outcome) -> Self {
        Self { name, essential: false, run }
    }

    const fn essential(name: &'static str, run: fn() -> Outcome) -> Self {
        Self { name, essential: true, run }
    }
}

pub(crate) const MATRIX: Stage = Stage::new("matrix", matrix::run);

/// All stages, in their order.
pub(crate) const ALL: [Stage; 10] = [
    Stage::new("format", format::run),
    Stage::new("lints", lints::run),
    Stage::new("docs", docs::run),
    Stage::new("targets", targets::run),
    Stage::new("dependencies", dependencies::run),
    Stage::new("policy", policy::run),
    Stage::essential("build", suites::build),
    Stage::new("tests", suites::run),
    Stage::new("bench", bench::run),
    MATRIX,
];

/// For one call of `cargo` or of what it made, compilation included; on a slow machine.
const TIME_LIMIT: Duration = Duration::from_secs(1800);

/// A stage that is one call of `cargo`.
fn cargo(arguments: &[&str]) -> Outcome {
    check(&mut workspace::cargo(arguments))
}

/// A check that is one command; what it prints matters when it fails.
fn check(command: &mut Command) -> Outcome {
    let finished = process::run(command, TIME_LIMIT);
    if finished.success { Outcome::passed("") } else { Outcome::failed(finished.output) }
}
