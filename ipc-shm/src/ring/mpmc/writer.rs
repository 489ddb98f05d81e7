//! A sender's end.

use super::{
    COMMITTED, Cursor, END, Geometry, Hints, LEN_SHIFT, LINE_BYTES, OVERHEAD_BYTES, Word, after, bad_word,
    before, check_laps, is_end,
    repair::{Drops, enter, leave},
};
use crate::ring::{Corrupt, memory::Memory};
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

/// What came of an attempt to claim a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours to fill.
    Claimed(Slot),
    /// There is no room; `owner` has the slot that would be next, 0 if nobody has.
    Full { owner: u32 },
    /// Others were faster; try again without a pause.
    Again,
}

/// A slot that is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    at: usize,
    lap: u64,
}

/// A sender's end.
#[derive(Debug)]
pub(crate) struct Writer<M> {
    memory: M,
    geometry: Geometry,
    id: u32,
    cursor: Cursor,
    drops: Drops,
}

impl<M: Memory> Writer<M> {
    /// Takes part with this id, whose byte the caller has locked.
    pub(crate) fn attach(memory: M, geometry: Geometry, id: u32) -> Result<Self, Corrupt> {
        enter(&memory, &geometry, id)?;
        // From any slot, in the lap of its last claim, the way leads to where the next one is.
        let hint = Hints::find(&memory, &geometry, Hints::claimed(&geometry));
        let at = hint.map_or(geometry.slots, |position| position.at);
        let mut cursor = Cursor { at, lap: geometry.word(&memory, at)?.last_claim() };
        cursor.step(&geometry);
        let (drops, _) = Drops::open(&memory, &geometry, id);
        Ok(Self { memory, geometry, id, cursor, drops })
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

    /// Claims the slot here, if it is free: what it takes when nobody is in the way. Else there
    /// may be room all the same, and [`try_claim`](Self::try_claim) finds it.
    #[inline(always)]
    pub(crate) fn claim_here(&mut self) -> Option<Slot> {
        let Cursor { at, lap } = self.cursor;
        let free = Word::free(lap);
        // Relaxed: a swap that succeeds is an Acquire, and else nothing is made of it.
        if Word(self.memory.load(at, Relaxed)) != free || !self.swap(at, free) {
            return None;
        }
        self.cursor.step(&self.geometry);
        Some(Slot { at, lap })
    }

    /// Says that a message of `len` bytes is about to be claimed room for: what of it isn't on
    /// the first line of its slot, receivers don't look at before it is there.
    #[inline]
    pub(crate) fn expect_message(&self, len: usize) {
        let end = len + OVERHEAD_BYTES as usize;
        if end > LINE_BYTES {
            self.memory.expect_store(self.cursor.at + LINE_BYTES);
        }
    }

    /// Claims the slot after the last one that was claimed, if it is free; with
    /// `drop_oldest`, also if its message waits for a receiver.
    pub(crate) fn try_claim(&mut self, drop_oldest: bool) -> Result<Claim, Corrupt> {
        let mut word = self.geometry.word(&self.memory, self.cursor.at)?;
        for _ in 0..self.geometry.most_visits() {
            let Cursor { at, lap } = self.cursor;
            if word.last_claim() != before(lap) {
                // Claimed in this lap, or in a later one: on to the next, in that lap.
                self.cursor.lap = word.last_claim();
                self.cursor.step(&self.geometry);
                word = self.geometry.word(&self.memory, self.cursor.at)?;
                continue;
            }
            let is_free = word == Word::free(lap);
            let claimed = if is_free {
                self.swap(at, word)
            } else if drop_oldest && word.is_ready() {
                self.swap_counted(at, word)
            } else {
                return Ok(Claim::Full { owner: word.owner() });
            };
            if claimed {
                self.cursor.step(&self.geometry);
                return Ok(Claim::Claimed(Slot { at, lap }));
            }
            // Somebody was faster.
            word = self.geometry.word(&self.memory, at)?;
        }
        check_laps(&self.memory, &self.geometry)?;
        Ok(Claim::Again)
    }

    #[inline]
    fn swap(&self, at: usize, found: Word) -> bool {
        // Release, and the Acquire of the walks: who sees our claim sees what we saw before
        // it, or a receiver could be told that nothing is there while something older is.
        // Acquire: for `claim_here`; and a message that is dropped may have been taken and put back
        // since `found` was loaded, as in `Reader::swap`.
        let mine = Word::claimed(self.cursor.lap, self.id);
        self.memory.compare_exchange(at, found.0, mine.0, AcqRel).is_ok()
    }

    /// Drops the message in the slot, and counts it whatever a kill cuts short; an end mark is
    /// none.
    fn swap_counted(&mut self, at: usize, found: Word) -> bool {
        // If the word is still `found` when it is swapped, nobody has claimed the slot since.
        let is_end = is_end(&self.memory, at);
        self.drops.begin(&self.memory, self.cursor.index(&self.geometry));
        let swapped = self.swap(at, found);
        self.drops.end(&self.memory, swapped && !is_end);
        swapped
    }

    /// Leaves, having claimed nothing that isn't committed or given up.
    pub(crate) fn leave(&self) -> Result<(), Corrupt> {
        Hints::leave(
            &self.memory,
            &self.geometry,
            Hints::claimed(&self.geometry),
            self.cursor.before(&self.geometry),
        );
        leave(&self.memory, &self.geometry, self.id)
    }

    /// Where a claimed slot's payload goes, as an offset in the segment.
    #[inline]
    pub(crate) fn payload(&self, slot: &Slot) -> usize {
        slot.at + OVERHEAD_BYTES as usize
    }

    /// Publishes the message whose payload was written.
    #[inline]
    pub(crate) fn commit(&mut self, slot: &Slot, len: usize) -> Result<(), Corrupt> {
        self.publish(slot, (len as u64) << LEN_SHIFT | COMMITTED)
    }

    /// Publishes the mark of a stream's end.
    pub(crate) fn commit_end(&mut self, slot: &Slot) -> Result<(), Corrupt> {
        self.publish(slot, COMMITTED | END)
    }

    #[inline]
    fn publish(&mut self, slot: &Slot, meta: u64) -> Result<(), Corrupt> {
        self.is_mine(slot)?;
        self.memory.store(slot.at + 8, meta, Relaxed);
        // Release: pairs with the Acquire in `try_take`; the payload comes first.
        self.memory.store(slot.at, Word::ready(slot.lap, 0).0, Release);
        Ok(())
    }

    /// Gives a claimed slot up; its position stays empty.
    pub(crate) fn abort(&mut self, slot: &Slot) -> Result<(), Corrupt> {
        self.is_mine(slot)?;
        // Release: pairs with the Acquire of the next claim.
        self.memory.store(slot.at, Word::free(after(slot.lap)).0, Release);
        Ok(())
    }

    /// Our own word, which nobody else changes: if they did, this isn't what it should be.
    #[inline]
    fn is_mine(&self, slot: &Slot) -> Result<(), Corrupt> {
        let word = Word(self.memory.load(slot.at, Relaxed));
        if word == Word::claimed(slot.lap, self.id) {
            Ok(())
        } else {
            Err(bad_word(&self.geometry, slot.at, word))
        }
    }
}
