//! The two ends of a channel, and what they lend.
//!
//! Each transfer is a blocking step that borrows nothing, then an infallible lending step.
//! A single `receive(&mut self) -> Message<'_>` would keep `self` borrowed on every path
//! through a loop around it, so that filters, retries and selects would not compile.

use crate::{
    RecvError, Rejected, SendError, Wait,
    copy::{copy_message, replace_by_message},
};
use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

/// The sending end of a channel.
pub trait Sender: Send {
    /// Space for one message, see [`Loan`].
    type Loan<'a>: Loan
    where
        Self: 'a;

    /// The longest message, in bytes.
    fn max_message_len(&self) -> usize;

    /// The blocking step: sees to space for a message of `len` bytes. Idempotent; a second
    /// call replaces the reservation.
    ///
    /// # Errors
    ///
    /// [`SendError`]; [`SendError::TooLong`] at once, whatever `wait` says. Nothing is reserved
    /// then, whatever was before.
    ///
    /// # Blocking
    ///
    /// Waits for space as long as `wait` says. Where the space is the endpoint's own
    /// (kernel queues), it is [`Loan::commit`] that waits.
    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError>;

    /// Reserves if that takes neither waiting nor a system call. False says nothing: call
    /// [`reserve`](Sender::reserve). The provided methods begin with it, because it spares
    /// the fast path the handling of a [`Wait`].
    ///
    /// # Errors
    ///
    /// As [`reserve`](Sender::reserve).
    #[inline]
    fn reserve_now(&mut self, len: usize) -> Result<bool, SendError> {
        let _ = len;
        Ok(false)
    }

    /// The lending step: the space that [`reserve`](Sender::reserve) saw to. Without a
    /// reservation, or after a loan of it was committed, it is an empty message's; a loan
    /// that was dropped leaves the reservation, at most as long as the loan was. Where space in
    /// the channel stands in others' way, such a reservation has it no more, and it is
    /// [`Loan::commit`] that waits.
    fn reserved(&mut self) -> Self::Loan<'_>;

    /// Reserves and lends: `len` bytes to be written in place.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Sender::reserve).
    #[inline]
    fn loan(&mut self, len: usize, wait: Wait<'_>) -> Result<Self::Loan<'_>, SendError> {
        if !self.reserve_now(len)? {
            self.reserve(len, wait)?;
        }
        Ok(self.reserved())
    }

    /// Sends a copy of `message`, waiting as long as `wait` says.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the message is not in the channel then.
    #[inline]
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        if !self.reserve_now(message.len())? {
            self.reserve(message.len(), wait)?;
        }
        let mut loan = self.reserved();
        copy_message(&mut loan, message);
        loan.commit(wait).map_err(|rejected| rejected.error)
    }

    /// Sends a copy of `message`, waiting for room as long as it takes.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the message is not in the channel then.
    #[inline(always)]
    fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.send_wait(message, Wait::Forever)
    }

    /// Sends a copy of `message` if there is room now.
    ///
    /// # Errors
    ///
    /// [`SendError::WouldBlock`] if the channel is full, or nobody receives where nothing is stored.
    #[inline]
    fn try_send(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.send_wait(message, Wait::Never)
    }

    /// Sends a copy of `message`, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`SendError::TimedOut`] if the channel stayed full, or nobody received.
    #[inline]
    fn send_timeout(&mut self, message: &[u8], timeout: Duration) -> Result<(), SendError> {
        self.send_wait(message, Wait::timeout(timeout))
    }
}

/// A borrowed endpoint, for layers that take one over: the endpoint is there again after them.
/// What else it can do, it does by itself.
impl<S: Sender> Sender for &mut S {
    type Loan<'a>
        = S::Loan<'a>
    where
        Self: 'a;

    #[inline]
    fn max_message_len(&self) -> usize {
        (**self).max_message_len()
    }

    #[inline]
    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        (**self).reserve(len, wait)
    }

    #[inline]
    fn reserve_now(&mut self, len: usize) -> Result<bool, SendError> {
        (**self).reserve_now(len)
    }

    #[inline]
    fn reserved(&mut self) -> Self::Loan<'_> {
        (**self).reserved()
    }

    #[inline]
    fn loan(&mut self, len: usize, wait: Wait<'_>) -> Result<Self::Loan<'_>, SendError> {
        (**self).loan(len, wait)
    }

    #[inline]
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        (**self).send_wait(message, wait)
    }
}

