//! The sending end: API → ring → bell.

use crate::{
    kind::WhenFull,
    refusal,
    ring::{
        memory::{Words, copy_message},
        spsc::Writer,
    },
    segment::{Attachment, RECEIVER},
    wait::{Bed, Bell, Waiter, Waiting},
};
use ipc_core::{BatchSender, ChannelError, EndMark, Loan, Rejected, SendError, Sender, Wait};
use std::{
    ops::{Deref, DerefMut},
    slice,
};

/// How often a sender that meets a ring nearly full stands back, if it stays so.
const MOST_STAND_BACKS: u32 = 2;

/// The number of no message.
const NOTHING: u64 = u64::MAX;

/// The sending end of a channel in shared memory.
///
/// There is one at a time. When it is dropped, or its process ends in whatever way, the
/// next one goes on where it left off.
#[derive(Debug)]
pub struct SpscSender {
    ring: Writer<Words>,
    max_message_len: usize,
    /// The number of the message that a reservation was made for, and the length. Any other
    /// number than the next one's is no reservation: to send undoes one without a store, and
    /// stores are what a small message costs.
    reserved_for: u64,
    reserved_len: usize,
    when_full: WhenFull,
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
            reserved_for: NOTHING,
            reserved_len: 0,
            when_full: attachment.header().geometry.when_full,
            bell: Bell::of(&attachment, attachment.layout().entry(RECEIVER).asleep()),
            waiter: Waiter::new(&attachment, Bed::Own(attachment.entry().asleep())),
            attachment,
        })
    }

    /// Our part in the segment.
    pub(crate) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Sets how this endpoint waits for room; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiter.waiting = waiting;
    }

    /// Whether a message of this length could be written now, as far as can be told without
    /// another look at the receiver.
    #[inline]
    fn is_ready_for(&self, len: usize) -> bool {
        len <= self.max_message_len && self.attachment.is_ours() && self.ring.has_room(len)
    }

    /// Sees to room for a message of this length. What `wait` says is several words, and by
    /// value they would be copied before it is known that they are needed.
    #[inline(never)]
    fn make_ready_for(&mut self, len: usize, wait: &Wait<'_>) -> Result<(), SendError> {
        refusal::check(len, self.max_message_len, self.attachment.is_ours())?;
        let wait = self.when_full.limit(*wait);
        let mut has_room = self.ring.finds_room(len)?;
        for _ in 0..MOST_STAND_BACKS {
            if !self.ring.is_nearly_full() || !self.waiter.stands_back(&wait) {
                break;
            }
            has_room = self.ring.finds_room(len)?;
        }
        if has_room {
            return Ok(());
        }
        let ring = &mut self.ring;
        self.waiter.until(&self.attachment, wait, || Ok::<_, SendError>(ring.finds_room(len)?.then_some(())))
    }

    #[inline(never)]
    fn send_unprepared(&mut self, message: &[u8], wait: &Wait<'_>) -> Result<(), SendError> {
        let len = message.len();
        if !self.is_ready_for(len) {
            self.make_ready_for(len, wait)?;
        }
        self.ring.clear_for(len);
        self.write(message);
        match self.ring.is_clear_for(len) {
            true => self.ring.commit_clear(len),
            false => self.ring.commit(len),
        }
        self.bell.ring(self.ring.memory());
        Ok(())
    }

    /// Writes a message to the space that is next.
    #[inline]
    fn write(&mut self, message: &[u8]) {
        self.ring.expect_message(message.len());
        let payload = self.ring.payload();
        copy_message(self.space(payload, message.len()), message);
    }

    #[inline]
    fn set_reserved(&mut self, len: usize) {
        self.ring.lend();
        (self.reserved_for, self.reserved_len) = (self.ring.sent_messages(), len);
    }

    /// The length that is reserved.
    #[inline]
    fn reserved_len(&self) -> Option<usize> {
        (self.reserved_for == self.ring.sent_messages()).then_some(self.reserved_len)
    }

    /// Sends what was written to the space that is next.
    #[inline]
    fn commit(&mut self, len: usize) {
        self.ring.commit(len);
        self.bell.ring(self.ring.memory());
    }

    /// Space for a payload, at an offset that the ring gave for this length.
    #[inline]
    fn space(&mut self, payload: usize, len: usize) -> &mut [u8] {
        let bytes = self.ring.memory().bytes(payload, len);
        // SAFETY: mapped as long as the sender lives, and free: there was room for it, and
        // only this endpoint, the ring's one sender, writes there. A conforming receiver
        // doesn't read it before the commit; a hostile one is the sealed mode's matter. The
        // borrow of `self` keeps other slices away.
        unsafe { slice::from_raw_parts_mut(bytes.as_ptr(), len) }
    }
}

