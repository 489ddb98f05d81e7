//! The compiler's and clippy's lints, of all targets and features; a warning is an error.

use crate::report::Outcome;

pub(super) fn run() -> Outcome {
    super::cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ])
}
