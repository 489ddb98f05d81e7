//! The reading end: API → ring.

use super::readers_asleep;
use crate::{
    ring::{
        latest::{Geometry, Look, Reader, Version},
        memory::Words,
    },
    segment::Attachment,
    wait::{Bed, Waiter, Waiting},
};
use ipc_core::{Batch, BatchReceiver, Message, OsError, Pollable, Receiver, RecvError, Sequenced, Wait};
use std::{ops::Deref, os::fd::BorrowedFd, slice};

/// How often [`LatestReader::read`] begins again in all.
const READ_TRIES: u32 = 1 << 10;

/// A reading end of a channel in shared memory that holds the newest value.
///
/// There may be many; none takes anything from another, nor makes the writer wait. What is
/// lent is this reader's own copy.
///
/// As a [`Receiver`] it waits for versions newer than the last one it was given; to a fresh
/// one, the value that is there is new. Versions are skipped when the writer is faster, and
/// [`sequence_of`](Sequenced::sequence_of) tells how many.
#[derive(Debug)]
pub struct LatestReader {
    ring: Reader<Words>,
    /// The version of the last value, or end, that was released.
    received: u64,
    /// What is lent, or kept.
    held: Option<Version>,
    waiter: Waiter,
    /// Last: the ring's reference to the memory must be gone before the place is.
    attachment: Attachment,
}

impl LatestReader {
    pub(crate) fn new(attachment: Attachment) -> Self {
        let geometry = Geometry::of(attachment.layout(), &attachment.header().geometry);
        Self {
            ring: Reader::attach(attachment.words(), geometry),
            received: 0,
            held: None,
            waiter: Waiter::new(&attachment, Bed::Shared(readers_asleep(attachment.layout()))),
            attachment,
        }
    }

    /// Our part in the segment.
    pub(crate) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Sets how this endpoint waits for values; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiter.waiting = waiting;
    }

    /// The value that is there now, new or not; `None` if none was ever written. It counts as
    /// received, and takes the place of a message that was kept.
    ///
    /// A value that has not changed since the last call is not copied again.
    ///
    /// ```
    /// # use ipc_shm::{Channel, ChannelName, Latest, Sender, ShmConfig, Transport};
    /// # let directory = std::env::temp_dir().join(format!("ipc-shm-read-{}", std::process::id()));
    /// # std::fs::create_dir_all(&directory)?;
    /// # let latest = Latest::at(&directory);
    /// let channel = latest.create(&ChannelName::new("position")?, &ShmConfig::new())?;
    /// let (mut tx, mut rx) = (channel.sender()?, channel.receiver()?);
    /// assert!(rx.read()?.is_none());
    ///
    /// tx.send(b"52.52 N")?;
    /// tx.send(b"52.53 N")?;
    /// assert_eq!(&*rx.read()?.unwrap(), b"52.53 N");
    /// assert_eq!(&*rx.read()?.unwrap(), b"52.53 N");
    /// # drop((tx, rx, channel));
    /// # latest.remove(&ChannelName::new("position")?)?;
    /// # std::fs::remove_dir(&directory)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RecvError::WouldBlock`] if the writer overtook every one of 1,024 copies: a channel
    /// of a greater depth gives more time for one. [`RecvError::Corrupt`],
    /// [`RecvError::Forked`].
    ///
    /// # Blocking
    ///
    /// Never.
    #[inline]
    pub fn read(&mut self) -> Result<Option<LatestMessage<'_>>, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        self.held = None;
        for _ in 0..READ_TRIES {
            match self.ring.try_copy()? {
                Look::Nothing => return Ok(None),
                Look::Copied(version) if version.value == 0 => return Ok(None),
                Look::Copied(version) => {
                    self.held = Some(version);
                    return Ok(Some(LatestMessage { reader: self, version }));
                }
                Look::Again => {}
            }
        }
        Err(RecvError::WouldBlock)
    }

    /// The way of [`advance`](Receiver::advance) when there is nothing yet.
    #[inline(never)]
    fn wait_for_version(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        let (ring, received) = (&mut self.ring, self.received);
        let version =
            self.waiter.until(&self.attachment, wait, || Ok::<_, RecvError>(ring.newer_than(received)?))?;
        self.take(version)
    }

    /// Holds a value; an end is reported, and done with, when its value was received.
    #[inline]
    fn take(&mut self, version: Version) -> Result<(), RecvError> {
        if version.is_end() && version.value <= self.received {
            self.received = version.number;
            return Err(RecvError::End);
        }
        self.held = Some(version);
        Ok(())
    }

    #[inline]
    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.received = self.received.max(held.value);
        }
    }

    #[inline]
    fn bytes(&self, len: usize) -> &[u8] {
        let words = self.ring.copy();
        debug_assert!(len <= size_of_val(words), "a copy beyond its room");
        // SAFETY: the reader's own memory, as long as the longest value; `try_copy` checked
        // `len` against that. Bytes have no alignment and any value.
        unsafe { slice::from_raw_parts(words.as_ptr().cast(), len) }
    }
}

