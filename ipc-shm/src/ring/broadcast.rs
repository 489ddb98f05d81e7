//! Every subscriber sees every message: one ring of variable-length records for each
//! publisher, in the manner of `spsc`, with private positions on the reading side.
//!
//! ```text
//! record:  | commit word | number | payload, padded to 8 bytes |    word = len << 8 | flags, or 0
//! ring:    … record | record | 0, next number | not yet written …   positions ever grow
//! ```
//!
//! **Publish**: write the payload; behind it, prepare the header of the next record (word 0,
//! its number); then release-store this record's word, and the position behind it in `head`,
//! for those who come. A kill leaves the whole record or nothing: a successor starts at
//! `head` and walks the records that were committed and not recorded, at most the last one,
//! or the last batch. Each ring has one writer, so nothing is claimed or swapped.
//!
//! **Lossy.** The publisher never looks at subscribers. Before it overwrites anything it
//! stores its *intent*, the position up to which it is going to write: what lies more than a
//! ring before that is no longer to be trusted. A subscriber copies and then looks at the
//! intent. The copy and the overwriting are relaxed accesses to words, so they may meet; the
//! fences see to it that they don't meet unnoticed (a sequence lock whose count is the
//! intent):
//!
//! ```text
//! publisher                          subscriber
//!   intent = up to here                word, number, payload …     relaxed loads
//!   Release fence                      Acquire fence
//!   payload …    relaxed stores        intent beyond my position + a ring?  all of it is void
//! ```
//!
//! A load that sees one of the stores behind the Release fence makes the fences synchronize,
//! and so the intent is seen. The intent runs ahead by an eighth of the ring, so that its
//! line, which subscribers keep looking at, changes rarely; that much less they may lag.
//!
//! Each time the intent is raised, the position of then is noted as a *checkpoint*, the last
//! eight of which span at least half a ring. A subscriber that was overtaken goes on at the
//! oldest one in the newer half: at the oldest record that is left it would be overtaken
//! again at once, and at the newest it would lose what is still there. The numbers before
//! and after say exactly how many it missed.
//!
//! **Reliable.** The publisher keeps within a ring of every subscriber that is entered. Each
//! subscriber's positions are words that only it writes; the publisher looks at them when it
//! reaches the limit that it last computed. A subscriber enters, fences, and only then reads
//! where the publishers are; a publisher has recorded where it is, fences, and only then
//! reads who is entered. So either the publisher sees the subscriber, or the subscriber
//! starts no further back than where the publisher was when it computed its limit, and the
//! limit is within a ring of that.
//!
//! Positions would wrap after 2^64 bytes; they are refused from 2^63.
//!
//! In the manner of Aeron's broadcast buffers (an intent before the overwriting), with
//! numbers that make gaps exact.

use super::{
    Corrupt, Survey,
    ledger::{Ledger, POSITION_UNIT, Place, Progress},
    memory::Memory,
};
use crate::{config, kind::WhenFull, segment::Layout};
use ipc_core::Participant;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// What a message needs besides its payload: its own header, and the one behind it.
pub(crate) const OVERHEAD_BYTES: u64 = 2 * HEADER;

const HEADER: u64 = 16;
const WORD: u64 = 8;
const COMMITTED: u64 = 1;
const END: u64 = 2;
const LEN_SHIFT: u32 = 8;

/// The intent runs ahead by this part of the ring.
const SECTIONS: u64 = 8;
const CHECKPOINTS: usize = 8;
/// How often a subscriber tries again to find a place where it isn't overtaken meanwhile.
const TRIES: u32 = 1024;

/// What a subscriber's positions take up: for each publisher, how far it has released, in
/// bytes and in messages. Rows of different subscribers are 128 bytes apart, since
/// processors fetch lines in pairs.
pub(crate) fn row_bytes(publishers: u32) -> u64 {
    (u64::from(publishers) * 2 * WORD).next_multiple_of(128)
}

/// What all subscribers' positions take up.
pub(crate) fn table_bytes(participants: u32, publishers: u32) -> u64 {
    u64::from(participants.saturating_sub(publishers)) * row_bytes(publishers)
}

/// Where things are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Counts the publishers that came; the highest id of a subscriber that ever came.
    pub(crate) generation: usize,
    pub(crate) highest: usize,
    /// The first participant's state word, head (a subscriber's: its losses), intent and
    /// checkpoints, and how far the others' are from them.
    pub(crate) states: usize,
    pub(crate) heads: usize,
    pub(crate) intents: usize,
    pub(crate) checkpoints: usize,
    pub(crate) entry_stride: usize,
    /// The subscribers' rows.
    pub(crate) rows: usize,
    pub(crate) row_stride: usize,
    /// The rings, and the length of each: a multiple of 8, more than `OVERHEAD_BYTES`.
    pub(crate) data: usize,
    pub(crate) data_stride: usize,
    pub(crate) capacity: u64,
    /// Ids: 1 to `publishers`, then subscribers up to `participants`.
    pub(crate) publishers: u32,
    pub(crate) participants: u32,
    pub(crate) lossy: bool,
}

