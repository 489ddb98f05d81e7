//! The receiving end: API → ring → bell.

use crate::{
    ring::{
        memory::Words,
        spsc::{Reader, Record},
    },
    segment::{Attachment, SENDER},
    wait::{Bed, Bell, Waiter, Waiting},
};
use ipc_core::{
    Batch, BatchReceiver, ChannelError, Message, OsError, Pollable, Receiver, RecvError, Sequenced,
    Unwinding, Wait,
};
use std::{ops::Deref, os::fd::BorrowedFd, slice, thread};

/// The receiving end of a channel in shared memory.
///
/// There is one at a time. When it is dropped, or its process ends in whatever way, the
/// next one is given what this one held and all that follows.
#[derive(Debug)]
pub struct SpscReceiver {
    ring: Reader<Words>,
    /// The oldest message held, at the released position, unless it is lent without having
    /// been held before.
    front: Option<Record>,
    /// All that are held, where there are several: from `batch_at` on.
    batch: Vec<Record>,
    batch_at: usize,
    bell: Bell,
    waiter: Waiter,
    /// Last: the ring's reference to the memory must be gone before the role is.
    attachment: Attachment,
}

impl SpscReceiver {
    pub(crate) fn new(attachment: Attachment) -> Result<Self, ChannelError> {
        let geometry = attachment.layout().spsc();
        let mut receiver = Self {
            ring: Reader::attach(attachment.words(), geometry)?,
            front: None,
            batch: Vec::new(),
            batch_at: 0,
            bell: Bell::of(&attachment, attachment.layout().entry(SENDER).asleep()),
            waiter: Waiter::new(&attachment, Bed::Own(attachment.entry().asleep())),
            attachment,
        };
        receiver.hold(None);
        Ok(receiver)
    }

    /// Has this be the oldest message held. Where none is, and bells take no fence, one that is
    /// lent may be released in line.
    #[inline]
    fn hold(&mut self, front: Option<Record>) {
        self.front = front;
        self.ring.set_in_line(front.is_none() && self.bell.is_light());
    }

    /// Our part in the segment.
    pub(crate) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Sets how this endpoint waits for messages; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiter.waiting = waiting;
    }

    /// The message held, or else the next one; an end mark is reported and done with. What
    /// `wait` says is several words, and by value they would be copied before it is known
    /// that they are needed.
    #[inline(never)]
    fn wait_for_message(&mut self, wait: &Wait<'_>) -> Result<Record, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if let Some(front) = self.front {
            return Ok(front);
        }
        let ring = &mut self.ring;
        let record = match ring.next(0)? {
            Some(record) => record,
            None => self.waiter.until(&self.attachment, *wait, || ring.next(0).map_err(RecvError::from))?,
        };
        if record.is_end() {
            self.ring.release_end(record);
            self.bell.ring(self.ring.memory());
            return Err(RecvError::End);
        }
        Ok(record)
    }

    // Apart from what follows it, so that a message that comes soon is taken in line.
    #[inline(never)]
    fn glimpses(&mut self, wait: &Wait<'_>) -> bool {
        self.ring.expect_wait();
        self.waiter.glimpses(wait, || self.ring.has_turned())
    }

    #[inline]
    fn lend(&mut self, record: Record) -> SpscMessage<'_> {
        SpscMessage { receiver: self, record, unwinding: Unwinding::watch() }
    }

    fn release_front(&mut self, front: Record) {
        if !self.attachment.is_ours() {
            return;
        }
        self.ring.release_first(front);
        if self.front.is_some() {
            let front = self.leave_of_batch(1);
            self.hold(front);
        }
        self.bell.ring(self.ring.memory());
    }

    /// Forgets the oldest messages held, and returns the one behind them.
    fn leave_of_batch(&mut self, count: usize) -> Option<Record> {
        self.batch_at += count;
        let front = self.batch.get(self.batch_at).copied();
        if front.is_none() {
            self.batch.clear();
            self.batch_at = 0;
        }
        front
    }

    /// All messages that are held.
    #[inline]
    fn all_held(&self) -> &[Record] {
        if self.batch.is_empty() { self.front.as_slice() } else { &self.batch[self.batch_at..] }
    }

    /// The bytes of a record that is held, whose payload is there.
    #[inline]
    fn bytes(&self, record: Record, payload: usize) -> &[u8] {
        let bytes = self.ring.memory().bytes(payload, record.len());
        // SAFETY: mapped as long as the receiver lives; committed by the sender and not yet
        // released, so a conforming peer doesn't write there. Who may write to a named
        // segment's file is trusted to conform.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), record.len()) }
    }
}

impl Receiver for SpscReceiver {
    type Message<'a> = SpscMessage<'a>;

