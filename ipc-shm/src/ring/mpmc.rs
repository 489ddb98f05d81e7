//! The work queue: any number of senders and receivers, each message to one of them.
//!
//! ```text
//! slot:   | word | length and flags | payload …        word = turn 40 · owner 16 · attempts 8
//! word:   Free(lap) → Claimed(lap, owner) → Ready(lap, a) → Taken(lap, owner, a) → Free(lap + 1)
//! ```
//!
//! `turn` is twice the lap, and one more if the slot is full. There is no shared head or
//! tail: every endpoint keeps a position of its own and finds by the slots' words where the
//! others are. The position after the last claim is where a sender claims next (compare and
//! swap), the oldest position that is ready is what a receiver takes.
//!
//! The owner in the word is what makes it survive a kill: whoever learns from the kernel
//! that an owner is dead frees what it had claimed and makes ready again, with one more
//! attempt counted, what it had taken ([`repair`]). Since a message that is ready again may
//! lie behind the receivers' positions, a repair counts up the *generation*, and receivers
//! that find nothing and see a new one go back once over the whole ring. Until the repair is
//! done, the owner's entry isn't clean, and its id isn't used again.
//!
//! What this queue can't do: a sender that is *stopped* between claim and commit stops all
//! receivers at that slot; a message held for long stops the senders one lap later, even if
//! all other slots are free.
//!
//! Who comes begins where somebody who left had come to, if that was written down ([`Hints`]):
//! a hint that is old or wrong costs a walk over the slots, and nothing else.
//!
//! Laps are compared exactly, never by half ranges: 2^39 of them pass before one comes
//! again. Under contention a call makes a bounded number of visits and says
//! [`Again`](Claim::Again). With one sender and one receiver, sending visits at most N + 2
//! slots and receiving 3N + 4, in a ring of N.
//!
//! In the manner of D. Vyukov's bounded queue (a turn in each slot), without its two shared
//! positions, which a kill can leave wrong for ever.

use super::{Corrupt, Survey, memory::Memory};
use crate::{config, segment::Layout};
use ipc_core::Participant;
use std::sync::atomic::{
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    compiler_fence,
};

/// What a slot takes up besides its payload.
const OVERHEAD_BYTES: u64 = 16;

/// What processors move from one to the other.
const LINE_BYTES: usize = 64;

/// What a slot takes up for messages of up to `max_message_len` bytes: a line's multiple, so
/// that word and payload of a small message travel together; two to a line if they fit.
pub(crate) fn slot_bytes(max_message_len: u64) -> u64 {
    match max_message_len.saturating_add(OVERHEAD_BYTES) {
        ..=32 => 32,
        bytes => bytes.checked_next_multiple_of(64).unwrap_or(u64::MAX),
    }
}

/// Where things are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// The generation.
    pub(crate) generation: usize,
    /// The two words of the hints.
    pub(crate) hints: usize,
    /// The state word of participant 1, and how far the others' are from it.
    pub(crate) states: usize,
    pub(crate) state_stride: usize,
    /// From a participant's state word to the two words of its drops.
    pub(crate) drops_from_state: usize,
    pub(crate) participants: u32,
    /// The first slot, the distance between slots, where they end, and their number.
    pub(crate) slots: usize,
    pub(crate) stride: usize,
    pub(crate) end: usize,
    pub(crate) depth: u64,
    pub(crate) max_message_len: usize,
    /// Deliveries of a message, after which it is dropped.
    pub(crate) max_deliveries: u32,
}

impl Geometry {
    pub(crate) fn of(layout: &Layout, geometry: &config::Geometry) -> Self {
        let first = layout.entry(1);
        let state_stride = if layout.participants > 1 { layout.entry(2).state() - first.state() } else { 0 };
        let (slots, stride) = (layout.data as usize, slot_bytes(geometry.max_message_len) as usize);
        Self {
            generation: layout.shared(),
            hints: layout.shared() + 8,
            states: first.state(),
            state_stride,
            drops_from_state: first.ledger() - first.state(),
            participants: layout.participants,
            slots,
            stride,
            end: slots + geometry.depth as usize * stride,
            depth: geometry.depth,
            max_message_len: geometry.max_message_len as usize,
            max_deliveries: geometry.max_deliveries,
        }
    }

    fn state(&self, id: u32) -> usize {
        self.states + (id - 1) as usize * self.state_stride
    }

    fn drops(&self, id: u32) -> usize {
        self.state(id) + self.drops_from_state
    }

