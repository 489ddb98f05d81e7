//! Whether the sources are formatted as `rustfmt.toml` says.

use crate::report::Outcome;

pub(super) fn run() -> Outcome {
    super::cargo(&["fmt", "--all", "--check", "--", "--color=never"])
}