impl Geometry {
    /// As an endpoint sees it, which has each ring mapped twice in a row.
    pub(crate) fn of(layout: &Layout, geometry: &config::Geometry) -> Self {
        Self { data_stride: 2 * layout.lane_bytes as usize, ..Self::of_file(layout, geometry) }
    }

    /// As it is in the file.
    pub(crate) fn of_file(layout: &Layout, geometry: &config::Geometry) -> Self {
        let (first, second) = (layout.entry(1), layout.entry(2));
        let table = table_bytes(layout.participants, geometry.lanes);
        Self {
            generation: layout.shared(),
            highest: layout.shared() + 8,
            states: first.state(),
            heads: first.ledger(),
            intents: first.intent(),
            checkpoints: first.checkpoints(),
            entry_stride: second.state() - first.state(),
            rows: (layout.data - table) as usize,
            row_stride: row_bytes(geometry.lanes) as usize,
            data: layout.data as usize,
            data_stride: layout.lane_bytes as usize,
            capacity: layout.lane_bytes,
            publishers: geometry.lanes,
            participants: layout.participants,
            lossy: geometry.when_full == WhenFull::DropOldest,
        }
    }

    /// The longest message, in bytes.
    pub(crate) fn max_message_len(&self) -> usize {
        (self.capacity - OVERHEAD_BYTES) as usize
    }

    fn of_entry(&self, first: usize, id: u32) -> usize {
        first + (id - 1) as usize * self.entry_stride
    }

    /// The words of the subscriber with this id for a publisher: its position, and the
    /// number behind it.
    #[inline]
    fn row(&self, subscriber: u32, publisher: u32) -> usize {
        let row = self.rows + (subscriber - self.publishers - 1) as usize * self.row_stride;
        row + (publisher - 1) as usize * 2 * WORD as usize
    }

    /// The first byte of a publisher's ring.
    #[inline]
    fn ring(&self, publisher: u32) -> usize {
        self.data + (publisher - 1) as usize * self.data_stride
    }

    fn publishers(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.publishers
    }

    /// Subscribers up to this id.
    fn subscribers_to(&self, highest: u64) -> std::ops::RangeInclusive<u32> {
        let highest = highest.min(u64::from(self.participants));
        self.publishers + 1..=highest as u32
    }

    /// Steps over `size` bytes, from a place within a ring to another.
    #[inline]
    fn step(&self, place: u64, size: u64) -> u64 {
        let next = place + size;
        if next >= self.capacity { next - self.capacity } else { next }
    }

    /// A position that a correct peer may have stored.
    fn check(&self, publisher: u32, position: u64) -> Result<u64, Corrupt> {
        if position % WORD == 0 && position < 1 << 63 {
            return Ok(position);
        }
        Err(Corrupt(format!("publisher {publisher}'s position is {position}")))
    }
}

/// A place in a ring: where a record begins, or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    position: u64,
    /// The position's place in the ring.
    place: u64,
    /// The record's number.
    number: u64,
}

impl Cursor {
    #[inline]
    fn step(&mut self, geometry: &Geometry, record: Header) {
        let size = record.size();
        self.position += size;
        self.place = geometry.step(self.place, size);
        self.number = self.number.wrapping_add(u64::from(!record.is_end()));
    }

    fn at(geometry: &Geometry, memory: &impl Memory, publisher: u32, position: u64) -> Self {
        let place = position % geometry.capacity;
        let number = memory.load(geometry.ring(publisher) + geometry.step(place, WORD) as usize, Relaxed);
        Self { position, place, number }
    }
}

/// A record's commit word, which was loaded once and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header(u64);

impl Header {
    #[inline]
    fn message(len: usize) -> Self {
        Self((len as u64) << LEN_SHIFT | COMMITTED)
    }

    /// The word at this place, if there is a record.
    #[inline]
    fn parse(geometry: &Geometry, publisher: u32, place: u64, word: u64) -> Result<Option<Self>, Corrupt> {
        if word == 0 {
            return Ok(None);
        }
        let flags = word & ((1 << LEN_SHIFT) - 1);
        // All of its bits, also where a length in memory has fewer.
        if flags & !END != COMMITTED || word >> LEN_SHIFT > geometry.capacity - OVERHEAD_BYTES {
            return Err(bad_word(publisher, place, word));
        }
        Ok(Some(Self(word)))
    }

    #[inline]
    fn len(self) -> usize {
        (self.0 >> LEN_SHIFT) as usize
    }

    #[inline]
    fn is_end(self) -> bool {
        self.0 & END != 0
    }

    #[inline]
    fn size(self) -> u64 {
        record_size(self.len() as u64)
    }
}

