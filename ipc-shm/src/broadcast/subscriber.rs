//! The subscribing end: API → ring → bell.

use super::{News, publishers_asleep, subscribers_asleep};
use crate::{
    ring::{
        broadcast::{self, Copies, Geometry, Next, Reader, Record},
        memory::Words,
    },
    segment::Attachment,
    wait::{Bed, Bell, Waiter, Waiting},
};
use ipc_core::{
    Batch, BatchReceiver, ChannelError, Message, OsError, Pollable, Receiver, RecvError, Sequenced,
    Unwinding, Wait,
};
use std::{collections::VecDeque, ops::Deref, os::fd::BorrowedFd, slice};

/// A subscribing end of a broadcast in shared memory.
///
/// It sees every message whose sending starts after it was made, whatever other subscribers
/// do: those of each publisher in order, the publishers by turns. What it holds when it goes
/// away, nobody else misses.
///
/// Where the channel is made with [`WhenFull::DropOldest`](crate::WhenFull::DropOldest),
/// messages are copied to memory of its own, and one that lags more than seven eighths of a
/// ring behind a publisher may be told [`RecvError::Lagged`], with the exact number that it
/// missed of that publisher, once for each gap; it then goes on half a ring behind the newest,
/// so that it isn't overtaken again at once. The mark of a stream's end may be in a gap, too.
/// Otherwise messages are lent in the channel itself, and publishers wait until they are
/// released, or until this process is dead by the kernel's word.
#[derive(Debug)]
pub struct BroadcastSubscriber {
    ring: Reader<Words>,
    /// The oldest message held; more of them only in a batch.
    front: Option<Record>,
    rest: VecDeque<Record>,
    /// What a batch came upon that is no message: told when nothing is held any more.
    ahead: Option<Ahead>,
    /// Lossy: the messages held.
    copies: Copies,
    bell: Bell,
    waiter: Waiter,
    /// Last: the ring's reference to the memory must be gone before the place is.
    attachment: Attachment,
}

#[derive(Clone, Copy, Debug)]
enum Ahead {
    End(Record),
    Missed(u64),
}

impl BroadcastSubscriber {
    pub(crate) fn new(attachment: Attachment) -> Result<Self, ChannelError> {
        let geometry = Geometry::of(attachment.layout(), &attachment.header().geometry);
        let id = attachment.id();
        let ring = Reader::attach(attachment.words(), geometry, id).inspect_err(|_| {
            // Nobody is to wait for one that never was.
            broadcast::leave(&attachment.words(), &geometry, id);
        })?;
        Ok(Self {
            ring,
            front: None,
            rest: VecDeque::new(),
            ahead: None,
            copies: Copies::default(),
            bell: Bell::of(&attachment, publishers_asleep(&attachment)),
            waiter: Waiter::new(&attachment, Bed::Shared(subscribers_asleep(attachment.layout()))),
            attachment,
        })
    }

    /// Our part in the segment.
    pub(crate) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Sets how this endpoint waits for messages; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiter.waiting = waiting;
    }

    /// Which publisher the message came from: 1 to the channel's number of publishers. When
    /// one is gone, another one gets its number and goes on in its order.
    pub fn publisher_of(message: &BroadcastMessage<'_>) -> u32 {
        message.record.publisher()
    }

    #[inline]
    fn is_lossy(&self) -> bool {
        self.ring.geometry().lossy
    }

    /// The way of [`advance`](Receiver::advance) when there is nothing yet.
    #[inline(never)]
    fn wait_for_record(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let news = News::of(&mut self.ring, &mut self.copies);
        let next = self.waiter.until(&self.attachment, wait, news)?;
        self.take(next).map(drop)
    }

    /// Holds a message, if it is one; what else there is, is reported and done with.
    #[inline]
    fn take(&mut self, next: Next) -> Result<bool, RecvError> {
        match next {
            Next::Nothing | Next::Overtaken => Ok(false),
            Next::Record(end) if end.is_end() => Err(self.report(Ahead::End(end))),
            Next::Record(record) => {
                self.front = Some(record);
                Ok(true)
            }
            Next::Missed(missed) => Err(self.report(Ahead::Missed(missed))),
        }
    }

    #[cold]
    fn report(&mut self, ahead: Ahead) -> RecvError {
        match ahead {
            Ahead::End(end) => {
                self.release(&end);
                RecvError::End
            }
            Ahead::Missed(missed) => RecvError::Lagged { missed },
        }
    }

    #[inline]
    fn release(&mut self, record: &Record) {
        self.ring.release(record);
        if !self.is_lossy() {
            self.bell.ring(self.ring.memory());
        }
    }

    #[inline]
    fn release_front(&mut self) {
        if !self.attachment.is_ours() {
            return;
        }
        if let Some(front) = self.front.take() {
            self.release(&front);
            if !self.rest.is_empty() {
                self.front = self.rest.pop_front();
            }
        }
    }

    /// Lossy: makes room among the copies. Called before something is added.
    #[inline]
    fn tidy_up(&mut self) {
        let Some(front) = &mut self.front else {
            self.copies.clear();
            return;
        };
        if self.ring.geometry().lossy {
            let moved = self.copies.forget(front.at());
            if moved > 0 {
                front.moved(moved);
                self.rest.iter_mut().for_each(|record| record.moved(moved));
            }
        }
    }

    #[inline]
    fn bytes(&self, record: &Record) -> &[u8] {
        if self.is_lossy() {
            return self.copies.get(record.at(), record.len());
        }
        let bytes = self.ring.memory().bytes(record.at(), record.len());
        // SAFETY: mapped as long as the subscriber lives; committed by a publisher, which
        // keeps within a ring of what we have released, so a conforming one doesn't write
        // there. Who may write to a named segment's file is trusted to conform.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), record.len()) }
    }
}

