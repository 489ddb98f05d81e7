//! What participants leave in the slots, and in their entries: put in order when they are gone.

use super::{Geometry, Hints, Word, after, is_end};
use crate::ring::{Corrupt, memory::Memory};
use std::sync::atomic::{
    Ordering::{Relaxed, Release, SeqCst},
    compiler_fence,
};

/// What an entry's state word says: state 2 · lost 31 · redelivered 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    stage: Stage,
    pub(super) lost: u64,
    pub(super) redelivered: u64,
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

    pub(super) fn load(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<Self, Corrupt> {
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
pub(super) fn enter(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<(), Corrupt> {
    repair(memory, geometry, id)?;
    let state = State::load(memory, geometry, id)?;
    State { stage: Stage::Attached, ..state }.store(memory, geometry, id);
    Ok(())
}

/// Nothing of participant `id`, who is about to leave, is in the slots: says so without a look
/// at them.
pub(super) fn leave(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<(), Corrupt> {
    let state = State::load(memory, geometry, id)?;
    State { stage: Stage::Clean, ..state }.store(memory, geometry, id);
    Ok(())
}

/// Counts up the generation: a message is ready again that receivers may have passed. Who comes
/// then doesn't pass it.
pub(super) fn count_up(memory: &impl Memory, geometry: &Geometry) {
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
            match of_the_dead(index)? {
                Some((at, word)) if word.is_full() && !is_end(memory, at) => {
                    if is_spent(word) {
                        state.lost += 1
                    } else {
                        state.redelivered += 1
                    }
                }
                _ => {}
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
pub(super) struct Drops {
    at: usize,
    pub(super) count: u64,
}

impl Drops {
    const DROPPING: u64 = 1;

    /// Those of a participant, and whether it is at it.
    pub(super) fn open(memory: &impl Memory, geometry: &Geometry, id: u32) -> (Self, bool) {
        let at = geometry.drops(id);
        // Relaxed: its owner is dead or ourselves (the kernel's lock said so, and orders), or
        // we only look.
        let word = memory.load(at + 8, Relaxed);
        (Self { at, count: word >> 1 }, word & Self::DROPPING != 0)
    }

    /// To be called before the attempt to drop the message in this slot.
    pub(super) fn begin(&self, memory: &impl Memory, index: u64) {
        memory.store(self.at, index, Relaxed);
        self.write(memory, Self::DROPPING);
    }

    /// To be called after it.
    pub(super) fn end(&mut self, memory: &impl Memory, dropped: bool) {
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
        // The only claim it can have had then, and not committed yet: what was dropped is still
        // there.
        let is_dropped = !word.is_full() && word.owner() == id;
        drops.end(memory, is_dropped && !is_end(memory, geometry.slot(index)));
        Ok(())
    }
}
