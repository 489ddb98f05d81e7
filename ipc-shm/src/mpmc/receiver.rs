//! The receiving end: API → ring → bell.

use super::{CONTENDED_TRIES, Party, receivers_asleep};
use crate::{
    ring::{
        memory::Words,
        mpmc::{Geometry, Held, Look, Reader, Take},
        troubled,
    },
    segment::Attachment,
    wait::{Awaited, Bed, Streak, Waiter, Waiting},
};
use ipc_core::{
    Batch, BatchReceiver, ChannelError, Message, OsError, Pollable, Receiver, RecvError, Redelivered,
    Sequenced, Unwinding, Wait,
};
use std::{collections::VecDeque, ops::Deref, os::fd::BorrowedFd, slice};

/// A receiving end of a work queue in shared memory.
///
/// There may be others; each message goes to one of them. What this one holds when it is
/// dropped, or when its process ends in whatever way, is delivered again to another one,
/// before what was sent later is; unless it was delivered as often as the channel allows,
/// then it is dropped and counted. What it [puts back](MpmcReceiver::put_back) counts as never
/// delivered.
#[derive(Debug)]
pub struct MpmcReceiver {
    ring: Reader<Words>,
    /// The oldest message held; more of them only in a batch.
    front: Option<Held>,
    rest: VecDeque<Held>,
    streak: Streak,
    party: Party,
    waiter: Waiter,
    /// Last: the ring's reference to the memory must be gone before the place is.
    attachment: Attachment,
}

impl MpmcReceiver {
    pub(crate) fn new(attachment: Attachment) -> Result<Self, ChannelError> {
        let geometry = Geometry::of(attachment.layout(), &attachment.header().geometry);
        let mut party = Party::new(&attachment);
        party.arrive(&attachment, &attachment.words(), &geometry)?;
        Ok(Self {
            ring: Reader::attach(attachment.words(), geometry, attachment.id())?,
            front: None,
            rest: VecDeque::new(),
            streak: Streak::default(),
            party,
            waiter: Waiter::new(&attachment, Bed::Shared(receivers_asleep(&attachment))),
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

    /// How often a message is delivered before it is dropped ([`ShmConfig::max_deliveries`]).
    ///
    /// [`ShmConfig::max_deliveries`]: crate::ShmConfig::max_deliveries
    pub fn max_deliveries(&self) -> u32 {
        self.ring.geometry().max_deliveries
    }

    /// Puts what is held back as if it had never been taken: for those who took a batch and find
    /// that they can't use all of it. No attempt is counted, while one is for each message that a
    /// receiver holds when it is dropped, whether it looked at it or not.
    ///
    /// They come again before what was sent later, except to other receivers that have gone on to
    /// that already: those may get them, as if for the first time, after what follows them. If
    /// nothing is held, nothing happens.
    pub fn put_back(&mut self) {
        if !self.attachment.is_ours() || self.front.is_none() {
            return;
        }
        self.ring.put_back(self.front.iter().chain(&self.rest));
        self.front = None;
        self.rest.clear();
        self.party.receivers.ring(self.ring.memory());
    }

    /// The next message, when there was none just now and none is held; an end mark is
    /// reported and done with. What `wait` says is
    /// several words, and by value they would be copied before it is known that they are
    /// needed.
    #[inline(never)]
    fn wait_for_message(&mut self, wait: &Wait<'_>) -> Result<Held, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        let mut next = Next { ring: &mut self.ring, party: &mut self.party, attachment: &self.attachment };
        let held = match next.poll()? {
            Some(held) => held,
            None => self.waiter.until(&self.attachment, *wait, next)?,
        };
        if held.is_end() {
            self.ring.release(&held)?;
            self.party.senders.ring(self.ring.memory());
            return Err(RecvError::End);
        }
        Ok(held)
    }

    // Apart from what follows it, so that a message that comes soon is taken in line.
    #[inline(never)]
    fn glimpses(&self, wait: &Wait<'_>) -> bool {
        self.waiter.glimpses(wait, || self.ring.has_turned())
    }

    /// The oldest message held, or else the next one.
    fn hold_or_wait(&mut self, wait: &Wait<'_>) -> Result<Held, RecvError> {
        match self.front {
            Some(front) if self.attachment.is_ours() => Ok(front),
            _ => self.wait_for_message(wait),
        }
    }

    /// Holds a message, so that it isn't lost whatever becomes of what is lent, and lends it.
    #[inline]
    fn lend(&mut self, held: Held) -> MpmcMessage<'_> {
        self.front = Some(held);
        MpmcMessage { receiver: self, held, unwinding: Unwinding::watch() }
    }

    /// Releases the oldest of what is held. A word that isn't ours any more can't be given
    /// back; who meets it next says so.
    #[inline]
    fn release_front(&mut self, front: &Held) {
        if !self.attachment.is_ours() {
            return;
        }
        let _ = self.ring.release(front);
        self.party.senders.ring(self.ring.memory());
        self.front = if self.rest.is_empty() { None } else { self.next_of_batch() };
    }

    // Apart, so that the release of the only one held is small enough to be inlined.
    #[inline(never)]
    fn next_of_batch(&mut self) -> Option<Held> {
        self.rest.pop_front()
    }

    #[inline]
    fn bytes(&self, held: &Held) -> &[u8] {
        let bytes = self.ring.memory().bytes(self.ring.payload(held), held.len());
        // SAFETY: mapped as long as the receiver lives; committed by a sender, taken by us
        // and not yet released, so a conforming peer doesn't write there. Who may write to a
        // named segment's file is trusted to conform.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), held.len()) }
    }
}

/// The next message, awaited.
struct Next<'a> {
    ring: &'a mut Reader<Words>,
    party: &'a mut Party,
    attachment: &'a Attachment,
}

impl Awaited for Next<'_> {
    type Answer = Held;
    type Error = RecvError;

