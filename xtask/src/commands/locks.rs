//! `cargo xtask locks`: those who have a lock, or wait for one, are killed at random
//! instructions; nobody hangs, nobody takes over in silence.

use super::{Command, Given, Opt, survival};
use std::process::ExitCode;

pub(crate) const COMMAND: Command = Command {
    name: "locks",
    summary: "kill owners of locks, and those who wait, at random instructions",
    options: &[
        Opt {
            name: "--kills",
            value: Some("N"),
            summary: "so many owners of a mutex (10000), a tenth of each other role",
        },
        Opt { name: "--seed", value: Some("N"), summary: "the choices of an earlier run" },
        Opt { name: "--only", value: Some("TEXT"), summary: "only roles with this in their names" },
    ],
    run,
};

fn run(given: &Given) -> ExitCode {
    let mut arguments = vec!["locks"];
    for option in ["--kills", "--seed", "--only"] {
        arguments.extend(given.value(option).into_iter().flat_map(|value| [option, value]));
    }
    survival::run(&["--release"], &arguments)
}
