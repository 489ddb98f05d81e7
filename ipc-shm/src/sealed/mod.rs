//! Channels between peers that don't trust each other.
//!
//! One program listens at a Unix socket, the other connects. The kernel says who each of them
//! is, and each accepts only [`Peers`] that it was told of. Then the sender hands over memory
//! without a name, sealed so that nobody can shrink it, grow it, or map it for writing, and the
//! receiver hands over a page of its own, sealed alike, in which it says how far it has come.
//! So each of the two writes to its own memory and can only read the other's. From then on
//! messages go as in [`Spsc`](crate::Spsc): without a system call while both are awake.
//!
//! One program sends to user 1001:
//!
//! ```no_run
//! use ipc_shm::{Sender, Wait, sealed::{Listener, Peers, SealedConfig}};
//!
//! let listener = Listener::bind("/run/feed/socket", Peers::new().user(1001))?;
//! let mut tx = listener.accept(Wait::Forever)?.sender(&SealedConfig::new(), Wait::Forever)?;
//! tx.send(b"hello")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! and user 1001 receives from user 1000, whom it doesn't trust either:
//!
//! ```no_run
//! use ipc_shm::{Receiver, Wait, sealed::{self, Peers, SealedConfig}};
//!
//! let link = sealed::connect("/run/feed/socket", &Peers::new().user(1000), Wait::Forever)?;
//! let mut rx = link.receiver(&SealedConfig::new(), Wait::Forever)?;
//! println!("{} bytes", rx.recv()?.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Kinds
//!
//! | kind | ends | made by |
//! |---|---|---|
//! | messages, from one to one | [`SealedSender`], [`SealedReceiver`] | [`Link::sender`], [`Link::receiver`] |
//! | broadcast: every message, from one to many, as fast as it goes | [`SealedPublisher`], [`SealedSubscriber`] | [`Link::guest`] and [`SealedPublisher::admit`], [`Link::subscriber`] |
//! | the newest value, from one to many | [`SealedWriter`], [`SealedReader`] | [`Link::guest`] and [`SealedWriter::admit`], [`Link::reader`] |
//!
//! In the last two, those who receive need not trust each other either: all of them map the
//! memory of the one who writes it, for reading; what each writes itself (whether it sleeps) is
//! in a page that only the writer maps besides.
//!
//! The others aren't offered, because of what they are. In a *work queue* each receiver writes to
//! what all of them share, to say that a message is its own. A *reliable broadcast* waits for
//! the slowest subscriber, so any of them could stop it for all: make a channel of messages to
//! each one instead, and decide for each how long to wait. A *request and its response* are two
//! channels of messages, one each way, over two connections.
//!
//! # What is promised
//!
//! | the peer | then |
//! |---|---|
//! | is somebody else, by user, group or process | it is refused before anything of it is looked at |
//! | hands over what isn't memory, isn't sealed, has another size, or fewer pages than that | it is refused, and the error says why |
//! | truncates, grows, writes to or punches holes into what it was given | the kernel refuses |
//! | changes any byte of its own memory, at any time | messages of other bytes, [`RecvError::Corrupt`], or a time-out; no panic, no fault, no more memory than [`SealedConfig::max_capacity_bytes`] |
//! | stops, or says nothing | your call times out as you said |
//! | is killed, or goes | [`RecvError::PeerDied`], [`RecvError::Closed`] after what it has sent, within 250 ms |
//! | subscribes or reads, and is slow, stops, or is killed | it is no matter to you, nor to the others; a slow subscriber is told what it missed |
//! | subscribes or reads, and says whatever it likes of whether it sleeps | the same, but for a system call a message, and the others are woken for nothing; of its page you look at nothing else |
//! | comes to subscribe or to read, and doesn't do its part | [`Link::guest`] times out as you said, wherever you wait for it; to admit it and to send takes no wait |
//! | publishes, and lies about where its messages are, or what was missed | other messages, other numbers, or [`RecvError::Corrupt`]: what you receive is its word alone |
//! | talks on the socket | [`RecvError::Corrupt`]; a publisher or writer hangs up on that one |
//! | wakes you all the time | it costs you processor time: that isn't prevented |
//! | hides holes, by pages beyond the end | from Linux 5.14, they are filled before anything is read, with memory of yours, up to [`SealedConfig::max_capacity_bytes`]: give your process room for that much, or lower it |
//! | hands over many descriptors, or such as take long to close | they are closed again, on a thread apart, for which no call of yours waits |
//!
//! A channel lasts as long as both of its ends: there is no name, nothing stays when they are
//! gone, and what the receiver hasn't received is lost with it.
//!
//! # What is lent
//!
//! The sender lends its own memory ([`SealedLoan`]), to which only its own process can write.
//! The receiver lends its own copy ([`SealedMessage`]): the sender can write to the channel's
//! memory whenever it likes, and bytes that change while they are looked at can't be a `&[u8]`,
//! nor be checked once and used later. The copy is made word by word, of a length that was
//! loaded once and checked.
//!
//! # Blocking
//!
//! As in named channels ([`Waiting`](crate::Waiting)); a cancellation is noticed within 10 ms.

