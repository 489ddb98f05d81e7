//! Whether the documentation can be made without a warning, such as a dead link.

use crate::{report::Outcome, workspace};

pub(super) fn run() -> Outcome {
    let mut command = workspace::cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--all-features"]);
    super::check(command.env("RUSTDOCFLAGS", "-D warnings"))
}
