//! One sender, one receiver: a byte ring of variable-length records whose commit word is in
//! line with the record, so that a small message and its signal travel in one cache line.
//!
//! ```text
//! record:  | commit word | payload, padded to 8 bytes |        word = len << 8 | flags, or 0
//! ring:    … released | record | record | 0 | free …           positions ever grow
//! ```
//!
//! **Send**: with room for the record *and* the word behind it, write the payload, zero the
//! word behind, then release-store this record's word. A kill leaves the whole record or
//! nothing. **Receive**: poll the word at one's own position; not zero, it is a record.
//! **Release**: store the position behind it for the sender to see.
//!
//! The ring is mapped twice in a row, so that no record is split and none is padded: the
//! longest message is the capacity less 16 (its own word and the one behind it).
//!
//! Both ends keep a [`Ledger`] for their successors. A successor of the sender starts
//! where its ledger says, or at the receiver's position if that is further, and walks the
//! records that were committed and not recorded: at most the last one, or the last batch.
//! A successor of the receiver starts at the last position that was released, so what a
//! dying receiver held is delivered again.
//!
//! Positions would wrap after 2^64 bytes, 58 years at 10 GB/s; they are refused from 2^63.
//!
//! In the manner of Aeron's ring buffers (length in front of the record, stored last), but
//! zeroing one word at a time instead of the whole record after it was read.

use super::{
    Corrupt,
    ledger::{Ledger, Progress},
    memory::Memory,
};
use std::{
    num::NonZeroU64,
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
};

/// What a record takes up besides its payload, and the word that has to fit behind it.
pub(crate) const OVERHEAD_BYTES: u64 = 16;

const WORD: u64 = 8;
const COMMITTED: u64 = 1;
const END: u64 = 2;
const LEN_SHIFT: u32 = 8;

/// Where the parts of a ring are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// The sender's ledger.
    pub(crate) sender_ledger: usize,
    /// The receiver's ledger.
    pub(crate) receiver_ledger: usize,
    /// The receiver's position, which the sender polls when the ring looks full.
    pub(crate) released: usize,
    /// The first byte of the data area.
    pub(crate) data: usize,
    /// The length of the data area: a multiple of 8, at least 16.
    pub(crate) capacity: u64,
}

impl Geometry {
    /// The longest message, in bytes.
    pub(crate) fn max_message_len(&self) -> usize {
        (self.capacity - OVERHEAD_BYTES) as usize
    }

    #[inline]
    fn word_at(&self, place: u64) -> usize {
        self.data + place as usize
    }

    /// Steps over `size` bytes, from a place within the ring to another.
    #[inline]
    fn step(&self, place: u64, size: u64) -> u64 {
        let next = place + size;
        if next >= self.capacity { next - self.capacity } else { next }
    }

    fn check(&self, whose: &str, position: u64) -> Result<(), Corrupt> {
        if position % WORD == 0 && position < 1 << 63 {
            return Ok(());
        }
        Err(Corrupt(format!("the {whose}'s position is {position}")))
    }

    /// How much lies between the receiver and the sender.
    #[inline]
    fn used(&self, head: u64, released: u64) -> Result<u64, Corrupt> {
        let used = head.wrapping_sub(released);
        if used <= self.capacity && used % WORD == 0 {
            return Ok(used);
        }
        Err(out_of_step(head, released))
    }
}

#[cold]
fn out_of_step(head: u64, released: u64) -> Corrupt {
    Corrupt(format!("the sender is at {head}, the receiver at {released}"))
}

/// A record found in the ring: where, and its word, which was loaded once and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    place: u64,
    word: NonZeroU64,
}

impl Record {
    /// The record at `place`, if there is one.
    #[inline]
    fn parse(geometry: &Geometry, place: u64, word: u64) -> Result<Option<Self>, Corrupt> {
        let Some(word) = NonZeroU64::new(word) else { return Ok(None) };
        let flags = word.get() & ((1 << LEN_SHIFT) - 1);
        // All of its bits, also where a length in memory has fewer.
        if flags & !END != COMMITTED || word.get() >> LEN_SHIFT > geometry.capacity - OVERHEAD_BYTES {
            return Err(bad_word(place, word.get()));
        }
        Ok(Some(Self { place, word }))
    }