    #[inline]
    fn slot(&self, index: u64) -> usize {
        self.slots + index as usize * self.stride
    }

    /// The ids of all participants there can be.
    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.participants
    }

    /// How many slots a call visits before it gives up against others who are faster.
    fn most_visits(&self) -> u64 {
        4 * self.depth + 16
    }

    #[inline]
    fn word(&self, memory: &impl Memory, at: usize) -> Result<Word, Corrupt> {
        // Acquire: pairs with the Release of whoever stored it. The payload is there, what was
        // read from the slot has been read, and what is seen next is no older.
        self.check(at, Word(memory.load(at, Acquire)))
    }

    /// A word as some participant may have written it.
    #[inline]
    fn check(&self, at: usize, word: Word) -> Result<Word, Corrupt> {
        let attempts_fit =
            if word.is_full() { word.attempts() < self.max_deliveries } else { word.attempts() == 0 };
        if word.owner() <= self.participants && attempts_fit {
            return Ok(word);
        }
        Err(bad_word(self, at, word))
    }
}

#[cold]
fn bad_word(geometry: &Geometry, at: usize, word: Word) -> Corrupt {
    let slot = (at - geometry.slots) / geometry.stride;
    Corrupt(format!("the word of slot {slot} is {:#x}", word.0))
}

const LAPS: u64 = 1 << 39;

/// The lap before, and after.
#[inline]
fn before(lap: u64) -> u64 {
    lap.wrapping_sub(1) % LAPS
}

#[inline]
fn after(lap: u64) -> u64 {
    (lap + 1) % LAPS
}

/// A slot's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    #[inline]
    fn new(lap: u64, full: bool, owner: u32, attempts: u32) -> Self {
        Self((lap << 1 | u64::from(full)) << 24 | u64::from(owner) << 8 | u64::from(attempts))
    }

    #[inline]
    fn free(lap: u64) -> Self {
        Self::new(lap, false, 0, 0)
    }

    #[inline]
    fn claimed(lap: u64, owner: u32) -> Self {
        Self::new(lap, false, owner, 0)
    }

    #[inline]
    fn ready(lap: u64, attempts: u32) -> Self {
        Self::new(lap, true, 0, attempts)
    }

    #[inline]
    fn taken(lap: u64, owner: u32, attempts: u32) -> Self {
        Self::new(lap, true, owner, attempts)
    }

    #[inline]
    fn lap(self) -> u64 {
        self.0 >> 25
    }

    #[inline]
    fn is_full(self) -> bool {
        self.0 >> 24 & 1 == 1
    }

    #[inline]
    fn owner(self) -> u32 {
        (self.0 >> 8 & 0xffff) as u32
    }

    #[inline]
    fn attempts(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    #[inline]
    fn is_free(self) -> bool {
        !self.is_full() && self.owner() == 0
    }

    #[inline]
    fn is_ready(self) -> bool {
        self.is_full() && self.owner() == 0
    }

    /// The last lap in which the slot was claimed.
    #[inline]
    fn last_claim(self) -> u64 {
        if self.is_free() { before(self.lap()) } else { self.lap() }
    }
}

/// A position: a slot, by its offset in the segment, and a lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    at: usize,
    lap: u64,
}

impl Cursor {
    /// The first slot in this lap.
    fn first(geometry: &Geometry, lap: u64) -> Self {
        Self { at: geometry.slots, lap }
    }

    /// Moves to the next slot.
    #[inline]
    fn step(&mut self, geometry: &Geometry) {
        self.at += geometry.stride;
        if self.at == geometry.end {
            *self = Self::first(geometry, after(self.lap));
        }
    }

    /// The slot's number, from 0.
    #[inline]
    fn index(&self, geometry: &Geometry) -> u64 {
        ((self.at - geometry.slots) / geometry.stride) as u64
    }

    /// The position's number, from 0.
    fn number(&self, geometry: &Geometry) -> u64 {
        self.lap.wrapping_mul(geometry.depth).wrapping_add(self.index(geometry))
    }

    /// The position before this one.
    fn before(mut self, geometry: &Geometry) -> Self {
        if self.at == geometry.slots {
            self = Self { at: geometry.end, lap: before(self.lap) };
        }
        Self { at: self.at - geometry.stride, ..self }
    }
}