#[cold]
fn bad_word(publisher: u32, place: u64, word: u64) -> Corrupt {
    Corrupt(format!("the record at byte {place} of publisher {publisher}'s ring starts with {word:#x}"))
}

#[cold]
fn bad_number(publisher: u32, expected: u64, found: u64) -> Corrupt {
    Corrupt(format!("publisher {publisher}'s message {found} is where {expected} should be"))
}

#[inline]
fn record_size(len: u64) -> u64 {
    HEADER + len.next_multiple_of(WORD)
}

/// A publisher's end. Whoever makes one has made sure to be the ring's only writer.
#[derive(Debug)]
pub(crate) struct Writer<M> {
    memory: M,
    geometry: Geometry,
    id: u32,
    ring: usize,
    head: usize,
    /// Where the next record begins.
    cursor: Cursor,
    /// Lossy: the intent. Reliable: a ring's length from the slowest subscriber, when that
    /// was last looked at.
    limit: u64,
    /// Lossy: where the next checkpoint goes, and what the last one was.
    checkpoint: usize,
    noted: u64,
}

impl<M: Memory> Writer<M> {
    /// Takes over from the last publisher with this id, dead or gone.
    pub(crate) fn attach(memory: M, geometry: Geometry, id: u32) -> Result<Self, Corrupt> {
        let head = geometry.of_entry(geometry.heads, id);
        let intent = geometry.of_entry(geometry.intents, id);
        // Relaxed, here and below: the last one is dead, and the kernel's lock orders.
        let position = geometry.check(id, memory.load(head, Relaxed))?;
        let cursor = Cursor::at(&geometry, &memory, id, position);
        let checkpoints = geometry.of_entry(geometry.checkpoints, id);
        let noted_at = |slot: usize| memory.load(checkpoints + slot * WORD as usize, Relaxed);
        // The oldest one is next.
        let checkpoint = (0..CHECKPOINTS).min_by_key(|&slot| noted_at(slot)).unwrap_or(0);
        let limit = if geometry.lossy { memory.load(intent, Relaxed) } else { 0 };
        let ring = geometry.ring(id);
        let mut writer =
            Self { memory, geometry, id, ring, head, cursor, limit, checkpoint, noted: u64::MAX };
        writer.catch_up()?;
        if writer.limit > writer.cursor.position + geometry.capacity {
            return Err(Corrupt(format!(
                "publisher {id} is at {} and means to go to {}",
                writer.cursor.position, writer.limit
            )));
        }
        // Subscribers look at rings that were ever used.
        writer.memory.store(geometry.of_entry(geometry.states, id), ENTERED, Relaxed);
        // Release: pairs with the Acquire in `Reader::next`. Always, since the last one may
        // have been killed before it came here.
        writer.memory.fetch_add(geometry.generation, 1, Release);
        Ok(writer)
    }

    /// Walks over what the last publisher committed and didn't record.
    fn catch_up(&mut self) -> Result<(), Corrupt> {
        let start = self.cursor.position;
        loop {
            let place = self.cursor.place;
            let word = self.memory.load(self.ring + place as usize, Relaxed);
            let number = self.memory.load(self.ring + (place + WORD) as usize, Relaxed);
            if number != self.cursor.number {
                return Err(bad_number(self.id, self.cursor.number, number));
            }
            let Some(header) = Header::parse(&self.geometry, self.id, place, word)? else { break };
            self.cursor.step(&self.geometry, header);
            // The ring can't hold more than a ring: this also bounds the walk.
            if self.cursor.position - start > self.geometry.capacity - HEADER {
                return Err(Corrupt(format!("publisher {}'s records have no end", self.id)));
            }
        }
        if self.cursor.position != start {
            self.record();
        }
        Ok(())
    }

    /// The words.
    #[inline]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Where things are.
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Where the next message goes, and its number.
    pub(crate) fn next(&self) -> (u64, u64) {
        (self.cursor.position, self.cursor.number)
    }

    /// Whether there is room for a message of `len` bytes, which is not too long. Where the
    /// channel is lossy, there is.
    #[inline]
    pub(crate) fn has_room(&mut self, len: usize) -> Result<bool, Corrupt> {
        let end = self.cursor.position + record_size(len as u64) + HEADER;
        if end <= self.limit || self.geometry.lossy {
            return Ok(true);
        }
        self.look_for_room(end)
    }

    #[inline(never)]
    fn look_for_room(&mut self, end: u64) -> Result<bool, Corrupt> {
        // SeqCst: `head` was stored before it, who is entered is loaded behind it. With the
        // fence in `Reader::attach`: see the module.
        self.memory.fence(SeqCst);
        let mut slowest = self.cursor.position;
        for (_, position) in self.subscribers() {
            if position > self.cursor.position {
                return Err(Corrupt(format!(
                    "a subscriber is at {position}, publisher {} at {}",
                    self.id, self.cursor.position
                )));
            }
            slowest = slowest.min(position);
        }
        self.limit = slowest + self.geometry.capacity;
        Ok(end <= self.limit)
    }

