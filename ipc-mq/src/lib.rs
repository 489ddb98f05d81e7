//! Message passing between processes: the kernel's POSIX queues (`mq_overview(7)`) behind
//! the traits of `ipc-core`.
//!
//! # The model
//!
//! The kernel keeps a queue under a name. Nobody connects to anybody; what is sent stays on
//! the queue until a receiver retrieves it, whether or not the sender still lives. Any
//! number of processes send and receive; each message goes to one receiver, the highest
//! priority first, equals in order.
//!
//! The queue of channel `orders` is called `/orders`, and its messages are the plain bytes
//! that were sent: a C program with `mq_open` and `mq_receive` can be the other end.
//!
//! ```
//! use ipc_mq::{Receiver, Sender};
//!
//! # let greetings = &format!("greetings-{}", std::process::id());
//! # /*
//! let greetings = "greetings";
//! # */
//! let mut tx = ipc_mq::sender(greetings)?;
//! tx.send(b"hello")?;
//!
//! // Here or in another process, now or later:
//! let mut rx = ipc_mq::receiver(greetings)?;
//! assert_eq!(&*rx.recv()?, b"hello");
//! # use ipc_mq::Transport;
//! # ipc_mq::Mq::new().remove(&ipc_mq::ChannelName::new(greetings)?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Mq`] makes, finds and removes queues, [`MqConfig`] says how deep they are and how long
//! their messages.
//!
//! # What is promised
//!
//! - Messages are whole or not there; once `send` returned `Ok`, the message outlives its
//!   sender (not a restart of the machine).
//! - A queue and its messages stay until [`remove`](Transport::remove), or the end of the
//!   system. Nothing cleans up by itself.
//! - A wait ends on time. Deadlines are measured by the monotonic clock; a step of the wall
//!   clock or a storm of signals neither shortens nor prolongs them.
//! - An error of a send means that nothing was sent; of a receive, that nothing was taken.
//! - Once sending or receiving is under way, no memory is allocated per message.
//!
//! # What is not
//!
//! - Redelivery. The kernel forgets a message when a receiver takes it: one that the
//!   receiver still held when it died is lost.
//! - News of a removal. Who has the queue open keeps it when its name is removed, and waits
//!   on without notice; under the same name others may have a new queue by then.
//! - A mode from the first instant: a creator whose umask takes bits away gives them back a
//!   moment after the queue appeared, and killed in between, it leaves the queue with the
//!   fewer permissions.
//!
//! # Limits
//!
//! The kernel bounds the depth (`fs.mqueue.msg_max`), the message length
//! (`fs.mqueue.msgsize_max`), the number of queues (`fs.mqueue.queues_max`) and, by
//! `RLIMIT_MSGQUEUE`, the bytes in all queues of a user: nine of the default size fit.
//! Whoever reaches one is told which ([`ChannelError::Limit`]), and what raises it.
#![cfg(target_os = "linux")]

mod place;
mod posix;
mod store;
mod sysv;
mod unix;
mod wait;

pub use ipc_core::*;
pub use posix::{Mq, MqBatch, MqChannel, MqConfig, MqLoan, MqMessage, MqReceiver, MqSender};
pub use sysv::{
    ByAge, ByPriority, Discipline, Sysv, SysvBatch, SysvChannel, SysvConfig, SysvLoan, SysvMessage,
    SysvQueue, SysvReceiver, SysvSender,
};

pub use unix::{Unix, UnixBatch, UnixChannel, UnixConfig, UnixLoan, UnixMessage, UnixReceiver, UnixSender};

/// A sender to the channel, which is made with the kernel's defaults if there is none.
///
/// # Errors
///
/// [`ChannelError::InvalidName`], [`ChannelError::NotPermitted`], [`ChannelError::Limit`].
pub fn sender(name: &str) -> Result<MqSender, ChannelError> {
    channel(name)?.sender()
}

/// A receiver of the channel, which is made with the kernel's defaults if there is none.
///
/// # Errors
///
/// [`ChannelError::InvalidName`], [`ChannelError::NotPermitted`], [`ChannelError::Limit`].
pub fn receiver(name: &str) -> Result<MqReceiver, ChannelError> {
    channel(name)?.receiver()
}

fn channel(name: &str) -> Result<MqChannel, ChannelError> {
    Mq::new().open_or_create(&ChannelName::new(name)?, &MqConfig::new())
}