impl Receiver for BroadcastSubscriber {
    type Message<'a> = BroadcastMessage<'a>;

    #[inline]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if self.advance_now()? {
            return Ok(());
        }
        self.wait_for_record(wait)
    }

    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.front.is_some() {
            return Ok(true);
        }
        if let Some(ahead) = self.ahead.take() {
            return Err(self.report(ahead));
        }
        self.copies.clear();
        let next = self.ring.next(&mut self.copies)?;
        self.take(next)
    }

    #[inline]
    fn held(&mut self) -> BroadcastMessage<'_> {
        assert!(self.attachment.is_ours(), "held() in a forked child");
        let record = self.front.expect("held() without a successful advance()");
        BroadcastMessage { subscriber: self, record, unwinding: Unwinding::watch() }
    }
}

impl BatchReceiver for BroadcastSubscriber {
    type Batch<'a> = BroadcastBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.advance(wait)?;
        self.tidy_up();
        // A publisher that is faster than we copy would have us copy for ever.
        let mut bytes_left = self.ring.geometry().capacity;
        while self.rest.len() + 1 < max_messages && self.ahead.is_none() && bytes_left > 0 {
            match self.ring.next(&mut self.copies) {
                Ok(Next::Record(end)) if end.is_end() => self.ahead = Some(Ahead::End(end)),
                Ok(Next::Record(record)) => {
                    self.rest.push_back(record);
                    bytes_left = bytes_left.saturating_sub(record.size());
                }
                Ok(Next::Missed(missed)) => self.ahead = Some(Ahead::Missed(missed)),
                // What is corrupt is found again when nothing is held any more.
                Ok(Next::Nothing | Next::Overtaken) | Err(_) => break,
            }
        }
        Ok(self.rest.len() + 1)
    }

    fn held_batch(&mut self) -> BroadcastBatch<'_> {
        assert!(self.attachment.is_ours(), "held_batch() in a forked child");
        BroadcastBatch { subscriber: self }
    }
}

impl Pollable for BroadcastSubscriber {
    fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
        self.waiter.descriptor(&self.attachment)
    }

    /// What is found is taken from nobody, and kept for the next call that receives.
    fn arm(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.front.is_some() || self.ahead.is_some() {
            return Ok(true);
        }
        self.copies.clear();
        let Self { ring, copies, front, ahead, .. } = self;
        self.waiter.arm(&self.attachment, || {
            match ring.next(copies)? {
                Next::Nothing | Next::Overtaken => return Ok(None),
                Next::Record(end) if end.is_end() => *ahead = Some(Ahead::End(end)),
                Next::Record(record) => *front = Some(record),
                Next::Missed(missed) => *ahead = Some(Ahead::Missed(missed)),
            }
            Ok::<_, RecvError>(Some(()))
        })
    }
}

impl Sequenced for BroadcastSubscriber {
    /// The message's number among those of its publisher, and of those that had its number
    /// before: 0 for the first that was ever sent. What is skipped was missed.
    fn sequence_of(message: &BroadcastMessage<'_>) -> u64 {
        message.record.number()
    }
}

impl Drop for BroadcastSubscriber {
    fn drop(&mut self) {
        if self.attachment.is_ours() {
            broadcast::leave(self.ring.memory(), self.ring.geometry(), self.attachment.id());
            self.bell.ring(self.ring.memory());
        }
    }
}

/// A message lent by a [`BroadcastSubscriber`].
#[derive(Debug)]
pub struct BroadcastMessage<'a> {
    subscriber: &'a mut BroadcastSubscriber,
    record: Record,
    unwinding: Unwinding,
}

impl Message for BroadcastMessage<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Deref for BroadcastMessage<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.subscriber.bytes(&self.record)
    }
}

impl Drop for BroadcastMessage<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.unwinding.has_begun() {
            self.subscriber.release_front();
        }
    }
}

/// Messages lent together by a [`BroadcastSubscriber`].
#[derive(Debug)]
pub struct BroadcastBatch<'a> {
    subscriber: &'a mut BroadcastSubscriber,
}

impl BroadcastBatch<'_> {
    fn records(&self) -> impl Iterator<Item = &Record> {
        self.subscriber.front.iter().chain(&self.subscriber.rest)
    }
}

impl Batch for BroadcastBatch<'_> {
    fn len(&self) -> usize {
        usize::from(self.subscriber.front.is_some()) + self.subscriber.rest.len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.records().map(|record| self.subscriber.bytes(record))
    }

    fn release(self, count: usize) {
        let count = count.min(self.len());
        let subscriber = self.subscriber;
        if !subscriber.attachment.is_ours() {
            return;
        }
        let Some(rest) = count.checked_sub(1) else { return };
        for record in subscriber.front.iter().chain(subscriber.rest.range(..rest)) {
            subscriber.ring.release(record);
        }
        if !subscriber.is_lossy() {
            subscriber.bell.ring(subscriber.ring.memory());
        }
        subscriber.rest.drain(..rest);
        subscriber.front = subscriber.rest.pop_front();
    }
}
