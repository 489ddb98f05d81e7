//! `ipc send`: arguments or standard input, to a channel.

use super::take_place;
use crate::{
    address::Address,
    args::{self, SendFraming},
    backend::{self, Backend, Job, SenderOf},
    exit::{Ending, Exit, Failure},
    framing::{InputError, Messages, Stdin},
    interrupt::Interrupt,
    streams,
};
use ipc_core::{Loan, SendError, Sender, Wait};
use std::{
    fmt,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    sync::Arc,
};

pub(crate) fn run(options: &args::Send) -> Result<Ending, Failure> {
    if options.messages.is_empty() {
        streams::require_input()?;
    }
    let of_input = |error| Failure::io("standard input", &error);
    let interrupt = Interrupt::new().map_err(of_input)?;
    interrupt.on_signals().map_err(of_input)?;
    let input = Stdin::new(&interrupt).map_err(of_input)?;
    backend::trusting(&options.address, &options.trust, Sending { options, input, interrupt })?
}

struct Sending<'a, R> {
    options: &'a args::Send,
    input: R,
    interrupt: Arc<Interrupt>,
}

impl<R: Read> Job for Sending<'_, R> {
    type Output = Result<Ending, Failure>;

    fn run<B: Backend>(self, backend: &B) -> Self::Output {
        let Self { options, input, interrupt } = self;
        let address = &options.address;
        let channel = backend::open(backend, address, &options.create)?;
        let sender =
            take_place(address, &interrupt, options.timeout, Failure::channel, || B::sender(&channel))?;
        let Some(mut sender) = sender else { return Ok(interrupt.ending().unwrap_or(Ending::Done)) };
        if let Some(priority) = options.priority {
            B::set_priority(&mut sender, priority)
                .map_err(|text| Failure::new(Exit::Usage, address, text))?;
        }
        if let Some(message_type) = options.message_type {
            B::set_type(&mut sender, message_type)
                .map_err(|text| Failure::new(Exit::Usage, address, text))?;
        }
        let mut stream = Stream::<B> { address, sender, options, interrupt: &interrupt };
        match stream.send_all(input) {
            Ok(()) => Ok(Ending::Done),
            Err(Stop::Interrupted) => Ok(interrupt.ending().unwrap_or(Ending::Done)),
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }
}

/// Why no more is sent.
enum Stop {
    Interrupted,
    Failed(Failure),
}

struct Stream<'a, B: Backend> {
    address: &'a Address,
    sender: SenderOf<B>,
    options: &'a args::Send,
    interrupt: &'a Interrupt,
}

impl<'a, B: Backend> Stream<'a, B> {
    fn send_all(&mut self, input: impl Read) -> Result<(), Stop> {
        if !self.options.messages.is_empty() {
            self.send_arguments()?;
        } else if self.options.framing == SendFraming::Chunks {
            self.send_chunks(input)?;
        } else {
            self.send_messages(input)?;
        }
        if self.options.end {
            let wait = self.wait();
            B::send_end(&mut self.sender, wait).map_err(|error| self.stop("the end mark", &error))?;
        }
        Ok(())
    }

    fn send_arguments(&mut self) -> Result<(), Stop> {
        let messages = || self.options.messages.iter().map(|message| message.as_bytes()).zip(1..);
        for (message, number) in messages() {
            self.refuse_end_mark(message, "message", number)?;
        }
        let messages: Vec<_> = messages().collect();
        messages.into_iter().try_for_each(|(message, number)| self.send(message, "message", number))
    }

    fn send_messages(&mut self, input: impl Read) -> Result<(), Stop> {
        let mut messages = Messages::new(input, self.options.framing, self.sender.max_message_len());
        let what = messages.what();
        for number in 1.. {
            match messages.next() {
                Ok(None) => break,
                Ok(Some(message)) => {
                    self.refuse_end_mark(message, what, number)?;
                    self.send(message, what, number)?;
                }
                Err(InputError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {
                    return Err(Stop::Interrupted);
                }
                Err(error) => return Err(self.failed(Exit::Failure, error)),
            }
        }
        Ok(())
    }

    /// Reads straight into the channel's memory, as long as there is room for a whole chunk.
    /// When there isn't, what comes next may still be short enough, or nothing at all. Where
    /// a reservation would hold up others while the input is slow, it is read aside too.
    fn send_chunks(&mut self, mut input: impl Read) -> Result<(), Stop> {
        let len = B::chunk_len(&self.sender);
        let mut aside = Vec::new();
        let (interrupt, timeout) = (self.interrupt, self.options.timeout);
        for number in 1_u64.. {
            let which = format_args!("chunk {number}");
            let reserved = match B::reservation_holds_up(&self.sender) {
                true => Err(SendError::WouldBlock),
                false => self.sender.reserve(len, Wait::Never),
            };
            let sent = match reserved {
                Ok(()) => {
                    let mut chunk = self.sender.reserved();
                    match read(&mut input, &mut chunk, self.address)? {
                        0 => break,
                        len => chunk.truncate(len),
                    }
                    let wait = interrupt.wait(timeout);
                    chunk.commit(wait).map_err(|rejected| rejected.error)
                }
                Err(SendError::WouldBlock) => {
                    aside.resize(len, 0);
                    match read(&mut input, &mut aside, self.address)? {
                        0 => break,
                        len => {
                            let wait = self.wait();
                            self.sender.send_wait(&aside[..len], wait)
                        }
                    }
                }
                Err(error) => Err(error),
            };
            sent.map_err(|error| self.stop(which, &error))?;
        }
        Ok(())
    }

    fn send(&mut self, message: &[u8], what: &str, number: u64) -> Result<(), Stop> {
        if self.interrupt.cause().is_some() {
            return Err(Stop::Interrupted);
        }
        let wait = self.wait();
        self.sender
            .send_wait(message, wait)
            .map_err(|error| self.stop(format_args!("{what} {number}"), &error))
    }

    /// An empty message is not to be taken for the end mark that follows.
    fn refuse_end_mark(&self, message: &[u8], what: &str, number: u64) -> Result<(), Stop> {
        if !(B::END_IS_EMPTY_MESSAGE && self.options.end && message.is_empty()) {
            return Ok(());
        }
        let text = format_args!(
            "{what} {number} is empty, which marks the end on {} channels: leave out --end or use a shm channel",
            B::SCHEME
        );
        Err(self.failed(Exit::Usage, text))
    }

    fn wait(&self) -> Wait<'a> {
        self.interrupt.wait(self.options.timeout)
    }

    fn stop(&self, which: impl fmt::Display, error: &SendError) -> Stop {
        match error {
            SendError::Cancelled => Stop::Interrupted,
            error => Stop::Failed(Failure::send(self.address, which, error)),
        }
    }

    fn failed(&self, exit: Exit, what: impl fmt::Display) -> Stop {
        Stop::Failed(Failure::new(exit, self.address, what))
    }
}

fn read(input: &mut impl Read, buffer: &mut [u8], address: &Address) -> Result<usize, Stop> {
    input.read(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Stop::Interrupted,
        _ => Stop::Failed(Failure::new(Exit::Failure, address, InputError::Io(error))),
    })
}
