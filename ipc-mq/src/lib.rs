//! Message passing between processes: the kernel's channels behind the traits of `ipc-core`.
//!
//! # The model
//!
//! The kernel keeps a queue under a name. Nobody connects to anybody; what is sent stays on
//! the queue until a receiver retrieves it, whether or not the sender still lives. Any
//! number of processes send and receive; each message goes to one receiver.
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
//! That is a POSIX queue. There are three transports:
//!
//! | | made by | is | only it has |
//! |---|---|---|---|
//! | `mq:` | [`Mq`] | POSIX queues, `mq_overview(7)` | [`Notify`], no files of ours |
//! | `sysv:` | [`Sysv`] | System V queues, `sysvipc(7)` | [`SelectiveReceiver`], [`Peek`] |
//! | `unix:` | [`Unix`] | sequenced-packet sockets, `unix(7)` | [`DescriptorSender`], [`PeerCredentials`], messages of any size |
//!
//! What not all can do is a trait, and asking for what is missing doesn't compile:
//!
//! ```compile_fail,E0277
//! fn urgent(tx: &mut impl ipc_mq::PrioritySender) {}
//! let unix = ipc_mq::Unix::new();
//! # use ipc_mq::{Channel, ChannelName, Transport};
//! let channel = unix.open(&ChannelName::new("orders").unwrap()).unwrap();
//! urgent(&mut channel.sender().unwrap());
//! ```
//!
//! # Durability
//!
//! A message in a `mq:` or `sysv:` queue survives its sender, every receiver that didn't take
//! it, and both; not the machine's restart, nor (in a container) the end of the IPC
//! namespace. A receiver that dies takes with it what it had received and still held. Over
//! `unix:` nothing is stored: what the receiver had not received dies with it. `ipc demo durable`
//! kills them all to show it.
//!
//! # What is promised
//!
//! - Messages are whole or not there; once `send` returned `Ok`, the message outlives its
//!   sender (not a restart of the machine).
//! - A queue and its messages stay until [`remove`](Transport::remove), or the end of the
//!   system. Nothing cleans up by itself.
//! - A wait ends on time. Deadlines are measured by the monotonic clock; a step of the wall
//!   clock or a storm of signals neither shortens nor prolongs them.
//! - An error of a send means that nothing was sent; of a receive, that nothing was taken, or it
//!   says that a message is lost, and why.
//! - Once sending or receiving is under way, no memory is allocated per message (but for
//!   descriptors that go along, and `unix:` messages above 64 KiB, which are memory).
//! - No other user's channel is taken for one's own: opening it by name is refused, unless that user
//!   is [trusted](Mq::trusting), or the channel is a `mq:` queue of root's. Who has no number in its
//!   user namespace, and appears there as user 65534 as all such do, has no channels of its own.
//!
//! # What is not
//!
//! - Redelivery. The kernel forgets a message when a receiver takes it: one that the
//!   receiver still held when it died is lost.
//! - News of a removal on `mq:`. Who has the queue open keeps it when its name is removed,
//!   and waits on without notice; under the same name others may have a new queue by then.
//!   On `sysv:` and `unix:`, who waits is told.
//! - A mode from the first instant on `mq:`: a creator whose umask takes bits away gives them
//!   back a moment after the queue appeared, and killed in between, it leaves the queue with
//!   the fewer permissions.
//! - In a user namespace where user 65534 is somebody, and that is us: that another user's channel is
//!   told from ours whose user has no number there, and so is shown as 65534 as well.
//! - Which queue a `sysv:` channel that is open stands for, once it was removed by others or its thread
//!   is in another IPC namespace. It and its endpoints know the queue by the kernel's number, which may
//!   be another one's there, or later (the kernel gives a number again after very many queues, or at
//!   once if it is told to by `kernel.msg_next_id`). Opened by name again, it is found or isn't.
//!
//! # Limits
//!
//! The kernel bounds the depth (`fs.mqueue.msg_max`), the message length
//! (`fs.mqueue.msgsize_max`), the number of queues (`fs.mqueue.queues_max`) and, by
//! `RLIMIT_MSGQUEUE`, the bytes in all queues of a user: nine of the default size fit. System V
//! has `kernel.msgmax`, `kernel.msgmnb` and `kernel.msgmni`, and a wait that ends by itself takes one
//! of the signals that `RLIMIT_SIGPENDING` counts. Whoever reaches one is told which
//! ([`ChannelError::Limit`]), its value, and what raises it; `ipc doctor` shows them all.
#![cfg(target_os = "linux")]

mod at_fork;
mod flock;
mod limit;
#[cfg(doctest)]
mod missing;
mod place;
mod posix;
mod random;
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
