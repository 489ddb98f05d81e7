//! Looking on at the newest value: API → ring, and nothing back.

use super::{Outlook, Window};
use crate::{
    latest::readers_asleep,
    ring::{
        latest::{Geometry, Look, Reader, Version},
        memory::Words,
    },
    segment::Onlooker,
    wait::Waiting,
};
use ipc_core::{Batch, BatchReceiver, Message, Receiver, RecvError, Sequenced, Wait};
use std::{ops::Deref, slice};

/// How often [`LatestObserver::read`] begins again in all.
const READ_TRIES: u32 = 1 << 10;

/// A reading end of a channel that holds the newest value, and that only reads
/// ([`Latest::observe`](crate::Latest::observe)).
///
/// It is given what a [`LatestReader`](crate::LatestReader) is given, but nobody knows of it,
/// and it waits as a [`BroadcastObserver`](super::BroadcastObserver) does.
#[derive(Debug)]
pub struct LatestObserver<O: Outlook = Window> {
    ring: Reader<Words>,
    /// The version of the last value, or end, that was released.
    received: u64,
    /// What is lent, or kept.
    held: Option<Version>,
    outlook: O,
}

impl LatestObserver {
    pub(crate) fn new(onlooker: Onlooker) -> Self {
        let layout = *onlooker.layout();
        let geometry = Geometry::of(&layout, &onlooker.header().geometry);
        let window = Window::new(onlooker, readers_asleep(&layout));
        Self::at(Reader::attach(window.words.clone(), geometry), window)
    }
}

impl<O: Outlook> LatestObserver<O> {
    pub(crate) fn at(ring: Reader<Words>, outlook: O) -> Self {
        Self { ring, received: 0, held: None, outlook }
    }

    /// The memory, which can only be loaded from.
    pub(crate) fn memory(&self) -> &Words {
        self.ring.memory()
    }

    /// Sets how this endpoint waits for values; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.outlook.set_waiting(waiting);
    }

    /// The value that is there now, new or not; `None` if none was ever written. It counts as
    /// received, and takes the place of a message that was kept.
    ///
    /// # Errors
    ///
    /// [`RecvError::WouldBlock`] if the writer was faster than each of a thousand copies;
    /// [`RecvError::Corrupt`]; [`RecvError::Forked`].
    pub fn read(&mut self) -> Result<Option<ObservedValue<'_, O>>, RecvError> {
        if !self.outlook.is_ours() {
            return Err(RecvError::Forked);
        }
        self.held = None;
        for _ in 0..READ_TRIES {
            match self.ring.try_copy()? {
                Look::Nothing => return Ok(None),
                Look::Copied(version) if version.value == 0 => return Ok(None),
                Look::Copied(version) => {
                    self.held = Some(version);
                    return Ok(Some(ObservedValue { observer: self, version }));
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
        let newer = || Ok(ring.newer_than(received)?);
        let version = self.outlook.until(wait, newer)?;
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
        // SAFETY: the observer's own memory, as long as the longest value; `try_copy` checked
        // `len` against that. Bytes have no alignment and any value, and no peer sees them.
        unsafe { slice::from_raw_parts(words.as_ptr().cast(), len) }
    }
}

impl<O: Outlook + Send> Receiver for LatestObserver<O> {
    type Message<'a>
        = ObservedValue<'a, O>
    where
        Self: 'a;

    #[inline]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if self.advance_now()? {
            return Ok(());
        }
        self.wait_for_version(wait)
    }

    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        if !self.outlook.is_ours() {
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
    fn held(&mut self) -> ObservedValue<'_, O> {
        assert!(self.outlook.is_ours(), "held() in a forked child");
        let version = self.held.expect("held() without a successful advance()");
        ObservedValue { observer: self, version }
    }
}

impl<O: Outlook + Send> BatchReceiver for LatestObserver<O> {
    type Batch<'a>
        = ObservedValueBatch<'a, O>
    where
        Self: 'a;

    /// There is one newest value, so a batch has one message.
    fn advance_batch(&mut self, _max_messages: usize, wait: Wait<'_>) -> Result<usize, RecvError> {
        self.advance(wait).map(|()| 1)
    }

    fn held_batch(&mut self) -> ObservedValueBatch<'_, O> {
        assert!(self.outlook.is_ours(), "held_batch() in a forked child");
        ObservedValueBatch { observer: self }
    }
}

impl<O: Outlook + Send> Sequenced for LatestObserver<O> {
    /// The version, counted from 0. Numbers that are skipped were values that newer ones
    /// replaced before they were received, and end marks.
    fn sequence_of(message: &ObservedValue<'_, O>) -> u64 {
        message.version.value - 1
    }
}

/// A value lent by a [`LatestObserver`]: its own copy, which nobody changes.
#[derive(Debug)]
pub struct ObservedValue<'a, O: Outlook = Window> {
    observer: &'a mut LatestObserver<O>,
    version: Version,
}

impl<O: Outlook> Message for ObservedValue<'_, O> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl<O: Outlook> Deref for ObservedValue<'_, O> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.observer.bytes(self.version.len)
    }
}

impl<O: Outlook> Drop for ObservedValue<'_, O> {
    #[inline]
    fn drop(&mut self) {
        self.observer.release();
    }
}

/// The value lent by a [`LatestObserver`], as a batch of one.
#[derive(Debug)]
pub struct ObservedValueBatch<'a, O: Outlook = Window> {
    observer: &'a mut LatestObserver<O>,
}

impl<O: Outlook> Batch for ObservedValueBatch<'_, O> {
    fn len(&self) -> usize {
        usize::from(self.observer.held.is_some())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.observer.held.iter().map(|held| self.observer.bytes(held.len))
    }

    fn release(self, count: usize) {
        if count > 0 {
            self.observer.release();
        }
    }
}