    // The fast path is `advance_now`.
    #[inline(never)]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let front = self.wait_for_message(&wait)?;
        self.hold(Some(front));
        Ok(())
    }

    // What isn't a message is left to `advance`.
    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Ok(false);
        }
        if self.front.is_none() {
            let Some(message) = self.ring.first() else { return Ok(false) };
            self.hold(Some(message));
        }
        Ok(true)
    }

    // Lends what is there without holding it first: if it isn't released, it is found there
    // again.
    #[inline(always)]
    fn receive(&mut self, wait: Wait<'_>) -> Result<SpscMessage<'_>, RecvError> {
        if self.attachment.is_ours() {
            // What is held is there as well.
            if let Some(record) = self.ring.first() {
                self.ring.expect_more();
                return Ok(self.lend(record));
            }
            if self.glimpses(&wait) {
                if let Some(record) = self.ring.first() {
                    return Ok(self.lend(record));
                }
            }
        }
        let record = self.wait_for_message(&wait)?;
        Ok(self.lend(record))
    }

    #[inline]
    fn held(&mut self) -> SpscMessage<'_> {
        assert!(self.attachment.is_ours(), "held() in a forked child");
        let record = self.front.expect("held() without a successful advance()");
        self.lend(record)
    }
}

impl BatchReceiver for SpscReceiver {
    type Batch<'a> = SpscBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        let front = self.wait_for_message(&wait)?;
        self.hold(Some(front));
        if max_messages > 1 {
            // What is left of an earlier one, first.
            self.batch.drain(..self.batch_at);
            self.batch_at = 0;
            if self.batch.is_empty() {
                self.batch.push(front);
            }
            self.ring.find_more(&mut self.batch, max_messages);
        }
        Ok(self.all_held().len())
    }

    fn held_batch(&mut self) -> SpscBatch<'_> {
        assert!(self.attachment.is_ours(), "held_batch() in a forked child");
        SpscBatch { receiver: self }
    }
}

impl Pollable for SpscReceiver {
    fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
        self.waiter.descriptor(&self.attachment)
    }

    fn arm(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.front.is_some() {
            return Ok(true);
        }
        let ring = &mut self.ring;
        self.waiter.arm(&self.attachment, || Ok::<_, RecvError>(ring.next(0)?.map(drop)))
    }
}

impl Sequenced for SpscReceiver {
    /// Messages are numbered from the making of the channel on; end marks are not. The
    /// number outlives the receiver and its death: what is delivered again has the same.
    #[inline]
    fn sequence_of(message: &SpscMessage<'_>) -> u64 {
        // It is the oldest one held.
        message.receiver.ring.released_messages()
    }
}

/// A message lent by a [`SpscReceiver`], in the channel itself.
#[derive(Debug)]
pub struct SpscMessage<'a> {
    receiver: &'a mut SpscReceiver,
    record: Record,
    unwinding: Unwinding,
}

impl Message for SpscMessage<'_> {
    fn keep(self) {
        self.receiver.hold(Some(self.record));
        std::mem::forget(self);
    }
}

impl Deref for SpscMessage<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.receiver.bytes(self.record, self.receiver.ring.first_payload())
    }
}

impl SpscMessage<'_> {
    // Apart, and all of it one call, so that the rest is small enough for the compiler to inline
    // where a message is dropped: with 8 bytes a message that is a quarter of the rate.
    #[inline(never)]
    fn drop_unusual(&mut self, is_released: bool) {
        if is_released {
            self.receiver.bell.ring(self.receiver.ring.memory());
        } else if self.unwinding.has_begun() {
            // As in `keep`.
            self.receiver.hold(Some(self.record));
        } else {
            self.receiver.release_front(self.record);
        }
    }
}

impl Drop for SpscMessage<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let receiver = &mut *self.receiver;
        let is_released = !thread::panicking()
            && receiver.attachment.is_ours()
            && receiver.ring.releases_in_line(self.record);
        if !is_released || receiver.bell.is_due(receiver.ring.memory()) {
            self.drop_unusual(is_released);
        }
    }
}

/// Messages lent together by a [`SpscReceiver`], in the channel itself.
#[derive(Debug)]
pub struct SpscBatch<'a> {
    receiver: &'a mut SpscReceiver,
}

impl Batch for SpscBatch<'_> {
    fn len(&self) -> usize {
        self.receiver.all_held().len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut before = 0;
        self.receiver.all_held().iter().map(move |record| {
            let bytes = self.receiver.bytes(*record, self.receiver.ring.payload(before));
            before += record.size();
            bytes
        })
    }

    fn release(self, count: usize) {
        let count = count.min(self.len());
        let receiver = self.receiver;
        if !receiver.attachment.is_ours() {
            return;
        }
        if count > 0 {
            let held = match receiver.batch.is_empty() {
                true => receiver.front.as_slice(),
                false => &receiver.batch[receiver.batch_at..],
            };
            receiver.ring.release(&held[..count]);
            receiver.bell.ring(receiver.ring.memory());
            let front = receiver.leave_of_batch(count);
            receiver.hold(front);
        }
    }
}
