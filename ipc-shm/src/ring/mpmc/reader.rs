//! A receiver's end.

use super::{
    COMMITTED, Cursor, END, Geometry, Hints, LEN_SHIFT, LINE_BYTES, OVERHEAD_BYTES, Word, after, bad_meta,
    bad_word, before, check_laps,
    repair::{count_up, enter, leave},
};
use crate::ring::{Corrupt, memory::Memory};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// What came of an attempt to take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// It is ours until it is released.
    Taken(Held),
    /// Nothing is ready; `owner` has the slot that would be next, 0 if nobody has.
    Empty { owner: u32 },
    /// Others were faster; try again without a pause.
    Again,
}

/// What a look at the queue found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Something was ready; or it can't be told, since others are at it.
    Ready,
    /// Nothing is ready; `owner` has the slot that would be next, 0 if nobody has.
    Empty { owner: u32 },
}

/// Where a walk over the slots ended.
enum Walk {
    /// Where the cursor is, at this word.
    At(Word),
    Empty {
        owner: u32,
    },
    Again,
}

/// A message that was taken: where, and its words, which were loaded once and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    cursor: Cursor,
    attempts: u32,
    meta: u64,
}

impl Held {
    /// The payload's length, in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        (self.meta >> LEN_SHIFT) as usize
    }

    /// Whether it is no message but the mark of a stream's end.
    #[inline]
    pub(crate) fn is_end(&self) -> bool {
        self.meta & END != 0
    }

    /// How often it was delivered before.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// A receiver's end.
#[derive(Debug)]
pub(crate) struct Reader<M> {
    memory: M,
    geometry: Geometry,
    id: u32,
    cursor: Cursor,
    /// The generation when we last went over the whole ring.
    seen: u64,
}

