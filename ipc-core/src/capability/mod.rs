//! What not every transport can do: traits where the compiler is to know, data where a
//! program or a report asks.

mod kernel;

use crate::{OsError, Receiver, RecvError, SendError, Sender, Wait};
pub use kernel::{
    Credentials, Notify, NotifyError, Peek, PeekError, PeerCredentials, Selection, SelectiveReceiver,
    TypeOutOfRange, TypeSender,
};
#[cfg(unix)]
pub use kernel::{DescriptorReceiver, DescriptorSender, TooManyDescriptors};
use std::fmt;

/// What a transport promises, for reports and for the selection of tests. Code that
/// *needs* a capability asks for its trait instead, so that a missing one doesn't compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Messages are kept while no receiver exists.
    pub stores: bool,
    /// A message that a receiver held when it went away is delivered again.
    pub redelivers: bool,
    /// Sending and receiving lend the channel's own memory; nothing is copied.
    pub zero_copy: bool,
    /// At most one sender and one receiver at a time; another one is told `Busy`.
    pub exclusive: bool,
    /// Each message goes to every receiver that exists when it is sent, not to one. Each
    /// sender's messages stay in order; those of several come in any order.
    pub broadcasts: bool,
    /// A full channel forgets its oldest messages and doesn't make its sender wait. Where it
    /// broadcasts, who missed them is told how many
    /// ([`RecvError::Lagged`](crate::RecvError::Lagged)).
    pub lossy: bool,
    /// The channel holds the newest message only, and sending doesn't wait. Each receiver
    /// gets what is the newest when it looks, once.
    pub conflates: bool,
    /// Endpoints of different processes meet.
    pub cross_process: bool,
    /// Each sender has a connection of its own: its messages stay in order, those of several
    /// senders come in any order.
    pub connects: bool,
    /// At most one receiver at a time; another one is told `Busy`.
    pub one_receiver: bool,
}

impl Capabilities {
    /// Promises nothing; a constant to build on with the methods below.
    pub const NONE: Self = Self {
        stores: false,
        redelivers: false,
        zero_copy: false,
        exclusive: false,
        broadcasts: false,
        lossy: false,
        conflates: false,
        cross_process: false,
        connects: false,
        one_receiver: false,
    };

    /// Messages are kept while no receiver exists.
    #[must_use]
    pub const fn with_stores(self) -> Self {
        Self { stores: true, ..self }
    }

    /// A message that a receiver held when it went away is delivered again.
    #[must_use]
    pub const fn with_redelivers(self) -> Self {
        Self { redelivers: true, ..self }
    }

    /// Nothing is copied.
    #[must_use]
    pub const fn with_zero_copy(self) -> Self {
        Self { zero_copy: true, ..self }
    }

    /// One sender and one receiver at a time.
    #[must_use]
    pub const fn with_exclusive(self) -> Self {
        Self { exclusive: true, ..self }
    }

    /// Each message goes to every receiver.
    #[must_use]
    pub const fn with_broadcasts(self) -> Self {
        Self { broadcasts: true, ..self }
    }

    /// A full channel forgets its oldest messages.
    #[must_use]
    pub const fn with_lossy(self) -> Self {
        Self { lossy: true, ..self }
    }

    /// The channel holds the newest message only.
    #[must_use]
    pub const fn with_conflates(self) -> Self {
        Self { conflates: true, ..self }
    }

    /// Endpoints of different processes meet.
    #[must_use]
    pub const fn with_cross_process(self) -> Self {
        Self { cross_process: true, ..self }
    }

    /// Each sender has a connection of its own.
    #[must_use]
    pub const fn with_connects(self) -> Self {
        Self { connects: true, ..self }
    }

    /// One receiver at a time.
    #[must_use]
    pub const fn with_one_receiver(self) -> Self {
        Self { one_receiver: true, ..self }
    }
}

/// Senders that can mark the end of a stream apart from any message, the empty one
/// included. The receiver meets it as [`RecvError::End`](crate::RecvError::End), in order.
pub trait EndMark: Sender {
    /// Marks the end of what was sent so far. Where a full channel drops its oldest message
    /// for a new one, it may drop a mark as well: who must learn of the end needs another sign.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    ///
    /// # Blocking
    ///
    /// Waits for room, as long as `wait` says.
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError>;
}

/// Senders that publish several messages with one commit and one wake-up.
pub trait BatchSender: Sender {
    /// Waits for room for the first of `messages`, as long as `wait` says, then sends copies
    /// of the first and of as many of those behind it as there is room for now. Returns how
    /// many it sent: none only if there are none, which takes no waiting.
    ///
    /// They are published together: who receives in batches finds all of them or none. Only
    /// if the sender dies meanwhile may some of them be there, each whole and in order, though
    /// not always the first ones. A transport may bound how many it takes at a time. What
    /// [`reserve`](Sender::reserve) saw to is given up, as by [`Sender::send`].
    ///
    /// ```
    /// # use ipc_core::{Channel, ChannelName, Receiver, Transport, local::Local};
    /// use ipc_core::{BatchSender, Wait};
    ///
    /// # let channel = Local::new().create(&ChannelName::new("ticks")?, &Default::default())?;
    /// # let (mut tx, mut rx) = (channel.sender()?, channel.receiver()?);
    /// let ticks = [1u64.to_ne_bytes(), 2u64.to_ne_bytes()];
    /// let mut rest = &ticks[..];
    /// while !rest.is_empty() {
    ///     let sent = tx.send_batch(rest, Wait::Forever)?;
    ///     rest = &rest[sent..];
    /// }
    /// # assert_eq!(&*rx.recv()?, ticks[0]);
    /// # assert_eq!(&*rx.recv()?, ticks[1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Sender::send`] for the first message; nothing was sent then. A later one that
    /// can't be sent ends the batch before it, and is refused when it comes first.
    fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M], wait: Wait<'_>) -> Result<usize, SendError>;
}

