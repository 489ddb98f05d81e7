//! The sending end: API → ring → bell.

use super::{CONTENDED_TRIES, Party, senders_asleep};
use crate::{
    kind::WhenFull,
    refusal,
    ring::{
        memory::{Words, copy_message},
        mpmc::{Claim, Geometry, Slot, Writer},
        troubled,
    },
    segment::Attachment,
    wait::{Awaited, Bed, Waiter, Waiting},
};
use ipc_core::{BatchSender, ChannelError, EndMark, Loan, Rejected, SendError, Sender, Wait};
use std::{
    mem,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

/// A sending end of a work queue in shared memory.
///
/// There may be others. Each reservation claims the next slot: until its loan is committed or
/// dropped, receivers get nothing that was sent later, so fill it without delay. If the
/// process ends meanwhile, in whatever way, the slot is given up as soon as anybody notices.
/// What a dropped loan leaves of its reservation is the length alone: a loan of that is written
/// to memory of the sender's own, and its commit waits for room.
#[derive(Debug)]
pub struct MpmcSender {
    ring: Writer<Words>,
    max_message_len: usize,
    when_full: WhenFull,
    reserved: Reserved,
    /// Where a loan is written to that has no slot.
    aside: Vec<u8>,
    /// The slots of the batch that is being sent.
    batch: Vec<Slot>,
    party: Party,
    waiter: Waiter,
    /// Last: the ring's reference to the memory must be gone before the place is.
    attachment: Attachment,
}

/// What is reserved.
#[derive(Clone, Copy, Debug)]
enum Reserved {
    Nothing,
    /// A slot, which is claimed, and the length that was asked for.
    Slot(Slot, usize),
    /// This length, of which the slot was given up.
    Length(usize),
}

impl MpmcSender {
    pub(crate) fn new(attachment: Attachment) -> Result<Self, ChannelError> {
        let settings = attachment.header().geometry;
        let geometry = Geometry::of(attachment.layout(), &settings);
        let mut party = Party::new(&attachment);
        party.arrive(&attachment, &attachment.words(), &geometry)?;
        Ok(Self {
            ring: Writer::attach(attachment.words(), geometry, attachment.id())?,
            max_message_len: geometry.max_message_len,
            when_full: settings.when_full,
            reserved: Reserved::Nothing,
            aside: Vec::new(),
            batch: Vec::new(),
            party,
            waiter: Waiter::new(&attachment, Bed::Shared(senders_asleep(&attachment))),
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

    /// Why no message of this length can be sent, ever or from here. Nothing is reserved then.
    #[inline]
    fn check(&mut self, len: usize) -> Result<(), SendError> {
        let checked = refusal::check(len, self.max_message_len, self.attachment.is_ours());
        if checked.is_err() {
            self.abort(Reserved::Nothing);
        }
        checked
    }

    #[cold]
    #[inline(never)]
    fn wait_for_room(&mut self, wait: Wait<'_>) -> Result<Slot, SendError> {
        let wait = self.when_full.limit(wait);
        let mut room = Room {
            ring: &mut self.ring,
            party: &mut self.party,
            attachment: &self.attachment,
            drop_oldest: self.when_full == WhenFull::DropOldest,
        };
        if let Some(slot) = room.poll()? {
            return Ok(slot);
        }
        self.waiter.stands_back(&wait);
        self.waiter.until(&self.attachment, wait, room)
    }

    /// The next slot, if there is one now.
    #[inline]
    fn claim_now(&mut self) -> Result<Option<Slot>, SendError> {
        if let Some(slot) = self.ring.claim_here() {
            return Ok(Some(slot));
        }
        match self.ring.try_claim(self.when_full == WhenFull::DropOldest)? {
            Claim::Claimed(slot) => Ok(Some(slot)),
            Claim::Full { .. } | Claim::Again => Ok(None),
        }
    }

    /// The slot that is reserved, or else the next one. What `wait` says is several words, and
    /// by value they would be copied before it is known that they are needed.
    #[inline(never)]
    fn claim(&mut self, wait: &Wait<'_>) -> Result<Slot, SendError> {
        if let Reserved::Slot(slot, _) = mem::replace(&mut self.reserved, Reserved::Nothing) {
            return Ok(slot);
        }
        match self.claim_now()? {
            Some(slot) => Ok(slot),
            None => self.wait_for_room(*wait),
        }
    }

    /// Gives up the slot that is reserved, if there is one, and leaves this.
    #[inline(never)]
    fn abort(&mut self, left: Reserved) {
        match mem::replace(&mut self.reserved, left) {
            Reserved::Slot(slot, _) if self.attachment.is_ours() => {
                // A word that isn't ours any more can't be given back; who meets it next says so.
                if self.ring.abort(&slot).is_ok() {
                    self.party.senders.ring(self.ring.memory());
                    self.party.receivers.ring(self.ring.memory());
                }
            }
            // What was reserved before the fork is the parent's.
            Reserved::Slot(..) | Reserved::Length(_) | Reserved::Nothing => {}
        }
    }

    /// The payload of a claimed slot.
    #[inline]
    fn space(&self, slot: &Slot, len: usize) -> NonNull<u8> {
        self.ring.memory().bytes(self.ring.payload(slot), len)
    }

    /// The same, to be written.
    #[inline]
    fn space_mut(&mut self, slot: &Slot, len: usize) -> &mut [u8] {
        let bytes = self.space(slot, len);
        // SAFETY: mapped as long as the sender lives, and ours alone since the slot was
        // claimed. A conforming peer doesn't touch it before the commit; a hostile one is
        // the sealed mode's matter. The borrow of `self` keeps other slices away.
        unsafe { slice::from_raw_parts_mut(bytes.as_ptr(), len) }
    }
}

/// Room for a message, awaited.
struct Room<'a> {
    ring: &'a mut Writer<Words>,
    party: &'a mut Party,
    attachment: &'a Attachment,
    drop_oldest: bool,
}

impl Awaited for Room<'_> {
    type Answer = Slot;
    type Error = SendError;

    fn poll(&mut self) -> Result<Option<Slot>, SendError> {
        for _ in 0..CONTENDED_TRIES {
            match self.ring.try_claim(self.drop_oldest)? {
                Claim::Claimed(slot) => return Ok(Some(slot)),
                Claim::Full { owner } => {
                    self.party.in_the_way = owner;
                    break;
                }
                Claim::Again => {}
            }
        }
        Ok(None)
    }

    fn is_obstructed(&self) -> bool {
        self.party.in_the_way != 0
    }

    fn look_around(&mut self) -> Result<(), SendError> {
        let geometry = *self.ring.geometry();
        self.party.look_around(self.attachment, self.ring.memory(), &geometry).or_else(troubled)
    }
}

impl Sender for MpmcSender {
    type Loan<'a> = MpmcLoan<'a>;

    #[inline]
    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    #[inline]
    fn reserve(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        if !self.reserve_now(len)? {
            let slot = self.wait_for_room(wait)?;
            self.reserved = Reserved::Slot(slot, len);
        }
        Ok(())
    }

    #[inline]
    fn reserve_now(&mut self, len: usize) -> Result<bool, SendError> {
        self.check(len)?;
        let slot = match mem::replace(&mut self.reserved, Reserved::Nothing) {
            Reserved::Slot(slot, _) => Some(slot),
            Reserved::Length(_) | Reserved::Nothing => self.claim_now()?,
        };
        if let Some(slot) = slot {
            self.reserved = Reserved::Slot(slot, len);
        }
        Ok(slot.is_some())
    }

    // Between claim and commit there is the copy and nothing else: receivers look at the
    // slot meanwhile, and take its line away from us.
    #[inline]
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.check(message.len())?;
        self.ring.expect_message(message.len());
        let here = if let Reserved::Nothing = self.reserved { self.ring.claim_here() } else { None };
        let slot = match here {
            Some(slot) => slot,
            None => self.claim(&wait)?,
        };
        copy_message(self.space_mut(&slot, message.len()), message);
        self.ring.commit(&slot, message.len())?;
        self.party.receivers.ring(self.ring.memory());
        Ok(())
    }

    #[inline]
    fn reserved(&mut self) -> MpmcLoan<'_> {
        if !self.attachment.is_ours() {
            // What was reserved before the fork is the parent's; the commit will say so.
            self.reserved = Reserved::Nothing;
        }
        let len = match self.reserved {
            Reserved::Slot(_, len) => len,
            Reserved::Length(len) => {
                self.aside.resize(len, 0);
                len
            }
            Reserved::Nothing => 0,
        };
        MpmcLoan { len, sender: self }
    }
}

