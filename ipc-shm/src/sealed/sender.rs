//! The sending end: API → ring → line.

use super::{line::Line, memory::Shared};
use crate::{
    refusal,
    ring::{memory::Words, spsc::Writer},
    wait::Waiting,
};
use ipc_core::{EndMark, Loan, Rejected, SendError, Sender, Wait, copy_message};
use std::{
    ops::{Deref, DerefMut},
    slice,
};

/// The sending end of a sealed channel.
///
/// It writes to memory of its own that the peer can only read, so nothing that was written can
/// be changed by anybody else. What the peer says about how far it has come is checked; a peer
/// that says it has come further than it has loses messages.
#[derive(Debug)]
pub struct SealedSender {
    ring: Writer<Words>,
    max_message_len: usize,
    /// What is reserved: a length.
    reserved: Option<usize>,
    line: Line,
}

impl SealedSender {
    pub(super) fn new(line: Line, shared: Shared) -> Self {
        let max_message_len = shared.geometry.max_message_len();
        Self { ring: Writer::fresh(shared.words, shared.geometry), max_message_len, reserved: None, line }
    }

    /// Sets how this endpoint waits for room; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.line.waiting = waiting;
    }

    /// Whether a message of this length could be written now, as far as can be told without
    /// another look at the receiver.
    #[inline]
    fn is_ready_for(&self, len: usize) -> bool {
        len <= self.max_message_len && self.line.is_ours() && self.ring.has_room(len)
    }

    /// Sees to room for a message of this length. It comes here once in a ring's length at
    /// least, and so finds out that nobody receives any more.
    #[inline(never)]
    fn make_ready_for(&mut self, len: usize, wait: &Wait<'_>) -> Result<(), SendError> {
        refusal::check(len, self.max_message_len, self.line.is_ours())?;
        if let Some(gone) = self.line.gone_lately() {
            return Err(gone.into());
        }
        if self.ring.finds_room(len)? {
            return Ok(());
        }
        let ring = &mut self.ring;
        self.line.until(*wait, || Ok::<_, SendError>(ring.finds_room(len)?.then_some(())))
    }

    #[inline]
    fn commit(&mut self, len: usize) {
        self.reserved = None;
        self.ring.commit(len);
        self.line.wake();
    }

    /// Space for a payload, at the place that the ring gave for this length.
    #[inline]
    fn space(&mut self, len: usize) -> &mut [u8] {
        let bytes = self.ring.memory().bytes(self.ring.payload(), len);
        // SAFETY: mapped for writing as long as the sender lives, free, and written by nobody
        // else: the file is sealed against all other writers, so a hostile peer can do no more
        // than read there. The borrow of `self` keeps other slices away.
        unsafe { slice::from_raw_parts_mut(bytes.as_ptr(), len) }
    }
}

impl Sender for SealedSender {
    type Loan<'a> = SealedLoan<'a>;

    #[inline]
    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    // The fast path is `reserve_now`.
    #[inline(never)]
    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        self.reserved = None;
        self.make_ready_for(len, &wait)?;
        self.reserved = Some(len);
        Ok(())
    }

    #[inline]
    fn reserve_now(&mut self, len: usize) -> Result<bool, SendError> {
        let is_ready = self.is_ready_for(len);
        if is_ready {
            self.reserved = Some(len);
        }
        Ok(is_ready)
    }

    #[inline]
    fn reserved(&mut self) -> SealedLoan<'_> {
        if !self.line.is_ours() {
            // What was reserved before the fork is the parent's; the commit will say so.
            self.reserved = None;
        }
        SealedLoan { len: self.reserved.unwrap_or(0), sender: self }
    }

    // Without a reservation on the way.
    #[inline]
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        if !self.is_ready_for(message.len()) {
            self.make_ready_for(message.len(), &wait)?;
        }
        copy_message(self.space(message.len()), message);
        self.commit(message.len());
        Ok(())
    }
}

impl EndMark for SealedSender {
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        if !self.is_ready_for(0) {
            self.make_ready_for(0, &wait)?;
        }
        self.reserved = None;
        self.ring.commit_end();
        self.line.wake();
        Ok(())
    }
}

/// Space for one message, in the channel itself: memory of this process's own, to which the
/// peer can't write.
#[derive(Debug)]
pub struct SealedLoan<'a> {
    sender: &'a mut SealedSender,
    len: usize,
}

impl Loan for SealedLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if self.sender.reserved.is_some() {
            self.sender.reserved = Some(self.len);
        }
    }

    #[inline]
    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        // Only a loan that was never reserved can be refused, or one from before a fork.
        if self.sender.reserved.is_none() || !self.sender.line.is_ours() {
            if let Err(error) = self.sender.make_ready_for(0, &wait) {
                return Err(Rejected { loan: self, error });
            }
        }
        self.sender.commit(self.len);
        Ok(())
    }
}

impl Deref for SealedLoan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let bytes = self.sender.ring.memory().bytes(self.sender.ring.payload(), self.len);
        // SAFETY: as in `SealedSender::space`.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for SealedLoan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.sender.space(self.len)
    }
}
