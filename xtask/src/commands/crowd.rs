//! `cargo xtask crowd`: many senders and receivers on one kernel channel of each scheme; every
//! message arrives once, in the order of its sender, and nothing is left.

use super::{Command, Given, Opt};
use crate::{isolation::Isolation, workspace};
use std::process::ExitCode;

/// Senders, receivers (one over sockets), messages of each sender.
const DEFAULT: &str = "24x4x100000";

pub(crate) const COMMAND: Command = Command {
    name: "crowd",
    summary: "24 senders and 4 receivers, 100,000 messages of each, on each kernel channel",
    options: &[Opt { name: "--size", value: Some("SxRxN"), summary: "another crowd (24x4x100000)" }],
    run,
};

fn run(given: &Given) -> ExitCode {
    println!("isolation: {}", Isolation::enter());
    let mut command =
        workspace::cargo(&["test", "--quiet", "--package", "ipc-mq", "--test", "crowd", "--release"]);
    command.env("IPC_MQ_CROWD", given.value("--size").unwrap_or(DEFAULT));
    // One after the other, or they would wait for each other's processor.
    match command.args(["--", "--nocapture", "--test-threads", "1"]).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: cargo can't be run: {error}");
            ExitCode::FAILURE
        }
    }
}