impl EndMark for MpmcSender {
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        self.reserve(0, wait)?;
        if let Reserved::Slot(slot, _) = mem::replace(&mut self.reserved, Reserved::Nothing) {
            self.ring.commit_end(&slot)?;
            self.party.receivers.ring(self.ring.memory());
        }
        Ok(())
    }
}

impl BatchSender for MpmcSender {
    /// The first message is committed last, and receivers pass no slot that is claimed: they
    /// get nothing of the batch before all of it is there. If the sender is killed in between,
    /// those that were committed are there.
    fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M], wait: Wait<'_>) -> Result<usize, SendError> {
        let Some(first) = messages.first() else { return Ok(0) };
        self.check(first.as_ref().len())?;
        let slot = self.claim(&wait)?;
        let claims = Claims(self);
        claims.0.batch.push(slot);
        for message in messages[1..].iter().take(MOST_CLAIMS - 1) {
            if message.as_ref().len() > claims.0.max_message_len {
                break;
            }
            // What is corrupt is found again by the next call.
            let Ok(Some(slot)) = claims.0.claim_now() else { break };
            claims.0.batch.push(slot);
        }
        let sent = claims.0.batch.len();
        for message in messages[..sent].iter().rev() {
            let message = message.as_ref();
            let sender = &mut *claims.0;
            let slot = *sender.batch.last().expect("one for each message");
            // What was short enough before may be long now: nothing obliges `as_ref` to be
            // the same twice.
            let len = message.len().min(sender.max_message_len);
            copy_message(sender.space_mut(&slot, len), &message[..len]);
            sender.ring.commit(&slot, len)?;
            sender.batch.pop();
        }
        drop(claims);
        self.party.receivers.ring(self.ring.memory());
        Ok(sent)
    }
}

