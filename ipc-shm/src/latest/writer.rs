//! The writing end: API → ring → bell.

use super::readers_asleep;
use crate::{
    refusal,
    ring::{
        latest::{Geometry, Writer},
        memory::Words,
    },
    segment::Attachment,
    wait::{Bell, Waiting},
};
use ipc_core::{ChannelError, EndMark, Loan, Rejected, SendError, Sender, Wait};
use std::{
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    slice,
};

/// The writing end of a channel in shared memory that holds the newest value.
///
/// There is one at a time. It never waits. When it is dropped, or its process ends in
/// whatever way, the last value that it sent stays, and the next writer goes on with the
/// version after it.
#[derive(Debug)]
pub struct LatestWriter {
    ring: Writer<Words>,
    max_message_len: usize,
    /// One more than the reserved length.
    reserved: Option<NonZeroUsize>,
    readers: Bell,
    /// Last: the ring's reference to the memory must be gone before the role is.
    attachment: Attachment,
}

impl LatestWriter {
    pub(crate) fn new(attachment: Attachment) -> Result<Self, ChannelError> {
        let geometry = Geometry::of(attachment.layout(), &attachment.header().geometry);
        Ok(Self {
            ring: Writer::attach(attachment.words(), geometry)?,
            max_message_len: geometry.max_message_len,
            reserved: None,
            readers: Bell::of(&attachment, readers_asleep(attachment.layout())),
            attachment,
        })
    }

    /// Our part in the segment.
    pub(crate) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Makes no difference: a writer doesn't wait. It is there for programs that choose the
    /// kind of channel.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        let _ = waiting;
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), SendError> {
        refusal::check(len, self.max_message_len, self.attachment.is_ours())
    }
}

impl Sender for LatestWriter {
    type Loan<'a> = LatestLoan<'a>;

    #[inline]
    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    #[inline]
    fn reserve(&mut self, len: usize, _wait: Wait<'_>) -> Result<(), SendError> {
        self.reserve_now(len).map(drop)
    }

    #[inline]
    fn reserve_now(&mut self, len: usize) -> Result<bool, SendError> {
        self.reserved = None;
        self.check(len)?;
        self.ring.begin();
        self.reserved = NonZeroUsize::new(len + 1);
        Ok(true)
    }

    #[inline]
    fn reserved(&mut self) -> LatestLoan<'_> {
        if !self.attachment.is_ours() {
            // What was reserved before the fork is the parent's; the commit will say so.
            self.reserved = None;
        }
        LatestLoan { len: self.reserved.map_or(0, |len| len.get() - 1), writer: self }
    }
}

impl EndMark for LatestWriter {
    /// A version of its own. Readers that have the last value already are told of the end at
    /// once, the others after they were given it.
    fn send_end(&mut self, _wait: Wait<'_>) -> Result<(), SendError> {
        self.check(0)?;
        self.reserved = None;
        self.ring.commit_end()?;
        self.readers.ring(self.ring.memory());
        Ok(())
    }
}

/// Space for one value, in the channel itself.
#[derive(Debug)]
pub struct LatestLoan<'a> {
    writer: &'a mut LatestWriter,
    len: usize,
}

impl Loan for LatestLoan<'_> {
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    fn commit(self, wait: Wait<'_>) -> Result<(), Rejected<Self>> {
        // Only a loan that was never reserved can be refused, or one from before a fork.
        if self.writer.reserved.is_none() || !self.writer.attachment.is_ours() {
            if let Err(error) = self.writer.reserve(0, wait) {
                return Err(Rejected { loan: self, error });
            }
        }
        let writer = &mut *self.writer;
        writer.reserved = None;
        let committed = writer.ring.commit(self.len);
        writer.readers.ring(writer.ring.memory());
        committed.map_err(|corrupt| Rejected { loan: self, error: corrupt.into() })
    }
}

impl Deref for LatestLoan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let bytes = self.writer.ring.memory().bytes(self.writer.ring.payload(), self.len);
        // SAFETY: mapped as long as the writer lives, and `max_message_len` long at least.
        // Only the channel's one writer, this endpoint, stores there.
        unsafe { slice::from_raw_parts(bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for LatestLoan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let bytes = self.writer.ring.memory().bytes(self.writer.ring.payload(), self.len);
        // SAFETY: as in `deref`; the borrow of `self` keeps other slices away. A reader that
        // is a lap behind may still load words of it, through a mapping of its own: it sees
        // that the slot was taken away when it was reserved, and throws away what it has.
        unsafe { slice::from_raw_parts_mut(bytes.as_ptr(), self.len) }
    }
}
