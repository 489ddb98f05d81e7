//! What a reading end of the newest value has of it: the copy that is lent, and which version
//! was received last. The reader and those who only look on differ in how they wait.

use crate::{
    ring::{
        latest::{Look, Patience, Reader, Version},
        memory::Words,
    },
    wait::Awaited,
};
use ipc_core::{Batch, Message, RecvError, Unwinding};
use std::{ops::Deref, slice};

/// Of [`Values::read`], behind which nobody looks at a clock.
const READING: Patience = Patience { tries: 1 << 10, bytes: 64 << 20 };

#[derive(Debug)]
pub(crate) struct Values {
    ring: Reader<Words>,
    /// The version of the last value, or end, that was released.
    received: u64,
    /// What is lent, or kept.
    held: Option<Version>,
}

impl Values {
    pub(crate) fn new(ring: Reader<Words>) -> Self {
        Self { ring, received: 0, held: None }
    }

    /// The words.
    pub(crate) fn memory(&self) -> &Words {
        self.ring.memory()
    }

    /// The value that is there now, new or not, in place of what was kept.
    #[inline]
    pub(crate) fn read(&mut self) -> Result<Option<LatestMessage<'_>>, RecvError> {
        self.held = None;
        match self.ring.copy_anew(READING)? {
            Look::Nothing => Ok(None),
            Look::Copied(version) if version.value == 0 => Ok(None),
            Look::Copied(version) => {
                self.held = Some(version);
                Ok(Some(self.held()))
            }
            Look::Again => Err(RecvError::WouldBlock),
        }
    }

    /// Whether a value is held, or one that is new is there now: then it is held.
    #[inline]
    pub(crate) fn advance_now(&mut self) -> Result<bool, RecvError> {
        if self.held.is_some() {
            return Ok(true);
        }
        match self.ring.try_copy()? {
            Look::Copied(version) if version.number > self.received => self.take(version).map(|()| true),
            _ => Ok(false),
        }
    }

    /// A version that was not received yet.
    #[inline]
    pub(crate) fn newer(&mut self) -> Newer<'_> {
        // By the look before: it isn't known.
        Newer { values: self, was_overtaken: true }
    }

    /// Holds a value; an end is reported, and done with, when its value was received.
    #[inline]
    pub(crate) fn take(&mut self, version: Version) -> Result<(), RecvError> {
        if version.is_end() && version.value <= self.received {
            self.received = version.number;
            return Err(RecvError::End);
        }
        self.held = Some(version);
        Ok(())
    }

    /// Whether a value is held.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// What is held.
    #[inline]
    pub(crate) fn held(&mut self) -> LatestMessage<'_> {
        let version = self.held.expect("held() without a successful advance()");
        LatestMessage { values: self, version, unwinding: Unwinding::watch() }
    }

    /// What is held, as a batch.
    pub(crate) fn held_batch(&mut self) -> LatestBatch<'_> {
        LatestBatch { values: self }
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
        // SAFETY: this process's own memory, as long as the longest value; `try_copy` checked
        // `len` against that. Bytes have no alignment and any value, and no peer sees them.
        unsafe { slice::from_raw_parts(words.as_ptr().cast(), len) }
    }
}

/// A version that was not received yet, awaited.
#[derive(Debug)]
pub(crate) struct Newer<'a> {
    values: &'a mut Values,
    was_overtaken: bool,
}

impl Awaited for Newer<'_> {
    type Answer = Version;
    type Error = RecvError;

    #[inline]
    fn poll(&mut self) -> Result<Option<Version>, RecvError> {
        let look = self.values.ring.newer_than(self.values.received)?;
        self.was_overtaken = look == Look::Again;
        Ok(if let Look::Copied(version) = look { Some(version) } else { None })
    }

    /// What is copied may be long, and the writer decides how often it is in vain.
    fn takes_long(&self) -> bool {
        self.was_overtaken
    }
}

/// A value lent by a [`LatestReader`](crate::LatestReader) or a
/// [`LatestObserver`](crate::LatestObserver): its own copy, which nobody changes.
#[derive(Debug)]
pub struct LatestMessage<'a> {
    values: &'a mut Values,
    version: Version,
    unwinding: Unwinding,
}

impl LatestMessage<'_> {
    /// The version, counted from 0.
    pub(crate) fn number(&self) -> u64 {
        self.version.value - 1
    }
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
        self.values.bytes(self.version.len)
    }
}

impl Drop for LatestMessage<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.unwinding.has_begun() {
            self.values.release();
        }
    }
}

/// The value lent by a [`LatestReader`](crate::LatestReader) or a
/// [`LatestObserver`](crate::LatestObserver), as a batch of one.
#[derive(Debug)]
pub struct LatestBatch<'a> {
    values: &'a mut Values,
}

impl Batch for LatestBatch<'_> {
    fn len(&self) -> usize {
        usize::from(self.values.is_held())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.values.held.iter().map(|held| self.values.bytes(held.len))
    }

    fn release(self, count: usize) {
        if count > 0 {
            self.values.release();
        }
    }
}
