//! What some of the kernel's channels can do and others can't: to be notified, to choose by
//! type, to look without taking, to pass descriptors, to know who sent.

use crate::{OsError, Receiver, Sender};
use std::fmt;
#[cfg(unix)]
use std::os::fd::OwnedFd;

/// Receivers whose channel sends its process a signal, once, when a message comes.
///
/// The notification is for one message that comes *to an empty channel while nobody waits in
/// it*; it is used up then. To miss nothing, register again first and empty the channel
/// afterwards: what comes in between is either found there or notified.
///
/// ```
/// use ipc_core::{Notify, Receiver, RecvError};
/// use std::error::Error;
///
/// /// To be called when `signal` came, outside of its handler.
/// fn on_signal<R: Notify>(rx: &mut R, signal: i32, handle: impl Fn(&[u8])) -> Result<(), Box<dyn Error>> {
///     rx.notify(signal)?; // first,
///     loop {
///         match rx.try_recv() {
///             Ok(message) => handle(&message), // then empty the channel
///             Err(RecvError::WouldBlock) => return Ok(()),
///             Err(error) => return Err(error.into()),
///         }
///     }
/// }
/// ```
pub trait Notify: Receiver {
    /// Registers this process: `signal` is sent to it when the next message comes to the
    /// empty channel. One process at a time can be registered; its earlier registration is
    /// replaced.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Busy`] while another process is registered.
    fn notify(&mut self, signal: i32) -> Result<(), NotifyError>;

    /// Takes this process's registration back. Without one, nothing happens. Dropping this
    /// endpoint does the same; dropping another one of the channel in this process may.
    ///
    /// # Errors
    ///
    /// [`OsError`] if the system refuses.
    fn forget_notification(&mut self) -> Result<(), OsError>;
}

/// Why a process was not registered for a notification.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotifyError {
    /// Another process is registered.
    Busy,
    /// There is no such signal.
    NoSuchSignal(i32),
    /// The system refused for another reason.
    Os(OsError),
}

/// Senders whose messages have a type, which receivers can select by.
pub trait TypeSender: Sender {
    /// The highest type; the lowest, and the one to begin with, is 1.
    const MAX_MESSAGE_TYPE: u64;

    /// Gives the messages sent from now on this type.
    ///
    /// # Errors
    ///
    /// [`TypeOutOfRange`]; the type stays as it was.
    fn set_message_type(&mut self, message_type: u64) -> Result<(), TypeOutOfRange>;

    /// The type of the messages sent from now on.
    fn message_type(&self) -> u64;
}

/// Receivers that take messages of certain types and leave the others in the channel.
pub trait SelectiveReceiver: Receiver {
    /// What to receive from now on; everything, to begin with. What is held already stays
    /// held.
    ///
    /// # Errors
    ///
    /// [`TypeOutOfRange`]; the selection stays as it was.
    fn select(&mut self, selection: Selection) -> Result<(), TypeOutOfRange>;

    /// The type that `message` was sent with.
    fn type_of(message: &Self::Message<'_>) -> u64;
}

/// Which messages to receive, and which of them first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// All, the oldest first.
    #[default]
    All,
    /// Those of this type, the oldest first.
    Only(u64),
    /// Those of all other types, the oldest first.
    Except(u64),
    /// Those of this type and below, the lowest type first, equals by age.
    LowestUpTo(u64),
}

/// A message type that the transport doesn't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeOutOfRange {
    /// What was asked for.
    pub asked: u64,
    /// The highest there is; the lowest is 1.
    pub max: u64,
}

/// Receivers that can look at a message without taking it.
pub trait Peek: Receiver {
    /// Copies the message at this place in the channel, 0 being the oldest, and leaves it
    /// there: replaces what `buffer` holds. What this endpoint holds isn't in the channel
    /// any more. False if there are not so many.
    ///
    /// # Errors
    ///
    /// [`PeekError`]; `buffer` holds nothing of use then.
    fn peek(&mut self, index: usize, buffer: &mut Vec<u8>) -> Result<bool, PeekError>;
}

/// Why a message could not be looked at.
#[derive(Debug)]
#[non_exhaustive]
pub enum PeekError {
    /// The channel was removed.
    Closed,
    /// This kernel can't do it; the text says what it would take.
    Unsupported(String),
    /// The system refused for another reason.
    Os(OsError),
}

/// Senders that pass open descriptors along with a message.
#[cfg(unix)]
pub trait DescriptorSender: Sender {
    /// How many can go with one message.
    const MAX_DESCRIPTORS: usize;

    /// Attaches a descriptor to the next message, behind those attached already. They go
    /// with the first message that is sent, and are closed here then; while sending fails,
    /// they stay.
    ///
    /// # Errors
    ///
    /// [`TooManyDescriptors`], which gives it back.
    fn attach(&mut self, descriptor: OwnedFd) -> Result<(), TooManyDescriptors>;
}

/// Receivers that get descriptors with messages.
#[cfg(unix)]
pub trait DescriptorReceiver: Receiver {
    /// The descriptors that came with `message`, in the order of sending. They are closed on
    /// exec. Those that nobody takes are closed when the message is released.
    fn take_descriptors(message: &mut Self::Message<'_>) -> Vec<OwnedFd>;
}

/// One descriptor more than a message can carry.
#[cfg(unix)]
#[derive(Debug)]
pub struct TooManyDescriptors {
    /// The one that is too many.
    pub descriptor: OwnedFd,
    /// How many there can be.
    pub max: usize,
}

/// Receivers that know, by the kernel's word, who sent a message.
pub trait PeerCredentials: Receiver {
    /// Who sent `message`: the process that connected, as it was then.
    fn credentials_of(message: &Self::Message<'_>) -> Credentials;
}

/// A process as the kernel describes it, in the receiver's namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The process's id. For people to read; ids are used again.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl fmt::Display for NotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("another process is registered to be notified"),
            Self::NoSuchSignal(signal) => write!(f, "there is no signal {signal}"),
            Self::Os(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for TypeOutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no message type {}: give one from 1 to {}", self.asked, self.max)
    }
}

impl fmt::Display for PeekError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the channel was removed while it was in use"),
            Self::Unsupported(what) => f.write_str(what),
            Self::Os(error) => error.fmt(f),
        }
    }
}

#[cfg(unix)]
impl fmt::Display for TooManyDescriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message carries at most {} descriptors", self.max)
    }
}

impl std::error::Error for NotifyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

impl std::error::Error for PeekError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

impl std::error::Error for TypeOutOfRange {}

#[cfg(unix)]
impl std::error::Error for TooManyDescriptors {}

impl From<OsError> for NotifyError {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}

impl From<OsError> for PeekError {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}
