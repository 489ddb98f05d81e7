//! What a subscriber finds, and the copies that one keeps who may be overtaken.

use super::{Header, WORD};

/// A record that a subscriber found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(super) publisher: u32,
    pub(super) header: Header,
    /// Where its payload is: an offset in the segment, or among the copies.
    pub(super) at: usize,
    pub(super) number: u64,
    /// The position behind it.
    pub(super) end: u64,
}

impl Record {
    /// The payload's length, in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.header.len()
    }

    /// Whether it is no message but the mark of a stream's end.
    #[inline]
    pub(crate) fn is_end(&self) -> bool {
        self.header.is_end()
    }

    /// Its number among those of its publisher.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whose it is.
    pub(crate) fn publisher(&self) -> u32 {
        self.publisher
    }

    /// What it takes up in its ring, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.header.size()
    }

    /// Where its payload is: an offset in the segment, or among the copies.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The copy of it was moved towards the beginning.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.at -= bytes;
    }
}

/// What a subscriber finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Record(Record),
    /// It was overtaken by a publisher; so many messages are lost to it.
    Missed(u64),
    Nothing,
    /// Nothing yet: it is overtaken by a publisher all the time.
    Overtaken,
}

/// Copies of messages, one behind the other. The memory is kept for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    bytes: Vec<u8>,
    used: usize,
}

impl Copies {
    /// The message of `len` bytes that begins here.
    #[inline]
    pub(crate) fn get(&self, at: usize, len: usize) -> &[u8] {
        &self.bytes[at..at + len]
    }

    /// Forgets all of them.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// Forgets those before `start`, if that is worth moving the others: by how much they
    /// were moved.
    pub(crate) fn forget(&mut self, start: usize) -> usize {
        if start < self.used - start {
            return 0;
        }
        self.bytes.copy_within(start..self.used, 0);
        self.used -= start;
        start
    }

    /// Room for one of `len` bytes, in whole words.
    #[inline]
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len.next_multiple_of(WORD as usize);
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }

    /// Keeps what was written to the room for `len` bytes; where it begins.
    #[inline]
    pub(super) fn keep(&mut self, len: usize) -> usize {
        let at = self.used;
        self.used += len.next_multiple_of(WORD as usize);
        at
    }
}
