//! The receiving end: API → ring → a copy → line.

use super::{line::Line, memory::Shared};
use crate::{
    ring::{
        memory::Words,
        spsc::{Reader, Record},
    },
    wait::Waiting,
};
use ipc_core::{Message, Receiver, RecvError, Sequenced, Unwinding, Wait};
use std::{ops::Deref, slice};

/// The receiving end of a sealed channel.
///
/// Whatever the peer does, a message is some bytes that don't change any more: it is copied
/// to memory of this process's own, and its place in the channel is free from then on.
#[derive(Debug)]
pub struct SealedReceiver {
    ring: Reader<Words>,
    /// The message that was taken last: whole words.
    copy: Vec<u64>,
    /// Its length, if it is held.
    held: Option<usize>,
    line: Line,
}

impl SealedReceiver {
    pub(super) fn new(line: Line, shared: Shared) -> Self {
        let ring = Reader::fresh(shared.words, shared.geometry);
        Self { ring, copy: Vec::new(), held: None, line }
    }

    /// Sets how this endpoint waits for messages; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.line.waiting = waiting;
    }

    /// Copies a message, and lets go of it in the channel; an end mark is reported.
    #[inline]
    fn take(&mut self, record: Record) -> Result<(), RecvError> {
        if record.is_end() {
            self.ring.release_end(record);
            self.line.wake();
            return Err(RecvError::End);
        }
        let words = record.len().div_ceil(size_of::<u64>());
        if self.copy.len() < words {
            self.grow(words);
        }
        self.ring.memory().copy_out(self.ring.first_payload(), &mut self.copy[..words]);
        self.held = Some(record.len());
        self.ring.release_first(record);
        self.line.wake();
        Ok(())
    }

    #[cold]
    fn grow(&mut self, words: usize) {
        self.copy.resize(words, 0);
    }

    #[inline]
    fn bytes(&self, len: usize) -> &[u8] {
        let words = &self.copy[..len.div_ceil(size_of::<u64>())];
        // SAFETY: the receiver's own memory, of which no peer has a mapping; as long as `len`
        // by the line above. Bytes have no alignment and any value.
        unsafe { slice::from_raw_parts(words.as_ptr().cast(), len) }
    }
}

impl Receiver for SealedReceiver {
    type Message<'a> = SealedMessage<'a>;

    // The fast path is `advance_now`.
    #[inline(never)]
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError> {
        if !self.line.is_ours() {
            return Err(RecvError::Forked);
        }
        if self.held.is_some() {
            return Ok(());
        }
        let ring = &mut self.ring;
        let record = match ring.next(0)? {
            Some(record) => record,
            None => self.line.until(wait, || ring.next(0).map_err(RecvError::from))?,
        };
        self.take(record)
    }

    // What isn't a message is left to `advance`.
    #[inline]
    fn advance_now(&mut self) -> Result<bool, RecvError> {
        if !self.line.is_ours() {
            return Ok(false);
        }
        if self.held.is_none() {
            let Some(message) = self.ring.first() else { return Ok(false) };
            self.take(message)?;
        }
        Ok(true)
    }

    #[inline]
    fn held(&mut self) -> SealedMessage<'_> {
        assert!(self.line.is_ours(), "held() in a forked child");
        let len = self.held.expect("held() without a successful advance()");
        SealedMessage { receiver: self, len, unwinding: Unwinding::watch() }
    }
}

impl Sequenced for SealedReceiver {
    /// Messages are numbered from the making of the channel on; end marks are not.
    #[inline]
    fn sequence_of(message: &SealedMessage<'_>) -> u64 {
        // It was released when it was copied.
        message.receiver.ring.released_messages().wrapping_sub(1)
    }
}

/// A message lent by a [`SealedReceiver`]: its own copy, which no peer can change.
#[derive(Debug)]
pub struct SealedMessage<'a> {
    receiver: &'a mut SealedReceiver,
    len: usize,
    unwinding: Unwinding,
}

impl Message for SealedMessage<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Deref for SealedMessage<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.receiver.bytes(self.len)
    }
}

impl Drop for SealedMessage<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.unwinding.has_begun() {
            self.receiver.held = None;
        }
    }
}
