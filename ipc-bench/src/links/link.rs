//! What the experiments see of a connection of two: a [`Link`] to the peer, whatever
//! carries it.

use super::ends::{ReceivingEnd, SendingEnd};
use crate::{spec::Payload, trouble::Fallible};
use std::ops::Range;

/// One end of a two-way connection: a channel there and another one back.
pub(crate) trait Link {
    /// Sends message `number`, waiting for room.
    fn send(&mut self, number: u64) -> Fallible<()>;

    /// Waits for message `number`, reads and releases it.
    fn receive(&mut self, number: u64) -> Fallible<()>;

    /// Sends all `numbers`.
    #[inline]
    fn send_all(&mut self, numbers: Range<u64>) -> Fallible<()> {
        for number in numbers {
            self.send(number)?;
        }
        Ok(())
    }

    /// Waits for the first of `numbers`, reads and releases it and, where the link takes
    /// several at a time, those behind it. Returns the first that is still to come.
    #[inline]
    fn receive_some(&mut self, numbers: Range<u64>) -> Fallible<u64> {
        self.receive(numbers.start)?;
        Ok(numbers.start + 1)
    }
}

/// The two ends that one process has of any transport of the toolkit.
pub(crate) struct EndsLink<S, R> {
    pub(crate) tx: S,
    pub(crate) rx: R,
    pub(crate) payload: Payload,
}

impl<S: SendingEnd, R: ReceivingEnd> Link for EndsLink<S, R> {
    #[inline(always)]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.tx.send(number)
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        self.receive_some(number..number + 1)?;
        Ok(())
    }

    #[inline]
    fn send_all(&mut self, numbers: Range<u64>) -> Fallible<()> {
        self.tx.send_all(numbers)
    }

    #[inline(always)]
    fn receive_some(&mut self, numbers: Range<u64>) -> Fallible<u64> {
        let (payload, mut next) = (self.payload, numbers.start);
        let missed = self.rx.receive(|message| {
            payload.check(message, next)?;
            next += 1;
            Ok(())
        })?;
        match missed {
            0 => Ok(next),
            _ => Err(format!("{missed} messages were overwritten before they were received").into()),
        }
    }
}
