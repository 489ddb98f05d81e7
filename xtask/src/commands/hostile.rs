//! `cargo xtask hostile`: every byte of channels of every kind becomes what no correct peer
//! writes, in every state, and a thread changes words of them while messages pass. It takes
//! an hour or two.

use super::{Command, Given, Opt};
use crate::{isolation::Isolation, workspace};
use std::process::ExitCode;

pub(crate) const COMMAND: Command = Command {
    name: "hostile",
    summary: "change every byte of channels of every kind while they are used",
    options: &[
        Opt { name: "--smoke", value: None, summary: "a sample of the bytes" },
        Opt { name: "--kind", value: Some("KIND"), summary: "only channels of this kind" },
    ],
    run,
};

/// The tests try every byte if the first of these is set, and so many times the scripts. They
/// are built without optimisation, so that sums that overflow are found.
const LONG_RUN: [(&str, &str); 2] = [("IPC_SHM_LONG_RUN", "1"), ("IPC_SHM_ROUNDS", "50")];

fn run(given: &Given) -> ExitCode {
    println!("isolation: {}", Isolation::enter());
    let mut command = workspace::cargo(&["test", "--quiet", "--package", "ipc-shm"]);
    command.args(["--test", "corrupt", "--test", "images"]);
    for (variable, value) in LONG_RUN {
        match given.has("--smoke") {
            true => command.env_remove(variable),
            false => command.env(variable, value),
        };
    }
    if let Some(kind) = given.value("--kind") {
        command.env("IPC_SHM_KIND", kind);
    }
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: cargo can't be run: {error}");
            ExitCode::FAILURE
        }
    }
}
