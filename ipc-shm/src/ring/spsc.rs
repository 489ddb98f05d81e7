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
//! nothing. Where the word behind is in the next line, such stores go forth and back between
//! two lines, and a processor that has to fetch both does one after the other. So who sends
//! small messages **clears** several lines ahead at once, as far as the receiver has left
//! them, and then only writes payloads and words, ever forward. **Receive**: poll the word
//! at one's own position; not zero, it is a record. **Release**: store the position behind it
//! for the sender to see.
//!
//! **Batch**: write all records and the zero behind the last one, and the word of the first
//! one last. Until then that word is the zero behind what was committed before, so the
//! batch appears whole.
//!
//! The ring is mapped twice in a row, so that no record is split and none is padded: the
//! longest message is the capacity less 16 (its own word and the one behind it).
//!
//! Both ends keep a [`Ledger`]. The receiver's is what the sender polls for room, so it is
//! written at each release, and a successor starts where it says: what a dying receiver
//! held is delivered again. The sender's is for its successor and for those who [`look`].
//! It is written at every [`RECORD_EVERY`]th message only, because stores are what a small
//! message costs. From the further of both ledgers one walks the records that were
//! committed since: each has its length, and behind the last one is a zero.
//!
//! Such a walk finds every word as it was committed: the sender overwrites nothing behind
//! which the receiver isn't, and the receiver changes no words. A successor of the sender
//! walks beside a live receiver, but there is nobody who could overwrite. Somebody who
//! looks while both go on has seen what there was if the receiver's ledger is the same
//! after.
//!
//! Positions would wrap after 2^64 bytes, 58 years at 10 GB/s; they are refused from 2^63.
//!
//! In the manner of Aeron's ring buffers (length in front of the record, stored last), but
//! zeroing what is ahead instead of the whole record after it was read.

use super::{
    Corrupt,
    ledger::{self, Ledger, Progress, position_of},
    memory::Memory,
};
use std::{
    num::NonZeroU64,
    sync::atomic::Ordering::{Acquire, Release},
};

/// What a record takes up besides its payload, and the word that has to fit behind it.
pub(crate) const OVERHEAD_BYTES: u64 = 16;

const WORD: u64 = 8;
const COMMITTED: u64 = 1;
const END: u64 = 2;
const LEN_SHIFT: u32 = 8;

/// After how many messages the sender's ledger is written: often enough that the walk of a
/// successor takes microseconds, seldom enough that the three stores don't count. It is the
/// records that a walk takes time for, not the bytes. A batch is not interrupted for it.
pub(crate) const RECORD_EVERY: u64 = 64;

/// How much a sender clears ahead.
const CLEAR_BYTES: usize = 16 * LINE_BYTES;

/// The longest message for which the ring is cleared before it is written.
const CLEARED_LEN: usize = 2 * LINE_BYTES;

/// What processors move from one to the other.
const LINE_BYTES: usize = 64;

/// How often somebody who looks at a ring that is changing tries again.
const LOOKS: u32 = 4;

/// Where the parts of a ring are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// The sender's ledger.
    pub(crate) sender_ledger: usize,
    /// The counts of the receiver's ledger.
    pub(crate) receiver_ledger: usize,
    /// The position of the receiver's ledger, which the sender polls when the ring looks
    /// full.
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

    /// Behind the data area.
    #[inline]
    fn end(&self) -> usize {
        self.data + self.capacity as usize
    }

    fn sender(&self) -> ledger::Place {
        ledger::Place::at(self.sender_ledger)
    }

    fn receiver(&self) -> ledger::Place {
        ledger::Place { position: self.released, counts: self.receiver_ledger }
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
        match head.checked_sub(released) {
            Some(used) if used <= self.capacity && used % WORD == 0 => Ok(used),
            _ => Err(out_of_step(head, released)),
        }
    }
}

/// Says that the way here is seldom taken, so that the other one is kept short.
#[cold]
#[inline(never)]
fn seldom() {}

#[cold]
fn out_of_step(head: u64, released: u64) -> Corrupt {
    Corrupt(format!("the sender is at {head}, the receiver at {released}"))
}

