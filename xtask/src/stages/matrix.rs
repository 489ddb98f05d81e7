//! Every backend × every scenario, with the real `ipc` binary: without the features of the tests.

use super::suites::AS_IT_IS;
use crate::{matrix, report::Outcome};
use std::path::PathBuf;

/// Made with the tests, of the same dependencies.
pub(super) fn build() -> Outcome {
    match ipc() {
        Ok(_) => Outcome::passed(""),
        Err(problem) => Outcome::failed(problem),
    }
}

pub(super) fn run() -> Outcome {
    match ipc() {
        Ok(ipc) => matrix::run(&ipc),
        Err(problem) => Outcome::failed(problem),
    }
}

/// The binary, made of the workspace: its dependencies are those of the tests then.
fn ipc() -> Result<PathBuf, String> {
    super::program("ipc", &[&["build", "--workspace", "--bin", "ipc"][..], &AS_IT_IS].concat())
}