    /// The subscribers that are entered, and how far they have released of this ring.
    fn subscribers(&self) -> impl Iterator<Item = (u32, u64)> {
        let geometry = self.geometry;
        // Relaxed: stored before the fence in `enter`.
        let highest = self.memory.load(geometry.highest, Relaxed);
        geometry.subscribers_to(highest).filter_map(move |id| {
            // Acquire: pairs with the Release in `leave`.
            let state = self.memory.load(geometry.of_entry(geometry.states, id), Acquire);
            // Acquire: pairs with the Release in `Reader::release`; what the subscriber read
            // is read before we overwrite it.
            let position = || self.memory.load(geometry.row(id, self.id), Acquire);
            (state != CLEAN).then(|| (id, position()))
        })
    }

    /// The subscribers that stand in the way of a message of `len` bytes.
    pub(crate) fn in_the_way(&self, len: usize) -> impl Iterator<Item = u32> {
        let end = self.cursor.position + record_size(len as u64) + HEADER;
        let needed = end.saturating_sub(self.geometry.capacity);
        self.subscribers().filter(move |&(_, position)| position < needed).map(|(id, _)| id)
    }

    /// Reliable: where the next message's payload goes, as an offset in the segment.
    #[inline]
    pub(crate) fn payload(&self) -> usize {
        self.ring + (self.cursor.place + HEADER) as usize
    }

    /// Reliable: publishes the message whose payload was written and for which there is room.
    #[inline]
    pub(crate) fn commit(&mut self, len: usize) {
        self.publish(Header::message(len));
    }

    /// Lossy: publishes a copy of a message that is not too long.
    #[inline]
    pub(crate) fn commit_copy(&mut self, message: &[u8]) {
        let cursor = self.cursor;
        self.announce(cursor, message.len());
        self.write(cursor, message);
        self.publish(Header::message(message.len()));
    }

    /// Publishes the mark of a stream's end; there is room for an empty message.
    pub(crate) fn commit_end(&mut self) {
        if self.geometry.lossy {
            self.announce(self.cursor, 0);
        }
        self.publish(Header(COMMITTED | END));
    }

    /// Begins several messages that are published together.
    pub(crate) fn batch(&mut self) -> Batch<'_, M> {
        let cursor = self.cursor;
        Batch { writer: self, cursor, first: None, messages: 0 }
    }

    /// Lossy: says how far a message at this place goes, before anything is overwritten.
    #[inline]
    fn announce(&mut self, cursor: Cursor, len: usize) {
        let end = cursor.position + record_size(len as u64) + HEADER;
        if end > self.limit {
            self.raise(end.max(cursor.position + self.geometry.capacity / SECTIONS));
        }
    }

    #[cold]
    fn raise(&mut self, intent: u64) {
        let geometry = &self.geometry;
        if self.noted != self.cursor.position {
            self.noted = self.cursor.position;
            let checkpoints = geometry.of_entry(geometry.checkpoints, self.id);
            // Release: pairs with the Acquire in `Reader::skip`; the header at this position
            // was prepared before.
            self.memory.store(checkpoints + self.checkpoint * WORD as usize, self.noted, Release);
            self.checkpoint = (self.checkpoint + 1) % CHECKPOINTS;
        }
        self.limit = intent;
        // Release: pairs with the Acquire in `Reader::skip`; the checkpoint comes first.
        self.memory.store(geometry.of_entry(geometry.intents, self.id), intent, Release);
        // Release: pairs with the Acquire fence in `Reader::is_overtaken`; whoever sees what
        // is written from here on sees the intent.
        self.memory.fence(Release);
    }

    /// Lossy: writes a payload, word by word, since subscribers may be reading there.
    #[inline]
    fn write(&self, cursor: Cursor, message: &[u8]) {
        let mut at = self.ring + (cursor.place + HEADER) as usize;
        let words = message.chunks_exact(WORD as usize);
        let rest = words.remainder();
        for word in words {
            let mut bytes = [0; WORD as usize];
            bytes.copy_from_slice(word);
            self.memory.store(at, u64::from_ne_bytes(bytes), Relaxed);
            at += WORD as usize;
        }
        if !rest.is_empty() {
            let mut bytes = [0; WORD as usize];
            bytes[..rest.len()].copy_from_slice(rest);
            self.memory.store(at, u64::from_ne_bytes(bytes), Relaxed);
        }
    }

    #[inline]
    fn publish(&mut self, header: Header) {
        let place = self.cursor.place;
        self.cursor.step(&self.geometry, header);
        self.prepare(self.cursor);
        // Release: pairs with the Acquires in `Reader`; payload and the header behind it
        // come first.
        self.memory.store(self.ring + place as usize, header.0, Release);
        self.record();
    }

    /// Prepares the header of a record to come. Ordered by the Release of the commit.
    #[inline]
    fn prepare(&self, cursor: Cursor) {
        let at = self.ring + cursor.place as usize;
        self.memory.store(at, 0, Relaxed);
        self.memory.store(at + WORD as usize, cursor.number, Relaxed);
    }

    /// Records how far we are, for successors and for subscribers to come.
    #[inline]
    fn record(&self) {
        // Release: pairs with the Acquires in `start_of` and `attach`; the header at this
        // position was prepared before.
        self.memory.store(self.head, self.cursor.position, Release);
    }
}

