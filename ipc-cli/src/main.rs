//! `ipc`: channels between processes, from the shell.
//!
//! A command line is parsed ([`args`]), an address's scheme chooses the backend
//! ([`backend`]), and the command does its work on `ipc-core`'s traits alone. Data goes
//! standard input → [`framing`] → channel → [`output`] → standard output; [`interrupt`] is
//! what ends it early, [`exit`] how it ends. That the two are there at all is known by [`streams`].

// Allowed in `streams` alone, which says why.
#![deny(unsafe_code)]
// They panic where nobody reads: see `Failure::report` and `commands::print`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod address;
mod args;
mod backend;
mod child;
mod commands;
mod demo;
mod doctor;
mod exit;
mod framing;
mod interrupt;
mod output;
mod streams;
mod units;

use args::Command;
use exit::{Ending, Failure};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(ending) => ending.into(),
        Err(failure) => {
            failure.report();
            ExitCode::from(&failure)
        }
    }
}

fn run() -> Result<Ending, Failure> {
    let args = match args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(help_or_failure) => return commands::print(&help_or_failure?),
    };
    match &args.command {
        Command::Create(options) => commands::create::run(options),
        Command::Send(options) => commands::send::run(options),
        Command::Recv(options) => commands::recv::run(options),
        Command::Call(options) => commands::call::run(options),
        Command::Serve(options) => commands::serve::run(options),
        Command::Ls(options) => commands::ls::run(options),
        Command::Stat(options) => commands::stat::run(options),
        Command::Peek(options) => commands::peek::run(options),
        Command::Doctor(options) => commands::doctor::run(options),
        Command::Rm(options) => commands::rm::run(options),
        Command::Lock(options) => commands::lock::run(options),
        Command::Gc(options) => commands::gc::run(options),
        Command::Recover(options) => commands::recover::run(options),
        Command::Demo(options) => demo::run(options),
    }
}
