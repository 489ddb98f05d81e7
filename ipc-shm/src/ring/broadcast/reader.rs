//! A subscriber's end.

use super::{
    CHECKPOINTS, CLEAN, Copies, Cursor, ENTERED, Geometry, HEADER, Header, Next, Record, WORD, bad_number,
    bad_word,
};
use crate::ring::{
    Corrupt,
    ledger::{Ledger, POSITION_UNIT, Place, Progress},
    memory::Memory,
};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// How often a subscriber tries again to find a place where it isn't overtaken meanwhile.
const TRIES: u32 = 1024;

/// How often it goes on at once behind a gap in which there was no message.
const GAPS: u32 = 8;
/// After how much that it copied in vain it doesn't, in bytes: then there was a message.
const IN_VAIN_BYTES: usize = 64 << 10;

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
        let mut nothing = Next::Nothing;
        for _ in 0..self.used.len() {
            let publisher = self.used[self.turn];
            self.turn += 1;
            if self.turn == self.used.len() {
                self.turn = 0;
            }
            let found =
                if self.geometry.lossy { self.copy(publisher, copies)? } else { self.find(publisher)? };
            match found {
                Next::Nothing => {}
                Next::Overtaken => nothing = found,
                found => return Ok(found),
            }
        }
        Ok(nothing)
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
        let mut in_vain = 0;
        for _ in 0..GAPS {
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
                in_vain += header.len();
            }
            match self.skip(publisher)? {
                // Nothing but the mark of an end: on to what comes behind.
                Some(0) if in_vain < IN_VAIN_BYTES => {}
                Some(missed) if missed > 0 => return Ok(Next::Missed(missed)),
                _ => break,
            }
        }
        // A publisher that overtakes us all the time wakes us, too.
        Ok(Next::Overtaken)
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
pub(super) fn start_of(memory: &impl Memory, geometry: &Geometry, publisher: u32) -> Result<Cursor, Corrupt> {
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
pub(super) fn all_losses(lost: Progress) -> u64 {
    (lost.position / POSITION_UNIT).wrapping_add(lost.count)
}
