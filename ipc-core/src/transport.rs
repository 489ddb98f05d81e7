//! Where channels live, and what is known about one.
//!
//! A [`Transport`] is a namespace of channels of one make (the kernel's POSIX queues, a
//! directory of segments); a [`Channel`] is one of them, opened; its endpoints do the work.

use crate::{BatchReceiver, Capabilities, ChannelError, ChannelName, Sender};
use std::{fmt, path::PathBuf};

/// A namespace of channels.
pub trait Transport: Send + Sync {
    /// How a channel is made; `Default` is what most people want.
    type Config: Default + Clone;
    /// A channel of this namespace.
    type Channel: Channel;

    /// What addresses begin with: `mq` in `mq:orders`.
    const SCHEME: &'static str;
    /// What this transport promises.
    const CAPABILITIES: Capabilities;

    /// Makes a channel.
    ///
    /// # Errors
    ///
    /// [`ChannelError::AlreadyExists`], [`ChannelError::Limit`] and the others.
    fn create(&self, name: &ChannelName, config: &Self::Config) -> Result<Self::Channel, ChannelError>;

    /// Opens a channel that exists.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`], [`ChannelError::NotPermitted`] and the others.
    fn open(&self, name: &ChannelName) -> Result<Self::Channel, ChannelError>;

    /// Opens a channel that exists for its sender alone, sooner than [`open`](Transport::open) and
    /// [`Channel::sender`] one after the other where the transport can.
    ///
    /// # Errors
    ///
    /// Those of both.
    fn open_sender(&self, name: &ChannelName) -> Result<<Self::Channel as Channel>::Sender, ChannelError> {
        self.open(name)?.sender()
    }

    /// Opens a channel that exists for its receiver alone, sooner than
    /// [`open`](Transport::open) and [`Channel::receiver`] one after the other where the transport
    /// can.
    ///
    /// # Errors
    ///
    /// Those of both.
    fn open_receiver(
        &self,
        name: &ChannelName,
    ) -> Result<<Self::Channel as Channel>::Receiver, ChannelError> {
        self.open(name)?.receiver()
    }

    /// Opens the channel, or makes it if there is none; who loses a race opens the
    /// winner's.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if one exists with other settings than those that
    /// `config` asks for explicitly.
    fn open_or_create(
        &self,
        name: &ChannelName,
        config: &Self::Config,
    ) -> Result<Self::Channel, ChannelError>;

    /// Removes the channel and what it holds.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; [`ChannelError::Busy`] where the transport doesn't take
    /// a channel away from under its users.
    fn remove(&self, name: &ChannelName) -> Result<(), ChannelError>;

    /// The names of all channels, sorted. Those of others that are not ours to see are
    /// left out.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Unsupported`] where the system shows no list.
    fn list(&self) -> Result<Vec<ChannelName>, ChannelError>;

    /// What is known about a channel, without taking part in it.
    ///
    /// # Errors
    ///
    /// As [`open`](Transport::open).
    fn stat(&self, name: &ChannelName) -> Result<ChannelInfo, ChannelError>;
}

/// An open channel: makes endpoints.
pub trait Channel: Send + Sync {
    /// The sending end.
    type Sender: Sender + 'static;
    /// The receiving end.
    type Receiver: BatchReceiver + 'static;

    /// A sender. The peer need not exist yet.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Busy`] where there is one already and the transport allows one.
    fn sender(&self) -> Result<Self::Sender, ChannelError>;

    /// A receiver. The peer need not exist yet.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Busy`] where there is one already and the transport allows one.
    fn receiver(&self) -> Result<Self::Receiver, ChannelError>;
}

/// What is known about a channel. `None` where the transport has no such thing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelInfo {
    /// What kind of channel it is: `posix-queue`, `spsc`.
    pub kind: &'static str,
    /// Where it can be seen in the file system.
    pub path: Option<PathBuf>,
    /// What the kernel finds it by, where that isn't its name.
    pub key: Option<u32>,
    /// Room for messages, in bytes.
    pub capacity_bytes: Option<u64>,
    /// Room for messages, in messages.
    pub depth: Option<u64>,
    /// The longest message, in bytes.
    pub max_message_len_bytes: Option<u64>,
    /// Messages sent and not yet released.
    pub queued_messages: Option<u64>,
    /// Messages sent since the channel was made, those that were dropped included.
    pub sent_messages: Option<u64>,
    /// Messages dropped: to make room, or because who held them died once too often.
    pub lost_messages: Option<u64>,
    /// How it is, of what is no channel but state: `free`, `held`.
    pub condition: Option<String>,
    /// Deliveries that were repeated, because who held the message died or gave it back.
    pub redelivered_messages: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// The owner's user id.
    pub uid: Option<u32>,
    /// Who takes part; empty where the kernel doesn't say.
    pub participants: Vec<Participant>,
}

impl ChannelInfo {
    /// A channel of this kind of which nothing else is known; fill in the fields.
    pub fn new(kind: &'static str) -> Self {
        Self {
            kind,
            path: None,
            key: None,
            capacity_bytes: None,
            depth: None,
            max_message_len_bytes: None,
            queued_messages: None,
            sent_messages: None,
            lost_messages: None,
            redelivered_messages: None,
            condition: None,
            mode: None,
            uid: None,
            participants: Vec::new(),
        }
    }
}

/// A process that takes part in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Participant {
    /// As what.
    pub role: Role,
    /// Its id in its own pid namespace. For people to read; nothing decides by it.
    pub pid: u32,
    /// Whether the kernel says that it lives.
    pub alive: bool,
    /// How far it has come, in messages (in bytes of the ring where it has no numbers).
    pub position: Option<u64>,
    /// How many messages it has yet to receive.
    pub lag: Option<u64>,
    /// How many messages it has missed.
    pub lost: Option<u64>,
    /// How many messages it holds, received and not yet released; of state, how many locks,
    /// permits or arrivals.
    pub held: Option<u64>,
    /// Since when it holds a lock, in nanoseconds since 1970, to a few milliseconds.
    pub held_since_unix_ns: Option<u64>,
}

impl Participant {
    /// A participant of which nothing else is known; fill in the fields.
    pub fn new(role: Role, pid: u32, alive: bool) -> Self {
        Self { role, pid, alive, position: None, lag: None, lost: None, held: None, held_since_unix_ns: None }
    }
}

/// What a participant does in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// It sends.
    Sender,
    /// It receives.
    Receiver,
    /// It sends to every subscriber.
    Publisher,
    /// It receives all that is published.
    Subscriber,
    /// It writes the newest value.
    Writer,
    /// It reads the newest value.
    Reader,
    /// It answers requests.
    Server,
    /// It makes requests.
    Client,
    /// It has the channel open.
    User,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
            Self::Publisher => "publisher",
            Self::Subscriber => "subscriber",
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Server => "server",
            Self::Client => "client",
            Self::User => "user",
        })
    }
}
