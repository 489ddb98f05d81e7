//! Shared memory: two processes map the same pages, and messages go from one to the other
//! without a copy and, while both are awake, without a system call.
//!
//! A channel is a file in `/dev/shm/ipc-UID` with a ring of messages in it. Sender and
//! receiver may start in either order, end in any way and be started again: what was sent
//! is in the channel, what was not released is delivered again, and there is nothing to
//! clean up.
//!
//! # Ten lines
//!
//! One program sends:
//!
//! ```standalone_crate
//! use ipc_shm::Sender;
//!
//! # let directory = std::env::temp_dir().join(format!("ipc-shm-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&directory)?;
//! # // SAFETY: nothing else runs in this process.
//! # unsafe { std::env::set_var("IPC_DIR", &directory) };
//! let mut tx = ipc_shm::sender("greetings")?;
//! tx.send(b"hello")?;
//! # drop(tx);
//! # receive()?;
//! # std::fs::remove_dir(&directory)?;
//! # fn receive() -> Result<(), Box<dyn std::error::Error>> {
//! # use ipc_shm::Receiver;
//! # let mut rx = ipc_shm::receiver("greetings")?;
//! # assert_eq!(&*rx.recv()?, b"hello");
//! # Ok(())
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! and another one receives:
//!
//! ```no_run
//! use ipc_shm::Receiver;
//!
//! let mut rx = ipc_shm::receiver("greetings")?;
//! println!("{} bytes", rx.recv()?.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Shm`] and [`ShmConfig`] offer more: another directory, another size, channels that
//! outlive their users. Nothing is copied if the channel's own pages are written and read:
//!
//! ```standalone_crate
//! use ipc_shm::{Channel, ChannelName, Loan, Receiver, Sender, ShmConfig, Spsc, Transport, Wait};
//! # use std::io::Read;
//! # let directory = std::env::temp_dir().join(format!("ipc-shm-loan-{}", std::process::id()));
//! # std::fs::create_dir_all(&directory)?;
//! # // SAFETY: nothing else runs in this process.
//! # unsafe { std::env::set_var("IPC_DIR", &directory) };
//! # let mut lens = std::io::repeat(7);
//! # fn show(frame: &[u8]) { assert_eq!(frame[1920 * 1080], 7) }
//!
//! let room = ShmConfig::new().capacity_bytes(64 << 20);
//! let camera = Spsc::new().open_or_create(&ChannelName::new("camera")?, &room)?;
//!
//! let mut tx = camera.sender()?;
//! let mut frame = tx.loan(1920 * 1080 * 3, Wait::Forever)?; // the channel's own pages
//! lens.read_exact(&mut frame)?;
//! frame.send()?;                                            // or drop it: nothing is sent
//!
//! let mut rx = camera.receiver()?;                          // in the other process
//! show(&rx.recv()?);                                        // the same pages, released when dropped
//! # drop((tx, rx, camera));
//! # Spsc::new().remove(&ChannelName::new("camera")?)?;
//! # std::fs::remove_dir(&directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Kinds
//!
//! | | who gets a message | ends | memory |
//! |---|---|---|---|
//! | [`Mpmc`] | one of the receivers | many, many | slots of one size |
//! | [`Spsc`] | the receiver | one, one | a ring of records of any length |
//! | [`Broadcast`] | every subscriber | many, many | such a ring for each publisher |
//! | [`Latest`] | whoever looks, the newest value | one, many | slots of one size |
//! | [`Rpc`] | a server, whose response goes back | many, many | slots of one size |
//!
//! Each is a namespace of its own, whose endpoints the compiler knows; what a kind holds and
//! how much memory it takes is said at [`Kind`], how it is made at [`ShmConfig`]. [`Shm`] takes
//! channels of any kind, for programs that learn it when they open one. The functions
//! [`sender`] and [`receiver`] are for work queues: anybody may come.
//!
//! What is beyond sending and receiving is traits: [`BatchSender`] and [`BatchReceiver`] move
//! many messages with one commit and one wake-up, [`Sequenced`] and [`Redelivered`] make loss
//! and repetition visible, [`EndMark`] ends a stream, [`Pollable`] lends a descriptor for
//! `poll(2)` and `epoll(7)`, [`Client`] and [`Server`] are calls. Receivers and servers of named
//! channels are pollable; observers and sealed ends aren't.
//!
//! State that is shared rather than sent is in [`sync`].
//!
//! # What is promised
//!
//! | event | then |
//! |---|---|
//! | `send` returned `Ok` | the whole message survives the sender's death, in order |
//! | a sender is killed | each message is in the channel whole or not at all |
//! | a receiver is killed | what it held is delivered again, first; to another one where there are several, and counted |
//! | a receiver of a work queue is killed too often | the message is dropped, and counted as lost ([`ShmConfig::max_deliveries`]) |
//! | a subscriber is too slow | lossy: it is told exactly how many it missed; reliable: publishers wait |
//! | a writer of the newest value is killed | the last value stays readable, never torn |
//! | a server is killed with a request | its caller is told |
//! | a peer is stopped | it keeps its role, and what it holds; calls time out as they were told to |
//! | everybody is dead | the next ones go on; a transient channel that is empty is gone when they come |
//!
//! Where a kind takes one sender or receiver, a second one is refused
//! ([`ChannelError::Busy`]); the role of a dead one is free at once. Who is alive is certified
//! by the kernel: by a lock that goes when the process is gone, and not before. The dead are
//! noticed within 5 ms where they stand in somebody's way, else within 250 ms; where many take
//! part, within 250 ms for every 64 of them.
//!
//! # What is not
//!
//! Whoever may write to the channel's file is trusted not to be malicious (for peers that
//! aren't, there is [`sealed`]; what else protects memory is listed in [`protect`]); bytes that
//! no correct peer writes are reported as `Corrupt`, but a peer that truncates the file makes
//! the others die of SIGBUS. In a work queue, a sender that is *stopped* between its
//! reservation and its commit stops all receivers, and a message held for long stops the
//! senders one lap later. A forked child can't use its parent's endpoints
//! ([`SendError::Forked`]) and must not touch a message or loan that was lent before the fork:
//! the memory isn't there.
//!
//! # On a disk
//!
//! A channel lives where its directory is. In `/dev/shm` it is gone with the machine. On a
//! disk ([`Shm::at`]) what was sent survives the death of every process and an orderly
//! shutdown; after a power loss, what [`sync`](ChannelOf::sync) had returned for. A channel
//! that was in use when the machine went down, or that the disk reported an error for, is not
//! served after that until it is accepted ([`Shm::recover`]). When the machine was started is
//! asked of `/proc`; without it, a channel on a disk is refused.
//!
//! On file systems that never write to a block twice (btrfs, ZFS, and others where files share
//! blocks), what was allocated for a channel isn't enough to write it anew: when such a disk is
//! full, whoever uses the channel dies of SIGBUS. Keep some of it free there, or channels elsewhere.
//!
//! # Waiting
//!
//! Endpoints spin for some 50 µs and then sleep, unless told otherwise ([`Waiting`]). While a peer
//! is awake, sending to it takes no system call and no fence; who goes to sleep pays for both,
//! by `membarrier(2)`. A sleeper looks around four times a second.
//!
//! # How
//!
//! The data's way is endpoint (`spsc`, `mpmc`, …) → `ring` → bell and back: a ring is an
//! algorithm over words, `segment` is the file and the locks on it, `wait` puts to sleep and
//! wakes, and `sys` makes the system calls. No arrow goes back. The algorithms are run by a
//! model checker as they are, and killed at each of their accesses (`cargo xtask model`,
//! `crash`, `soak`, `fuzz`).

