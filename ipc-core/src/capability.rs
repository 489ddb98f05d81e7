//! What not every transport can do: traits where the compiler is to know, data where a
//! program or a report asks.

use crate::{Receiver, SendError, Sender, Wait};
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
    /// Endpoints of different processes meet.
    pub cross_process: bool,
}

impl Capabilities {
    /// Promises nothing; a constant to build on with the methods below.
    pub const NONE: Self =
        Self { stores: false, redelivers: false, zero_copy: false, exclusive: false, cross_process: false };

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

    /// Endpoints of different processes meet.
    #[must_use]
    pub const fn with_cross_process(self) -> Self {
        Self { cross_process: true, ..self }
    }
}

/// Senders that can mark the end of a stream apart from any message, the empty one
/// included. The receiver meets it as [`RecvError::End`](crate::RecvError::End), in order.
pub trait EndMark: Sender {
    /// Marks the end of what was sent so far.
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