    /// The payload's length, in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        (self.word.get() >> LEN_SHIFT) as usize
    }

    /// Whether it is no message but the mark of a stream's end.
    #[inline]
    pub(crate) fn is_end(&self) -> bool {
        self.word.get() & END != 0
    }

    #[inline]
    fn size(&self) -> u64 {
        record_size(self.len() as u64)
    }
}

#[cold]
fn bad_word(place: u64, word: u64) -> Corrupt {
    Corrupt(format!("the record at byte {place} of the ring starts with {word:#x}"))
}

#[inline]
fn record_size(len: u64) -> u64 {
    WORD + len.next_multiple_of(WORD)
}

/// The sender's end. Whoever makes one has made sure to be alone.
#[derive(Debug)]
pub(crate) struct Writer<M> {
    memory: M,
    geometry: Geometry,
    ledger: Ledger,
    progress: Progress,
    /// The position's place in the ring.
    place: u64,
    /// A ring's length from the receiver's position, when that was last looked at.
    limit: u64,
}

impl<M: Memory> Writer<M> {
    /// The words.
    #[inline]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Takes over from the last sender, dead or gone.
    pub(crate) fn attach(memory: M, geometry: Geometry) -> Result<Self, Corrupt> {
        let (ledger, mut progress) = Ledger::open(&memory, geometry.sender_ledger);
        // Acquire: pairs with the Release in `Reader::release`.
        let released = memory.load(geometry.released, Acquire);
        let (_, receiver) = Ledger::open(&memory, geometry.receiver_ledger);
        geometry.check("receiver", released)?;
        geometry.check("sender", progress.position)?;
        if released > progress.position {
            // Killed between its commit and its ledger, and the receiver was quick. The
            // receiver's ledger may be ahead of what it has published, never behind.
            progress = receiver;
            geometry.check("receiver", progress.position)?;
        }
        geometry.used(progress.position, released)?;
        let place = progress.position % geometry.capacity;
        let limit = released + geometry.capacity;
        let mut writer = Self { memory, geometry, ledger, progress, place, limit };
        writer.catch_up()?;
        Ok(writer)
    }

    /// Walks over what the last sender committed and didn't record.
    fn catch_up(&mut self) -> Result<(), Corrupt> {
        let geometry = self.geometry;
        let start = self.progress;
        loop {
            // Acquire: the walk is on what a dead process stored; nothing else pairs.
            let word = self.memory.load(geometry.word_at(self.place), Acquire);
            let Some(record) = Record::parse(&geometry, self.place, word)? else { break };
            self.progress.position += record.size();
            self.progress.count = self.progress.count.wrapping_add(u64::from(!record.is_end()));
            self.place = geometry.step(self.place, record.size());
            // The ring can't hold more than a ring: this also bounds the walk.
            let walked = self.progress.position - start.position;
            if walked > geometry.capacity - WORD {
                return Err(Corrupt("its records have no end".into()));
            }
        }
        if self.progress != start {
            self.ledger.write(&self.memory, self.progress);
        }
        Ok(())
    }

    /// Whether there is room for a message of `len` bytes, which is not too long.
    #[inline]
    pub(crate) fn has_room(&mut self, len: usize) -> Result<bool, Corrupt> {
        let end = self.progress.position + record_size(len as u64) + WORD;
        if end <= self.limit {
            return Ok(true);
        }
        // Acquire: pairs with the Release in `Reader::release`; what the receiver read is
        // read before we overwrite it.
        let released = self.memory.load(self.geometry.released, Acquire);
        self.geometry.used(self.progress.position, released)?;
        self.limit = released + self.geometry.capacity;
        Ok(end <= self.limit)
    }

