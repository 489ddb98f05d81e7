//! The sending end: a connection, made when the first message is sent.

use super::{
    channel::Found,
    connection::{Connection, is_gone},
    packet::{HEADER_LEN, Header, Kind, LONGEST_INLINE, MAX_DESCRIPTORS},
    parcel::{Draft, Sealed},
};
use crate::wait::{Patience, Waiter, is_ready};
use ipc_core::{
    DescriptorSender, Loan, OsError, Rejected, SendError, Sender, TooManyDescriptors, Unready, Wait,
};
use nix::{errno::Errno, poll::PollFlags};
use std::{
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    process,
    sync::Arc,
};

/// The sending end of a channel.
///
/// It connects with the first message, and again after it was told that the receiver died.
/// A loan of more than 64 KiB is memory that the receiver gets to read in place.
///
/// After a `fork` only one of the two processes may use it.
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
    space: Space,
    /// How much of it is reserved.
    reserved_len: usize,
    attached: Vec<OwnedFd>,
    waiter: Waiter,
    pid: u32,
}

/// Where a loan is.
#[derive(Debug)]
enum Space {
    /// In memory that grows to the longest so far.
    Inline(Vec<u8>),
    /// In a parcel.
    Draft(Draft),
}

impl UnixSender {
    pub(crate) fn new(found: Arc<Found>) -> Self {
        Self {
            found,
            connection: None,
            space: Space::Inline(Vec::new()),
            reserved_len: 0,
            attached: Vec::new(),
            waiter: Waiter::default(),
            pid: process::id(),
        }
    }

    fn check_len(&self, len: usize) -> Result<(), SendError> {
        let max = self.found.settings.max_message_len;
        if len > max { Err(SendError::TooLong { len, max }) } else { Ok(()) }
    }

    /// How long a message may be to go in its packet, over a connection that is made if need
    /// be.
    fn connect(&mut self, wait: Wait<'_>) -> Result<usize, SendError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.longest_inline);
        }
        let connection = Connection::open(&self.found, &mut self.waiter, wait)?;
        Ok(self.connection.insert(connection).longest_inline)
    }

    /// Sends a packet, waiting for room as long as `wait` says.
    #[inline]
    fn push(&mut self, packet: Packet<'_>, wait: Wait<'_>) -> Result<(), SendError> {
        let Self { connection, waiter, attached, .. } = self;
        let Some(open) = connection.as_ref() else { return Err(SendError::PeerDied) };
        let result = if attached.is_empty() && packet.parcel.is_none() {
            transmit(open, waiter, packet, &[], wait)
        } else {
            let attached = attached.iter().map(AsRawFd::as_raw_fd);
            let descriptors: Vec<RawFd> = packet.parcel.into_iter().chain(attached).collect();
            transmit(open, waiter, packet, &descriptors, wait)
        };
        match result {
            Ok(()) => {
                attached.clear();
                Ok(())
            }
            Err(error) => {
                if matches!(error, SendError::PeerDied) {
                    *connection = None;
                }
                Err(error)
            }
        }
    }
}

/// What is to be sent.
#[derive(Clone, Copy)]
struct Packet<'a> {
    header: Header,
    inline: &'a [u8],
    parcel: Option<RawFd>,
}

impl<'a> Packet<'a> {
    fn inline(message: &'a [u8]) -> Self {
        let header = Header { kind: Kind::Inline, len: message.len() as u64 };
        Self { header, inline: message, parcel: None }
    }

    fn parcel(sealed: &Sealed, len: usize) -> Self {
        let header = Header { kind: Kind::Parcel, len: len as u64 };
        Self { header, inline: &[], parcel: Some(sealed.as_fd().as_raw_fd()) }
    }
}

#[inline]
fn transmit(
    connection: &Connection,
    waiter: &mut Waiter,
    packet: Packet<'_>,
    descriptors: &[RawFd],
    wait: Wait<'_>,
) -> Result<(), SendError> {
    let mut gone = false;
    let attempt = |patience| {
        let Packet { header, inline, .. } = packet;
        connection.send(header, inline, descriptors, patience == Patience::Endless).map_err(|errno| {
            gone = is_gone(errno);
            Unready::Os(explain(errno))
        })
    };
    waiter.until(connection.as_fd(), PollFlags::POLLOUT, wait, attempt).map_err(|unready| match unready {
        Unready::Os(_) if gone => SendError::PeerDied,
        other => other.into(),
    })
}

/// The words for the limits that a packet can meet.
fn explain(errno: Errno) -> OsError {
    match errno {
        Errno::ETOOMANYREFS => OsError::new(
            "sendmsg",
            std::io::Error::other(
                "this user has as many descriptors under way as RLIMIT_NOFILE allows: \
                 let the receiver catch up, or raise it with `ulimit -n` (`ipc doctor` explains the limit)",
            ),
        ),
        other => OsError::new("sendmsg", other),
    }
}

