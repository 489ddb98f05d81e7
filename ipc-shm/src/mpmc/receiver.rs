//! The receiving end: API → ring → bell.

use super::{CONTENDED_TRIES, Party, receivers_asleep};
use crate::{
    ring::{
        memory::Words,
        mpmc::{Geometry, Held, Look, Reader, Take},
        troubled,
    },
    segment::Attachment,
    wait::{Awaited, Bed, Waiter, Waiting},
};
use ipc_core::{
    Batch, BatchReceiver, ChannelError, Message, OsError, Pollable, Receiver, RecvError, Redelivered,
    Sequenced, Wait,
};
use std::{collections::VecDeque, ops::Deref, os::fd::BorrowedFd, slice};

/// A receiving end of a work queue in shared memory.
///
/// There may be others; each message goes to one of them. What this one holds when it is
/// dropped, or when its process ends in whatever way, is delivered again to another one,
/// before what was sent later is; unless it was delivered as often as the channel allows,
/// then it is dropped and counted.
#[derive(Debug)]
pub struct MpmcReceiver {
    ring: Reader<Words>,
    /// The oldest message held; more of them only in a batch.
    front: Option<Held>,
    rest: VecDeque<Held>,
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
            party,
            waiter: Waiter::new(&attachment, Bed::Shared(receivers_asleep(&attachment))),
            attachment,
        })
    }

    /// Sets how this endpoint waits for messages; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiter.waiting = waiting;
    }

    /// The way of [`advance`](Receiver::advance) when there is nothing yet.
    #[inline(never)]
    fn wait_for_message(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let is_time_to_look = self.party.is_time_to_look();
        let mut next = Next {
            ring: &mut self.ring,
            party: &mut self.party,
            attachment: &self.attachment,
            is_obstructed: false,
        };
        if is_time_to_look {
            next.look_around()?;
        }
        let held = match next.poll()? {
            Some(held) => held,
            None => self.waiter.until(&self.attachment, wait, next)?,
        };
        self.take(held)
    }

    /// Holds a message; an end mark is reported and done with.
    #[inline]
    fn take(&mut self, held: Held) -> Result<(), RecvError> {
        if held.is_end() {
            self.ring.release(&held)?;
            self.party.senders.ring(self.ring.memory());
            return Err(RecvError::End);
        }
        self.front = Some(held);
        Ok(())
    }

    /// Releases the oldest of what is held. A word that isn't ours any more can't be given
    /// back; who meets it next says so.
    #[inline]
    fn release_front(&mut self) {
        if !self.attachment.is_ours() {
            return;
        }
        if let Some(front) = self.front.take() {
            let _ = self.ring.release(&front);
            self.party.senders.ring(self.ring.memory());
            if !self.rest.is_empty() {
                self.front = self.rest.pop_front();
            }
        }
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
    is_obstructed: bool,
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
                    self.is_obstructed = owner != 0;
                    break;
                }
                Take::Again => {}
            }
        }
        Ok(None)
    }

    fn is_obstructed(&self) -> bool {
        self.is_obstructed
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
                self.0.is_obstructed = owner != 0;
                Ok(None)
            }
        }
    }

    fn is_obstructed(&self) -> bool {
        self.0.is_obstructed
    }

    fn look_around(&mut self) -> Result<(), RecvError> {
        self.0.look_around()
    }
}

impl Receiver for MpmcReceiver {
    type Message<'a> = MpmcMessage<'a>;

    #[inline]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if self.advance_now()? {
            return Ok(());
        }
        self.wait_for_message(wait)
    }

    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.front.is_some() {
            return Ok(true);
        }
        match self.ring.try_take()? {
            Take::Taken(held) => self.take(held).map(|()| true),
            Take::Empty { .. } | Take::Again => Ok(false),
        }
    }

    #[inline]
    fn held(&mut self) -> MpmcMessage<'_> {
        assert!(self.attachment.is_ours(), "held() in a forked child");
        let held = self.front.expect("held() without a successful advance()");
        MpmcMessage { receiver: self, held }
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
        let next = Next {
            ring: &mut self.ring,
            party: &mut self.party,
            attachment: &self.attachment,
            is_obstructed: false,
        };
        self.waiter.arm(&self.attachment, Anything(next))
    }
}

impl Drop for MpmcReceiver {
    fn drop(&mut self) {
        if self.attachment.is_ours() {
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
        self.receiver.release_front();
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
