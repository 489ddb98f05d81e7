//! Many readers or one writer: the writer has the lock's word (`lock`), each participant
//! counts its own readers in a word of its own.
//!
//! ```text
//! reader                          writer
//!   my count += 1                   take the lock's word
//!   full fence                      full fence
//!   somebody has the lock?          wait until every count is 0
//!     my count -= 1, wait
//! ```
//!
//! At least one of the two sees the other. Readers of different participants never write to
//! one line, so they don't slow each other down (a "big-reader" lock, or BRAVO; Dice and
//! Kogan, USENIX ATC 2019). And the dead leave a count with their name on it: who has certified
//! a death clears just that one. A single count for all would be wrong for ever.
//!
//! A count has two halves: how many read, and how many of these threads have ended without
//! leaving. They read on, as far as anybody knows; but a writer can be told.
//!
//! Who has the word keeps new readers out, so writers don't starve; a reader that waits asks
//! for the lock as writers do, and comes in while it is reserved for it.

use super::{
    Corrupt,
    lock::{self, Owner, State},
    memory::Memory,
};
use std::{
    ops::RangeInclusive,
    sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst},
};

/// Where things are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) lock: lock::Place,
    /// The first participant's count, and how far apart they are.
    pub(crate) counts: usize,
    pub(crate) stride: usize,
    pub(crate) participants: u32,
}

/// More readers than a participant can have threads.
const MOST_READERS: u64 = i32::MAX as u64;

/// A reader whose thread has ended, in the upper half of the count.
const FORGOTTEN: u64 = 1 << 32;

impl Place {
    #[inline]
    pub(crate) fn count(&self, id: u32) -> usize {
        self.counts + (id as usize - 1) * self.stride
    }

    pub(crate) fn ids(&self) -> RangeInclusive<u32> {
        1..=self.participants
    }
}

/// How a reader came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    Free,
    /// The lock was reserved for it, and is anybody's now: who waits is to be woken.
    Accepted,
}

/// Comes in as a reader. Otherwise somebody may have seen us try, and is to be woken.
#[inline]
pub(crate) fn enter(
    memory: &impl Memory,
    place: &Place,
    me: Owner,
) -> Result<Result<Entered, State>, Corrupt> {
    memory.fetch_add(place.count(me.id()), 1, Relaxed);
    // Pairs with the fence in `shut`: the writer sees our count, or we its word.
    memory.fence_after_swap(SeqCst);
    match lock::state_written(memory, place.lock) {
        Ok(State::Free) => Ok(Ok(Entered::Free)),
        Ok(State::Reserved { .. }) => match lock::accept(memory, place.lock, me) {
            true => Ok(Ok(Entered::Accepted)),
            false => Ok(Ok(Entered::Free)),
        },
        Ok(state) => {
            leave(memory, place, me);
            Ok(Err(state))
        }
        Err(corrupt) => {
            leave(memory, place, me);
            Err(corrupt)
        }
    }
}

/// Leaves. A writer may wait for it.
#[inline]
pub(crate) fn leave(memory: &impl Memory, place: &Place, me: Owner) {
    take_back(memory, place, me, 1);
}

/// The thread of a reader ends, and it hasn't left.
pub(crate) fn forget(memory: &impl Memory, place: &Place, me: Owner) {
    memory.fetch_add(place.count(me.id()), FORGOTTEN, Relaxed);
}

/// Leaves after it was [forgotten](forget).
#[cold]
pub(crate) fn leave_after_all(memory: &impl Memory, place: &Place, me: Owner) {
    take_back(memory, place, me, FORGOTTEN + 1);
}

#[inline]
fn take_back(memory: &impl Memory, place: &Place, me: Owner, share: u64) {
    // Release: pairs with the Acquire in `reading`.
    memory.fetch_add(place.count(me.id()), share.wrapping_neg(), Release);
}

/// How many of a participant read, by its count.
pub(crate) fn readers(count: u64) -> u64 {
    count % FORGOTTEN
}

/// How many of them were forgotten.
pub(crate) fn forgotten(count: u64) -> u64 {
    count / FORGOTTEN
}

/// To be called once by a writer that has the word, before it asks who is still reading.
#[inline]
pub(crate) fn shut(memory: &impl Memory) {
    // Pairs with the fence in `enter`.
    memory.fence_after_swap(SeqCst);
}

/// Those who keep a writer waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Whose readers they are.
    pub(crate) id: u32,
    /// Whether any of them was forgotten.
    pub(crate) forgotten: bool,
}

/// The first participant from `from` on that has readers, if any.
#[inline]
pub(crate) fn reading(memory: &impl Memory, place: &Place, from: u32) -> Result<Option<Reading>, Corrupt> {
    for id in from..=place.participants {
        // Acquire: pairs with the Release in `take_back`.
        let count = memory.load(place.count(id), Acquire);
        if count == 0 {
            continue;
        }
        let (readers, forgotten) = (readers(count), forgotten(count));
        if readers > MOST_READERS || forgotten > readers {
            return Err(Corrupt(format!(
                "participant {id} has {readers} readers, {forgotten} of them forgotten"
            )));
        }
        return Ok(Some(Reading { id, forgotten: forgotten > 0 }));
    }
    Ok(None)
}

/// Takes back the count of a participant that stores nothing any more.
pub(crate) fn bury(memory: &impl Memory, place: &Place, id: u32) {
    // Release: pairs with the Acquire in `reading`. What the dead one read, it has read.
    memory.store(place.count(id), 0, Release);
}
