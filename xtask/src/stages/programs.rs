//! The programs as their users make them: without the features of the tests, and of their
//! dependencies what they ask for themselves. Made with the tests, without the optimizer.

use super::{TIME_LIMIT, suites::AS_IT_IS};
use crate::{process, report::Outcome, workspace};
use serde_json::Value;
use std::path::PathBuf;

pub(super) fn build() -> Outcome {
    match messages() {
        Ok(_) => Outcome::passed(""),
        Err(problem) => Outcome::failed(problem),
    }
}

/// The program of this name; it is made if it isn't there.
pub(super) fn path(name: &str) -> Result<PathBuf, String> {
    let messages = messages()?;
    executable(name, &messages).ok_or_else(|| format!("cargo makes no program `{name}`"))
}

/// What `cargo` says for programs when it makes them all.
fn messages() -> Result<String, String> {
    let mut command = workspace::cargo(&["build", "--workspace", "--bins"]);
    command.args(AS_IT_IS).args(["--quiet", "--message-format", "json-render-diagnostics"]);
    let built = process::run_for_stdout(&mut command, TIME_LIMIT);
    if built.success { Ok(built.output) } else { Err(without_messages(&built.output)) }
}

fn executable(name: &str, messages: &str) -> Option<PathBuf> {
    let mut paths = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name;
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
        let message = |name: &str, path: Option<&str>| {
            json!({ "target": { "name": name }, "executable": path }).to_string() + "\n"
        };
        let messages = message("ipc", Some("/target/ipc"))
            + &message("other", Some("/target/other"))
            + &message("ipc", None)
            + "{\"reason\":\"build-finished\"}\n";
        assert_eq!(executable("ipc", &messages), Some("/target/ipc".into()));
        assert_eq!(executable("ipc-bench", &messages), None);
        assert_eq!(executable("ipc", "not JSON\n"), None);
    }
}