/// Messages that are written one after the other and published together. Nothing is
/// published unless it is committed.
#[derive(Debug)]
pub(crate) struct Batch<'a, M> {
    writer: &'a mut Writer<M>,
    cursor: Cursor,
    /// The first record's word, which is stored last.
    first: Option<Header>,
    messages: usize,
}

impl<M: Memory> Batch<'_, M> {
    /// Whether there is room for one more, of `len` bytes. A lossy batch takes half the ring
    /// at most, so that it doesn't overtake whom it is for.
    pub(crate) fn has_room(&mut self, len: usize) -> Result<bool, Corrupt> {
        let writer = &mut *self.writer;
        let end = self.cursor.position + record_size(len as u64) + HEADER;
        if writer.geometry.lossy {
            return Ok(self.messages == 0 || end - writer.cursor.position <= writer.geometry.capacity / 2);
        }
        if end <= writer.limit {
            return Ok(true);
        }
        writer.look_for_room(end)
    }

    /// Reliable: where the next message's payload goes, as an offset in the segment.
    pub(crate) fn payload(&self) -> usize {
        self.writer.ring + (self.cursor.place + HEADER) as usize
    }

    /// Reliable: adds the message whose payload was written and for which there is room.
    pub(crate) fn add(&mut self, len: usize) {
        let header = Header::message(len);
        let at = self.writer.ring + self.cursor.place as usize;
        self.cursor.step(&self.writer.geometry, header);
        self.writer.prepare(self.cursor);
        if self.first.is_none() {
            self.first = Some(header);
        } else {
            self.writer.memory.store(at, header.0, Relaxed);
        }
        self.messages += 1;
    }

    /// Lossy: adds a copy of a message for which there is room.
    pub(crate) fn add_copy(&mut self, message: &[u8]) {
        self.writer.announce(self.cursor, message.len());
        self.writer.write(self.cursor, message);
        self.add(message.len());
    }

    /// Publishes them; returns how many.
    pub(crate) fn commit(self) -> usize {
        let writer = self.writer;
        if let Some(header) = self.first {
            let at = writer.ring + writer.cursor.place as usize;
            // Release: as in `Writer::publish`.
            writer.memory.store(at, header.0, Release);
            writer.cursor = self.cursor;
            writer.record();
        }
        self.messages
    }
}

/// A subscriber's state: nothing is waited for, or it is there, or was killed. A publisher's
/// stays entered, once its ring was used.
const CLEAN: u64 = 0;
const ENTERED: u64 = 1;

/// Lets nobody wait for subscriber `id` any more. The caller has the lock of its byte, or is
/// itself the subscriber, about to leave.
pub(crate) fn leave(memory: &impl Memory, geometry: &Geometry, id: u32) {
    // Release: pairs with the Acquire in `Writer::subscribers`; what it read was read before.
    memory.store(geometry.of_entry(geometry.states, id), CLEAN, Release);
}

/// A record that a subscriber found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    publisher: u32,
    header: Header,
    /// Where its payload is: an offset in the segment, or among the copies.
    at: usize,
    number: u64,
    /// The position behind it.
    end: u64,
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
    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len.next_multiple_of(WORD as usize);
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }

    /// Keeps what was written to the room for `len` bytes; where it begins.
    #[inline]
    fn keep(&mut self, len: usize) -> usize {
        let at = self.used;
        self.used += len.next_multiple_of(WORD as usize);
        at
    }
}

/// How far a subscriber is with one publisher.
#[derive(Clone, Copy, Debug)]
struct Lane {
    cursor: Cursor,
    /// Reliable: what was released.
    released: u64,
}

/// A subscriber's end.
#[derive(Debug)]
pub(crate) struct Reader<M> {
    memory: M,
    geometry: Geometry,
    /// None, if nobody is to know of us: then nothing is stored.
    seat: Option<Seat>,
    lanes: Vec<Lane>,
    /// The publishers whose rings were ever used, and the generation when they were found.
    used: Vec<u32>,
    seen: u64,
    /// Whose turn it is.
    turn: usize,
}

/// The words of a subscriber that takes part.
#[derive(Debug)]
struct Seat {
    id: u32,
    /// What was lost to earlier subscribers with this id, and to us.
    losses: Ledger,
    lost: Progress,
}