/// A position, as where that is in the ring and the position of the ring's first byte in its
/// lap: so the word is found without a computation, and it takes one store to go on within a
/// lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    /// The offset of the word here.
    word: usize,
    lap: u64,
}

impl Cursor {
    fn at(geometry: &Geometry, position: u64) -> Self {
        let place = position % geometry.capacity;
        Self { word: geometry.data + place as usize, lap: position - place }
    }

    #[inline]
    fn position(&self, geometry: &Geometry) -> u64 {
        self.lap + self.place(geometry)
    }

    /// How far from the ring's first byte, in bytes.
    #[inline]
    fn place(&self, geometry: &Geometry) -> u64 {
        (self.word - geometry.data) as u64
    }

    /// The offset of the payload of the record here.
    #[inline]
    fn payload(&self) -> usize {
        self.word + WORD as usize
    }

    /// Goes on, by less than the ring's length.
    #[inline]
    fn advance(&mut self, geometry: &Geometry, size: u64) {
        self.word += size as usize;
        if self.word >= geometry.end() {
            seldom();
            self.word -= geometry.capacity as usize;
            self.lap += geometry.capacity;
        }
    }

    /// The cursor `size` bytes further on.
    #[inline]
    fn ahead(mut self, geometry: &Geometry, size: u64) -> Self {
        self.advance(geometry, size);
        self
    }

    /// The message here, if one is committed and there is nothing special about it.
    #[inline]
    fn message(&self, memory: &impl Memory, geometry: &Geometry) -> Option<Record> {
        // Acquire: pairs with the Release of the record's word in `Writer`.
        let record = Record(NonZeroU64::new(memory.load(self.word, Acquire))?);
        record.is_message(geometry).then_some(record)
    }

    /// The record here, if it is committed.
    #[inline]
    fn record(&self, memory: &impl Memory, geometry: &Geometry) -> Result<Option<Record>, Corrupt> {
        // Acquire: pairs with the Release of the record's word in `Writer`.
        match NonZeroU64::new(memory.load(self.word, Acquire)) {
            None => Ok(None),
            Some(word) if Record(word).is_possible(geometry) => Ok(Some(Record(word))),
            Some(word) => Err(self.bad_word(geometry, word.get())),
        }
    }

    #[cold]
    fn bad_word(&self, geometry: &Geometry, word: u64) -> Corrupt {
        let place = self.place(geometry);
        Corrupt(format!("the record at byte {place} of the ring starts with {word:#x}"))
    }
}

/// A record found in the ring: its word, which was loaded once and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record(NonZeroU64);

impl Record {
    #[inline]
    fn is_possible(self, geometry: &Geometry) -> bool {
        self.flags() & !END == COMMITTED && self.fits(geometry)
    }

    /// The same, and no end mark.
    #[inline]
    fn is_message(self, geometry: &Geometry) -> bool {
        self.flags() == COMMITTED && self.fits(geometry)
    }

    #[inline]
    fn flags(self) -> u64 {
        self.0.get() & ((1 << LEN_SHIFT) - 1)
    }

    #[inline]
    fn fits(self, geometry: &Geometry) -> bool {
        // All of its bits, also where a length in memory has fewer.
        self.0.get() >> LEN_SHIFT <= geometry.capacity - OVERHEAD_BYTES
    }

    /// The payload's length, in bytes.
    #[inline]
    pub(crate) fn len(self) -> usize {
        (self.0.get() >> LEN_SHIFT) as usize
    }

    /// Whether it is no message but the mark of a stream's end.
    #[inline]
    pub(crate) fn is_end(self) -> bool {
        self.0.get() & END != 0
    }

    /// What it takes up in the ring, in bytes.
    #[inline]
    pub(crate) fn size(self) -> u64 {
        record_size(self.len() as u64)
    }
}

#[inline]
fn record_size(len: u64) -> u64 {
    // As `next_multiple_of`, which doesn't know that there is no overflow.
    WORD + ((len + WORD - 1) & !(WORD - 1))
}

#[inline]
fn committed(len: usize) -> u64 {
    (len as u64) << LEN_SHIFT | COMMITTED
}

