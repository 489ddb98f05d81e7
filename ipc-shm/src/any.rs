//! Channels of any kind: for programs that learn the kind when they open the channel.
//!
//! Each type here is one of the kinds' own; a call costs one more jump, which the processor
//! predicts.

use crate::{
    broadcast::{BroadcastBatch, BroadcastLoan, BroadcastMessage, BroadcastPublisher, BroadcastSubscriber},
    config::ShmConfig,
    kind::Kind,
    latest::{LatestBatch, LatestLoan, LatestMessage, LatestReader, LatestWriter},
    mpmc::{MpmcBatch, MpmcLoan, MpmcMessage, MpmcReceiver, MpmcSender},
    segment::{Anchored, Header},
    spsc::{SpscBatch, SpscLoan, SpscMessage, SpscReceiver, SpscSender},
    transport::{
        BroadcastKind, LatestKind, MpmcKind, Namespace, QueueKind, SpscKind, Verdict, names_of_channels,
        namespace, open_channel,
        sealed::{Attached, Page, Part},
    },
    wait::Waiting,
};
use ipc_core::{
    Batch, BatchReceiver, Capabilities, Channel, ChannelError, ChannelInfo, ChannelName, EndMark, Loan,
    Message, OsError, Pollable, Receiver, RecvError, Rejected, SendError, Sender, Transport, Wait,
};
use std::{
    ops::{Deref, DerefMut},
    os::fd::BorrowedFd,
    path::PathBuf,
};

/// Channels in shared memory of whatever kind: one file each in one directory. What is made
/// is what the configuration says, a work queue unless it says something else; what is
/// opened is what is found.
///
/// Unless another directory is chosen, by [`Shm::at`] or the environment variable
/// `IPC_DIR`, it is `/dev/shm/ipc-UID`, which belongs to its user alone.
#[derive(Clone, Debug)]
pub struct Shm {
    namespace: Namespace,
}

impl Shm {
    namespace!();
}

impl From<Namespace> for Shm {
    fn from(namespace: Namespace) -> Self {
        Self { namespace }
    }
}

impl Default for Shm {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport for Shm {
    type Config = ShmConfig;
    type Channel = ShmChannel;

    const SCHEME: &'static str = "shm";
    const CAPABILITIES: Capabilities = MpmcKind::CAPABILITIES;

    fn create(&self, name: &ChannelName, config: &ShmConfig) -> Result<ShmChannel, ChannelError> {
        self.namespace.create(name, config).map(Into::into)
    }

    fn open(&self, name: &ChannelName) -> Result<ShmChannel, ChannelError> {
        self.namespace.open(name, None).map(Into::into)
    }

    fn open_or_create(&self, name: &ChannelName, config: &ShmConfig) -> Result<ShmChannel, ChannelError> {
        self.namespace.open_or_create(name, config).map(Into::into)
    }

    fn open_sender(&self, name: &ChannelName) -> Result<ShmSender, ChannelError> {
        sender(self.namespace.attach(name, None, sending)?)
    }

    fn open_receiver(&self, name: &ChannelName) -> Result<ShmReceiver, ChannelError> {
        receiver(self.namespace.attach(name, None, receiving)?)
    }

    names_of_channels!();
}

/// A channel of whatever kind. It counts as a user as long as it lives: nobody removes the
/// channel meanwhile.
#[derive(Debug)]
pub struct ShmChannel {
    anchored: Anchored,
}

impl ShmChannel {
    open_channel!();

    /// What kind of channel it is.
    pub fn kind(&self) -> Kind {
        self.anchored.header.kind
    }
}

impl From<Anchored> for ShmChannel {
    fn from(anchored: Anchored) -> Self {
        Self { anchored }
    }
}

impl Channel for ShmChannel {
    type Sender = ShmSender;
    type Receiver = ShmReceiver;

    fn sender(&self) -> Result<ShmSender, ChannelError> {
        let Part(role, seat) = sending(&self.anchored.header)?;
        sender(Attached(self.anchored.attach(role, seat)?))
    }