/// Space for one message. What it holds at first is unspecified (never uninitialised).
/// [`commit`](Loan::commit) sends it; dropping it aborts, and nothing is sent.
///
/// ```
/// # use ipc_core::{Channel, ChannelName, Transport, local::Local};
/// use ipc_core::{Loan, Receiver, Sender, Wait};
/// use std::io::Read;
///
/// # let channel = Local::new().create(&ChannelName::new("loans")?, &Default::default())?;
/// # let (mut tx, mut rx) = (channel.sender()?, channel.receiver()?);
/// let mut input = &b"read in place"[..];
/// let mut loan = tx.loan(4096, Wait::Forever)?;
/// let len = input.read(&mut loan)?;
/// loan.truncate(len);
/// loan.commit(Wait::Forever).map_err(|rejected| rejected.error)?;
///
/// assert_eq!(&*rx.recv()?, b"read in place");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Loan: DerefMut<Target = [u8]> + Sized {
    /// Shortens the message to its first `len` bytes, as after a short `read(2)` into it.
    /// A longer `len` changes nothing.
    fn truncate(&mut self, len: usize);

    /// Sends the message.
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives the loan back: a full kernel queue, say. Shared memory accepts
    /// every commit, since the room was reserved.
    ///
    /// # Blocking
    ///
    /// Waits for room as long as `wait` says, where [`Sender::reserve`] didn't.
    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>>;

    /// Sends the message, waiting for room as long as it takes.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the loan is gone then, and nothing was sent.
    #[inline]
    fn send(self) -> Result<(), SendError> {
        self.commit(Wait::Forever).map_err(|rejected| rejected.error)
    }
}

/// The receiving end of a channel.
pub trait Receiver: Send {
    /// A message lent by the endpoint, see [`Message`].
    type Message<'a>: Message
    where
        Self: 'a;

    /// The blocking step: waits until this endpoint holds a message. Returns at once if it
    /// holds one already.
    ///
    /// # Errors
    ///
    /// [`RecvError`]; [`RecvError::End`] where a sender marked the end of its stream.
    ///
    /// # Blocking
    ///
    /// As long as `wait` says.
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError>;

    /// Takes a message if that takes neither waiting nor a system call. False says nothing:
    /// call [`advance`](Receiver::advance). The provided methods begin with it, because it
    /// spares the fast path the handling of a [`Wait`].
    ///
    /// # Errors
    ///
    /// As [`advance`](Receiver::advance).
    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        Ok(false)
    }

    /// The lending step: the message that [`advance`](Receiver::advance) took.
    ///
    /// # Panics
    ///
    /// If this endpoint holds none, since the last `advance` failed or its message was
    /// released: a mistake in the calling program.
    fn held(&mut self) -> Self::Message<'_>;

    /// Waits as long as `wait` says, then lends the message.
    ///
    /// # Errors
    ///
    /// As [`advance`](Receiver::advance).
    #[inline]
    fn receive(&mut self, wait: Wait<'_>) -> Result<Self::Message<'_>, RecvError> {
        if !self.advance_now()? {
            self.advance(wait)?;
        }
        Ok(self.held())
    }

    /// Waits for a message as long as it takes.
    ///
    /// # Errors
    ///
    /// As [`advance`](Receiver::advance).
    #[inline(always)]
    fn recv(&mut self) -> Result<Self::Message<'_>, RecvError> {
        self.receive(Wait::Forever)
    }

    /// The next message if there is one now.
    ///
    /// # Errors
    ///
    /// [`RecvError::WouldBlock`] if the channel is empty.
    #[inline]
    fn try_recv(&mut self) -> Result<Self::Message<'_>, RecvError> {
        self.receive(Wait::Never)
    }

    /// Waits for a message for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvError::TimedOut`] if the channel stayed empty.
    #[inline]
    fn recv_timeout(&mut self, timeout: Duration) -> Result<Self::Message<'_>, RecvError> {
        self.receive(Wait::timeout(timeout))
    }

    /// Receives a copy: replaces what `buffer` holds and returns the message's length.
    ///
    /// # Errors
    ///
    /// As [`advance`](Receiver::advance); `buffer` is left as it was.
    #[inline]
    fn recv_into(&mut self, buffer: &mut Vec<u8>, wait: Wait<'_>) -> Result<usize, RecvError> {
        if !self.advance_now()? {
            self.advance(wait)?;
        }
        let message = self.held();
        replace_by_message(buffer, &message);
        Ok(message.len())
    }
}

/// A borrowed endpoint, as a [`Sender`] may be.
impl<R: Receiver> Receiver for &mut R {
    type Message<'a>
        = R::Message<'a>
    where
        Self: 'a;