impl Receiver for LatestReader {
    type Message<'a> = LatestMessage<'a>;

    #[inline]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if self.advance_now()? {
            return Ok(());
        }
        self.wait_for_version(wait)
    }

    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.held.is_some() {
            return Ok(true);
        }
        match self.ring.try_copy()? {
            Look::Copied(version) if version.number > self.received => self.take(version).map(|()| true),
            _ => Ok(false),
        }
    }

    #[inline]
    fn held(&mut self) -> LatestMessage<'_> {
        assert!(self.attachment.is_ours(), "held() in a forked child");
        let version = self.held.expect("held() without a successful advance()");
        LatestMessage { reader: self, version }
    }
}

impl BatchReceiver for LatestReader {
    type Batch<'a> = LatestBatch<'a>;

    /// There is one newest value, so a batch has one message.
    fn advance_batch(&mut self, _max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.advance(wait).map(|()| 1)
    }

    fn held_batch(&mut self) -> LatestBatch<'_> {
        assert!(self.attachment.is_ours(), "held_batch() in a forked child");
        LatestBatch { reader: self }
    }
}

impl Sequenced for LatestReader {
    /// The version, counted from 0. Numbers that are skipped were values that newer ones
    /// replaced before they were received, and end marks.
    fn sequence_of(message: &LatestMessage<'_>) -> u64 {
        message.version.value - 1
    }
}

impl Pollable for LatestReader {
    fn descriptor(&mut self) -> Result<BorrowedFd<'_>, OsError> {
        self.waiter.descriptor(&self.attachment)
    }

    fn arm(&mut self) -> Result<bool, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.held.is_some() {
            return Ok(true);
        }
        let (ring, received) = (&mut self.ring, self.received);
        self.waiter.arm(&self.attachment, || Ok::<_, RecvError>(ring.newer_than(received)?.map(drop)))
    }
}

/// A value lent by a [`LatestReader`]: its own copy, which nobody changes.
#[derive(Debug)]
pub struct LatestMessage<'a> {
    reader: &'a mut LatestReader,
    version: Version,
}

impl Message for LatestMessage<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Deref for LatestMessage<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.reader.bytes(self.version.len)
    }
}

impl Drop for LatestMessage<'_> {
    #[inline]
    fn drop(&mut self) {
        self.reader.release();
    }
}

/// The value lent by a [`LatestReader`], as a batch of one.
#[derive(Debug)]
pub struct LatestBatch<'a> {
    reader: &'a mut LatestReader,
}

impl Batch for LatestBatch<'_> {
    fn len(&self) -> usize {
        usize::from(self.reader.held.is_some())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.reader.held.iter().map(|held| self.reader.bytes(held.len))
    }

    fn release(self, count: usize) {
        if count > 0 {
            self.reader.release();
        }
    }
}
