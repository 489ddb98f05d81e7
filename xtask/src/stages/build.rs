//! Whether programs and tests can be built; nothing can be run otherwise.

use crate::report::Outcome;

pub(super) fn run() -> Outcome {
    super::cargo(&["test", "--quiet", "--workspace", "--all-features", "--no-run"])
}