    fn receiver(&self) -> Result<ShmReceiver, ChannelError> {
        let Part(role, seat) = receiving(&self.anchored.header)?;
        receiver(Attached(self.anchored.attach(role, seat)?))
    }
}

fn sending(header: &Header) -> Result<Part, ChannelError> {
    Ok(match header.kind {
        Kind::Spsc => SpscKind::sending(Page(header)),
        Kind::Mpmc => MpmcKind::sending(Page(header)),
        Kind::Broadcast => BroadcastKind::sending(Page(header)),
        Kind::Latest => LatestKind::sending(Page(header)),
        Kind::Rpc => return Err(calls_only()),
        Kind::State => return Err(state_only()),
    })
}

fn sender(attached: Attached) -> Result<ShmSender, ChannelError> {
    Ok(match attached.0.header().kind {
        Kind::Spsc => ShmSender::Spsc(SpscKind::sender(attached)?),
        Kind::Mpmc => ShmSender::Mpmc(MpmcKind::sender(attached)?),
        Kind::Broadcast => ShmSender::Broadcast(BroadcastKind::sender(attached)?),
        Kind::Latest => ShmSender::Latest(LatestKind::sender(attached)?),
        Kind::Rpc => return Err(calls_only()),
        Kind::State => return Err(state_only()),
    })
}

fn receiving(header: &Header) -> Result<Part, ChannelError> {
    Ok(match header.kind {
        Kind::Spsc => SpscKind::receiving(Page(header)),
        Kind::Mpmc => MpmcKind::receiving(Page(header)),
        Kind::Broadcast => BroadcastKind::receiving(Page(header)),
        Kind::Latest => LatestKind::receiving(Page(header)),
        Kind::Rpc => return Err(calls_only()),
        Kind::State => return Err(state_only()),
    })
}

fn receiver(attached: Attached) -> Result<ShmReceiver, ChannelError> {
    Ok(match attached.0.header().kind {
        Kind::Spsc => ShmReceiver::Spsc(SpscKind::receiver(attached)?),
        Kind::Mpmc => ShmReceiver::Mpmc(MpmcKind::receiver(attached)?),
        Kind::Broadcast => ShmReceiver::Broadcast(BroadcastKind::receiver(attached)?),
        Kind::Latest => ShmReceiver::Latest(LatestKind::receiver(attached)?),
        Kind::Rpc => return Err(calls_only()),
        Kind::State => return Err(state_only()),
    })
}

/// Why a service has no senders and receivers.
fn state_only() -> ChannelError {
    ChannelError::InvalidConfig(
        "state is no channel: it is used by what made it (ipc_shm::sync, `ipc lock`)".into(),
    )
}

fn calls_only() -> ChannelError {
    ChannelError::Unsupported(
        "a channel of kind rpc has clients and servers, not senders and receivers: use `ipc call` and `ipc serve`, or `Rpc` in a program"
            .into(),
    )
}

/// Does the same with whichever it is.
macro_rules! each {
    ($any:ident, $value:expr, $one:ident => $result:expr) => {
        match $value {
            $any::Spsc($one) => $result,
            $any::Mpmc($one) => $result,
            $any::Broadcast($one) => $result,
            $any::Latest($one) => $result,
        }
    };
}

/// Does the same with whichever it is, and makes what comes of it one of `$to`.
macro_rules! map_each {
    ($any:ident, $value:expr, $one:ident => $to:ident($result:expr)) => {
        match $value {
            $any::Spsc($one) => $to::Spsc($result),
            $any::Mpmc($one) => $to::Mpmc($result),
            $any::Broadcast($one) => $to::Broadcast($result),
            $any::Latest($one) => $to::Latest($result),
        }
    };
}

/// The sending end of a channel of whatever kind.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShmSender {
    /// One of [`Kind::Spsc`].
    Spsc(SpscSender),
    /// One of [`Kind::Mpmc`].
    Mpmc(MpmcSender),
    /// One of [`Kind::Broadcast`].
    Broadcast(BroadcastPublisher),
    /// One of [`Kind::Latest`].
    Latest(LatestWriter),
}

impl ShmSender {
    /// Sets how this endpoint waits for room; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        each!(Self, self, sender => sender.set_waiting(waiting));
    }
}

impl Sender for ShmSender {
    type Loan<'a> = ShmLoan<'a>;

    #[inline]
    fn max_message_len(&self) -> usize {
        each!(Self, self, sender => sender.max_message_len())
    }

    #[inline]
    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        each!(Self, self, sender => sender.reserve(len, wait))
    }

    #[inline]
    fn reserve_now(&mut self, len: usize) -> Result<bool, SendError> {
        each!(Self, self, sender => sender.reserve_now(len))
    }

    #[inline]
    fn reserved(&mut self) -> ShmLoan<'_> {
        map_each!(Self, self, sender => ShmLoan(sender.reserved()))
    }
}

impl EndMark for ShmSender {
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        each!(Self, self, sender => sender.send_end(wait))
    }
}