    #[inline]
    fn poll(&mut self) -> Result<Option<Held>, RecvError> {
        for _ in 0..CONTENDED_TRIES {
            match self.ring.try_take()? {
                Take::Taken(held) => return Ok(Some(held)),
                Take::Empty { owner } => {
                    self.party.in_the_way = owner;
                    break;
                }
                Take::Again => {}
            }
        }
        Ok(None)
    }

    fn is_obstructed(&self) -> bool {
        self.party.in_the_way != 0
    }

    fn look_around(&mut self) -> Result<(), RecvError> {
        let geometry = *self.ring.geometry();
        self.party.look_around(self.attachment, self.ring.memory(), &geometry).or_else(troubled)
    }
}

/// Anything at all, awaited by who doesn't come for it yet.
struct Anything<'a>(Next<'a>);

impl Awaited for Anything<'_> {
    type Answer = ();
    type Error = RecvError;

    fn poll(&mut self) -> Result<Option<()>, RecvError> {
        match self.0.ring.look()? {
            Look::Ready => Ok(Some(())),
            Look::Empty { owner } => {
                self.0.party.in_the_way = owner;
                Ok(None)
            }
        }
    }

    fn is_obstructed(&self) -> bool {
        self.0.is_obstructed()
    }

    fn look_around(&mut self) -> Result<(), RecvError> {
        self.0.look_around()
    }
}

impl Receiver for MpmcReceiver {
    type Message<'a> = MpmcMessage<'a>;

    // The fast path is `advance_now`.
    #[inline(never)]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if !self.advance_now()? {
            self.front = Some(self.wait_for_message(&wait)?);
        }
        Ok(())
    }

    // What isn't simply there is left to `advance`.
    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Ok(false);
        }
        if self.front.is_none() {
            self.front = self.ring.take_here();
        }
        Ok(self.front.is_some())
    }

    #[inline(always)]
    fn receive(&mut self, wait: Wait<'_>) -> Result<MpmcMessage<'_>, RecvError> {
        if self.front.is_none() && self.attachment.is_ours() {
            if let Some(held) = self.ring.take_here() {
                self.streak.go_on(|| self.ring.expect_more());
                return Ok(self.lend(held));
            }
            self.streak = Streak::default();
            if self.glimpses(&wait) {
                if let Some(held) = self.ring.take_here() {
                    return Ok(self.lend(held));
                }
            }
        }
        let held = self.hold_or_wait(&wait)?;
        Ok(self.lend(held))
    }

    #[inline]
    fn held(&mut self) -> MpmcMessage<'_> {
        assert!(self.attachment.is_ours(), "held() in a forked child");
        let held = self.front.expect("held() without a successful advance()");
        MpmcMessage { receiver: self, held, unwinding: Unwinding::watch() }
    }
}

