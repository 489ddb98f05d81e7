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
use std::{mem, ops::Deref, slice};

/// Of [`Values::read`], behind which nobody looks at a clock.
const READING: Patience = Patience { tries: 1 << 10, bytes: 64 << 20 };

#[derive(Debug)]
pub(crate) struct Values {
    ring: Reader<Words>,
    /// The version of the last value, or end, that was released.
    received: u64,
    /// Whether what was copied last is lent, or kept: then no other version is copied.
    is_held: bool,
}

impl Values {
    pub(crate) fn new(ring: Reader<Words>) -> Self {
        Self { ring, received: 0, is_held: false }
    }

    /// The words.
    pub(crate) fn memory(&self) -> &Words {
        self.ring.memory()
    }

    /// The value that is there now, new or not, in place of what was kept.
    #[inline]
    pub(crate) fn read(&mut self) -> Result<Option<LatestMessage<'_>>, RecvError> {
        self.is_held = false;
        match self.ring.copy_anew(READING)? {
            Look::Copied if self.ring.copied().value > 0 => {
                self.is_held = true;
                Ok(Some(self.held()))
            }
            Look::Copied | Look::Nothing => Ok(None),
            Look::Again => Err(RecvError::WouldBlock),
        }
    }

    /// Whether a value is held, or one that is new is there now: then it is held.
    #[inline]
    pub(crate) fn advance_now(&mut self) -> Result<bool, RecvError> {
        if self.is_held {
            return Ok(true);
        }
        match self.ring.try_copy()? {
            Look::Copied if self.ring.copied().number > self.received => self.take().map(|()| true),
            _ => Ok(false),
        }
    }

    /// A version that was not received yet.
    #[inline]
    pub(crate) fn newer(&mut self) -> Newer<'_> {
        // By the look before: it isn't known.
        Newer { values: self, was_overtaken: true }
    }

    /// Holds the value that was copied; an end is reported, and done with, when its value was
    /// received.
    #[inline]
    pub(crate) fn take(&mut self) -> Result<(), RecvError> {
        let Version { number, value, .. } = self.ring.copied();
        if self.ring.copied().is_end() && value <= self.received {
            self.received = number;
            return Err(RecvError::End);
        }
        self.is_held = true;
        Ok(())
    }

    /// Whether a value is held.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    /// What is held.
    #[inline]
    pub(crate) fn held(&mut self) -> LatestMessage<'_> {
        assert!(self.is_held, "held() without a successful advance()");
        LatestMessage { values: self, unwinding: Unwinding::watch() }
    }

    /// What is held, as a batch.
    pub(crate) fn held_batch(&mut self) -> LatestBatch<'_> {
        LatestBatch { values: self }
    }

    #[inline]
    fn release(&mut self) {
        if mem::take(&mut self.is_held) {
            self.received = self.received.max(self.ring.copied().value);
        }
    }

    /// Those of the version that was copied last.
    #[inline]
    fn bytes(&self) -> &[u8] {
        let (words, len) = (self.ring.copy(), self.ring.copied().len);
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
    type Answer = ();
    type Error = RecvError;

    #[inline]
    fn poll(&mut self) -> Result<Option<()>, RecvError> {
        let look = self.values.ring.newer_than(self.values.received)?;
        self.was_overtaken = look == Look::Again;
        Ok((look == Look::Copied).then_some(()))
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
    unwinding: Unwinding,
}

impl LatestMessage<'_> {
    /// The version, counted from 0.
    pub(crate) fn number(&self) -> u64 {
        self.values.ring.copied().value - 1
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
        self.values.bytes()
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
        usize::from(self.values.is_held)
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.values.is_held.then(|| self.values.bytes()).into_iter()
    }

    fn release(self, count: usize) {
        if count > 0 {
            self.values.release();
        }
    }
}