impl<M: Memory> Reader<M> {
    /// Takes part with this id, whose byte the caller has locked.
    pub(crate) fn attach(memory: M, geometry: Geometry, id: u32) -> Result<Self, Corrupt> {
        enter(&memory, &geometry, id)?;
        let hint = Hints::find(&memory, &geometry, Hints::passed(&geometry));
        let at = hint.map_or(geometry.slots, |position| position.at);
        let last_claim = geometry.word(&memory, at)?.last_claim();
        // If it was claimed again since, or there is no hint, the oldest message that can be there
        // is the one behind this slot, one lap before its last claim.
        let is_passed = hint.is_some_and(|position| position.lap == last_claim);
        let mut cursor = Cursor { at, lap: if is_passed { last_claim } else { before(last_claim) } };
        cursor.step(&geometry);
        // Another one than now: the first time that nothing is found, the ring is gone over.
        // Relaxed: only compared.
        let seen = memory.load(geometry.generation, Relaxed).wrapping_sub(1);
        Ok(Self { memory, geometry, id, cursor, seen })
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

    /// Takes the message here, if it is ready, was never delivered before and there is
    /// nothing special about it: what it takes when nobody is in the way. Else there may be
    /// something all the same, and [`try_take`](Self::try_take) finds it.
    #[inline(always)]
    pub(crate) fn take_here(&mut self) -> Option<Held> {
        let cursor = self.cursor;
        // Acquire: as in `Geometry::word`.
        let word = Word(self.memory.load(cursor.at, Acquire));
        if word != Word::ready(cursor.lap, 0) {
            return None;
        }
        // The slot's message may be another one by the time it is taken; but then the word
        // is another one as well.
        let meta = self.memory.load(cursor.at + 8, Relaxed);
        let is_message = meta & ((1 << LEN_SHIFT) - 1) == COMMITTED
            && meta >> LEN_SHIFT <= self.geometry.max_message_len as u64;
        if !is_message || !self.swap(cursor.at, word) {
            return None;
        }
        self.cursor.step(&self.geometry);
        Some(Held { cursor, attempts: 0, meta })
    }

    /// Says that messages come faster than we take them: their lines are fetched while we are at
    /// the ones before.
    #[inline]
    pub(crate) fn expect_more(&self) {
        self.memory.expect_store(self.cursor.at + 2 * LINE_BYTES);
    }

    /// Whether something has come of the slot here since it was next: a message, most
    /// likely. To look again and again takes a load each time.
    #[inline]
    pub(crate) fn has_turned(&self) -> bool {
        let word = Word(self.memory.peek(self.cursor.at));
        word.is_full() || word.lap() != self.cursor.lap
    }

    /// Takes the oldest message that is ready.
    pub(crate) fn try_take(&mut self) -> Result<Take, Corrupt> {
        let word = self.geometry.word(&self.memory, self.cursor.at)?;
        match self.walk(word, Self::swap)? {
            Walk::At(word) => self.taken(word),
            Walk::Empty { owner } => Ok(Take::Empty { owner }),
            Walk::Again => Ok(Take::Again),
        }
    }

    /// The same for a batch that has begun: an end mark stays where it is.
    pub(crate) fn try_take_message(&mut self) -> Result<Take, Corrupt> {
        let at = self.cursor.at;
        let word = self.geometry.word(&self.memory, at)?;
        let is_next = word.is_ready() && word.lap() == self.cursor.lap;
        // As in `take_here`.
        if !is_next || self.memory.load(at + 8, Relaxed) & END != 0 || !self.swap(at, word) {
            return Ok(Take::Empty { owner: 0 });
        }
        self.taken(word)
    }

    /// Whether there is something to take, an end mark included. It stays where it is, for
    /// whoever comes for it.
    pub(crate) fn look(&mut self) -> Result<Look, Corrupt> {
        let word = self.geometry.word(&self.memory, self.cursor.at)?;
        Ok(match self.walk(word, |_, _, _| true)? {
            Walk::At(_) | Walk::Again => Look::Ready,
            Walk::Empty { owner } => Look::Empty { owner },
        })
    }

    /// Walks to the oldest message that is ready and that `meet` agrees to.
    #[inline]
    fn walk(&mut self, mut word: Word, meet: impl Fn(&Self, usize, Word) -> bool) -> Result<Walk, Corrupt> {
        for _ in 0..self.geometry.most_visits() {
            let Cursor { at, lap } = self.cursor;
            if word.lap() == lap && word.is_ready() {
                if meet(self, at, word) {
                    return Ok(Walk::At(word));
                }
                // Somebody was faster.
                word = self.geometry.word(&self.memory, at)?;
                continue;
            }
            let is_passed =
                word.lap() == lap && word.is_full() || word.lap() == after(lap) && !word.is_full();
            let is_to_come =
                word.lap() == lap && !word.is_full() || word.lap() == before(lap) && word.is_full();
            if is_to_come {
                // Acquire: pairs with the Release in `count_up`, after the slots that it is for.
                let generation = self.memory.load(self.geometry.generation, Acquire);
                if generation == self.seen {
                    return Ok(Walk::Empty { owner: word.owner() });
                }
                // Somebody's messages were made ready again: back over the whole ring.
                self.seen = generation;
                self.cursor.lap = before(lap);
                word = self.geometry.word(&self.memory, at)?;
                continue;
            }
            if !is_passed {
                // Far ahead: the oldest that can be there is one lap before its last claim.
                self.cursor.lap = before(word.last_claim());
            }
            self.cursor.step(&self.geometry);
            word = self.geometry.word(&self.memory, self.cursor.at)?;
        }
        check_laps(&self.memory, &self.geometry)?;
        Ok(Walk::Again)
    }

    #[inline]
    fn swap(&self, at: usize, found: Word) -> bool {
        let mine = Word::taken(found.lap(), self.id, found.attempts());
        // Release as in `Writer::swap`, the other way round: or a sender could be told that there
        // is no room. Acquire: since `found` was loaded, others may have taken the message and put
        // it back; what they read comes before what is written here next.
        self.memory.compare_exchange(at, found.0, mine.0, AcqRel).is_ok()
    }

    #[inline]
    fn taken(&mut self, word: Word) -> Result<Take, Corrupt> {
        let at = self.cursor.at;
        let meta = self.memory.load(at + 8, Relaxed);
        let flags = meta & ((1 << LEN_SHIFT) - 1);
        if flags & !END != COMMITTED || meta >> LEN_SHIFT > self.geometry.max_message_len as u64 {
            // For whoever can make sense of it; also for those who have passed it.
            self.make_ready(at, word);
            count_up(&self.memory, &self.geometry);
            return Err(bad_meta(&self.geometry, at, meta));
        }
        let held = Held { cursor: self.cursor, attempts: word.attempts(), meta };
        self.cursor.step(&self.geometry);
        Ok(Take::Taken(held))
    }

    /// Where a message's payload is, as an offset in the segment.
    #[inline]
    pub(crate) fn payload(&self, held: &Held) -> usize {
        held.cursor.at + OVERHEAD_BYTES as usize
    }

    /// Leaves, having released all that was taken.
    pub(crate) fn leave(&self) -> Result<(), Corrupt> {
        Hints::leave(
            &self.memory,
            &self.geometry,
            Hints::passed(&self.geometry),
            self.cursor.before(&self.geometry),
        );
        leave(&self.memory, &self.geometry, self.id)
    }

    /// The number of a message's position.
    pub(crate) fn number(&self, held: &Held) -> u64 {
        held.cursor.number(&self.geometry)
    }

    /// Gives the message's slot back to the senders.
    #[inline]
    pub(crate) fn release(&mut self, held: &Held) -> Result<(), Corrupt> {
        self.is_mine(held)?;
        // Release: pairs with the Acquire of the next claim; our reads come before.
        self.memory.store(held.cursor.at, Word::free(after(held.cursor.lap)).0, Release);
        Ok(())
    }

    /// Makes messages that were taken one after the other ready again, as if nobody had taken them,
    /// and goes back to the first of them. If we are killed before it is done, the generation is
    /// counted up by who puts in order what we left. What isn't ours any more stays as it is.
    pub(crate) fn put_back<'h>(&mut self, held: impl IntoIterator<Item = &'h Held>) {
        let mut first = None;
        for held in held.into_iter().filter(|held| self.is_mine(held).is_ok()) {
            first.get_or_insert(held.cursor);
            self.make_ready(held.cursor.at, Word::ready(held.cursor.lap, held.attempts));
        }
        if let Some(first) = first {
            self.cursor = first;
            count_up(&self.memory, &self.geometry);
        }
    }

    /// Makes a message that is ours ready again, as it was.
    fn make_ready(&self, at: usize, word: Word) {
        // Release: with the Acquire by which we took it, carries what the sender wrote on to the next
        // one that takes the message, and what we read to the next one that claims the slot.
        self.memory.store(at, word.0, Release);
    }

    /// The word of what we hold, which nobody else changes: as `Writer::is_mine`.
    #[inline]
    fn is_mine(&self, held: &Held) -> Result<(), Corrupt> {
        let Cursor { at, lap } = held.cursor;
        let word = Word(self.memory.load(at, Relaxed));
        if word == Word::taken(lap, self.id, held.attempts) {
            Ok(())
        } else {
            Err(bad_word(&self.geometry, at, word))
        }
    }
}
