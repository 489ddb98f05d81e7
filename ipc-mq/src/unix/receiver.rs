//! The receiving end: messages of all senders, each sender's in order.

use super::{
    channel::Found,
    listener::{Event, Listener},
    packet::{HEADER_LEN, LONGEST_INLINE},
    store::{Held, Tag, bytes},
    sys::Passed,
};
use crate::{
    store::BATCH_BYTES,
    wait::{Patience, Waiter, is_ready},
};
use ipc_core::{
    Batch, BatchReceiver, ChannelError, Credentials, DescriptorReceiver, Message, OsError, PeerCredentials,
    Pollable, Receiver, RecvError, Unwinding, Wait,
};
use nix::poll::PollFlags;
use std::{
    ops::Deref,
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

/// The receiving end of a channel.
///
/// What it holds lives in its own memory, or in pages that nobody can change any more. When
/// it is dropped, or its process dies, what its senders had sent is gone with the
/// connections, and they are told.
///
/// After a `fork` it is the parent's, and goes with it: the child is told
/// [`Forked`](RecvError::Forked).
#[derive(Debug)]
pub struct UnixReceiver {
    listener: Listener,
    held: Held,
    waiter: Waiter,
    /// What ended a batch, told when nothing is held: it may not come again.
    behind_batch: Option<RecvError>,
}

impl UnixReceiver {
    pub(crate) fn open(found: &Found) -> Result<Self, ChannelError> {
        let listener = Listener::open(found)?;
        let held = Held::with_prefix(HEADER_LEN, found.settings.max_message_len.min(LONGEST_INLINE));
        Ok(Self { listener, held, waiter: Waiter::default(), behind_batch: None })
    }

    /// Whether [`advance`](Receiver::advance) is to say
    /// [`PeerDied`](RecvError::PeerDied) when a sender's connection ends without a farewell,
    /// once for each, behind its last message. Off to begin with: the others go on. A sender
    /// that is dropped says farewell, unless its channel is full at that moment.
    pub fn report_deaths(&mut self, report: bool) {
        self.listener.reports_deaths = report;
    }

    /// Who is connected now, as far as it was taken in: receiving does that.
    pub fn peers(&self) -> impl Iterator<Item = Credentials> {
        self.listener.peers()
    }

    /// Takes one more message, in addition to those held.
    #[inline]
    fn pull(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let Self { listener, held, waiter, behind_batch } = self;
        if let Some(error) = behind_batch.take() {
            return Err(error);
        }
        // Given away for the wait: an attempt may have to change it.
        let attempt = |listener: &mut Listener, patience| listener.next(held, patience == Patience::Endless);
        match waiter.until_of(listener, PollFlags::POLLIN, wait, attempt)? {
            Event::Message => Ok(()),
            Event::Death => Err(RecvError::PeerDied),
        }
    }
}

impl crate::wait::Watched for Listener {
    fn watched(&self) -> BorrowedFd<'_> {
        self.descriptor()
    }

    fn watched_besides(&self) -> Option<BorrowedFd<'_>> {
        self.favourite()
    }

    fn longest_sleep(&self) -> Option<Duration> {
        self.longest_sleep()
    }
}

impl Receiver for UnixReceiver {
    type Message<'a> = UnixMessage<'a>;

    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if !self.listener.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.held.is_empty() { self.pull(wait) } else { Ok(()) }
    }

    fn held(&mut self) -> UnixMessage<'_> {
        assert!(!self.held.is_empty(), "held() without a successful advance()");
        UnixMessage { held: &mut self.held, release: true, unwinding: Unwinding::watch() }
    }
}

/// A call takes at most 1024 messages, or 4 MiB of them: senders may send more while it does.
impl BatchReceiver for UnixReceiver {
    type Batch<'a> = UnixBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        let bound = self.held.bound(max_messages, usize::MAX);
        self.advance(wait)?;
        let len_in_pages = |held: &Held| held.last_tag().map_or(0, Tag::len_in_pages);
        let mut bytes_in_pages = len_in_pages(&self.held);
        while self.held.is_below(bound) && bytes_in_pages < BATCH_BYTES && self.behind_batch.is_none() {
            match self.pull(Wait::Never) {
                Ok(()) => bytes_in_pages += len_in_pages(&self.held),
                Err(RecvError::WouldBlock) => break,
                // It would hide what is held.
                Err(error) => self.behind_batch = Some(error),
            }
        }
        Ok(self.held.len())
    }

    fn held_batch(&mut self) -> UnixBatch<'_> {
        UnixBatch { held: &mut self.held }
    }
}

/// The descriptor of an `epoll` that watches all senders, readable while one of them has
/// something or a new one is at the door.
impl Pollable for UnixReceiver {
    fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
        if !self.listener.is_ours() {
            return Err(OsError::new("epoll_create1", std::io::Error::other(RecvError::Forked)));
        }
        self.listener.watch_all()?;
        Ok(self.listener.descriptor())
    }

    fn arm(&mut self) -> Result<bool, RecvError> {
        if !self.listener.is_ours() {
            return Err(RecvError::Forked);
        }
        if !self.held.is_empty() {
            return Ok(true);
        }
        self.listener.watch_all()?;
        // Takes in who is at the door, so that only messages make it readable.
        match self.pull(Wait::Never) {
            Ok(()) => Ok(true),
            Err(RecvError::WouldBlock) => Ok(is_ready(self.listener.descriptor(), PollFlags::POLLIN)?),
            Err(error) => Err(error),
        }
    }
}

impl PeerCredentials for UnixReceiver {
    fn credentials_of(message: &UnixMessage<'_>) -> Credentials {
        message.held.first_tag().credentials
    }
}

impl DescriptorReceiver for UnixReceiver {
    fn take_descriptors(message: &mut UnixMessage<'_>) -> Vec<OwnedFd> {
        let Some(extras) = &mut message.held.first_tag_mut().extras else { return Vec::new() };
        extras.descriptors.drain(..).map(Passed::into_inner).collect()
    }
}

/// A message lent by a [`UnixReceiver`]. Dropping it releases it.
#[derive(Debug)]
pub struct UnixMessage<'a> {
    held: &'a mut Held,
    release: bool,
    unwinding: Unwinding,
}

impl Message for UnixMessage<'_> {
    fn keep(mut self) {
        self.release = false;
    }
}

impl Deref for UnixMessage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        bytes(self.held.first(), self.held.first_tag())
    }
}

impl Drop for UnixMessage<'_> {
    fn drop(&mut self) {
        if self.release && !self.unwinding.has_begun() {
            self.held.release(1);
        }
    }
}

/// Messages lent together by a [`UnixReceiver`].
#[derive(Debug)]
pub struct UnixBatch<'a> {
    held: &'a mut Held,
}

impl Batch for UnixBatch<'_> {
    fn len(&self) -> usize {
        self.held.len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.held.iter_tagged().map(|(inline, tag)| bytes(inline, tag))
    }

    fn release(self, count: usize) {
        self.held.release(count);
    }
}
