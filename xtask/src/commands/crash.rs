//! `cargo xtask crash`: participants are killed at every shared access and system call, or
//! after every instruction, and those who come next check what was promised. Then every
//! system call fails once.

use super::{Command, Given, Opt, survival};
use std::process::ExitCode;

pub(crate) const COMMAND: Command = Command {
    name: "crash",
    summary: "kill participants of channels at every access and system call; let each call fail",
    options: &[
        Opt { name: "--step", value: None, summary: "kill after every instruction instead" },
        Opt { name: "--smoke", value: None, summary: "briefly" },
        Opt { name: "--only", value: Some("TEXT"), summary: "only scenes with this in their names" },
    ],
    run,
};

fn run(given: &Given) -> ExitCode {
    let mut arguments = Vec::new();
    if given.has("--smoke") {
        arguments.push("--smoke");
    }
    if let Some(part) = given.value("--only") {
        arguments.extend(["--only", part]);
    }
    match given.has("--step") {
        // What users run: optimised, and without the points.
        true => survival::run(&["--release"], &[&["step"], &arguments[..]].concat()),
        false => {
            let features = ["--features", "crash-points"];
            let proofs = ["points", "faults"]
                .map(|proof| survival::run(&features, &[&[proof], &arguments[..]].concat()));
            proofs.into_iter().find(|code| *code != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS)
        }
    }
}
