//! The commands, a file each.

pub(crate) mod call;
pub(crate) mod create;
pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod lock;
pub(crate) mod ls;
pub(crate) mod peek;
pub(crate) mod recover;
pub(crate) mod recv;
pub(crate) mod rm;
pub(crate) mod send;
pub(crate) mod serve;
mod service;
pub(crate) mod stat;

use crate::{
    exit::{Ending, Failure},
    interrupt::Interrupt,
    streams,
};
use std::io::{self, Write};

/// Prints the whole of a command's output. That nobody reads it to the end is no failure.
pub(crate) fn print(text: &str) -> Result<Ending, Failure> {
    streams::require_output()?;
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("standard output", &error))
        }
        _ => Ok(Ending::Done),
    }
}

/// What it means that the output failed.
fn ending_of(error: &io::Error, interrupt: &Interrupt) -> Result<Ending, Failure> {
    match (error.kind(), interrupt.ending()) {
        (io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset, _) => Ok(Ending::Done),
        (io::ErrorKind::TimedOut, Some(ending)) => Ok(ending),
        _ => Err(Failure::io("standard output", error)),
    }
}