/// Goes from record to record, as far as they are committed.
#[derive(Debug)]
struct Walk {
    cursor: Cursor,
    count: u64,
    /// No record ends behind this position, because the ring can't hold more than a ring.
    limit: u64,
}

impl Walk {
    /// From the further of both ledgers.
    fn new(geometry: &Geometry, sender: Progress, receiver: Progress) -> Result<Self, Corrupt> {
        geometry.check("receiver", receiver.position)?;
        geometry.check("sender", sender.position)?;
        let start = if receiver.position > sender.position { receiver } else { sender };
        geometry.used(start.position, receiver.position)?;
        Ok(Self {
            cursor: Cursor::at(geometry, start.position),
            count: start.count,
            limit: receiver.position + geometry.capacity - WORD,
        })
    }

    /// Steps over a record; false if there is none.
    fn step(&mut self, memory: &impl Memory, geometry: &Geometry) -> Result<bool, Corrupt> {
        let Some(record) = self.cursor.record(memory, geometry)? else { return Ok(false) };
        self.cursor.advance(geometry, record.size());
        self.count = self.count.wrapping_add(u64::from(!record.is_end()));
        if self.cursor.position(geometry) > self.limit {
            return Err(Corrupt("its records have no end".into()));
        }
        Ok(true)
    }

    /// Steps over all there are, or as many as a ledger that has been written meanwhile
    /// knows of: then false, because a sender that is faster may keep us walking.
    fn go_to_the_end(
        &mut self,
        memory: &impl Memory,
        geometry: &Geometry,
        sender: &Ledger,
    ) -> Result<bool, Corrupt> {
        for steps in 1.. {
            if !self.step(memory, geometry)? {
                return Ok(true);
            }
            if steps % RECORD_EVERY == 0 && !sender.is_current(memory) {
                break;
            }
        }
        Ok(false)
    }

    fn progress(&self, geometry: &Geometry) -> Progress {
        Progress { position: self.cursor.position(geometry), count: self.count }
    }
}

/// How far both ends have come, for somebody who takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// What was sent.
    pub(crate) sent: Progress,
    /// What was received and released.
    pub(crate) received: Progress,
}

impl Look {
    /// Messages sent and not released.
    pub(crate) fn queued_messages(&self) -> u64 {
        self.sent.count.saturating_sub(self.received.count)
    }
}

/// Looks at a ring, whoever works with it meanwhile. The answer is exact, as of one moment,
/// if for a fraction of the time it takes nothing is released and the sender's ledger isn't
/// written. Else it may be behind: by what was released meanwhile, and by what the sender
/// has not recorded, which is fewer than [`RECORD_EVERY`] messages, or its last batch.
///
/// # Errors
///
/// What can't be, each time it was looked at.
pub(crate) fn look(memory: &impl Memory, geometry: &Geometry) -> Result<Look, Corrupt> {
    let mut answer = glance(memory, geometry);
    for _ in 1..LOOKS {
        if matches!(answer, Ok((_, true))) {
            break;
        }
        answer = glance(memory, geometry).or(answer);
    }
    answer.map(|(look, _)| look)
}

/// One look, and whether it is exact.
pub(super) fn glance(memory: &impl Memory, geometry: &Geometry) -> Result<(Look, bool), Corrupt> {
    let sender = Ledger::open(memory, geometry.sender());
    let sender_is_current = sender.is_current(memory);
    // After the sender's, which is never further ahead of this than a ring's length.
    let receiver = Ledger::open(memory, geometry.receiver());
    let mut walk = Walk::new(geometry, sender.progress(), receiver.progress())?;
    let recorded = Look { sent: walk.progress(geometry), received: receiver.progress() };
    let is_paired = sender_is_current || recorded.sent == recorded.received;
    let walked = walk.go_to_the_end(memory, geometry, &sender);
    // The sender overwrites what the receiver has left behind; and then the count that
    // belongs to the receiver's position may be another one. If the sender's count is a later
    // one than its position, what was walked over is in it already.
    if !is_paired || !receiver.is_current(memory) {
        let count = recorded.sent.count.max(recorded.received.count);
        return Ok((Look { sent: Progress { count, ..recorded.sent }, ..recorded }, false));
    }
    Ok((Look { sent: walk.progress(geometry), ..recorded }, walked?))
}