impl Seat {
    /// Says that so many messages were missed, and how far we are now.
    fn skip(&mut self, memory: &impl Memory, geometry: &Geometry, publisher: u32, to: Cursor, missed: u64) {
        self.lost.count = self.lost.count.wrapping_add(missed);
        self.losses.write(memory, self.lost);
        store_row(memory, geometry, self.id, publisher, to);
    }
}

impl<M: Memory> Reader<M> {
    /// Takes part with this id, whose byte the caller has locked: sees all messages whose
    /// sending starts after this.
    pub(crate) fn attach(memory: M, geometry: Geometry, id: u32) -> Result<Self, Corrupt> {
        let mut losses = Ledger::open(&memory, Place::at(geometry.of_entry(geometry.heads, id)));
        let lost = Progress { position: all_losses(losses.progress()).wrapping_mul(POSITION_UNIT), count: 0 };
        losses.write(&memory, lost);
        enter(&memory, &geometry, id)?;
        let mut lanes = Vec::with_capacity(geometry.publishers as usize);
        for publisher in geometry.publishers() {
            let cursor = start_of(&memory, &geometry, publisher)?;
            let lane = Lane { cursor, released: cursor.position };
            store_row(&memory, &geometry, id, publisher, cursor);
            lanes.push(lane);
        }
        Ok(Self::of(memory, geometry, Some(Seat { id, losses, lost }), lanes))
    }

    /// Lossy: looks on without a place and without a store. Sees all messages whose sending
    /// starts after this.
    pub(crate) fn observe(memory: M, geometry: Geometry) -> Result<Self, Corrupt> {
        debug_assert!(geometry.lossy, "publishers wait for nobody they don't know of");
        let mut lanes = Vec::with_capacity(geometry.publishers as usize);
        for publisher in geometry.publishers() {
            let cursor = start_of(&memory, &geometry, publisher)?;
            lanes.push(Lane { cursor, released: cursor.position });
        }
        Ok(Self::of(memory, geometry, None, lanes))
    }

    /// Lossy, of one publisher: the same from the position and the message number that the
    /// publisher named, which needn't be true.
    pub(crate) fn observe_from(
        memory: M,
        geometry: Geometry,
        (position, number): (u64, u64),
    ) -> Result<Self, Corrupt> {
        debug_assert!(geometry.lossy && geometry.publishers == 1, "a start for each publisher");
        let position = geometry.check(1, position)?;
        // Each takes up a header at least.
        if number > position / HEADER {
            return Err(bad_number(1, position / HEADER, number));
        }
        let cursor = Cursor { position, place: position % geometry.capacity, number };
        Ok(Self::of(memory, geometry, None, vec![Lane { cursor, released: position }]))
    }

    fn of(memory: M, geometry: Geometry, seat: Option<Seat>, lanes: Vec<Lane>) -> Self {
        let seen = memory.load(geometry.generation, Relaxed).wrapping_sub(1);
        Self { memory, geometry, seat, lanes, used: Vec::new(), seen, turn: 0 }
    }

    /// The words.
    #[inline]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Where things are.
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The next message of the publisher whose turn it is, or of one after that. Where the
    /// channel is lossy, it goes to `copies`.
    #[inline]
    pub(crate) fn next(&mut self, copies: &mut Copies) -> Result<Next, Corrupt> {
        // Acquire: pairs with the Release in `Writer::attach`.
        let generation = self.memory.load(self.geometry.generation, Acquire);
        if generation != self.seen {
            self.find_used(generation);
        }
        for _ in 0..self.used.len() {
            let publisher = self.used[self.turn];
            self.turn += 1;
            if self.turn == self.used.len() {
                self.turn = 0;
            }
            let found =
                if self.geometry.lossy { self.copy(publisher, copies)? } else { self.find(publisher)? };
            if found != Next::Nothing {
                return Ok(found);
            }
        }
        Ok(Next::Nothing)
    }

    #[cold]
    fn find_used(&mut self, generation: u64) {
        let (memory, geometry) = (&self.memory, &self.geometry);
        let is_used = |&id: &u32| memory.load(geometry.of_entry(geometry.states, id), Relaxed) != CLEAN;
        self.used = geometry.publishers().filter(is_used).collect();
        self.seen = generation;
        self.turn = 0;
    }

