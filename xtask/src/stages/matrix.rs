//! Every backend × every scenario, with the real `ipc` binary.

use super::TIME_LIMIT;
use crate::{matrix, process, report::Outcome, workspace};
use serde_json::Value;
use std::path::PathBuf;

pub(super) fn run() -> Outcome {
    let arguments = [
        "build",
        "--quiet",
        "--package",
        "ipc-cli",
        "--bin",
        "ipc",
        "--message-format",
        "json-render-diagnostics",
    ];
    let built = process::run_for_stdout(&mut workspace::cargo(&arguments), TIME_LIMIT);
    match executable(&built.output) {
        Some(ipc) if built.success => matrix::run(&ipc),
        _ => Outcome::failed(without_messages(&built.output)),
    }
}

/// What `cargo` has printed for people.
fn without_messages(output: &str) -> String {
    output.lines().filter(|line| !line.starts_with('{')).map(|line| format!("{line}\n")).collect()
}

/// The program that `cargo` says it has built.
fn executable(messages: &str) -> Option<PathBuf> {
    let mut paths = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    paths.next_back()
}

#[cfg(test)]
mod tests {
    use super::executable;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"/target/ipc\"}\n{\"reason\":\"build-finished\"}\n";
        assert_eq!(executable(messages), Some("/target/ipc".into()));
        assert_eq!(executable("not JSON\n"), None);
    }
}