/// Whether a ring that nobody changes holds nothing for a receiver.
pub(crate) fn is_empty(memory: &impl Memory, geometry: &Geometry) -> bool {
    let receiver = Ledger::open(memory, geometry.receiver()).progress();
    let cursor = Cursor::at(geometry, receiver.position);
    memory.load(cursor.word, Acquire) == 0
}

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

/// What a receiver's ledger says that is being written meanwhile, but by nobody but the
/// receiver: without a sender it can't go on for ever.
fn settled(memory: &impl Memory, geometry: &Geometry) -> Result<Progress, Corrupt> {
    for _ in 0..=geometry.capacity / WORD {
        let receiver = Ledger::open(memory, geometry.receiver());
        if receiver.is_current(memory) {
            return Ok(receiver.progress());
        }
    }
    Err(Corrupt("the receiver releases more than the ring can hold".into()))
}

/// The receiver's end. Whoever makes one has made sure to be alone.
///
/// It only knows what was released; who holds records keeps account of them.
#[derive(Debug)]
pub(crate) struct Reader<M> {
    memory: M,
    geometry: Geometry,
    /// Written at each release: the last one.
    ledger: Ledger,
    /// Its position.
    cursor: Cursor,
    /// How far the sender has come, as it has written down.
    written: u64,
    /// The last record given back, and what it took up.
    usual: Record,
    usual_size: u64,
    /// Where we were when we last had to wait.
    waited: Progress,
    /// Whether the next message is expected to go on in the line behind its first one.
    is_long: bool,
}

impl<M: Memory> Reader<M> {
    /// The words.
    #[inline]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Takes over from the last receiver, dead or gone. What it held comes again.
    pub(crate) fn attach(memory: M, geometry: Geometry) -> Result<Self, Corrupt> {
        let ledger = Ledger::open(&memory, geometry.receiver());
        geometry.check("receiver", ledger.progress().position)?;
        Ok(Self::new(memory, geometry, ledger, ledger.progress()))
    }

    /// For a ring that nobody has used.
    pub(crate) fn fresh(memory: M, geometry: Geometry) -> Self {
        let ledger = Ledger::open(&memory, geometry.receiver());
        Self::new(memory, geometry, ledger, Progress::default())
    }

    fn new(memory: M, geometry: Geometry, ledger: Ledger, progress: Progress) -> Self {
        let usual = Record(NonZeroU64::MIN);
        Self {
            memory,
            geometry,
            ledger,
            cursor: Cursor::at(&geometry, progress.position),
            written: 0,
            usual,
            usual_size: usual.size(),
            waited: progress,
            is_long: false,
        }
    }

    /// Messages released, by this receiver and those before it.
    #[inline]
    pub(crate) fn released_messages(&self) -> u64 {
        self.ledger.progress().count
    }

    /// The message behind what was released, if it is there. What else there may be, `next`
    /// tells.
    #[inline]
    pub(crate) fn first(&self) -> Option<Record> {
        self.cursor.message(&self.memory, &self.geometry)
    }

    /// Has a line that is written be fetched while we are at those before it, if the sender is
    /// known to have left it: else it would be taken away from where it is being written.
    #[inline]
    pub(crate) fn expect_more(&mut self) {
        const AHEAD: u64 = 2 * LINE_BYTES as u64;
        let ahead = self.cursor.position(&self.geometry) + AHEAD;
        // As often as the sender writes down how far it has come.
        if ahead >= self.written && self.ledger.progress().count % RECORD_EVERY == 0 {
            self.written = position_of(self.memory.peek(self.geometry.sender_ledger));
        }
        if ahead < self.written {
            self.memory.expect_load(self.cursor.word + AHEAD as usize);
        }
    }