// As `layout!` calls it.
extern crate self as ipc_shm;

mod any;
mod broadcast;
mod config;
#[cfg(feature = "crash-points")]
pub mod hooks;
#[cfg(not(feature = "crash-points"))]
mod hooks;
mod kind;
mod latest;
mod mpmc;
mod observer;
pub mod protect;
mod refusal;
mod ring;
mod rpc;
pub mod sealed;
mod segment;
mod spsc;
pub mod sync;
mod sys;
mod transport;
mod wait;

pub use any::{Shm, ShmBatch, ShmChannel, ShmLoan, ShmMessage, ShmReceiver, ShmSender};
pub use broadcast::{
    BroadcastBatch, BroadcastLoan, BroadcastMessage, BroadcastPublisher, BroadcastSubscriber,
};
pub use config::ShmConfig;
pub use ipc_core::*;
pub use kind::{Kind, Lifetime, WhenFull};
pub use latest::{LatestBatch, LatestLoan, LatestMessage, LatestReader, LatestWriter};
pub use mpmc::{MpmcBatch, MpmcLoan, MpmcMessage, MpmcReceiver, MpmcSender};
pub use observer::{BroadcastObserver, LatestObserver, ObservedBatch, ObservedMessage};
pub use rpc::{Rpc, RpcChannel, RpcClient, RpcRequest, RpcResponse, RpcServer, RpcTicket};
pub use segment::Collected;
pub use spsc::{SpscBatch, SpscLoan, SpscMessage, SpscReceiver, SpscSender};
pub use transport::{
    Broadcast, BroadcastChannel, BroadcastKind, ChannelOf, Latest, LatestChannel, LatestKind, Mpmc,
    MpmcChannel, MpmcKind, Of, QueueKind, Spsc, SpscChannel, SpscKind, Verdict,
};
pub use wait::Waiting;
/// What says that any bytes are a value, and what [`layout!`] goes by.
pub use zerocopy;

/// Opens a sending end of the work queue `name` in the default directory. If there is no
/// such channel, one of 1 MiB is made, for messages of up to 8 KiB, that ends when the last
/// one leaves it empty.
///
/// # Errors
///
/// [`ChannelError::Mismatch`] if the channel is of another kind, and the others.
pub fn sender(name: &str) -> Result<MpmcSender, ChannelError> {
    channel(name)?.sender()
}

/// Opens a receiving end of the work queue `name` in the default directory. If there is no
/// such channel, one of 1 MiB is made, for messages of up to 8 KiB, that ends when the last
/// one leaves it empty.
///
/// # Errors
///
/// [`ChannelError::Mismatch`] if the channel is of another kind, and the others.
pub fn receiver(name: &str) -> Result<MpmcReceiver, ChannelError> {
    channel(name)?.receiver()
}

fn channel(name: &str) -> Result<MpmcChannel, ChannelError> {
    Mpmc::new().open_or_create(&ChannelName::new(name)?, &ShmConfig::new().transient())
}
