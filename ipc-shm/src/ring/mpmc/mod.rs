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
//! A receiver that lives can do the same with what it took and has no use for, and then no
//! attempt is counted (`Reader::put_back`): the word is what it was before. Whoever loaded it then
//! and swaps it now may be the second to have the slot, and so each swap is an Acquire, too.
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

mod reader;
mod repair;
mod writer;

use self::repair::{Drops, State};
use super::{Corrupt, Survey, memory::Memory};
use crate::{config, segment::Layout};
use ipc_core::Participant;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

pub(crate) use {
    reader::{Held, Look, Reader, Take},
    repair::{is_entered, repair},
    writer::{Claim, Slot, Writer},
};

/// What a slot takes up besides its payload.
const OVERHEAD_BYTES: u64 = 16;

const COMMITTED: u64 = 1;
const END: u64 = 2;
const LEN_SHIFT: u32 = 8;

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

/// Whether what is in a slot that is full, or was until it was claimed, is the mark of a
/// stream's end.
fn is_end(memory: &impl Memory, at: usize) -> bool {
    // Relaxed: it was stored before the slot's word was made full, which the caller has loaded
    // by Acquire; and before the next one stores, the slot is claimed.
    memory.load(at + 8, Relaxed) & END != 0
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