    /// Says that there was no message, and that `has_turned` will be asked until there is one.
    #[inline]
    pub(crate) fn expect_wait(&mut self) {
        let now = self.ledger.progress();
        let bytes = now.position.wrapping_sub(self.waited.position);
        let messages = now.count.wrapping_sub(self.waited.count);
        let in_first_line = (LINE_BYTES - self.cursor.word % LINE_BYTES) as u64;
        self.is_long = bytes > messages.wrapping_mul(in_first_line);
        self.waited = now;
    }

    /// Whether there is something behind what was released: a message, most likely. To look
    /// again and again takes a load each time. Where messages of late were longer than what is
    /// left of this line, the next one comes along with it.
    #[inline]
    pub(crate) fn has_turned(&self) -> bool {
        if self.is_long {
            self.memory.expect_load(self.cursor.word + LINE_BYTES);
        }
        self.memory.peek(self.cursor.word) != 0
    }

    /// Where the payload of the record is that `first` found.
    #[inline]
    pub(crate) fn first_payload(&self) -> usize {
        self.cursor.payload()
    }

    /// The record behind `held` bytes of records that were found and not released, if it is
    /// there.
    #[inline]
    pub(crate) fn next(&self, held: u64) -> Result<Option<Record>, Corrupt> {
        let cursor = self.cursor.ahead(&self.geometry, held);
        let Some(record) = cursor.record(&self.memory, &self.geometry)? else { return Ok(None) };
        if held + record.size() > self.geometry.capacity - WORD {
            return Err(cursor.bad_word(&self.geometry, record.0.get()));
        }
        Ok(Some(record))
    }

    /// Adds the messages behind those found, the oldest first, until there are `max_messages` of
    /// them. A mark ends them, and so does what is corrupt: both are found again when nothing is
    /// held any more.
    #[inline]
    pub(crate) fn find_more(&self, found: &mut Vec<Record>, max_messages: usize) {
        let mut held = found.iter().map(|record| record.size()).sum();
        let mut cursor = self.cursor.ahead(&self.geometry, held);
        while found.len() < max_messages {
            let Some(record) = cursor.message(&self.memory, &self.geometry) else { return };
            // For as long as they are alike: see `release_first`.
            let size = record.size();
            loop {
                held += size;
                if held > self.geometry.capacity - WORD {
                    return;
                }
                self.memory.expect_load(cursor.word + 2 * LINE_BYTES);
                found.push(record);
                cursor.advance(&self.geometry, size);
                if found.len() == max_messages || cursor.message(&self.memory, &self.geometry) != Some(record)
                {
                    break;
                }
            }
        }
    }

    /// Where the payload of the record is that `next` found there, as an offset in the
    /// segment.
    #[inline]
    pub(crate) fn payload(&self, held: u64) -> usize {
        // Behind the ring's end it is mapped again.
        self.cursor.payload() + held as usize
    }

    /// Gives back the message that `first` or `next(0)` found.
    ///
    /// What it takes up is told by a branch where it is as the last one was, and not by its word:
    /// so a processor goes on at the next record before it has this one's word, and fetches the
    /// lines of several at the same time.
    #[inline]
    pub(crate) fn release_first(&mut self, message: Record) {
        if message != self.usual {
            self.get_used_to(message);
        }
        self.release_next(self.usual_size, 1);
    }

    #[cold]
    #[inline(never)]
    fn get_used_to(&mut self, record: Record) {
        (self.usual, self.usual_size) = (record, record.size());
    }

    /// Gives back the mark that `next(0)` found.
    pub(crate) fn release_end(&mut self, mark: Record) {
        self.release_next(mark.size(), 0);
    }

    /// Gives back the oldest messages that were found and not released.
    pub(crate) fn release(&mut self, messages: &[Record]) {
        self.release_next(messages.iter().map(|message| message.size()).sum(), messages.len() as u64);
    }

    #[inline]
    fn release_next(&mut self, size: u64, messages: u64) {
        self.cursor.advance(&self.geometry, size);
        let count = self.ledger.progress().count.wrapping_add(messages);
        // The sender polls the position: our reads come before, by its Release.
        self.ledger.write(&self.memory, Progress { position: self.cursor.position(&self.geometry), count });
    }
}
