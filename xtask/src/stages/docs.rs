//! Whether the documentation can be made without a warning, such as a dead link.

use crate::{report::Outcome, workspace};

pub(super) fn run() -> Outcome {
    // With the examples, which take what tests take: all is compiled for the lints already.
    let of_what = ["--workspace", "--no-deps", "--all-features", "--lib", "--bins", "--examples"];
    let mut command = workspace::cargo(&[&["doc", "--quiet"][..], &of_what].concat());
    super::check(command.env("RUSTDOCFLAGS", "-D warnings"))
}
