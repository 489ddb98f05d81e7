//! Every backend × every scenario, with the real `ipc` binary.

use crate::report::Outcome;

pub(super) fn run() -> Outcome {
    super::cargo(&["build", "--package", "ipc-cli"])
}