    #[inline]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        (**self).advance(wait)
    }

    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        (**self).advance_now()
    }

    #[inline]
    fn held(&mut self) -> Self::Message<'_> {
        (**self).held()
    }

    #[inline]
    fn receive(&mut self, wait: Wait<'_>) -> Result<Self::Message<'_>, RecvError> {
        (**self).receive(wait)
    }

    #[inline]
    fn recv_into(&mut self, buffer: &mut Vec<u8>, wait: Wait<'_>) -> Result<usize, RecvError> {
        (**self).recv_into(buffer, wait)
    }
}

/// A message lent by its receiver. Dropping it releases it: the channel may forget it.
///
/// That is so however the code that had it is left: by `?`, or by a future that is dropped at
/// an `await`. To have it again where its processing failed, [`keep`](Message::keep) it, as
/// below.
///
/// Only a panic is taken for a death: a message that is dropped because a panic has begun since
/// it was lent is kept. So the receiver, when the panic drops it as well, gives it back as it
/// does whatever it holds, to be delivered again (with the attempt counted) where the transport
/// redelivers. And who catches the panic and goes on with the same receiver is given the same
/// message again: if that would panic again, count, and release it.
///
/// ```
/// # use ipc_core::{Channel, ChannelName, Sender, Transport, local::Local};
/// use ipc_core::{Message, Receiver, Wait};
///
/// # let channel = Local::new().create(&ChannelName::new("messages")?, &Default::default())?;
/// # let (mut tx, mut rx) = (channel.sender()?, channel.receiver()?);
/// tx.send(b"not yet")?;
/// rx.recv()?.keep();
/// assert_eq!(&*rx.recv()?, b"not yet"); // and released
/// assert!(rx.try_recv().is_err());
///
/// tx.send(b"12 and a half")?;
/// rx.advance(Wait::Never)?;
/// let message = rx.held();
/// match std::str::from_utf8(&message)?.parse::<u32>() { // this `?` would release it
///     Ok(number) => {
///         println!("{number}");
///         drop(message);
///     }
///     Err(_) => message.keep(),
/// }
/// assert_eq!(&*rx.recv()?, b"12 and a half");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Message: Deref<Target = [u8]> + Sized {
    /// Gives the message back unreleased: the next [`Receiver::advance`] returns at once,
    /// and [`Receiver::held`] lends it again. Where the transport redelivers, a process
    /// that dies meanwhile has lost nothing.
    fn keep(self);
}

/// Receivers that hold several messages at once and release them together, after the
/// caller has put them somewhere safe.
///
/// ```
/// # use ipc_core::{Channel, ChannelName, Sender, Transport, local::Local};
/// use ipc_core::{Batch, BatchReceiver, Wait};
/// use std::io::Write;
///
/// # let channel = Local::new().create(&ChannelName::new("batches")?, &Default::default())?;
/// # let (mut tx, mut rx) = (channel.sender()?, channel.receiver()?);
/// # let mut output = Vec::new();
/// tx.send(b"one\n")?;
/// tx.send(b"two\n")?;
///
/// rx.advance_batch(64, Wait::Forever)?;
/// let batch = rx.held_batch();
/// for message in batch.iter() {
///     output.write_all(message)?;
/// }
/// output.flush()?;
/// batch.release_all(); // after an error above they would still be held
/// # assert_eq!(output, b"one\ntwo\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait BatchReceiver: Receiver {
    /// Several messages, lent together.
    type Batch<'a>: Batch
    where
        Self: 'a;

    /// Waits for one message, as long as `wait` says, then takes what else is there without
    /// waiting: at most `max_messages` in all, at least one even if that is 0, and fewer where the
    /// transport bounds how many it takes in one call. Those held already count; if there are any
    /// it doesn't wait, and it gives none of them back. Returns how many are held now.
    ///
    /// An end mark or a gap ends the batch before it; the next call, with nothing held,
    /// reports it.
    ///
    /// # Errors
    ///
    /// As [`Receiver::advance`].
    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError>;

    /// The messages held, none if the last [`advance_batch`](BatchReceiver::advance_batch)
    /// failed.
    fn held_batch(&mut self) -> Self::Batch<'_>;
}

/// Messages lent together. They stay held until released: dropping the batch on the way
/// out of a failed write loses nothing.
pub trait Batch: Sized {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The messages in order.
    fn iter(&self) -> impl Iterator<Item = &[u8]>;

    /// Releases the first `count` messages (all, if there are fewer); the others stay held.
    fn release(self, count: usize);

    /// Releases all.
    fn release_all(self) {
        let count = self.len();
        self.release(count);
    }
}
