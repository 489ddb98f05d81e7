//! The sending end: a connection, made when the first message is sent.

use super::{
    channel::Found,
    connection::{Connection, Failure},
    packet::{HEADER_LEN, Header, Kind, MAX_DESCRIPTORS},
    parcel::Sealed,
};
use crate::{
    at_fork, limit,
    wait::{Patience, Waiter, is_ready},
};
use ipc_core::{
    DescriptorSender, Loan, OsError, Rejected, SendError, Sender, TooManyDescriptors, Unready, Wait,
};
use nix::{errno::Errno, poll::PollFlags};
use std::{
    ops::{Deref, DerefMut},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

/// The sending end of a channel.
///
/// It connects with the first message, and again after it was told that the receiver died.
/// A message of more than 64 KiB is copied once, into sealed memory that the receiver reads in
/// place.
///
/// After a `fork` it is the parent's, and goes with it: the child is told
/// [`Forked`](SendError::Forked).
///
/// It has no priorities; so this doesn't compile:
///
/// ```compile_fail,E0277
/// fn send_urgently(_: impl ipc_mq::PrioritySender) {}
/// # fn sender() -> ipc_mq::UnixSender { unimplemented!() }
/// send_urgently(sender());
/// ```
#[derive(Debug)]
pub struct UnixSender {
    found: Arc<Found>,
    connection: Option<Connection>,
    /// Room for a header, and behind it for the longest loan so far.
    space: Vec<u8>,
    /// How much of it is reserved.
    reserved_len: usize,
    attached: Vec<OwnedFd>,
    waiter: Waiter,
    generation: u32,
}

impl UnixSender {
    pub(crate) fn new(found: Arc<Found>) -> Self {
        Self {
            found,
            connection: None,
            space: vec![0; HEADER_LEN],
            reserved_len: 0,
            attached: Vec::new(),
            waiter: Waiter::default(),
            generation: at_fork::begin(),
        }
    }

    /// Makes room for a message of this length, and for the header before it.
    fn make_room(&mut self, len: usize) -> Result<(), OsError> {
        let missing = (HEADER_LEN + len).saturating_sub(self.space.len());
        if missing > 0 {
            let refused = |_| OsError::new("malloc", std::io::ErrorKind::OutOfMemory);
            self.space.try_reserve(missing).map_err(refused)?;
            self.space.resize(HEADER_LEN + len, 0);
        }
        Ok(())
    }

    /// Whether a message of this length can be sent from here at all.
    #[inline]
    fn check(&self, len: usize) -> Result<(), SendError> {
        if self.generation != at_fork::generation() {
            return Err(SendError::Forked);
        }
        let max = self.found.settings.max_message_len;
        if len > max { Err(SendError::TooLong { len, max }) } else { Ok(()) }
    }
}

/// A message up to this length is copied behind its header, which costs less than to have the kernel
/// put it together, in bytes.
const LONGEST_COPIED: usize = 4096;

/// A message where it is.
enum Source<'a> {
    /// Behind room for a header.
    Framed(&'a mut [u8]),
    Bare(&'a [u8]),
}

impl Source<'_> {
    fn message(&self) -> &[u8] {
        match self {
            Self::Framed(framed) => &framed[HEADER_LEN..],
            Self::Bare(message) => message,
        }
    }
}

/// What sending needs of a sender besides the message, which may be in one of its fields.
struct Way<'a> {
    found: &'a Found,
    connection: &'a mut Option<Connection>,
    waiter: &'a mut Waiter,
    attached: &'a mut Vec<OwnedFd>,
}

impl Way<'_> {
    /// Sends a message, over a connection that is made if need be.
    #[inline]
    fn send(&mut self, source: Source<'_>, wait: Wait<'_>) -> Result<(), SendError> {
        let Self { found, connection, waiter, .. } = self;
        let open = match connection {
            Some(open) => open,
            None => connection.insert(Connection::open(found, waiter, wait)?),
        };
        let message = source.message();
        let len = message.len();
        if open.takes_inline(len)? {
            let header = Header { kind: Kind::Inline, len: len as u64 };
            return match source {
                Source::Framed(framed) if self.attached.is_empty() => {
                    framed[..HEADER_LEN].copy_from_slice(&header.to_bytes());
                    self.push(Packet::Framed(framed), wait)
                }
                source => self.push(Packet::Parts { header, inline: source.message(), parcel: None }, wait),
            };
        }
        // Not copied before there is room.
        self.await_room(wait)?;
        let sealed = Sealed::copy_of(message)?;
        let header = Header { kind: Kind::Parcel, len: len as u64 };
        let parcel = Some(sealed.as_fd().as_raw_fd());
        self.push(Packet::Parts { header, inline: &[], parcel }, wait)
    }

    /// Waits until a packet without bytes of its own can be sent.
    fn await_room(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        let Some(open) = self.connection.as_ref() else { return Err(SendError::PeerDied) };
        let socket = open.as_fd();
        let ready = |_| is_ready(socket, PollFlags::POLLOUT).map(|ready| ready.then_some(()));
        self.waiter.until(socket, PollFlags::POLLOUT, wait, ready).map_err(SendError::from)
    }

    /// Sends a packet, waiting for room as long as `wait` says.
    #[inline]
    fn push(&mut self, packet: Packet<'_>, wait: Wait<'_>) -> Result<(), SendError> {
        let Self { connection, waiter, attached, .. } = self;
        let Some(open) = connection.as_ref() else { return Err(SendError::PeerDied) };
        let result = match packet {
            Packet::Framed(framed) => {
                transmit(open, waiter, wait, |open, may_wait| open.send_framed(framed, may_wait))
            }
            Packet::Parts { header, inline, parcel } => {
                let attached = attached.iter().map(AsRawFd::as_raw_fd);
                let descriptors: Vec<RawFd> = parcel.into_iter().chain(attached).collect();
                transmit(open, waiter, wait, |open, may_wait| {
                    open.send(header, inline, &descriptors, may_wait)
                })
            }
        };
        match &result {
            Ok(()) => attached.clear(),
            Err(SendError::PeerDied) => **connection = None,
            Err(_) => {}
        }
        result
    }
}

