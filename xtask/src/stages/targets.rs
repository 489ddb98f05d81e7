//! Whether the workspace type-checks for every other Rust target that is installed here; for
//! this one it is built. Each target is a check.

use crate::{process, report::Outcome, workspace};
use std::{env, process::Command, time::Duration};

const QUERY_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run() -> Outcome {
    let Some(host) = host() else { return Outcome::failed("`rustc -vV` doesn't say what the host is") };
    let mut targets = match installed() {
        Ok(targets) => targets,
        Err(output) => return Outcome::failed(output),
    };
    targets.retain(|target| *target != host);
    let mut total = Outcome { note: targets.join(", "), ..Outcome::default() };
    if targets.is_empty() {
        total.note = format!("none but {host}");
    }
    for target in targets {
        let outcome = super::cargo(&["check", "--quiet", "--workspace", "--target", &target]);
        total.passed += outcome.passed;
        total.failed += outcome.failed;
        if outcome.failed > 0 {
            total.details.push_str(&format!("{target}:\n{}\n", outcome.details));
        }
    }
    total
}

fn host() -> Option<String> {
    let version = process::run(Command::new("rustc").arg("-vV"), QUERY_LIMIT);
    parse_host(&version.output)
}

fn parse_host(version: &str) -> Option<String> {
    version.lines().find_map(|line| line.strip_prefix("host: ")).map(Into::into)
}

/// What `rustup` has installed; without it, nobody knows of any.
fn installed() -> Result<Vec<String>, String> {
    let folders = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&folders).any(|folder| folder.join("rustup").is_file()) {
        return Ok(Vec::new());
    }
    let mut rustup = Command::new("rustup");
    let list = process::run_for_stdout(
        rustup.args(["target", "list", "--installed"]).current_dir(workspace::root()),
        QUERY_LIMIT,
    );
    let targets = || list.output.lines().map(str::trim).filter(|line| !line.is_empty());
    if list.success { Ok(targets().map(Into::into).collect()) } else { Err(list.output) }
}

#[cfg(test)]
mod tests {
    use super::parse_host;

    #[test]
    fn the_host_is_read_from_the_compilers_version() {
        let version = "rustc 1.85.0\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.85.0\n";
        assert_eq!(parse_host(version).as_deref(), Some("x86_64-unknown-linux-gnu"));
        assert_eq!(parse_host("rustc 1.85.0\n"), None);
    }
}
