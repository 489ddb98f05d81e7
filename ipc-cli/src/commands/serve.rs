//! `ipc serve`: answers requests with what a command makes of them.

use super::{service, take_place};
use crate::{
    args,
    child::{self, Child},
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
};
use ipc_core::{RecvError, Request, Server};
use std::{ffi::OsString, io};

pub(crate) fn run(options: &args::Serve) -> Result<Ending, Failure> {
    let address = &options.address;
    let of_command = |error| Failure::io(&options.command[0].to_string_lossy(), &error);
    let interrupt = Interrupt::new().map_err(of_command)?;
    interrupt.on_signals().map_err(of_command)?;
    let channel = service::open(address, &options.trust, &options.create)?;
    // Lest the first caller finds out.
    child::look_for(&options.command[0]).map_err(of_command)?;
    let server = take_place(address, &interrupt, options.timeout, Failure::service, || channel.server())?;
    let Some(mut server) = server else { return Ok(interrupt.ending().unwrap_or(Ending::Done)) };
    let max = server.max_message_len();
    let mut left = options.count.unwrap_or(u64::MAX);
    while left > 0 {
        let request = match server.next(interrupt.wait(options.timeout)) {
            Ok(request) => request,
            Err(RecvError::Cancelled) => break,
            Err(error) => return Err(Failure::recv(address, &error)),
        };
        left -= 1;
        // What isn't answered is declined: the caller is told, and we go on.
        match answer(&options.command, &request, max, &interrupt) {
            Ok(Some(response)) => {
                request.respond(&response).map_err(|error| Failure::send(address, "a response", &error))?;
            }
            // A cause to end came between the two; the request is declined as it is dropped.
            Ok(None) => break,
            Err(error) => {
                drop(request);
                let what = options.command[0].to_string_lossy();
                Failure::new(Exit::Failure, address, format_args!("declined: {what}: {error}")).report();
                if error.kind() == io::ErrorKind::NotFound {
                    return Err(of_command(error));
                }
            }
        }
    }
    Ok(interrupt.ending().unwrap_or(Ending::Done))
}

/// What the command prints, given the request as its input. `None` if it wasn't started, as a
/// cause to end came before.
fn answer(
    command: &[OsString],
    request: &[u8],
    max: usize,
    interrupt: &Interrupt,
) -> io::Result<Option<Vec<u8>>> {
    // One byte more than fits is enough to be told so; then nobody reads the rest.
    let Some((output, status)) = Child::converse(command, request, max.saturating_add(1), interrupt)? else {
        return Ok(None);
    };
    if output.len() > max {
        return Err(io::Error::other(format!(
            "it printed more than the {max} bytes that a response may have"
        )));
    }
    match status.success() {
        true => Ok(Some(output)),
        false => Err(io::Error::other(format!("it ended with {status}"))),
    }
}
