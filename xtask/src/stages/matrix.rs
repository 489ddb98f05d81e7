//! Every backend × every scenario, with the real `ipc` binary: without the features of the tests.

use crate::{matrix, report::Outcome};

pub(super) fn run() -> Outcome {
    match super::program("ipc", &["build", "--package", "ipc-cli", "--bin", "ipc"]) {
        Ok(ipc) => matrix::run(&ipc),
        Err(problem) => Outcome::failed(problem),
    }
}
