//! `ipc serve`: answers requests with what a command makes of them.

use super::service;
use crate::{
    args,
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
};
use ipc_core::{RecvError, Request, SendError, Server};
use std::{
    ffi::OsString,
    io::{self, Write},
    process::{Command, Stdio},
    thread,
};

pub(crate) fn run(options: &args::Serve) -> Result<Ending, Failure> {
    let address = &options.address;
    let of_command = |error| Failure::io(&options.command[0].to_string_lossy(), &error);
    let interrupt = Interrupt::new().map_err(of_command)?;
    interrupt.on_signals().map_err(of_command)?;
    let channel = service::open(address, &options.trust, &options.create)?;
    let mut server = channel.server().map_err(|error| Failure::channel(address, &error))?;
    let mut left = options.count.unwrap_or(u64::MAX);
    while left > 0 {
        let request = match server.next(interrupt.wait(options.timeout)) {
            Ok(request) => request,
            Err(RecvError::Cancelled) => return Ok(interrupt.ending().unwrap_or(Ending::Done)),
            Err(error) => return Err(Failure::recv(address, &error)),
        };
        left -= 1;
        // What isn't answered is declined: the caller is told, and we go on.
        match answer(&options.command, &request) {
            Ok(response) => match request.respond(&response) {
                Ok(_) => {}
                Err(error @ SendError::TooLong { .. }) => {
                    Failure::new(Exit::Failure, address, format_args!("declined: {error}")).report();
                }
                Err(error) => return Err(Failure::send(address, "a response", &error)),
            },
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
    Ok(Ending::Done)
}

/// What the command prints, given the request as its input.
fn answer(command: &[OsString], request: &[u8]) -> io::Result<Vec<u8>> {
    let mut child =
        Command::new(&command[0]).args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take();
    // Beside the reading: a command may print before it has read all.
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            // One that doesn't want its input is no failure.
            let _ = stdin.map(|mut stdin| stdin.write_all(request));
        });
        child.wait_with_output()
    })?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(io::Error::other(format!("it ended with {}", output.status))),
    }
}
