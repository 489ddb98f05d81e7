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
    address::{Address, Scheme},
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
    streams,
};
use ipc_core::ChannelError;
use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

/// How often a place in a channel is looked for.
const RETRY: Duration = Duration::from_millis(10);

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

/// Each failure is reported in its turn, and the first decides how the command ends.
fn all_or_done(failures: impl IntoIterator<Item = Failure>) -> Result<Ending, Failure> {
    let all = failures.into_iter().reduce(|failure, other| failure.and(&other));
    all.map_or(Ok(Ending::Done), Err)
}

/// What it means that the output failed.
fn ending_of(error: &io::Error, interrupt: &Interrupt) -> Result<Ending, Failure> {
    match (error.kind(), interrupt.ending()) {
        (io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset, _) => Ok(Ending::Done),
        (io::ErrorKind::TimedOut, Some(ending)) => Ok(ending),
        _ => Err(Failure::io("standard output", error)),
    }
}

/// Opens an end of a channel that is open. Where all its places are taken, whoever has one may leave
/// it before `timeout` is over, so it is tried again until then. `None` if a cause to end came first.
fn take_place<T>(
    address: &Address,
    interrupt: &Interrupt,
    timeout: Option<Duration>,
    failure: fn(&Address, &ChannelError) -> Failure,
    mut open: impl FnMut() -> Result<T, ChannelError>,
) -> Result<Option<T>, Failure> {
    // Beyond what a clock can tell there is no end.
    let until = Instant::now().checked_add(timeout.unwrap_or_default());
    loop {
        let taken = match open() {
            Ok(end) => return Ok(Some(end)),
            // The other limits are met by those who open the channel.
            Err(ChannelError::Limit(taken)) if address.scheme == Scheme::Shm => taken,
            Err(error) => return Err(failure(address, &error)),
        };
        if interrupt.cause().is_some() {
            return Ok(None);
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            let what = format_args!("{taken}; see who has them with: ipc stat {address}");
            return Err(Failure::new(Exit::Busy, address, what));
        }
        interrupt.pause(RETRY).map_err(|error| Failure::new(Exit::Failure, address, error))?;
    }
}