    /// Reliable: the next message of this publisher, in place.
    #[inline]
    fn find(&mut self, publisher: u32) -> Result<Next, Corrupt> {
        let ring = self.geometry.ring(publisher);
        let lane = &mut self.lanes[publisher as usize - 1];
        let Cursor { place, number, .. } = lane.cursor;
        // Acquire: pairs with the Release in `Writer::publish`.
        let word = self.memory.load(ring + place as usize, Acquire);
        let Some(header) = Header::parse(&self.geometry, publisher, place, word)? else {
            return Ok(Next::Nothing);
        };
        let found = self.memory.load(ring + (place + WORD) as usize, Relaxed);
        if found != number {
            return Err(bad_number(publisher, number, found));
        }
        if lane.cursor.position + header.size() - lane.released > self.geometry.capacity - HEADER {
            return Err(bad_word(publisher, place, word));
        }
        lane.cursor.step(&self.geometry, header);
        let at = ring + (place + HEADER) as usize;
        Ok(Next::Record(Record { publisher, header, at, number, end: lane.cursor.position }))
    }

    /// Lossy: a copy of the next message of this publisher.
    #[inline]
    fn copy(&mut self, publisher: u32, copies: &mut Copies) -> Result<Next, Corrupt> {
        let ring = self.geometry.ring(publisher);
        for _ in 0..TRIES {
            let Cursor { position, place, number } = self.lanes[publisher as usize - 1].cursor;
            // Relaxed: the fence in `is_overtaken`, ahead of the payload, pairs with the Release
            // in `Writer::publish`. The number was there before the word.
            let word = self.memory.load(ring + place as usize, Relaxed);
            let found = self.memory.load(ring + (place + WORD) as usize, Relaxed);
            if !self.is_overtaken(publisher, position) {
                let Some(header) = Header::parse(&self.geometry, publisher, place, word)? else {
                    return Ok(Next::Nothing);
                };
                if found != number {
                    return Err(bad_number(publisher, number, found));
                }
                let mut from = ring + (place + HEADER) as usize;
                for to in copies.room(header.len()).chunks_exact_mut(WORD as usize) {
                    to.copy_from_slice(&self.memory.load(from, Relaxed).to_ne_bytes());
                    from += WORD as usize;
                }
                if !self.is_overtaken(publisher, position) {
                    let lane = &mut self.lanes[publisher as usize - 1];
                    lane.cursor.step(&self.geometry, header);
                    let at = copies.keep(header.len());
                    return Ok(Next::Record(Record {
                        publisher,
                        header,
                        at,
                        number,
                        end: lane.cursor.position,
                    }));
                }
            }
            match self.skip(publisher)? {
                // Nothing but the mark of an end: on to what comes behind.
                Some(0) => {}
                Some(missed) => return Ok(Next::Missed(missed)),
                None => break,
            }
        }
        // A publisher that overtakes us all the time wakes us, too.
        Ok(Next::Nothing)
    }

    /// Lossy: whether what was loaded from this position on may have been overwritten.
    #[inline]
    fn is_overtaken(&self, publisher: u32, position: u64) -> bool {
        // Acquire: pairs with the Release fence in `Writer::raise`.
        self.memory.fence(Acquire);
        let intent = self.memory.load(self.geometry.of_entry(self.geometry.intents, publisher), Relaxed);
        intent > position + self.geometry.capacity
    }

    /// Lossy: goes on behind a gap: how many messages were missed. `None` if the publisher
    /// was faster each time.
    #[cold]
    #[inline(never)]
    fn skip(&mut self, publisher: u32) -> Result<Option<u64>, Corrupt> {
        let geometry = self.geometry;
        let lane = self.lanes[publisher as usize - 1].cursor;
        let checkpoints = geometry.of_entry(geometry.checkpoints, publisher);
        for _ in 0..TRIES {
            // Acquire: pairs with the Release in `Writer::raise`; the checkpoints come after.
            let intent = self.memory.load(geometry.of_entry(geometry.intents, publisher), Acquire);
            let newer_half = intent.saturating_sub(geometry.capacity / 2);
            let (mut oldest_new, mut newest) = (None, 0);
            for slot in 0..CHECKPOINTS {
                // Acquire: pairs with the Release in `Writer::raise`.
                let noted = self.memory.load(checkpoints + slot * WORD as usize, Acquire);
                newest = newest.max(noted);
                if noted >= newer_half && oldest_new.is_none_or(|oldest| noted < oldest) {
                    oldest_new = Some(noted);
                }
            }
            let position = geometry.check(publisher, oldest_new.unwrap_or(newest))?;
            if intent.saturating_sub(geometry.capacity) > newest || position <= lane.position {
                return Err(Corrupt(format!(
                    "publisher {publisher} means to go to {intent}, and was last at {newest}"
                )));
            }
            let cursor = Cursor::at(&geometry, &self.memory, publisher, position);
            if self.is_overtaken(publisher, position) {
                continue;
            }
            let missed = cursor.number.wrapping_sub(lane.number);
            // Each takes up a header at least.
            if missed > (position - lane.position) / HEADER {
                return Err(bad_number(publisher, lane.number, cursor.number));
            }
            self.lanes[publisher as usize - 1].cursor = cursor;
            if let Some(seat) = &mut self.seat {
                seat.skip(&self.memory, &geometry, publisher, cursor, missed);
            }
            return Ok(Some(missed));
        }
        Ok(None)
    }

