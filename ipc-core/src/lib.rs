//! The common ground of the toolkit: what a channel is called, how one sends to it and
//! receives from it, how long one waits, and what can go wrong.
//!
//! Two processes on one machine exchange data by **message passing** (the kernel keeps a
//! queue; crate `ipc-mq`) or by **shared memory** (both map the same pages; crate
//! `ipc-shm`). Each backend implements the traits of this crate at its own native speed,
//! so a program is written once and the model is a choice. Programs depend on a backend,
//! which re-exports all they need; layers (retries, filters, types, async) depend on this
//! crate alone.
//!
//! # The shape of the traits
//!
//! Every transfer has two steps: a **blocking step that borrows nothing**
//! ([`Sender::reserve`], [`Receiver::advance`]) and an **infallible lending step**
//! ([`Sender::reserved`], [`Receiver::held`]). Messages are lent, never handed out by
//! value, so that shared memory copies nothing and a kernel queue uses its endpoint's own
//! buffer. Because the blocking step doesn't borrow, retry loops, filters and selects
//! around it need no tricks.
//!
//! # Example
//!
//! ```
//! use ipc_core::{Channel, ChannelName, Receiver, Sender, Transport, local::Local};
//!
//! let local = Local::new();
//! let orders = local.create(&ChannelName::new("orders")?, &Default::default())?;
//! let (mut tx, mut rx) = (orders.sender()?, orders.receiver()?);
//!
//! tx.send(b"42 apples")?;
//! assert_eq!(&*rx.recv()?, b"42 apples");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

#[cfg(unix)]
mod apart;
mod capability;
mod copy;
mod endpoint;
mod error;
mod name;
mod service;
mod transport;
mod unwinding;
mod wait;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(unix)]
pub mod fork;
pub mod local;
#[cfg(unix)]
#[doc(hidden)]
pub mod user;

#[cfg(unix)]
pub use apart::close_apart;
pub use capability::{
    BatchSender, Capabilities, Credentials, EndMark, Notify, NotifyError, Peek, PeekError, PeerCredentials,
    PriorityReceiver, PrioritySender, PriorityTooHigh, Redelivered, Selection, SelectiveReceiver, Sequenced,
    TypeOutOfRange, TypeSender,
};
#[cfg(unix)]
pub use capability::{DescriptorReceiver, DescriptorSender, Pollable, TooManyDescriptors};
pub use copy::copy_message;
pub use endpoint::{Batch, BatchReceiver, Loan, Message, Receiver, Sender};
pub use error::{ChannelError, OsError, RecvError, Rejected, SendError, Unready};
pub use name::{ChannelName, InvalidName};
pub use service::{CallError, Client, Request, Server};
pub use transport::{Channel, ChannelInfo, Participant, Role, Transport};
pub use unwinding::Unwinding;
pub use wait::{Cancel, CancelRegistration, Wait};
