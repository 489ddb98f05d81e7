//! `cargo xtask soak`: processes of all parts are killed, stopped and forked at random, in
//! every kind of channel, and their private logs are balanced.

use super::{Command, Given, Opt, survival};
use std::process::ExitCode;

pub(crate) const COMMAND: Command = Command {
    name: "soak",
    summary: "kill, stop and fork participants at random; balance their private logs",
    options: &[
        Opt { name: "--minutes", value: Some("N"), summary: "for so long (10)" },
        Opt { name: "--seed", value: Some("N"), summary: "the choices of an earlier run" },
        Opt { name: "--only", value: Some("TEXT"), summary: "only kinds with this in their names" },
    ],
    run,
};

fn run(given: &Given) -> ExitCode {
    let mut arguments = vec!["soak"];
    for option in ["--minutes", "--seed", "--only"] {
        arguments.extend(given.value(option).into_iter().flat_map(|value| [option, value]));
    }
    survival::run(&["--release"], &arguments)
}