impl Sender for SpscSender {
    type Loan<'a> = SpscLoan<'a>;

    #[inline]
    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    // The fast path is `reserve_now`.
    #[inline(never)]
    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        self.reserved_for = NOTHING;
        self.make_ready_for(len, &wait)?;
        self.set_reserved(len);
        Ok(())
    }

    #[inline]
    fn reserve_now(&mut self, len: usize) -> Result<bool, SendError> {
        let is_ready = self.is_ready_for(len);
        if is_ready {
            self.set_reserved(len);
        }
        Ok(is_ready)
    }

    #[inline]
    fn reserved(&mut self) -> SpscLoan<'_> {
        if !self.attachment.is_ours() {
            // What was reserved before the fork is the parent's; the commit will say so.
            self.reserved_for = NOTHING;
        }
        SpscLoan { len: self.reserved_len().unwrap_or(0), sender: self }
    }

    #[inline]
    fn loan(&mut self, len: usize, wait: Wait<'_>) -> Result<SpscLoan<'_>, SendError> {
        if !self.is_ready_for(len) {
            self.reserved_for = NOTHING;
            self.make_ready_for(len, &wait)?;
        }
        self.set_reserved(len);
        Ok(SpscLoan { len, sender: self })
    }

    // Without a reservation on the way.
    #[inline(always)]
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        if !self.attachment.is_ours() || !self.ring.is_clear_for(message.len()) {
            return self.send_unprepared(message, &wait);
        }
        self.write(message);
        self.ring.commit_clear(message.len());
        self.bell.ring(self.ring.memory());
        Ok(())
    }
}

impl BatchSender for SpscSender {
    #[inline]
    fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M], wait: Wait<'_>) -> Result<usize, SendError> {
        let Some((first, others)) = messages.split_first() else { return Ok(0) };
        let first = first.as_ref();
        if !self.is_ready_for(first.len()) {
            self.make_ready_for(first.len(), &wait)?;
        }
        let payload = self.ring.payload();
        copy_message(self.space(payload, first.len()), first);
        let mut batch = self.ring.begin(first.len());
        for message in others {
            let message = message.as_ref();
            if message.len() > self.max_message_len {
                break;
            }
            // What is corrupt is found again by whoever sends the next one.
            let Ok(Some(payload)) = self.ring.add(&mut batch, message.len()) else { break };
            copy_message(self.space(payload, message.len()), message);
        }
        let count = batch.len();
        self.ring.commit_batch(batch);
        self.bell.ring(self.ring.memory());
        Ok(count)
    }
}

impl EndMark for SpscSender {
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        if !self.is_ready_for(0) {
            self.make_ready_for(0, &wait)?;
        }
        self.ring.commit_end();
        // It isn't counted.
        self.reserved_for = NOTHING;
        self.bell.ring(self.ring.memory());
        Ok(())
    }
}

impl Drop for SpscSender {
    fn drop(&mut self) {
        if self.attachment.is_ours() {
            // Nobody depends on it, or a kill would do harm.
            self.ring.record();
        }
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
        if self.sender.reserved_len().is_none() || !self.sender.attachment.is_ours() {
            if let Err(error) = self.sender.make_ready_for(0, &wait) {
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
        // SAFETY: as in `SpscSender::space`.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for SpscLoan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let payload = self.sender.ring.payload();
        self.sender.space(payload, self.len)
    }
}
