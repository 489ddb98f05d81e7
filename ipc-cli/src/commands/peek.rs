//! `ipc peek`: messages to standard output, which stay where they are.

use super::ending_of;
use crate::{
    args,
    backend::{self, Backend, Job},
    exit::{Ending, Exit, Failure},
    interrupt::Interrupt,
    output::{Output, Printer, Stdout},
    streams,
};
use std::sync::Arc;

pub(crate) fn run(options: &args::Peek) -> Result<Ending, Failure> {
    streams::require_output()?;
    let of_output = |error| Failure::io("standard output", &error);
    let interrupt = Interrupt::new().map_err(of_output)?;
    interrupt.on_signals().map_err(of_output)?;
    let output = Stdout::new(&interrupt).map_err(of_output)?;
    backend::with(options.address.scheme, Peeking { options, output, interrupt })
}

struct Peeking<'a, W> {
    options: &'a args::Peek,
    output: W,
    interrupt: Arc<Interrupt>,
}

impl<W: Output> Job for Peeking<'_, W> {
    type Output = Result<Ending, Failure>;

    fn run<B: Backend>(self, backend: &B) -> Self::Output {
        let args::Peek { address, count, framing } = self.options;
        let channel = backend.open(&address.name).map_err(|error| Failure::channel(address, &error))?;
        let mut peeker =
            B::peeker(&channel).map_err(|refusal| Failure::new(Exit::Failure, address, refusal))?;
        let mut printer = Printer::new(self.output, *framing);
        let mut message = Vec::new();
        for index in 0..usize::try_from(*count).unwrap_or(usize::MAX) {
            if let Some(ending) = self.interrupt.ending() {
                return Ok(ending);
            }
            match peeker.peek(index, &mut message) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(Failure::peek(address, &error)),
            }
            if let Err(error) = printer.print(std::iter::once(&*message)).result {
                return ending_of(&error, &self.interrupt);
            }
        }
        Ok(Ending::Done)
    }
}
