//! A publisher's end.

use super::{
    CHECKPOINTS, CLEAN, COMMITTED, Cursor, END, ENTERED, Geometry, HEADER, Header, WORD, bad_number,
    record_size,
};
use crate::ring::{Corrupt, memory::Memory};
use std::{
    ops::RangeInclusive,
    sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst},
};

/// The intent runs ahead by this part of the ring.
const SECTIONS: u64 = 8;

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

    /// The ids of subscribers that were ever taken: so many are looked at where a ring is full.
    pub(crate) fn seats(&self) -> RangeInclusive<u32> {
        // Relaxed: stored before the fence in `enter`.
        self.geometry.subscribers_to(self.memory.load(self.geometry.highest, Relaxed))
    }

    /// The subscribers that are entered, and how far they have released of this ring.
    fn subscribers(&self) -> impl Iterator<Item = (u32, u64)> {
        let geometry = self.geometry;
        self.seats().filter_map(move |id| {
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