/// The slots of a batch that is being sent. Those that are left, since a message panicked when
/// it was asked for or something is corrupt, are given up: they would stop all receivers.
struct Claims<'a>(&'a mut MpmcSender);

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        if self.0.batch.is_empty() {
            return;
        }
        while let Some(slot) = self.0.batch.pop() {
            // As in `MpmcSender::abort`.
            let _ = self.0.ring.abort(&slot);
        }
        self.0.party.senders.ring(self.0.ring.memory());
        self.0.party.receivers.ring(self.0.ring.memory());
    }
}

/// Slots claimed at once: what is claimed keeps receivers waiting.
const MOST_CLAIMS: usize = 64;

impl Drop for MpmcSender {
    fn drop(&mut self) {
        if !self.attachment.is_ours() {
            return;
        }
        if matches!(self.reserved, Reserved::Slot(..)) || self.ring.leave().is_err() {
            let geometry = *self.ring.geometry();
            self.party.give_back(&self.attachment, self.ring.memory(), &geometry);
        }
    }
}

/// Space for one message, in the queue itself. Dropping it gives the slot up; one that is lent
/// after that is in memory of the sender's own.
#[derive(Debug)]
pub struct MpmcLoan<'a> {
    sender: &'a mut MpmcSender,
    len: usize,
}

impl Loan for MpmcLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        // Only a loan that has no slot can be refused, or one from before a fork.
        if !matches!(self.sender.reserved, Reserved::Slot(..)) || !self.sender.attachment.is_ours() {
            return self.commit_aside(wait);
        }
        let sender = &mut *self.sender;
        if let Reserved::Slot(slot, _) = sender.reserved {
            if let Err(corrupt) = sender.ring.commit(&slot, self.len) {
                return Err(Rejected { loan: self, error: corrupt.into() });
            }
            sender.reserved = Reserved::Nothing;
            sender.party.receivers.ring(sender.ring.memory());
        }
        Ok(())
    }
}

impl MpmcLoan<'_> {
    /// Waits for room, and sends what was written aside, or an empty message.
    #[cold]
    #[inline(never)]
    fn commit_aside(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        let (sender, len) = (&mut *self.sender, self.len);
        let before = sender.reserved;
        let committed = sender.check(len).and_then(|()| sender.claim(&wait)).and_then(|slot| {
            let aside = mem::take(&mut sender.aside);
            sender.space_mut(&slot, len).copy_from_slice(&aside[..len]);
            sender.aside = aside;
            Ok(sender.ring.commit(&slot, len)?)
        });
        match committed {
            Ok(()) => {
                sender.party.receivers.ring(sender.ring.memory());
                Ok(())
            }
            Err(error) => {
                sender.reserved = before;
                Err(Rejected { loan: self, error })
            }
        }
    }
}

impl Drop for MpmcLoan<'_> {
    #[inline]
    fn drop(&mut self) {
        // Nothing is reserved any more after a commit.
        if !matches!(self.sender.reserved, Reserved::Nothing) {
            self.sender.abort(Reserved::Length(self.len));
        }
    }
}

impl Deref for MpmcLoan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let Reserved::Slot(slot, _) = &self.sender.reserved else { return &self.sender.aside[..self.len] };
        let bytes = self.sender.space(slot, self.len);
        // SAFETY: mapped as long as the sender lives, and ours alone since the slot was
        // claimed. A conforming peer doesn't touch it before the commit; a hostile one is
        // the sealed mode's matter.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for MpmcLoan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let Reserved::Slot(slot, _) = &self.sender.reserved else {
            return &mut self.sender.aside[..self.len];
        };
        let bytes = self.sender.space(slot, self.len);
        // SAFETY: as in `deref`; the borrow of `self` keeps other slices away.
        unsafe { slice::from_raw_parts_mut(bytes.as_ptr(), self.len) }
    }
}