/// How far somebody had come who has left: what was claimed, and what was passed by receivers,
/// each as the number of a position and one more; 0 is no hint. Two words that anybody writes,
/// and that are believed only as far as the slots agree.
struct Hints;

impl Hints {
    fn claimed(geometry: &Geometry) -> usize {
        geometry.hints
    }

    fn passed(geometry: &Geometry) -> usize {
        geometry.hints + 8
    }

    /// Writes down that this position was come to.
    fn leave(memory: &impl Memory, geometry: &Geometry, hint: usize, position: Cursor) {
        // Relaxed, here and below: nothing is read because of it but words that say themselves
        // what they are.
        memory.store(hint, position.number(geometry).wrapping_add(1), Relaxed);
    }

    /// The position that was come to, if there is a hint.
    fn find(memory: &impl Memory, geometry: &Geometry, hint: usize) -> Option<Cursor> {
        let number = memory.load(hint, Relaxed).checked_sub(1)?;
        let (lap, index) = (number / geometry.depth % LAPS, number % geometry.depth);
        Some(Cursor { at: geometry.slot(index), lap })
    }
}

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

const COMMITTED: u64 = 1;
const END: u64 = 2;
const LEN_SHIFT: u32 = 8;

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
        // Acquire: as in `Geometry::word`.
        if Word(self.memory.load(at, Acquire)) != free || !self.swap(at, free) {
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
        // No Acquire: the load of `found` was one.
        let mine = Word::claimed(self.cursor.lap, self.id);
        self.memory.compare_exchange(at, found.0, mine.0, Release).is_ok()
    }

    /// Drops the message in the slot, and counts it whatever a kill cuts short.
    fn swap_counted(&mut self, at: usize, found: Word) -> bool {
        self.drops.begin(&self.memory, self.cursor.index(&self.geometry));
        let swapped = self.swap(at, found);
        self.drops.end(&self.memory, swapped);
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
        // is no room. No Acquire: the load of `found` was one.
        self.memory.compare_exchange(at, found.0, mine.0, Release).is_ok()
    }

    #[inline]
    fn taken(&mut self, word: Word) -> Result<Take, Corrupt> {
        let at = self.cursor.at;
        let meta = self.memory.load(at + 8, Relaxed);
        let flags = meta & ((1 << LEN_SHIFT) - 1);
        if flags & !END != COMMITTED || meta >> LEN_SHIFT > self.geometry.max_message_len as u64 {
            // As it was, for whoever can make sense of it; also for those who have passed it.
            // Release: with our Acquire, carries what the sender wrote on to the next one.
            self.memory.store(at, word.0, Release);
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
        let Cursor { at, lap } = held.cursor;
        let word = Word(self.memory.load(at, Relaxed));
        if word != Word::taken(lap, self.id, held.attempts) {
            return Err(bad_word(&self.geometry, at, word));
        }
        // Release: pairs with the Acquire of the next claim; our reads come before.
        self.memory.store(at, Word::free(after(lap)).0, Release);
        Ok(())
    }
}

#[cold]
fn bad_meta(geometry: &Geometry, at: usize, meta: u64) -> Corrupt {
    let slot = (at - geometry.slots) / geometry.stride;
    Corrupt(format!("the message in slot {slot} starts with {meta:#x}"))
}

/// Slots are claimed in order, so no slot's last claim is later than that of the slot before
/// it, and the last slot's is at most one lap behind the first one's. Called when a walk led
/// nowhere: a word that makes it lead nowhere for ever is found here. Each word is read
/// once, in an order in which others' claims in the meantime can't look like damage.
fn check_laps(memory: &impl Memory, geometry: &Geometry) -> Result<(), Corrupt> {
    let claim_of = |index| Ok::<_, Corrupt>(geometry.word(memory, geometry.slot(index))?.last_claim());
    let distance = |later: u64, earlier: u64| later.wrapping_sub(earlier) % LAPS;
    let first = claim_of(0)?;
    let last = claim_of(geometry.depth - 1)?;
    // Somewhere in between, half the range: more than can pass during a look.
    if distance(last, before(first)) >= LAPS / 2 {
        return Err(out_of_step(geometry.depth - 1, last, first));
    }
    let mut behind = last;
    for index in (0..geometry.depth - 1).rev() {
        let claim = claim_of(index)?;
        if distance(claim, behind) >= LAPS / 2 {
            return Err(out_of_step(index, claim, behind));
        }
        behind = claim;
    }
    Ok(())
}