    /// Where the next message's payload goes, as an offset in the segment.
    #[inline]
    pub(crate) fn payload(&self) -> usize {
        self.geometry.word_at(self.place) + WORD as usize
    }

    /// Publishes the message whose payload was written and for which there is room.
    #[inline]
    pub(crate) fn commit(&mut self, len: usize) {
        self.publish(len as u64, COMMITTED);
        self.progress.count = self.progress.count.wrapping_add(1);
        self.ledger.write(&self.memory, self.progress);
    }

    /// Publishes the mark of a stream's end; there is room for an empty message.
    pub(crate) fn commit_end(&mut self) {
        self.publish(0, COMMITTED | END);
        self.ledger.write(&self.memory, self.progress);
    }

    #[inline]
    fn publish(&mut self, len: u64, flags: u64) {
        let size = record_size(len);
        let behind = self.geometry.step(self.place, size);
        // Ordered before the commit by its Release.
        self.memory.store(self.geometry.word_at(behind), 0, Relaxed);
        // Release: pairs with the Acquire in `Reader::next`; payload and zero come first.
        self.memory.store(self.geometry.word_at(self.place), len << LEN_SHIFT | flags, Release);
        self.progress.position += size;
        self.place = behind;
    }
}

/// The receiver's end. Whoever makes one has made sure to be alone.
///
/// It reads ahead of what it has released: `next` finds records, `release` gives the
/// oldest of them back.
#[derive(Debug)]
pub(crate) struct Reader<M> {
    memory: M,
    geometry: Geometry,
    ledger: Ledger,
    /// What was released.
    progress: Progress,
    /// How far it has read, and the place of that in the ring.
    read: u64,
    place: u64,
}

impl<M: Memory> Reader<M> {
    /// The words.
    #[inline]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Takes over from the last receiver, dead or gone. What it held comes again.
    pub(crate) fn attach(memory: M, geometry: Geometry) -> Result<Self, Corrupt> {
        let (ledger, progress) = Ledger::open(&memory, geometry.receiver_ledger);
        geometry.check("receiver", progress.position)?;
        let released = memory.load(geometry.released, Relaxed);
        // One release at the most is recorded and not yet published.
        geometry.used(progress.position, released)?;
        // Release: pairs with the Acquire in `has_room`.
        memory.store(geometry.released, progress.position, Release);
        let place = progress.position % geometry.capacity;
        Ok(Self { memory, geometry, ledger, progress, read: progress.position, place })
    }

    /// The next record, if it is there.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Record>, Corrupt> {
        // Acquire: pairs with the Release in `Writer::publish`.
        let word = self.memory.load(self.geometry.word_at(self.place), Acquire);
        let Some(record) = Record::parse(&self.geometry, self.place, word)? else { return Ok(None) };
        let read = self.read + record.size();
        if read - self.progress.position > self.geometry.capacity - WORD {
            return Err(bad_word(self.place, word));
        }
        self.read = read;
        self.place = self.geometry.step(self.place, record.size());
        Ok(Some(record))
    }

    /// Where a record's payload is, as an offset in the segment.
    #[inline]
    pub(crate) fn payload(&self, record: &Record) -> usize {
        self.geometry.word_at(record.place) + WORD as usize
    }

    /// Takes back the last `next`: its record will be found again.
    pub(crate) fn unread(&mut self, record: &Record) {
        self.read -= record.size();
        self.place = record.place;
    }

    /// Gives back the oldest records that were read and not released.
    #[inline]
    pub(crate) fn release<'r>(&mut self, records: impl IntoIterator<Item = &'r Record>) {
        for record in records {
            self.progress.position += record.size();
            self.progress.count = self.progress.count.wrapping_add(u64::from(!record.is_end()));
        }
        self.ledger.write(&self.memory, self.progress);
        // Release: pairs with the Acquire in `has_room`; our reads come before.
        self.memory.store(self.geometry.released, self.progress.position, Release);
    }
}