    /// Gives a record back. Those of one publisher are given back in order.
    #[inline]
    pub(crate) fn release(&mut self, record: &Record) {
        let Some(seat) = &self.seat else { return };
        let row = self.geometry.row(seat.id, record.publisher);
        if !self.geometry.lossy {
            self.lanes[record.publisher as usize - 1].released = record.end;
            // Release: pairs with the Acquire in `Writer::subscribers`; our reads come before.
            self.memory.store(row, record.end, Release);
        }
        let number = record.number.wrapping_add(u64::from(!record.is_end()));
        self.memory.store(row + WORD as usize, number, Relaxed);
    }
}

/// Has publishers wait for subscriber `id`, wherever it is going to start.
fn enter(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<(), Corrupt> {
    for publisher in geometry.publishers() {
        // Not where the last one with this id was: that would hold publishers up meanwhile.
        let head = memory.load(geometry.of_entry(geometry.heads, publisher), Relaxed);
        memory.store(geometry.row(id, publisher), head, Relaxed);
    }
    let mut highest = memory.load(geometry.highest, Relaxed);
    // Others raise it too, each at most once to each number.
    for _ in 0..=geometry.participants {
        if highest >= u64::from(id) {
            break;
        }
        match memory.compare_exchange(geometry.highest, highest, u64::from(id), Relaxed) {
            Ok(_) => break,
            Err(found) => highest = found,
        }
    }
    memory.store(geometry.of_entry(geometry.states, id), ENTERED, Relaxed);
    // SeqCst: that we are entered was stored before it, where publishers are is loaded
    // behind it. With the fence in `Writer::look_for_room`: see the module.
    memory.fence(SeqCst);
    Ok(())
}

/// Where a new subscriber starts with this publisher.
fn start_of(memory: &impl Memory, geometry: &Geometry, publisher: u32) -> Result<Cursor, Corrupt> {
    for _ in 0..TRIES {
        // Acquire: pairs with the Release in `Writer::record`.
        let head = memory.load(geometry.of_entry(geometry.heads, publisher), Acquire);
        let cursor = Cursor::at(geometry, memory, publisher, geometry.check(publisher, head)?);
        if geometry.lossy {
            // Acquire: pairs with the Release fence in `Writer::raise`.
            memory.fence(Acquire);
            let intent = memory.load(geometry.of_entry(geometry.intents, publisher), Relaxed);
            if intent > head + geometry.capacity {
                continue;
            }
        }
        // Each takes up a header at least.
        if cursor.number > head / HEADER {
            return Err(bad_number(publisher, head / HEADER, cursor.number));
        }
        return Ok(cursor);
    }
    Err(Corrupt(format!("publisher {publisher} means to go further than a ring from where it is")))
}

/// Says how far subscriber `id` is with this publisher.
fn store_row(memory: &impl Memory, geometry: &Geometry, id: u32, publisher: u32, cursor: Cursor) {
    let row = geometry.row(id, publisher);
    memory.store(row, cursor.position, Relaxed);
    memory.store(row + WORD as usize, cursor.number, Relaxed);
}

/// What was lost to all who had the place: the position of such a ledger counts, in its
/// units, those before the one who has it.
fn all_losses(lost: Progress) -> u64 {
    (lost.position / POSITION_UNIT).wrapping_add(lost.count)
}

/// What a looker sees: each word as it was at some moment.
pub(crate) fn survey(
    memory: &impl Memory,
    geometry: &Geometry,
    participants: &mut [(u32, Participant)],
) -> Survey {
    let sent_by = |publisher| start_of(memory, geometry, publisher).map_or(0, |cursor| cursor.number);
    let sent: Vec<u64> = geometry.publishers().map(sent_by).collect();
    let losses = |id| Ledger::open(memory, Place::at(geometry.of_entry(geometry.heads, id))).progress();
    for (id, participant) in participants {
        if *id <= geometry.publishers {
            participant.position = Some(sent[*id as usize - 1]);
            continue;
        }
        let lag = |publisher: u32| {
            let received = memory.load(geometry.row(*id, publisher) + WORD as usize, Relaxed);
            sent[publisher as usize - 1].saturating_sub(received)
        };
        participant.lag = Some(geometry.publishers().map(lag).fold(0, u64::saturating_add));
        participant.lost = geometry.lossy.then(|| losses(*id).count);
    }
    let highest = memory.load(geometry.highest, Relaxed);
    let lost = geometry.subscribers_to(highest).map(losses);
    let lost = lost.map(all_losses).fold(0, u64::wrapping_add);
    Survey {
        sent: Some(sent.iter().fold(0, |sum, &sent| sum.wrapping_add(sent))),
        lost: geometry.lossy.then_some(lost),
        ..Survey::default()
    }
}
