//! The stages of `test-all`, one file each; a stage is what one can repair by itself.

mod bench;
mod dependencies;
mod docs;
mod format;
mod lints;
mod matrix;
mod policy;
mod suites;
mod targets;

use crate::{process, report::Outcome, workspace};
use serde_json::Value;
use std::{path::PathBuf, process::Command, time::Duration};

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

/// The program of this name that `cargo` makes when it is called with these arguments.
fn program(name: &str, arguments: &[&str]) -> Result<PathBuf, String> {
    let mut command = workspace::cargo(arguments);
    command.args(["--quiet", "--message-format", "json-render-diagnostics"]);
    let built = process::run_for_stdout(&mut command, TIME_LIMIT);
    executable(name, &built.output).filter(|_| built.success).ok_or_else(|| without_messages(&built.output))
}

/// The program that `cargo` says it has built, and not its tests.
fn executable(name: &str, messages: &str) -> Option<PathBuf> {
    let mut paths = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name && message["profile"]["test"] == false;
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    paths.next_back()
}

/// What `cargo` has printed for people.
fn without_messages(output: &str) -> String {
    output.lines().filter(|line| !line.starts_with('{')).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::executable;
    use serde_json::json;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let message = |name: &str, is_test: bool, path: Option<&str>| {
            let (target, profile) = (json!({ "name": name }), json!({ "test": is_test }));
            json!({ "target": target, "profile": profile, "executable": path }).to_string() + "\n"
        };
        let messages = message("ipc", false, Some("/target/ipc"))
            + &message("ipc", true, Some("/target/deps/ipc-1"))
            + &message("other", false, Some("/target/other"))
            + &message("ipc", false, None)
            + "{\"reason\":\"build-finished\"}\n";
        assert_eq!(executable("ipc", &messages), Some("/target/ipc".into()));
        assert_eq!(executable("ipc-bench", &messages), None);
        assert_eq!(executable("ipc", "not JSON\n"), None);
    }
}
