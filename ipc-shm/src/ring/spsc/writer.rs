//! The sender's end.

use super::{
    Cursor, END, Geometry, LINE_BYTES, RECORD_EVERY, WORD, committed, record_size, seldom,
    walk::{Walk, settled},
};
use crate::ring::{
    Corrupt,
    ledger::{Ledger, Progress, position_of},
    memory::Memory,
};
use std::sync::atomic::Ordering::{Acquire, Release};

/// How much a sender clears ahead.
const CLEAR_BYTES: usize = 16 * LINE_BYTES;

/// The longest message for which the ring is cleared before it is written.
const CLEARED_LEN: usize = 2 * LINE_BYTES;

/// The sender's end. Whoever makes one has made sure to be alone.
#[derive(Debug)]
pub(crate) struct Writer<M> {
    memory: M,
    geometry: Geometry,
    ledger: Ledger,
    cursor: Cursor,
    /// Messages sent.
    count: u64,
    /// A ring's length from the receiver's position, when that was last looked at: as an
    /// offset in the segment, from where this lap begins.
    limit: usize,
    /// From the word behind the cursor up to here all is zero. Such an offset as well, and not
    /// beyond the limit; 0 if nothing is known to be.
    clear: usize,
}

/// Messages that are written and will be published together.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The first one's word.
    first: u64,
    /// Behind the last one.
    end: Cursor,
    count: u64,
}

impl Batch {
    /// How many there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }
}

impl<M: Memory> Writer<M> {
    /// The words.
    #[inline]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Takes over from the last sender, dead or gone, while the receiver goes on.
    pub(crate) fn attach(memory: M, geometry: Geometry) -> Result<Self, Corrupt> {
        let ledger = Ledger::open(&memory, geometry.sender());
        let receiver = settled(&memory, &geometry)?;
        let mut walk = Walk::new(&geometry, ledger.progress(), receiver)?;
        while walk.step(&memory, &geometry)? {}
        let (cursor, count) = (walk.cursor, walk.count);
        let mut writer = Self { memory, geometry, ledger, cursor, count, limit: 0, clear: 0 };
        writer.set_limit(receiver.position);
        writer.record();
        Ok(writer)
    }

    /// For a ring that nobody has used; what the receiver's words say isn't asked.
    pub(crate) fn fresh(memory: M, geometry: Geometry) -> Self {
        let ledger = Ledger::open(&memory, geometry.sender());
        let cursor = Cursor::at(&geometry, 0);
        let mut writer = Self { memory, geometry, ledger, cursor, count: 0, limit: 0, clear: 0 };
        writer.set_limit(0);
        writer
    }

    /// How many messages were sent, by this sender and those before it.
    #[inline]
    pub(crate) fn sent_messages(&self) -> u64 {
        self.count
    }