impl BatchReceiver for MpmcReceiver {
    type Batch<'a> = MpmcBatch<'a>;

    fn advance_batch(&mut self, max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.advance(wait)?;
        // More than that can't be held, whatever the slots say.
        let most = max_messages.min(self.ring.geometry().depth as usize);
        while self.rest.len() + 1 < most {
            match self.ring.try_take_message() {
                Ok(Take::Taken(held)) => self.rest.push_back(held),
                // What is corrupt is found again when nothing is held any more.
                Ok(Take::Empty { .. } | Take::Again) | Err(_) => break,
            }
        }
        Ok(self.rest.len() + 1)
    }

    fn held_batch(&mut self) -> MpmcBatch<'_> {
        assert!(self.attachment.is_ours(), "held_batch() in a forked child");
        MpmcBatch { receiver: self }
    }
}

impl Sequenced for MpmcReceiver {
    /// The number of the message's place in the queue: 0 for the first that was ever sent. A
    /// number is skipped where a sender gave its reservation up.
    fn sequence_of(message: &MpmcMessage<'_>) -> u64 {
        message.receiver.ring.number(&message.held)
    }
}

impl Redelivered for MpmcReceiver {
    fn attempts_of(message: &MpmcMessage<'_>) -> u32 {
        message.held.attempts()
    }
}

impl Pollable for MpmcReceiver {
    fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
        self.waiter.descriptor(&self.attachment)
    }

    /// True doesn't take the message: another receiver may come for it first.
    fn arm(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.front.is_some() {
            return Ok(true);
        }
        let next = Next { ring: &mut self.ring, party: &mut self.party, attachment: &self.attachment };
        self.waiter.arm(&self.attachment, Anything(next))
    }
}

impl Drop for MpmcReceiver {
    fn drop(&mut self) {
        if !self.attachment.is_ours() {
            return;
        }
        if self.front.is_some() || self.ring.leave().is_err() {
            let geometry = *self.ring.geometry();
            self.party.give_back(&self.attachment, self.ring.memory(), &geometry);
        }
    }
}

/// A message lent by a [`MpmcReceiver`], in the queue itself.
#[derive(Debug)]
pub struct MpmcMessage<'a> {
    receiver: &'a mut MpmcReceiver,
    held: Held,
    unwinding: Unwinding,
}

impl Message for MpmcMessage<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Deref for MpmcMessage<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.receiver.bytes(&self.held)
    }
}

impl Drop for MpmcMessage<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.unwinding.has_begun() {
            self.receiver.release_front(&self.held);
        }
    }
}

/// Messages lent together by a [`MpmcReceiver`], in the queue itself.
#[derive(Debug)]
pub struct MpmcBatch<'a> {
    receiver: &'a mut MpmcReceiver,
}

impl Batch for MpmcBatch<'_> {
    fn len(&self) -> usize {
        usize::from(self.receiver.front.is_some()) + self.receiver.rest.len()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let held = self.receiver.front.iter().chain(&self.receiver.rest);
        held.map(|held| self.receiver.bytes(held))
    }

    fn release(self, count: usize) {
        let count = count.min(self.len());
        let receiver = self.receiver;
        if !receiver.attachment.is_ours() {
            return;
        }
        let Some(rest) = count.checked_sub(1) else { return };
        for held in receiver.front.iter().chain(receiver.rest.range(..rest)) {
            // As in `release_front`.
            let _ = receiver.ring.release(held);
        }
        receiver.party.senders.ring(receiver.ring.memory());
        receiver.rest.drain(..rest);
        receiver.front = receiver.rest.pop_front();
    }
}
