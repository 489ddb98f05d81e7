//! `ipc recv`: from a channel to standard output.
//!
//! A batch is held, written, flushed, and only then released, so that a kill at any point
//! loses nothing where the transport redelivers. Where it doesn't, a batch is one message.

use super::{ending_of, take_place};
use crate::{
    args,
    backend::{self, Backend, Choice, Job, ReceiverOf},
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
    output::{Output, Printer, Stdout},
    streams,
};
use ipc_core::{Batch, BatchReceiver, Channel, RecvError};
use std::{sync::Arc, time::Duration};

/// Messages taken at once: many enough to be quick, and few enough to leave some to other
/// receivers. Their bytes are limited by the printer.
const BATCH_MESSAGES: usize = 256;

pub(crate) fn run(options: &args::Recv) -> Result<Ending, Failure> {
    streams::require_output()?;
    let of_output = |error| Failure::io("standard output", &error);
    let interrupt = Interrupt::new().map_err(of_output)?;
    interrupt.on_signals().map_err(of_output)?;
    // Whoever starts processes would have them inherit that; we don't.
    streams::survive_file_size_limit().map_err(of_output)?;
    let output = Stdout::new(&interrupt).map_err(of_output)?;
    output.watchable().and_then(|output| interrupt.on_closed(output)).map_err(of_output)?;
    backend::trusting(&options.address, &options.trust, Receiving { options, output, interrupt })?
}

struct Receiving<'a, W> {
    options: &'a args::Recv,
    output: W,
    interrupt: Arc<Interrupt>,
}

impl<W: Output> Job for Receiving<'_, W> {
    type Output = Result<Ending, Failure>;

    fn run<B: Backend>(self, backend: &B) -> Self::Output {
        let address = &self.options.address;
        let channel = backend::open(backend, address, &self.options.create)?;
        let receiver = take_place(address, &self.interrupt, self.options.timeout, Failure::channel, || {
            channel.receiver()
        })?;
        let Some(mut receiver) = receiver else {
            return Ok(self.interrupt.ending().unwrap_or(Ending::Done));
        };
        let result = self.receive::<B>(&channel, &mut receiver);
        B::leave(&mut receiver);
        result
    }
}

impl<W: Output> Receiving<'_, W> {
    fn receive<B: Backend>(
        self,
        channel: &B::Channel,
        receiver: &mut ReceiverOf<B>,
    ) -> Result<Ending, Failure> {
        let Self { options, output, interrupt } = self;
        let address = &options.address;
        let chosen =
            [options.priority.then_some(Choice::HighestPriority), options.message_type.map(Choice::Type)];
        for choice in chosen.into_iter().flatten() {
            B::choose(receiver, choice).map_err(|text| Failure::new(Exit::Usage, address, text))?;
        }
        let mut printer = Printer::new(output, options.framing);
        printer.prepare_for(B::max_taken_len(channel));
        let mut left = options.count.unwrap_or(u64::MAX);
        let timeout = if options.drain { Some(Duration::ZERO) } else { options.timeout };
        let redelivers = B::redelivers(receiver);
        let lost = "a second signal came when a message was neither written nor put back yet: it is lost";
        let lost = Arc::new(Failure::new(Exit::Failure, address, lost));
        let is_end = |message: &[u8]| B::END_IS_EMPTY_MESSAGE && options.until_end && message.is_empty();
        while left > 0 {
            if let Some(ending) = interrupt.ending() {
                return Ok(ending);
            }
            if !redelivers {
                // What is taken can't be given back for certain: take only what can be written.
                if let Err(error) = printer.wait_until_ready() {
                    return ending_of(&error, &interrupt);
                }
            }
            match receiver.advance_batch(batch_max(redelivers, left), interrupt.wait(timeout)) {
                Ok(_) => {}
                Err(RecvError::End) if options.until_end => break,
                Err(RecvError::WouldBlock) if options.drain => break,
                Err(error @ RecvError::Lagged { .. }) => {
                    Failure::recv(address, &error).report();
                    continue;
                }
                // The loop's head knows which signal; a mark that isn't wanted is skipped.
                Err(RecvError::End | RecvError::Cancelled) => continue,
                Err(error) => return Err(Failure::recv(address, &error)),
            }
            let batch = receiver.held_batch();
            if !redelivers {
                interrupt.set_last_words(Some(Arc::clone(&lost)));
            }
            let printed = printer.print(batch.iter().take_while(|message| !is_end(message)));
            let at_end = printed.result.is_ok() && batch.iter().nth(printed.whole).is_some_and(is_end);
            batch.release(printed.whole + usize::from(at_end));
            left -= printed.whole as u64;
            let put_back = match printed.result {
                Ok(()) => Ok(()),
                Err(_) => B::put_back(channel, receiver),
            };
            interrupt.set_last_words(None);
            if at_end {
                break;
            }
            if let Err(error) = printed.result {
                put_back.map_err(|not_sent| {
                    let text = format_args!(
                        "a message could not be written to standard output ({error}) nor be put back \
                         ({not_sent}): it is lost"
                    );
                    Failure::new(Exit::Failure, address, text)
                })?;
                return ending_of(&error, &interrupt);
            }
        }
        Ok(Ending::Done)
    }
}

/// How many messages to hold at once: never more than are wanted, and one where a kill would
/// lose what is held.
fn batch_max(redelivers: bool, left: u64) -> usize {
    let most = if redelivers { BATCH_MESSAGES } else { 1 };
    most.min(usize::try_from(left).unwrap_or(usize::MAX))
}
