//! The reading end: API → ring.

use super::{
    readers_asleep,
    values::{LatestBatch, LatestMessage, Values},
};
use crate::{
    ring::latest::{Geometry, Reader},
    segment::Attachment,
    wait::{Awaited, Bed, Waiter, Waiting},
};
use ipc_core::{BatchReceiver, OsError, Pollable, Receiver, RecvError, Sequenced, Wait};
use std::os::fd::BorrowedFd;

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
    values: Values,
    waiter: Waiter,
    /// Last: the ring's reference to the memory must be gone before the place is.
    attachment: Attachment,
}

impl LatestReader {
    pub(crate) fn new(attachment: Attachment) -> Self {
        let geometry = Geometry::of(attachment.layout(), &attachment.header().geometry);
        Self {
            values: Values::new(Reader::attach(attachment.words(), geometry)),
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
    /// [`RecvError::WouldBlock`] if the writer overtook every one of 1,024 copies, fewer if
    /// they come to 64 MiB: a channel of a greater depth gives more time for one.
    /// [`RecvError::Corrupt`], [`RecvError::Forked`].
    ///
    /// # Blocking
    ///
    /// Never.
    #[inline]
    pub fn read(&mut self) -> Result<Option<LatestMessage<'_>>, RecvError> {
        if !self.attachment.is_ours() {
            return Err(RecvError::Forked);
        }
        self.values.read()
    }

    /// The way of [`advance`](Receiver::advance) when there is nothing yet.
    #[inline(never)]
    fn wait_for_version(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        self.waiter.until(&self.attachment, wait, self.values.newer())?;
        self.values.take()
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
        self.values.advance_now()
    }

    #[inline]
    fn held(&mut self) -> LatestMessage<'_> {
        assert!(self.attachment.is_ours(), "held() in a forked child");
        self.values.held()
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
        self.values.held_batch()
    }
}

impl Sequenced for LatestReader {
    /// The version, counted from 0. Numbers that are skipped were values that newer ones
    /// replaced before they were received, and end marks.
    fn sequence_of(message: &LatestMessage<'_>) -> u64 {
        message.number()
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
        if self.values.is_held() {
            return Ok(true);
        }
        let mut newer = self.values.newer();
        self.waiter.arm(&self.attachment, || Ok::<_, RecvError>(newer.poll()?.map(drop)))
    }
}
