//! `ipc call`: requests to a service, its responses to standard output.

use super::{print_bytes, service};
use crate::{
    args,
    exit::{Ending, Failure},
    interrupt::Interrupt,
};
use ipc_core::{CallError, Client};
use std::{
    io::{self, Read},
    os::unix::ffi::OsStrExt,
};

pub(crate) fn run(options: &args::Call) -> Result<Ending, Failure> {
    let address = &options.address;
    let interrupt = Interrupt::new().map_err(|error| Failure::io("standard input", &error))?;
    interrupt.on_signals().map_err(|error| Failure::io("standard input", &error))?;
    let channel = service::open(address, &options.trust, &options.create)?;
    let mut client = channel.client().map_err(|error| Failure::channel(address, &error))?;
    let most = client.max_message_len() as u64;
    let mut call = |request: &[u8], number: usize| -> Result<Option<Ending>, Failure> {
        match client.call(request, interrupt.wait(options.timeout)) {
            Ok(response) => {
                print_bytes(&response)?;
                if !options.raw {
                    print_bytes(b"\n")?;
                }
                Ok(None)
            }
            Err(CallError::Cancelled) => Ok(interrupt.ending()),
            Err(error) => Err(Failure::call(address, format_args!("request {number}"), &error)),
        }
    };
    if options.requests.is_empty() {
        let mut request = Vec::new();
        // One byte more than fits is enough to be told so.
        let read = io::stdin().lock().take(most.saturating_add(1)).read_to_end(&mut request);
        read.map_err(|error| Failure::io("standard input", &error))?;
        return Ok(call(&request, 1)?.unwrap_or(Ending::Done));
    }
    for (request, number) in options.requests.iter().zip(1..) {
        if let Some(ending) = call(request.as_bytes(), number)? {
            return Ok(ending);
        }
    }
    Ok(Ending::Done)
}