#[cold]
fn out_of_step(index: u64, lap: u64, other: u64) -> Corrupt {
    Corrupt(format!("slot {index} is in lap {lap}, its neighbour in {other}"))
}

/// What an entry's state word says: state 2 · lost 31 · redelivered 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    stage: Stage,
    lost: u64,
    redelivered: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Stage {
    /// Nothing of it is left in the slots.
    Clean = 0,
    /// Somebody is there, or was killed.
    Attached = 1,
    /// What it left is being put in order, and is counted already.
    Repairing = 2,
}

impl State {
    const COUNT_BITS: u32 = 31;
    const COUNTS: u64 = 1 << Self::COUNT_BITS;

    fn load(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<Self, Corrupt> {
        // Relaxed: whoever acts on it has the lock of this byte, and the kernel's lock orders
        // what its owners did; for others it is a hint.
        let word = memory.load(geometry.state(id), Relaxed);
        let stage = match word >> (2 * Self::COUNT_BITS) {
            0 => Stage::Clean,
            1 => Stage::Attached,
            2 => Stage::Repairing,
            _ => return Err(Corrupt(format!("the state of participant {id} is {word:#x}"))),
        };
        Ok(Self {
            stage,
            lost: word >> Self::COUNT_BITS & (Self::COUNTS - 1),
            redelivered: word & (Self::COUNTS - 1),
        })
    }

    fn store(self, memory: &impl Memory, geometry: &Geometry, id: u32) {
        let counts = ((self.lost % Self::COUNTS) << Self::COUNT_BITS) | (self.redelivered % Self::COUNTS);
        let word = (self.stage as u64) << (2 * Self::COUNT_BITS) | counts;
        // Whoever is killed was killed between two instructions: that the compiler keeps the
        // order is enough, since whoever looks has been given the dead one's lock.
        compiler_fence(SeqCst);
        memory.store(geometry.state(id), word, Relaxed);
        compiler_fence(SeqCst);
    }
}

/// Takes part with this id, whose byte the caller has locked: first puts in order what the
/// last one with this id left.
fn enter(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<(), Corrupt> {
    repair(memory, geometry, id)?;
    let state = State::load(memory, geometry, id)?;
    State { stage: Stage::Attached, ..state }.store(memory, geometry, id);
    Ok(())
}

/// Nothing of participant `id`, who is about to leave, is in the slots: says so without a look
/// at them.
fn leave(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<(), Corrupt> {
    let state = State::load(memory, geometry, id)?;
    State { stage: Stage::Clean, ..state }.store(memory, geometry, id);
    Ok(())
}

/// Counts up the generation: a message is ready again that receivers may have passed. Who comes
/// then doesn't pass it.
fn count_up(memory: &impl Memory, geometry: &Geometry) {
    memory.store(Hints::passed(geometry), 0, Relaxed);
    // Release: pairs with the Acquire in `walk`; the slots come before.
    memory.fetch_add(geometry.generation, 1, Release);
}

/// Whether participant `id` is there, or left something to be put in order.
pub(crate) fn is_entered(memory: &impl Memory, geometry: &Geometry, id: u32) -> bool {
    !matches!(State::load(memory, geometry, id), Ok(State { stage: Stage::Clean, .. }))
}

/// Puts in order what participant `id` left in the slots: frees what it had claimed, and
/// makes ready again, or drops, what it had taken. The caller has the lock of its byte, or
/// is itself the participant, about to leave. May be cut short at any step and done again.
pub(crate) fn repair(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<(), Corrupt> {
    let mut state = State::load(memory, geometry, id)?;
    if state.stage == Stage::Clean {
        return Ok(());
    }
    Drops::settle(memory, geometry, id)?;
    let of_the_dead = |index| -> Result<Option<(usize, Word)>, Corrupt> {
        let at = geometry.slot(index);
        let word = geometry.word(memory, at)?;
        Ok((word.owner() == id).then_some((at, word)))
    };
    let is_spent = |word: Word| word.attempts() + 1 >= geometry.max_deliveries;
    if state.stage == Stage::Attached {
        // Counted before it is done, in one store: a repairer that is killed in between
        // leaves a count that is right once its successor has finished.
        for index in 0..geometry.depth {
            if let Some((_, word)) = of_the_dead(index)?.filter(|(_, word)| word.is_full()) {
                if is_spent(word) { state.lost += 1 } else { state.redelivered += 1 }
            }
        }
        state.stage = Stage::Repairing;
        state.store(memory, geometry, id);
    }
    for index in 0..geometry.depth {
        let Some((at, word)) = of_the_dead(index)? else { continue };
        let repaired = if word.is_full() && !is_spent(word) {
            Word::ready(word.lap(), word.attempts() + 1)
        } else {
            Word::free(after(word.lap()))
        };
        // Release: with the Acquire of the load above, carries what the sender wrote on to
        // the next one that takes the message, and what the dead one read before it to the
        // next one that claims the slot.
        memory.store(at, repaired.0, Release);
    }
    // Always: the one who changed the slots may have been killed before it came here.
    count_up(memory, geometry);
    state.stage = Stage::Clean;
    state.store(memory, geometry, id);
    Ok(())
}

/// How many messages a sender has dropped to make room. The first word says which slot's
/// message it is dropping, the second how many it has dropped, and in its lowest bit whether
/// it is at it: then the slot's word says whether that one was dropped.
#[derive(Debug)]
struct Drops {
    at: usize,
    count: u64,
}

impl Drops {
    const DROPPING: u64 = 1;

    /// Those of a participant, and whether it is at it.
    fn open(memory: &impl Memory, geometry: &Geometry, id: u32) -> (Self, bool) {
        let at = geometry.drops(id);
        // Relaxed: its owner is dead or ourselves (the kernel's lock said so, and orders), or
        // we only look.
        let word = memory.load(at + 8, Relaxed);
        (Self { at, count: word >> 1 }, word & Self::DROPPING != 0)
    }

    /// To be called before the attempt to drop the message in this slot.
    fn begin(&self, memory: &impl Memory, index: u64) {
        memory.store(self.at, index, Relaxed);
        self.write(memory, Self::DROPPING);
    }

    /// To be called after it.
    fn end(&mut self, memory: &impl Memory, dropped: bool) {
        self.count = self.count.wrapping_add(u64::from(dropped));
        self.write(memory, 0);
    }

    fn write(&self, memory: &impl Memory, dropping: u64) {
        // As in `State::store`.
        compiler_fence(SeqCst);
        memory.store(self.at + 8, self.count << 1 | dropping, Relaxed);
        compiler_fence(SeqCst);
    }

    /// Counts the message that a dead sender was just dropping, if it came to that.
    fn settle(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<(), Corrupt> {
        let (mut drops, is_dropping) = Self::open(memory, geometry, id);
        if !is_dropping {
            return Ok(());
        }
        let index = memory.load(drops.at, Relaxed);
        if index >= geometry.depth {
            return Err(Corrupt(format!("participant {id} was dropping the message in slot {index}")));
        }
        let word = geometry.word(memory, geometry.slot(index))?;
        // The only claim it can have had then, and not committed yet.
        drops.end(memory, !word.is_full() && word.owner() == id);
        Ok(())
    }
}

/// Whether nothing is there to be received, now or after a repair. For lookers, when nobody
/// takes part; what can't be read counts as something.
pub(crate) fn is_empty(memory: &impl Memory, geometry: &Geometry) -> bool {
    (0..geometry.depth).all(|index| {
        let word = geometry.word(memory, geometry.slot(index));
        word.is_ok_and(|word| !word.is_full())
    })
}

/// What a looker sees: each word as it was at some moment.
pub(crate) fn survey(
    memory: &impl Memory,
    geometry: &Geometry,
    participants: &mut [(u32, Participant)],
) -> Survey {
    let mut queued = 0;
    let mut sent = 0_u64;
    let mut held = vec![0; geometry.participants as usize + 1];
    for index in 0..geometry.depth {
        let Ok(word) = geometry.word(memory, geometry.slot(index)) else { continue };
        sent = sent.wrapping_add(after(word.last_claim()));
        if word.is_full() {
            queued += 1;
            held[word.owner() as usize] += 1;
        }
    }
    let (mut lost, mut redelivered) = (0_u64, 0_u64);
    for id in geometry.ids() {
        let Ok(state) = State::load(memory, geometry, id) else { continue };
        let (drops, _) = Drops::open(memory, geometry, id);
        lost = state.lost.saturating_add(drops.count).saturating_add(lost);
        redelivered += state.redelivered;
    }
    for (id, participant) in participants {
        participant.held = Some(held[*id as usize]);
    }
    Survey {
        queued: Some(queued),
        sent: Some(sent),
        lost: Some(lost),
        redelivered: Some(redelivered),
        ..Survey::default()
    }
}