mod audience;
mod error;
mod greeting;
mod line;
mod link;
mod memory;
mod onlookers;
mod peers;
mod post;
mod publisher;
mod receiver;
mod sender;
mod writer;

pub use audience::Guest;
pub use error::LinkError;
pub use link::{Link, Listener, connect};
pub use onlookers::{SealedBulletin, SealedReader, SealedSubscriber, SealedValue};
pub use peers::{Peer, Peers};
pub use publisher::{SealedDraft, SealedPublisher};
pub use receiver::{SealedMessage, SealedReceiver};
pub use sender::{SealedLoan, SealedSender};
pub use writer::{SealedValueLoan, SealedWriter};

#[allow(unused_imports, reason = "for the documentation")]
use ipc_core::RecvError;

/// How a sealed channel is made, and what is accepted of a peer.
///
/// ```
/// use ipc_shm::sealed::SealedConfig;
///
/// let config = SealedConfig::new().capacity_bytes(8 << 20);
/// # let _ = config;
/// ```
#[derive(Clone, Debug, Default)]
pub struct SealedConfig {
    capacity_bytes: Option<u64>,
    max_capacity_bytes: Option<u64>,
    max_message_len: Option<u64>,
    depth: Option<u64>,
}

impl SealedConfig {
    /// The capacity unless another one is given: 1 MiB.
    pub const DEFAULT_CAPACITY_BYTES: u64 = 1 << 20;
    /// What is accepted unless another limit is given: 64 MiB.
    pub const DEFAULT_MAX_CAPACITY_BYTES: u64 = 64 << 20;

    /// A writer's longest value unless another length is given, in bytes: 4 KiB.
    pub const DEFAULT_MAX_MESSAGE_LEN: u64 = 4096;
    /// A writer's values that there is room for unless another number is given.
    pub const DEFAULT_DEPTH: u64 = 4;

    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a sender or a publisher: room for messages, in bytes, rounded up to whole pages:
    /// 1 byte to 1 TiB. A message takes up its length, rounded up to a multiple of 8, and 8 bytes
    /// more, a publisher's 16; the longest one is the capacity less 16, a publisher's less 32.
    #[must_use]
    pub fn capacity_bytes(self, bytes: u64) -> Self {
        Self { capacity_bytes: Some(bytes), ..self }
    }

    /// For a writer: the longest value, in bytes. There is memory for [`depth`](Self::depth) of
    /// them.
    #[must_use]
    pub fn max_message_len(self, bytes: u64) -> Self {
        Self { max_message_len: Some(bytes), ..self }
    }

    /// For a writer: how many values there is room for, 2 to 256. A reader is overtaken if all
    /// of them but one are replaced while it copies one.
    #[must_use]
    pub fn depth(self, values: u64) -> Self {
        Self { depth: Some(values), ..self }
    }

    /// For a receiver, subscriber or reader: the largest capacity that it accepts of its
    /// peer, in bytes. It maps that much, and its copy of a message is at most as long.
    #[must_use]
    pub fn max_capacity_bytes(self, bytes: u64) -> Self {
        Self { max_capacity_bytes: Some(bytes), ..self }
    }

    fn capacity(&self, page: u64) -> Result<u64, LinkError> {
        let asked = self.capacity_bytes.unwrap_or(Self::DEFAULT_CAPACITY_BYTES);
        crate::config::rounded(asked, page).map_err(|error| LinkError::InvalidConfig(error.to_string()))
    }

    fn max_capacity(&self) -> u64 {
        self.max_capacity_bytes.unwrap_or(Self::DEFAULT_MAX_CAPACITY_BYTES)
    }
}
