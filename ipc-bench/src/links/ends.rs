//! The sending and the receiving end of any transport of the toolkit, in the three ways that
//! programs use them: in place, by copies, and in batches. Of the first two there is each one that
//! waits in the call, and one that calls again and again.

use crate::{
    spec::{LaneSpec, Payload, Touch},
    trouble::Fallible,
};
use ipc_core::{
    Batch, BatchReceiver, BatchSender, Loan, Receiver, RecvError, Rejected, SendError, Sender, Wait,
};
use std::ops::Range;

/// Sends numbered messages.
pub(crate) trait SendingEnd {
    /// Sends message `number`, waiting for room.
    fn send(&mut self, number: u64) -> Fallible<()>;

    /// Sends all `numbers`.
    #[inline]
    fn send_all(&mut self, numbers: Range<u64>) -> Fallible<()> {
        for number in numbers {
            self.send(number)?;
        }
        Ok(())
    }
}

/// Receives messages.
pub(crate) trait ReceivingEnd {
    /// Waits for a message, takes those behind it too if it is an end that takes several at
    /// a time, has each of them read and releases them. Returns how many messages it was
    /// told that it has missed; in that case there may be none to read.
    fn receive(&mut self, read: impl FnMut(&[u8]) -> Fallible<()>) -> Fallible<u64>;
}

/// What a program has at hand rather than in a buffer of its own.
const SHORT_BYTES: usize = 64;

/// One message at a time, written and read in the channel's own memory; but what is short is
/// made where the program is and then sent, as programs do.
pub(crate) struct InPlace<E> {
    pub(crate) end: E,
    payload: Payload,
}

impl<E> InPlace<E> {
    pub(crate) fn new(end: E, spec: &LaneSpec) -> Self {
        Self { end, payload: spec.payload() }
    }
}

/// One message at a time, in place, by calls that don't wait, made again and again.
pub(crate) struct Polling<E> {
    end: E,
    payload: Payload,
}

impl<E> Polling<E> {
    pub(crate) fn new(end: E, spec: &LaneSpec) -> Self {
        Self { end, payload: spec.payload() }
    }
}

impl<S: Sender> SendingEnd for Polling<S> {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        let mut loan = self.end.loan(self.payload.len_bytes, Wait::Never)?;
        self.payload.write(&mut loan, number);
        loop {
            match loan.commit(Wait::Never) {
                Ok(()) => return Ok(()),
                Err(Rejected { loan: again, error: SendError::WouldBlock }) => loan = again,
                Err(Rejected { error, .. }) => return Err(error.into()),
            }
        }
    }
}

