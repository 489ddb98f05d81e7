//! The publishing end: API → ring → bell.

use super::{publishers_asleep, subscribers_asleep};
use crate::{
    kind::WhenFull,
    refusal,
    ring::{
        broadcast::{self, Geometry, Writer},
        memory::Words,
        troubled,
    },
    segment::Attachment,
    wait::{Awaited, Bed, Bell, Waiter, Waiting, are_many},
};
use ipc_core::{BatchSender, ChannelError, EndMark, Loan, Rejected, SendError, Sender, Wait, copy_message};
use std::{
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

/// A publishing end of a broadcast in shared memory.
///
/// There may be others, each with a ring of its own. When one is dropped, or its process
/// ends in whatever way, the next publisher goes on where it left off.
///
/// Where the channel is made with [`WhenFull::DropOldest`], publishing never waits, and costs
/// the same whoever subscribes; a loan is memory of the endpoint's own and is copied when it
/// is committed. Otherwise a loan is in the channel itself, and a publisher waits for (or is
/// told of) the slowest subscriber that lives, a stopped one too; without subscribers it
/// never waits.
#[derive(Debug)]
pub struct BroadcastPublisher {
    ring: Writer<Words>,
    max_message_len: usize,
    when_full: WhenFull,
    /// One more than the reserved length.
    reserved: Option<NonZeroUsize>,
    /// Lossy: what a loan lends. As long as the longest loan so far.
    draft: Vec<u8>,
    bell: Bell,
    waiter: Waiter,
    /// Last: the ring's reference to the memory must be gone before the place is.
    attachment: Attachment,
}

impl BroadcastPublisher {
    pub(crate) fn new(attachment: Attachment) -> Result<Self, ChannelError> {
        let settings = attachment.header().geometry;
        let geometry = Geometry::of(attachment.layout(), &settings);
        Ok(Self {
            ring: Writer::attach(attachment.words(), geometry, attachment.id())?,
            max_message_len: geometry.max_message_len(),
            when_full: settings.when_full,
            reserved: None,
            draft: Vec::new(),
            bell: Bell::of(&attachment, subscribers_asleep(attachment.layout())),
            waiter: Waiter::new(&attachment, Bed::Shared(publishers_asleep(&attachment))),
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

    /// Which publisher this is: what
    /// [`publisher_of`](super::BroadcastSubscriber::publisher_of) says of its messages. 1 to
    /// the channel's number of publishers, and somebody else's when this one is gone.
    pub fn id(&self) -> u32 {
        self.attachment.id()
    }

    #[inline]
    fn is_lossy(&self) -> bool {
        self.when_full == WhenFull::DropOldest
    }

    /// Why no message of this length can be sent, ever or from here.
    #[inline]
    fn check(&self, len: usize) -> Result<(), SendError> {
        refusal::check(len, self.max_message_len, self.attachment.is_ours())
    }

    #[inline]
    fn reserve_checked(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        self.check(len)?;
        if !self.ring.has_room(len)? {
            self.wait_for_room(len, wait)?;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn wait_for_room(&mut self, len: usize, wait: Wait<'_>) -> Result<(), SendError> {
        let wait = self.when_full.limit(wait);
        let room = Room { ring: &mut self.ring, attachment: &self.attachment, len };
        self.waiter.until(&self.attachment, wait, room)
    }

    /// Lossy: publishes a copy.
    #[inline]
    fn publish(&mut self, message: &[u8]) {
        self.ring.commit_copy(message);
        self.bell.ring(self.ring.memory());
    }

    /// Makes the draft long enough; what it holds is unspecified.
    fn lengthen_draft(&mut self, len: usize) {
        if self.draft.len() < len {
            self.draft.resize(len, 0);
        }
    }

    /// Reliable: the space of a reserved message.
    #[inline]
    fn space(&self, len: usize) -> NonNull<u8> {
        self.ring.memory().bytes(self.ring.payload(), len)
    }
}

/// Room for a message, awaited.
struct Room<'a> {
    ring: &'a mut Writer<Words>,
    attachment: &'a Attachment,
    len: usize,
}

impl Awaited for Room<'_> {
    type Answer = ();
    type Error = SendError;

    #[inline]
    fn poll(&mut self) -> Result<Option<()>, SendError> {
        Ok(self.ring.has_room(self.len)?.then_some(()))
    }

    /// Every subscriber is looked at.
    fn takes_long(&self) -> bool {
        are_many(self.ring.seats().count() as u64)
    }

    /// By a subscriber, always.
    fn is_obstructed(&self) -> bool {
        true
    }

    fn look_around(&mut self) -> Result<(), SendError> {
        let in_the_way: Vec<_> = self.ring.in_the_way(self.len).collect();
        let (words, geometry) = (self.ring.memory(), self.ring.geometry());
        // They are all in the way; which of them is asked about first is no matter.
        let is_in_the_way = |id| in_the_way.binary_search(&id).is_ok();
        let buried = self.attachment.bury_in_turn(None, is_in_the_way, |id| {
            broadcast::leave(words, geometry, id);
            Ok::<_, ChannelError>(())
        });
        buried.map(drop).or_else(troubled)
    }
}

impl Sender for BroadcastPublisher {
    type Loan<'a> = BroadcastLoan<'a>;

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
        self.reserved = None;
        self.check(len)?;
        let is_ready = self.ring.has_room(len)?;
        if is_ready {
            self.reserved = NonZeroUsize::new(len + 1);
            if self.is_lossy() {
                self.lengthen_draft(len);
            }
        }
        Ok(is_ready)
    }

    #[inline]
    fn reserved(&mut self) -> BroadcastLoan<'_> {
        if !self.attachment.is_ours() {
            // What was reserved before the fork is the parent's; the commit will say so.
            self.reserved = None;
        }
        BroadcastLoan { len: self.reserved.map_or(0, |len| len.get() - 1), publisher: self }
    }

    #[inline]
    fn send_wait(&mut self, message: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.reserved = None;
        if self.is_lossy() {
            self.check(message.len())?;
            self.publish(message);
            return Ok(());
        }
        self.reserve(message.len(), wait)?;
        let mut loan = self.reserved();
        copy_message(&mut loan, message);
        loan.commit(wait).map_err(|rejected| rejected.error)
    }
}

impl EndMark for BroadcastPublisher {
    fn send_end(&mut self, wait: Wait<'_>) -> Result<(), SendError> {
        self.reserve_checked(0, wait)?;
        self.reserved = None;
        self.ring.commit_end();
        self.bell.ring(self.ring.memory());
        Ok(())
    }
}

impl BatchSender for BroadcastPublisher {
    /// A lossy batch takes up half the ring at most, or its first message.
    fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M], wait: Wait<'_>) -> Result<usize, SendError> {
        let Some(first) = messages.first() else { return Ok(0) };
        self.reserve_checked(first.as_ref().len(), wait)?;
        self.reserved = None;
        let words = self.ring.memory().clone();
        let is_lossy = self.is_lossy();
        let mut batch = self.ring.batch();
        for message in messages {
            let message = message.as_ref();
            if message.len() > self.max_message_len || !batch.has_room(message.len()).unwrap_or(false) {
                break;
            }
            if is_lossy {
                batch.add_copy(message);
                continue;
            }
            let space = words.bytes(batch.payload(), message.len());
            // SAFETY: mapped as long as the words are kept, and free: there is room, and only
            // this endpoint, the ring's one writer, writes there. A conforming subscriber
            // doesn't read it before the commit.
            unsafe { space.copy_from_nonoverlapping(NonNull::from(message).cast(), message.len()) };
            batch.add(message.len());
        }
        let sent = batch.commit();
        self.bell.ring(&words);
        Ok(sent)
    }
}

