//! `ipc call`: requests to a service, its responses to standard output.

use super::{ending_of, service, take_place};
use crate::{
    args::{self, RecvFraming},
    exit::{Ending, Exit, Failure},
    framing::Stdin,
    interrupt::Interrupt,
    output::{Printer, Stdout},
    streams,
};
use ipc_core::{CallError, Client};
use std::{
    io::{self, Read},
    iter,
    os::unix::ffi::OsStrExt,
    sync::Arc,
};

pub(crate) fn run(options: &args::Call) -> Result<Ending, Failure> {
    streams::require_output()?;
    if options.requests.is_empty() {
        streams::require_input()?;
    }
    let address = &options.address;
    let interrupt = Interrupt::new().map_err(|error| Failure::io("standard input", &error))?;
    interrupt.on_signals().map_err(|error| Failure::io("standard input", &error))?;
    let output = Stdout::new(&interrupt).map_err(|error| Failure::io("standard output", &error))?;
    let framing = if options.raw { RecvFraming::Raw } else { RecvFraming::Lines };
    let mut printer = Printer::new(output, framing);
    let channel = service::open(address, &options.trust, &options.create)?;
    let client = take_place(address, &interrupt, options.timeout, Failure::service, || channel.client())?;
    let Some(mut client) = client else { return Ok(interrupt.ending().unwrap_or(Ending::Done)) };
    let max = client.max_message_len();
    let mut call = |request: &[u8], number: usize| -> Result<Option<Ending>, Failure> {
        match client.call(request, interrupt.wait(options.timeout)) {
            Ok(response) => match printer.print(iter::once(&*response)).result {
                Ok(()) => Ok(None),
                Err(error) => ending_of(&error, &interrupt).map(Some),
            },
            Err(CallError::Cancelled) => Ok(interrupt.ending()),
            Err(error) => Err(Failure::call(address, format_args!("request {number}"), &error)),
        }
    };
    if options.requests.is_empty() {
        let read = read_request(&interrupt, max).map_err(|error| Failure::io("standard input", &error))?;
        let ending = match read {
            Some(request) => call(&request, 1)?,
            None => interrupt.ending(),
        };
        return Ok(ending.unwrap_or(Ending::Done));
    }
    for (request, number) in options.requests.iter().zip(1..) {
        match call(request.as_bytes(), number)? {
            None => {}
            // Nobody reads any more. What a request is for may be what it does, so it is said.
            Some(Ending::Done) if number < options.requests.len() => {
                let what = format_args!("nobody reads it: not called from request {} on", number + 1);
                return Err(Failure::new(Exit::Failure, "standard output", what));
            }
            Some(ending) => return Ok(ending),
        }
    }
    Ok(Ending::Done)
}

/// Standard input to its end, or more of it than fits: enough to be told so. `None` if a cause to
/// end came first.
fn read_request(interrupt: &Arc<Interrupt>, max: usize) -> io::Result<Option<Vec<u8>>> {
    const READ_LEN: usize = 64 * 1024;
    let mut input = Stdin::new(interrupt)?;
    let (mut request, mut buffer) = (Vec::new(), vec![0; READ_LEN]);
    while request.len() <= max {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => request.extend_from_slice(&buffer[..len]),
            // What `read_to_end` would try again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(request))
}
