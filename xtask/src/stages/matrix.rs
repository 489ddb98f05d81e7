//! Every backend × every scenario, with the real `ipc` binary.

use super::programs;
use crate::{matrix, report::Outcome};

pub(super) fn run() -> Outcome {
    match programs::path("ipc") {
        Ok(ipc) => matrix::run(&ipc),
        Err(problem) => Outcome::failed(problem),
    }
}