/// Space for one message, in the channel itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShmLoan<'a> {
    /// One of [`Kind::Spsc`].
    Spsc(SpscLoan<'a>),
    /// One of [`Kind::Mpmc`].
    Mpmc(MpmcLoan<'a>),
    /// One of [`Kind::Broadcast`].
    Broadcast(BroadcastLoan<'a>),
    /// One of [`Kind::Latest`].
    Latest(LatestLoan<'a>),
}

impl Loan for ShmLoan<'_> {
    fn truncate(&mut self, len: usize) {
        each!(Self, self, loan => loan.truncate(len));
    }

    #[inline]
    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        macro_rules! commit {
            ($kind:ident, $loan:ident) => {
                $loan
                    .commit(wait)
                    .map_err(|Rejected { loan, error }| Rejected { loan: Self::$kind(loan), error })
            };
        }
        match self {
            Self::Spsc(loan) => commit!(Spsc, loan),
            Self::Mpmc(loan) => commit!(Mpmc, loan),
            Self::Broadcast(loan) => commit!(Broadcast, loan),
            Self::Latest(loan) => commit!(Latest, loan),
        }
    }
}

impl Deref for ShmLoan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        each!(Self, self, loan => loan)
    }
}

impl DerefMut for ShmLoan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        each!(Self, self, loan => loan)
    }
}

/// The receiving end of a channel of whatever kind.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShmReceiver {
    /// One of [`Kind::Spsc`].
    Spsc(SpscReceiver),
    /// One of [`Kind::Mpmc`].
    Mpmc(MpmcReceiver),
    /// One of [`Kind::Broadcast`].
    Broadcast(BroadcastSubscriber),
    /// One of [`Kind::Latest`].
    Latest(LatestReader),
}

impl ShmReceiver {
    /// Sets how this endpoint waits for messages; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        each!(Self, self, receiver => receiver.set_waiting(waiting));
    }
}

impl Receiver for ShmReceiver {
    type Message<'a> = ShmMessage<'a>;

    #[inline]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        each!(Self, self, receiver => receiver.advance(wait))
    }

    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        each!(Self, self, receiver => receiver.advance_now())
    }

    #[inline]
    fn held(&mut self) -> ShmMessage<'_> {
        map_each!(Self, self, receiver => ShmMessage(receiver.held()))
    }
}

impl BatchReceiver for ShmReceiver {
    type Batch<'a> = ShmBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        each!(Self, self, receiver => receiver.advance_batch(max_messages, wait))
    }

    fn held_batch(&mut self) -> ShmBatch<'_> {
        map_each!(Self, self, receiver => ShmBatch(receiver.held_batch()))
    }
}

impl Pollable for ShmReceiver {
    fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
        each!(Self, self, receiver => receiver.descriptor())
    }

    fn arm(&mut self) -> Result<bool, RecvError> {
        each!(Self, self, receiver => receiver.arm())
    }
}

/// A message lent by a [`ShmReceiver`].
#[derive(Debug)]
#[non_exhaustive]
pub enum ShmMessage<'a> {
    /// One of [`Kind::Spsc`].
    Spsc(SpscMessage<'a>),
    /// One of [`Kind::Mpmc`].
    Mpmc(MpmcMessage<'a>),
    /// One of [`Kind::Broadcast`].
    Broadcast(BroadcastMessage<'a>),
    /// One of [`Kind::Latest`].
    Latest(LatestMessage<'a>),
}

impl Message for ShmMessage<'_> {
    fn keep(self) {
        each!(Self, self, message => message.keep());
    }
}

impl Deref for ShmMessage<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        each!(Self, self, message => message)
    }
}

/// Messages lent together by a [`ShmReceiver`].
#[derive(Debug)]
#[non_exhaustive]
pub enum ShmBatch<'a> {
    /// Some of [`Kind::Spsc`].
    Spsc(SpscBatch<'a>),
    /// Some of [`Kind::Mpmc`].
    Mpmc(MpmcBatch<'a>),
    /// Some of [`Kind::Broadcast`].
    Broadcast(BroadcastBatch<'a>),
    /// Some of [`Kind::Latest`].
    Latest(LatestBatch<'a>),
}

impl Batch for ShmBatch<'_> {
    fn len(&self) -> usize {
        each!(Self, self, batch => batch.len())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        // One type for all: an option for each kind, of which one is there.
        let spsc = if let Self::Spsc(batch) = self { Some(batch.iter()) } else { None };
        let mpmc = if let Self::Mpmc(batch) = self { Some(batch.iter()) } else { None };
        let broadcast = if let Self::Broadcast(batch) = self { Some(batch.iter()) } else { None };
        let latest = if let Self::Latest(batch) = self { Some(batch.iter()) } else { None };
        let queues = spsc.into_iter().flatten().chain(mpmc.into_iter().flatten());
        queues.chain(broadcast.into_iter().flatten()).chain(latest.into_iter().flatten())
    }

    fn release(self, count: usize) {
        each!(Self, self, batch => batch.release(count));
    }
}