/// Why a parcel could not be made.
fn no_parcel(errno: Errno) -> SendError {
    SendError::Os(OsError::new("memfd_create", errno))
}

impl Sender for UnixSender {
    type Loan<'a> = UnixLoan<'a>;

    fn max_message_len(&self) -> usize {
        self.found.settings.max_message_len
    }

    /// Never waits: it is the commit that needs a receiver and room.
    fn reserve(&mut self, len: usize, _wait: Wait<'_>) -> Result<(), SendError> {
        self.check_len(len)?;
        self.reserved_len = 0;
        let longest_inline =
            self.connection.as_ref().map_or(LONGEST_INLINE - HEADER_LEN, |open| open.longest_inline);
        match (NonZeroUsize::new(len).filter(|_| len > longest_inline), &mut self.space) {
            (Some(len), space) => *space = Space::Draft(Draft::new(len).map_err(no_parcel)?),
            (None, Space::Inline(space)) => space.resize(space.len().max(len), 0),
            (None, space) => *space = Space::Inline(vec![0; len]),
        }
        self.reserved_len = len;
        Ok(())
    }

    fn reserved(&mut self) -> UnixLoan<'_> {
        UnixLoan { sender: self }
    }

    /// Straight from the caller's memory, without a copy of our own.
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.check_len(message.len())?;
        self.reserved_len = 0;
        if message.len() <= self.connect(wait)? {
            return self.push(Packet::inline(message), wait);
        }
        // Not copied before there is room.
        self.await_room(wait)?;
        let sealed = Sealed::copy_of(message).map_err(no_parcel)?;
        self.push(Packet::parcel(&sealed, message.len()), wait)
    }
}

impl UnixSender {
    /// Waits until a packet without bytes of its own can be sent.
    fn await_room(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        self.connect(wait)?;
        let Self { connection, waiter, .. } = self;
        let Some(open) = connection.as_ref() else { return Err(SendError::PeerDied) };
        let socket = open.as_fd();
        let ready = |_| is_ready(socket, PollFlags::POLLOUT).map(|ready| ready.then_some(()));
        waiter.until(socket, PollFlags::POLLOUT, wait, ready).map_err(SendError::from)
    }

    /// Sends the draft that was lent; on failure it is lent again.
    fn push_draft(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        self.await_room(wait)?;
        let len = self.reserved_len;
        let Space::Draft(draft) = std::mem::replace(&mut self.space, Space::Inline(Vec::new())) else {
            return Ok(());
        };
        // Nothing stands in the way: the memory is ours alone, and nothing maps it any more.
        let sealed = draft.seal(len).map_err(no_parcel)?;
        let sent = self.push(Packet::parcel(&sealed, len), wait);
        if sent.is_err() {
            let len = NonZeroUsize::new(len).ok_or_else(|| no_parcel(Errno::EINVAL))?;
            self.space = Space::Draft(sealed.reopen(len).map_err(no_parcel)?);
        }
        sent
    }

    fn commit(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        let longest_inline = self.connect(wait)?;
        let len = self.reserved_len;
        match &self.space {
            // The connection was made after the loan, and takes less.
            Space::Inline(space) if len > longest_inline => {
                let sealed = Sealed::copy_of(&space[..len]).map_err(no_parcel)?;
                self.push(Packet::parcel(&sealed, len), wait)?;
            }
            Space::Inline(_) => {
                // Taken out for the call, which needs the rest of the sender.
                let space = std::mem::replace(&mut self.space, Space::Inline(Vec::new()));
                let bytes = if let Space::Inline(space) = &space { &space[..len] } else { &[] };
                let sent = self.push(Packet::inline(bytes), wait);
                self.space = space;
                sent?;
            }
            // What was shortened to little goes in the packet.
            Space::Draft(draft) if len <= longest_inline => {
                let short = draft.bytes()[..len].to_vec();
                self.push(Packet::inline(&short), wait)?;
            }
            Space::Draft(_) => self.push_draft(wait)?,
        }
        self.reserved_len = 0;
        // A draft is another receiver's now, or no longer wanted.
        if let Space::Draft(_) = self.space {
            self.space = Space::Inline(Vec::new());
        }
        Ok(())
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
        if self.pid == process::id() {
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
        match self.sender.commit(wait) {
            Ok(()) => Ok(()),
            Err(error) => Err(Rejected { loan: self, error }),
        }
    }
}

impl Deref for UnixLoan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let len = self.sender.reserved_len;
        match &self.sender.space {
            Space::Inline(space) => &space[..len],
            Space::Draft(draft) => &draft.bytes()[..len],
        }
    }
}

impl DerefMut for UnixLoan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.sender.reserved_len;
        match &mut self.sender.space {
            Space::Inline(space) => &mut space[..len],
            Space::Draft(draft) => &mut draft.bytes_mut()[..len],
        }
    }
}