/// What is to be sent.
#[derive(Clone, Copy)]
enum Packet<'a> {
    /// The header and the message behind it; no descriptors.
    Framed(&'a [u8]),
    Parts {
        header: Header,
        inline: &'a [u8],
        parcel: Option<RawFd>,
    },
}

#[inline]
fn transmit(
    connection: &Connection,
    waiter: &mut Waiter,
    wait: Wait<'_>,
    send: impl Fn(&Connection, bool) -> Result<Option<()>, Failure>,
) -> Result<(), SendError> {
    let mut gone = false;
    let attempt = |patience| {
        send(connection, patience == Patience::Endless).map_err(|failure| {
            gone = failure.is_gone();
            Unready::Os(explain(failure))
        })
    };
    waiter.until(connection.as_fd(), PollFlags::POLLOUT, wait, attempt).map_err(|unready| match unready {
        Unready::Os(_) if gone => SendError::PeerDied,
        other => other.into(),
    })
}

/// The words for the limits that a packet can meet.
fn explain(Failure { call, errno }: Failure) -> OsError {
    match errno {
        Errno::ETOOMANYREFS => {
            let what = "this user has as many descriptors under way as one process may have";
            limit::failure(call, what, limit::DESCRIPTORS, "let the receiver catch up")
        }
        other => OsError::new(call, other),
    }
}

impl Sender for UnixSender {
    type Loan<'a> = UnixLoan<'a>;

    fn max_message_len(&self) -> usize {
        self.found.settings.max_message_len
    }

    /// Never waits: it is the commit that needs a receiver and room.
    fn reserve(&mut self, len: usize, _wait: Wait<'_>) -> Result<(), SendError> {
        self.reserved_len = 0;
        self.check(len)?;
        self.make_room(len)?;
        self.reserved_len = len;
        Ok(())
    }

    fn reserved(&mut self) -> UnixLoan<'_> {
        UnixLoan { sender: self }
    }

    /// From the caller's memory; short ones are copied behind their header.
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.check(message.len())?;
        self.reserved_len = 0;
        let is_short = message.len() <= LONGEST_COPIED;
        if is_short {
            self.make_room(message.len())?;
        }
        let Self { found, connection, waiter, attached, space, .. } = self;
        let source = if is_short {
            let framed = &mut space[..HEADER_LEN + message.len()];
            framed[HEADER_LEN..].copy_from_slice(message);
            Source::Framed(framed)
        } else {
            Source::Bare(message)
        };
        Way { found, connection, waiter, attached }.send(source, wait)
    }
}

impl DescriptorSender for UnixSender {
    const MAX_DESCRIPTORS: usize = MAX_DESCRIPTORS;

    fn attach(&mut self, descriptor: OwnedFd) -> Result<(), TooManyDescriptors> {
        if self.attached.len() == MAX_DESCRIPTORS {
            return Err(TooManyDescriptors { descriptor, max: MAX_DESCRIPTORS });
        }
        self.attached.push(descriptor);
        Ok(())
    }
}

impl Drop for UnixSender {
    fn drop(&mut self) {
        // The copy in a child process has no say.
        if self.generation == at_fork::generation() {
            if let Some(connection) = &self.connection {
                connection.farewell();
            }
        }
    }
}

/// Space for one message, the endpoint's own until it is committed.
#[derive(Debug)]
pub struct UnixLoan<'a> {
    sender: &'a mut UnixSender,
}

impl Loan for UnixLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.sender.reserved_len = self.sender.reserved_len.min(len);
    }

    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        if let Err(error) = self.sender.check(self.sender.reserved_len) {
            return Err(Rejected { loan: self, error });
        }
        let UnixSender { found, connection, waiter, attached, space, reserved_len, .. } = &mut *self.sender;
        match (Way { found, connection, waiter, attached })
            .send(Source::Framed(&mut space[..HEADER_LEN + *reserved_len]), wait)
        {
            Ok(()) => {
                *reserved_len = 0;
                Ok(())
            }
            Err(error) => Err(Rejected { loan: self, error }),
        }
    }
}

impl Deref for UnixLoan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.sender.space[HEADER_LEN..HEADER_LEN + self.sender.reserved_len]
    }
}

impl DerefMut for UnixLoan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.sender.space[HEADER_LEN..HEADER_LEN + self.sender.reserved_len]
    }
}