/// Space for one message: in the channel itself, or in memory of the endpoint's own where the
/// channel drops the oldest. Dropping it sends nothing.
#[derive(Debug)]
pub struct BroadcastLoan<'a> {
    publisher: &'a mut BroadcastPublisher,
    len: usize,
}

impl Loan for BroadcastLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        // Only a loan that was never reserved can be refused, or one from before a fork.
        if self.publisher.reserved.is_none() || !self.publisher.attachment.is_ours() {
            if let Err(error) = self.publisher.reserve(0, wait) {
                return Err(Rejected { loan: self, error });
            }
        }
        let Self { publisher, len } = self;
        publisher.reserved = None;
        if publisher.is_lossy() {
            publisher.ring.commit_copy(&publisher.draft[..len]);
        } else {
            publisher.ring.commit(len);
        }
        publisher.bell.ring(publisher.ring.memory());
        Ok(())
    }
}

impl Deref for BroadcastLoan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        if self.publisher.is_lossy() {
            return &self.publisher.draft[..self.len];
        }
        let bytes = self.publisher.space(self.len);
        // SAFETY: mapped as long as the publisher lives, and free: the room was reserved, and
        // only this endpoint, the ring's one writer, writes there. A conforming subscriber
        // doesn't read it before the commit; a hostile one is the sealed mode's matter.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for BroadcastLoan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.publisher.is_lossy() {
            return &mut self.publisher.draft[..self.len];
        }
        let bytes = self.publisher.space(self.len);
        // SAFETY: as in `deref`; the borrow of `self` keeps other slices away.
        unsafe { slice::from_raw_parts_mut(bytes.as_ptr(), self.len) }
    }
}