/// Receivers whose messages are numbered, so that none is missed unnoticed.
pub trait Sequenced: Receiver {
    /// The message's number among those of the channel, or among those of its publisher
    /// where each of several has its own. The first is 0, and each is one more than the one
    /// before. A number that a receiver doesn't see was somebody else's message, dropped,
    /// overwritten, or given up before it was sent.
    ///
    /// A message has the same number however often it is kept or delivered. The channel
    /// counts, not the endpoint: a new sender goes on where the last one stopped.
    fn sequence_of(message: &Self::Message<'_>) -> u64;
}

/// Receivers that can tell how often a message was delivered before.
pub trait Redelivered: Receiver {
    /// How many receivers held this message before and went away with it, dropped or dead:
    /// 0 at the first delivery. Keeping it doesn't count, nor does it matter whether they
    /// looked at it.
    fn attempts_of(message: &Self::Message<'_>) -> u32;
}

/// Receivers, and servers, to be waited for together with other things, by `poll(2)`,
/// `epoll(7)` or an asynchronous runtime.
///
/// ```
/// use ipc_core::{Pollable, Receiver, RecvError, Wait};
/// use std::{error::Error, io, os::fd::BorrowedFd};
///
/// /// `poll` waits until this descriptor is readable, or another one.
/// fn serve<R: Receiver + Pollable>(
///     rx: &mut R,
///     handle: impl Fn(&[u8]),
///     poll: impl Fn(BorrowedFd<'_>) -> io::Result<()>,
/// ) -> Result<(), Box<dyn Error>> {
///     loop {
///         match rx.advance(Wait::Never) {
///             Ok(()) => handle(&rx.held()),
///             Err(RecvError::WouldBlock) => {
///                 if !rx.arm()? {
///                     poll(rx.descriptor()?)?;
///                 }
///             }
///             Err(error) => return Err(error.into()),
///         }
///     }
/// }
/// ```
///
/// An asynchronous runtime keeps what it watches, while the descriptor is lent with the whole
/// receiver. So it is given a duplicate, which is readable when the descriptor is. With tokio's
/// `AsyncFd` (where `with_interest` is deprecated, `register_with_interest` takes the same; an
/// `OwnedFd` is what it asks for):
///
/// ```text
/// let duplicate = rx.descriptor()?.try_clone_to_owned()?;
/// let bell = AsyncFd::with_interest(duplicate, Interest::READABLE)?;
/// loop {
///     match rx.advance(Wait::Never) {
///         Ok(()) => handle(&rx.held()),
///         Err(RecvError::WouldBlock) => {
///             if !rx.arm()? {
///                 // Forgotten before the next look, so that what comes after that look is told.
///                 bell.readable().await?.clear_ready();
///             }
///         }
///         Err(error) => return Err(error.into()),
///     }
/// }
/// ```
#[cfg(unix)]
pub trait Pollable {
    /// The descriptor to wait on. It is made at the first call, stays the same one and lives
    /// as long as the endpoint. Wait until it is readable, at a level or at an edge; don't
    /// read from it.
    ///
    /// # Errors
    ///
    /// [`OsError`] if the system has no more of what it is made of.
    fn descriptor(&mut self) -> Result<std::os::fd::BorrowedFd<'_>, OsError>;

    /// To be called before each wait: says whether there is something to receive already,
    /// a message, an end mark or a gap. If there isn't, the descriptor becomes readable once
    /// there is something, or an error to be told, and stays so until the next call.
    ///
    /// Readable means: look again. There may be nothing, as when another receiver was
    /// faster, and the descriptor becomes readable now and then without a reason. Any other
    /// call is allowed in between, waiting ones too.
    ///
    /// # Errors
    ///
    /// As [`Receiver::advance`], or [`Server::advance`](crate::Server::advance), and if the descriptor can't be made. There is nothing to
    /// wait for then.
    fn arm(&mut self) -> Result<bool, RecvError>;
}

/// Senders whose messages overtake those of a lower priority; equals stay in order.
pub trait PrioritySender: Sender {
    /// The highest priority; the lowest, and the one to begin with, is 0.
    const MAX_PRIORITY: u32;

    /// Gives the messages sent from now on this priority.
    ///
    /// # Errors
    ///
    /// [`PriorityTooHigh`] above [`MAX_PRIORITY`](PrioritySender::MAX_PRIORITY); the
    /// priority stays as it was.
    fn set_priority(&mut self, priority: u32) -> Result<(), PriorityTooHigh>;

    /// The priority of the messages sent from now on.
    fn priority(&self) -> u32;
}

/// Receivers that can tell a message's priority.
pub trait PriorityReceiver: Receiver {
    /// The priority that `message` was sent with.
    fn priority_of(message: &Self::Message<'_>) -> u32;
}

/// A priority above what the transport knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorityTooHigh {
    /// What was asked for.
    pub asked: u32,
    /// The highest there is.
    pub max: u32,
}

impl fmt::Display for PriorityTooHigh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "priority {} is too high: the highest is {}", self.asked, self.max)
    }
}

impl std::error::Error for PriorityTooHigh {}