impl<R: Receiver> ReceivingEnd for Polling<R> {
    #[inline]
    fn receive(&mut self, mut read: impl FnMut(&[u8]) -> Fallible<()>) -> Fallible<u64> {
        loop {
            match self.end.advance(Wait::Never) {
                Ok(()) => return read(&self.end.held()).map(|()| 0),
                Err(RecvError::WouldBlock) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<S: Sender> InPlace<S> {
    /// Sends message `number` where it is more, or less, than the number alone. Apart, so that
    /// what the loop of the shortest messages has in line is theirs.
    #[inline(never)]
    fn send_other(&mut self, number: u64) -> Fallible<()> {
        let len_bytes = self.payload.len_bytes;
        if self.payload.touch == Touch::All && len_bytes <= SHORT_BYTES {
            let mut own = [0; SHORT_BYTES];
            self.payload.write(&mut own[..len_bytes], number);
            return Ok(self.end.send(&own[..len_bytes])?);
        }
        let mut loan = self.end.loan(self.payload.len_bytes, Wait::Forever)?;
        self.payload.write(&mut loan, number);
        loan.commit(Wait::Forever).map_err(|rejected| rejected.error)?;
        Ok(())
    }
}

impl<S: Sender> SendingEnd for InPlace<S> {
    #[inline(always)]
    fn send(&mut self, number: u64) -> Fallible<()> {
        let number_alone = number.to_le_bytes();
        if self.payload.touch == Touch::All && self.payload.len_bytes == number_alone.len() {
            return Ok(self.end.send(&number_alone)?);
        }
        self.send_other(number)
    }
}

impl<R: Receiver> ReceivingEnd for InPlace<R> {
    #[inline(always)]
    fn receive(&mut self, mut read: impl FnMut(&[u8]) -> Fallible<()>) -> Fallible<u64> {
        match self.end.recv() {
            Ok(message) => read(&message).map(|()| 0),
            Err(error) => missed(error),
        }
    }
}

/// One message at a time, copied from and to memory of the process's own.
pub(crate) struct Copying<E> {
    end: E,
    payload: Payload,
    own: Vec<u8>,
}

impl<E> Copying<E> {
    pub(crate) fn new(end: E, spec: &LaneSpec) -> Self {
        Self { end, payload: spec.payload(), own: vec![0; spec.message_len_bytes] }
    }
}

impl<S: Sender> SendingEnd for Copying<S> {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.own, number);
        Ok(self.end.send(&self.own)?)
    }
}

impl<R: Receiver> ReceivingEnd for Copying<R> {
    #[inline]
    fn receive(&mut self, mut read: impl FnMut(&[u8]) -> Fallible<()>) -> Fallible<u64> {
        match self.end.recv_into(&mut self.own, Wait::Forever) {
            Ok(_) => read(&self.own).map(|()| 0),
            Err(error) => missed(error),
        }
    }
}

/// The same by calls that don't wait, made again and again.
pub(crate) struct PollingCopies<E>(Copying<E>);

impl<E> PollingCopies<E> {
    pub(crate) fn new(end: E, spec: &LaneSpec) -> Self {
        Self(Copying::new(end, spec))
    }
}

impl<S: Sender> SendingEnd for PollingCopies<S> {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        let Copying { end, payload, own } = &mut self.0;
        payload.write(own, number);
        loop {
            match end.try_send(own) {
                Err(SendError::WouldBlock) => {}
                answer => return Ok(answer?),
            }
        }
    }
}

impl<R: Receiver> ReceivingEnd for PollingCopies<R> {
    #[inline]
    fn receive(&mut self, mut read: impl FnMut(&[u8]) -> Fallible<()>) -> Fallible<u64> {
        let Copying { end, own, .. } = &mut self.0;
        loop {
            match end.recv_into(own, Wait::Never) {
                Ok(_) => return read(own).map(|()| 0),
                Err(RecvError::WouldBlock) => {}
                Err(error) => return missed(error),
            }
        }
    }
}

/// Several messages with one commit: written to memory of the process's own (an array, or
/// a vector, `M`), sent from there.
pub(crate) struct BatchedSender<S, M> {
    end: S,
    payload: Payload,
    /// As many as a batch has.
    own: Vec<M>,
}

impl<S, M: Clone> BatchedSender<S, M> {
    /// Sends batches of messages like `message`.
    pub(crate) fn new(end: S, spec: &LaneSpec, message: M) -> Self {
        Self { end, payload: spec.payload(), own: vec![message; spec.batch] }
    }
}

impl<S: BatchSender, M: AsRef<[u8]> + AsMut<[u8]>> SendingEnd for BatchedSender<S, M> {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.send_all(number..number + 1)
    }

    #[inline]
    fn send_all(&mut self, mut numbers: Range<u64>) -> Fallible<()> {
        while !numbers.is_empty() {
            let mut written = 0;
            for (own, number) in self.own.iter_mut().zip(numbers.by_ref()) {
                self.payload.write(own.as_mut(), number);
                written += 1;
            }
            let mut rest = &self.own[..written];
            while !rest.is_empty() {
                rest = &rest[self.end.send_batch(rest, Wait::Forever)?..];
            }
        }
        Ok(())
    }
}

/// Several messages taken together, read in place and released together.
pub(crate) struct BatchedReceiver<R> {
    end: R,
    max_messages: usize,
}

impl<R> BatchedReceiver<R> {
    pub(crate) fn new(end: R, spec: &LaneSpec) -> Self {
        Self { end, max_messages: spec.batch }
    }
}

impl<R: BatchReceiver> ReceivingEnd for BatchedReceiver<R> {
    #[inline]
    fn receive(&mut self, mut read: impl FnMut(&[u8]) -> Fallible<()>) -> Fallible<u64> {
        if let Err(error) = self.end.advance_batch(self.max_messages, Wait::Forever) {
            return missed(error);
        }
        let batch = self.end.held_batch();
        for message in batch.iter() {
            read(message)?;
        }
        batch.release_all();
        Ok(0)
    }
}

/// How many messages were missed, if that is what the error says.
#[cold]
fn missed(error: RecvError) -> Fallible<u64> {
    match error {
        RecvError::Lagged { missed } => Ok(missed),
        error => Err(error.into()),
    }
}