    /// Whether there is room for a message of `len` bytes, which is not too long, as of the
    /// last look at the receiver's position.
    #[inline]
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.has_room_at(self.cursor, len)
    }

    /// Whether there is room for a message of `len` bytes, which is not too long.
    pub(crate) fn finds_room(&mut self, len: usize) -> Result<bool, Corrupt> {
        self.finds_room_at(self.cursor, len)
    }

    /// Whether, as of the last look at the receiver's position, more than seven eighths of the
    /// ring are taken.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.limit.saturating_sub(self.cursor.word) < self.geometry.capacity as usize / 8
    }

    #[inline]
    fn has_room_at(&self, cursor: Cursor, len: usize) -> bool {
        // A batch may have come to the next lap, and then the receiver's position gone back.
        let limit = self.limit.saturating_sub((cursor.lap - self.cursor.lap) as usize);
        cursor.word + (record_size(len as u64) + WORD) as usize <= limit
    }

    #[inline(never)]
    fn finds_room_at(&mut self, cursor: Cursor, len: usize) -> Result<bool, Corrupt> {
        // Acquire: pairs with the Release of the word in `Ledger::write`; what the receiver
        // read is read before we overwrite it.
        let released = position_of(self.memory.load(self.geometry.released, Acquire));
        self.geometry.used(self.cursor.position(&self.geometry), released)?;
        self.set_limit(released);
        Ok(self.has_room_at(cursor, len))
    }

    /// The receiver's position, which is no further than a ring's length behind ours.
    fn set_limit(&mut self, released: u64) {
        let limit = released + self.geometry.capacity;
        self.limit = self.geometry.data + (limit - self.cursor.lap) as usize;
    }

    /// Where the next message's payload goes, as an offset in the segment.
    #[inline]
    pub(crate) fn payload(&self) -> usize {
        self.cursor.payload()
    }

    /// Says that a message of `len` bytes, for which there is room, is about to be written: its
    /// lines are fetched side by side, and not one after the other as it is written. One that
    /// mostly is in a single line is written before a hint would tell.
    #[inline]
    pub(crate) fn expect_message(&self, len: usize) {
        if len < LINE_BYTES / 2 {
            return;
        }
        let end = self.cursor.word + record_size(len as u64) as usize;
        self.memory.expect_store(self.cursor.word);
        if len >= LINE_BYTES {
            self.memory.expect_store(self.cursor.word + LINE_BYTES);
        }
        self.memory.expect_store(end);
    }

    /// Publishes the message whose payload was written and for which there is room.
    #[inline]
    pub(crate) fn commit(&mut self, len: usize) {
        self.publish(committed(len), self.cursor.ahead(&self.geometry, record_size(len as u64)), 1);
        // One of the lines to come as well: while those before it are filled, it comes.
        self.memory.expect_store(self.cursor.word + 4 * LINE_BYTES);
    }

    /// Whether a message of `len` bytes can be written and published by `commit_clear`.
    #[inline]
    pub(crate) fn is_clear_for(&self, len: usize) -> bool {
        len <= CLEARED_LEN && self.cursor.word + (record_size(len as u64) + WORD) as usize <= self.clear
    }

    /// Clears what a message of `len` bytes, for which there is room, will take, and more; for
    /// a long one that would take more time than it saves.
    #[cold]
    #[inline(never)]
    pub(crate) fn clear_for(&mut self, len: usize) {
        if len > CLEARED_LEN {
            return;
        }
        self.clear_up_to(self.cursor.word + (record_size(len as u64) + WORD) as usize + CLEAR_BYTES);
    }

    fn clear_up_to(&mut self, offset: usize) {
        let (mut from, to) = (self.clear.max(self.cursor.word + WORD as usize), offset.min(self.limit));
        let (end, lap) = (self.geometry.end(), self.geometry.capacity as usize);
        while from < to {
            let (place, until) = if from < end { (from, to.min(end)) } else { (from - lap, to) };
            // Release: as of the zero in `publish`.
            self.memory.clear(place, until - from, Release);
            from = until;
            self.clear = until;
        }
    }

    /// Says that what is behind the cursor will be written to, and perhaps not published.
    #[inline]
    pub(crate) fn lend(&mut self) {
        self.clear = 0;
    }

    /// Publishes the message that was written to what is clear. So its stores are to one line
    /// after the other, and not to the next one before this one, for which a processor waits.
    #[inline]
    pub(crate) fn commit_clear(&mut self, len: usize) {
        self.publish_clear(committed(len), self.cursor.ahead(&self.geometry, record_size(len as u64)), 1);
        if self.clear < self.cursor.word + CLEAR_BYTES / 2 {
            self.clear_more();
        }
    }

    #[cold]
    #[inline(never)]
    fn clear_more(&mut self) {
        self.clear_up_to(self.cursor.word + CLEAR_BYTES);
    }

    /// Publishes the mark of a stream's end; there is room for an empty message.
    pub(crate) fn commit_end(&mut self) {
        self.publish(committed(0) | END, self.cursor.ahead(&self.geometry, record_size(0)), 0);
        // Marks aren't counted, and so would not be recorded every now and then.
        self.record();
    }

    /// Begins a batch with a message for which there is room, and whose payload goes where
    /// [`payload`](Self::payload) says. Nothing is published before `commit_batch`.
    #[inline]
    pub(crate) fn begin(&mut self, len: usize) -> Batch {
        self.lend();
        let end = self.cursor.ahead(&self.geometry, record_size(len as u64));
        Batch { first: committed(len), end, count: 1 }
    }

    /// Adds a message, which is not too long, if there is room for it now: where its payload
    /// goes.
    #[inline]
    pub(crate) fn add(&mut self, batch: &mut Batch, len: usize) -> Result<Option<usize>, Corrupt> {
        if !self.has_room_at(batch.end, len) && !self.finds_room_at(batch.end, len)? {
            return Ok(None);
        }
        // Release: as of the zero in `publish`.
        self.memory.store(batch.end.word, committed(len), Release);
        let payload = batch.end.payload();
        batch.end.advance(&self.geometry, record_size(len as u64));
        batch.count += 1;
        Ok(Some(payload))
    }

    /// Publishes a batch whose payloads were written.
    #[inline]
    pub(crate) fn commit_batch(&mut self, batch: Batch) {
        self.publish(batch.first, batch.end, batch.count);
    }

    /// Has the record here appear, with all that was written up to `end`.
    #[inline]
    fn publish(&mut self, word: u64, end: Cursor, messages: u64) {
        // Release: who looks, and finds this zero in place of an earlier lap's word, sees
        // that the receiver has left it. It pairs with the Acquire in `Cursor::record`.
        self.memory.store(end.word, 0, Release);
        self.publish_clear(word, end, messages);
    }

    /// The same where there is a zero at `end`.
    #[inline]
    fn publish_clear(&mut self, word: u64, end: Cursor, messages: u64) {
        // Release: pairs with the Acquire in `Cursor::record`; payload and zero come first.
        self.memory.store(self.cursor.word, word, Release);
        let count = self.count.wrapping_add(messages);
        let is_due = count / RECORD_EVERY != self.count / RECORD_EVERY;
        self.count = count;
        self.cursor.word = end.word;
        if self.cursor.lap != end.lap {
            seldom();
            let turned = (end.lap - self.cursor.lap) as usize;
            self.limit = self.limit.saturating_sub(turned);
            self.clear = self.clear.saturating_sub(turned);
            self.cursor.lap = end.lap;
        }
        if is_due {
            self.record();
        }
    }

    /// Writes down how far we have come, to spare others the walk.
    #[cold]
    #[inline(never)]
    pub(crate) fn record(&mut self) {
        let progress = Progress { position: self.cursor.position(&self.geometry), count: self.count };
        if self.ledger.progress() != progress {
            self.ledger.write(&self.memory, progress);
        }
    }
}
