//! The sending end: API → ring → bell.

use crate::{
    ring::{memory::Words, spsc::Writer},
    segment::{Attachment, RECEIVER},
    wait::{Bed, Bell, Waiter, Waiting},
};
use ipc_core::{ChannelError, EndMark, Loan, Rejected, SendError, Sender, Wait};
use std::{
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    slice,
};

/// The sending end of a channel in shared memory.
///
/// There is one at a time. When it is dropped, or its process ends in whatever way, the
/// next one goes on where it left off.
#[derive(Debug)]
pub struct SpscSender {
    ring: Writer<Words>,
    max_message_len: usize,
    /// One more than the reserved length, so that it is a single word: stores are what a
    /// small message costs.
    reserved: Option<NonZeroUsize>,
    bell: Bell,
    waiter: Waiter,
    /// Last: the ring's reference to the memory must be gone before the role is.
    attachment: Attachment,
}

impl SpscSender {
    pub(crate) fn new(attachment: Attachment) -> Result<Self, ChannelError> {
        let geometry = attachment.layout().spsc();
        Ok(Self {
            ring: Writer::attach(attachment.words(), geometry)?,
            max_message_len: geometry.max_message_len(),
            reserved: None,
            bell: Bell::of(&attachment, attachment.layout().entry(RECEIVER).asleep()),
            waiter: Waiter::new(&attachment, Bed::Own(attachment.entry().asleep())),
            attachment,
        })
    }

    /// Sets how this endpoint waits for room; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiter.waiting = waiting;
    }

    /// Whether a message of this length could be written now.
    #[inline]
    fn is_ready_for(&mut self, len: usize) -> Result<bool, SendError> {
        if len > self.max_message_len {
            return Err(SendError::TooLong { len, max: self.max_message_len });
        }
        if !self.attachment.is_ours() {
            return Err(SendError::Forked);
        }
        Ok(self.ring.has_room(len)?)
    }

    /// Sends what was written to the reserved space.
    #[inline]
    fn commit(&mut self, len: usize) {
        self.reserved = None;
        self.ring.commit(len);
        self.bell.ring(self.ring.memory());
    }

    #[cold]
    #[inline(never)]
    fn wait_for_room(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        let ring = &mut self.ring;
        self.waiter.until(&self.attachment, wait, || Ok::<_, SendError>(ring.has_room(len)?.then_some(())))
    }
}

impl Sender for SpscSender {
    type Loan<'a> = SpscLoan<'a>;

    #[inline]
    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    #[inline]
    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        if !self.reserve_now(len)? {
            self.wait_for_room(len, wait)?;
            self.reserved = NonZeroUsize::new(len + 1);
        }
        Ok(())
    }

    #[inline]
    fn reserve_now(&mut self, len: usize) -> Result<bool, SendError> {
        let ready = self.is_ready_for(len);
        self.reserved = if let Ok(true) = ready { NonZeroUsize::new(len + 1) } else { None };
        ready
    }

    #[inline]
    fn reserved(&mut self) -> SpscLoan<'_> {
        if !self.attachment.is_ours() {
            // What was reserved before the fork is the parent's; the commit will say so.
            self.reserved = None;
        }
        SpscLoan { len: self.reserved.map_or(0, |len| len.get() - 1), sender: self }
    }
}

impl EndMark for SpscSender {
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        self.reserve(0, wait)?;
        self.reserved = None;
        self.ring.commit_end();
        self.bell.ring(self.ring.memory());
        Ok(())
    }
}

/// Space for one message, in the channel itself.
#[derive(Debug)]
pub struct SpscLoan<'a> {
    sender: &'a mut SpscSender,
    len: usize,
}

impl Loan for SpscLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        // Only a loan that was never reserved can be refused, or one from before a fork.
        if self.sender.reserved.is_none() || !self.sender.attachment.is_ours() {
            if let Err(error) = self.sender.reserve(0, wait) {
                return Err(Rejected { loan: self, error });
            }
        }
        self.sender.commit(self.len);
        Ok(())
    }
}

impl Deref for SpscLoan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let bytes = self.sender.ring.memory().bytes(self.sender.ring.payload(), self.len);
        // SAFETY: mapped as long as the sender lives, and free: the room was reserved, and
        // only this endpoint, the ring's one sender, writes there. A conforming receiver
        // doesn't read it before the commit; a hostile one is the sealed mode's matter.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for SpscLoan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let bytes = self.sender.ring.memory().bytes(self.sender.ring.payload(), self.len);
        // SAFETY: as in `deref`; the borrow of `self` keeps other slices away.
        unsafe { slice::from_raw_parts_mut(bytes.as_ptr(), self.len) }
    }
}
