//! A semaphore: so many permits, each with the name of the participant that has it.
//!
//! How many each participant has is in a word of its own, stored in one piece, and how many
//! there are at all in another. What is left over is a sum, which is kept for speed and
//! never relied on: whoever finds the lock around it abandoned, or too few permits, adds
//! up anew. So a kill between any two of these stores loses no permit and makes none, and
//! the permits of the dead are free as soon as their word is cleared.
//!
//! Everything here is called by whoever has the lock.

use super::{Corrupt, memory::Memory, readers};
use std::sync::atomic::Ordering::Relaxed;

/// The most permits there can be.
pub(crate) const MOST: u64 = u32::MAX as u64;

/// Where things are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// How many there are, and how many of them nobody has, or fewer.
    pub(crate) total: usize,
    pub(crate) free: usize,
    /// How many each participant has.
    pub(crate) held: readers::Place,
}

fn count(memory: &impl Memory, at: usize) -> Result<u64, Corrupt> {
    match memory.load(at, Relaxed) {
        count @ 0..=MOST => Ok(count),
        count => Err(Corrupt(format!("it counts {count} permits"))),
    }
}

/// Adds up how many permits are free.
pub(crate) fn recount(memory: &impl Memory, place: &Place) -> Result<u64, Corrupt> {
    let mut free = count(memory, place.total)?;
    for id in place.held.ids() {
        let held = count(memory, place.held.count(id))?;
        free =
            free.checked_sub(held).ok_or_else(|| Corrupt("more permits are held than there are".into()))?;
    }
    memory.store(place.free, free, Relaxed);
    Ok(free)
}

/// Takes so many, if they are free.
#[inline]
pub(crate) fn take(memory: &impl Memory, place: &Place, id: u32, permits: u64) -> Result<bool, Corrupt> {
    let mut free = memory.load(place.free, Relaxed);
    if free < permits || free > MOST {
        free = recount(memory, place)?;
        if free < permits {
            return Ok(false);
        }
    }
    let held = count(memory, place.held.count(id))?;
    memory.store(place.free, free - permits, Relaxed);
    memory.store(place.held.count(id), held + permits, Relaxed);
    Ok(true)
}

/// Whether so many may be free, by a look without the lock.
pub(crate) fn may_take(memory: &impl Memory, place: &Place, permits: u64) -> bool {
    memory.load(place.free, Relaxed) >= permits
}

/// Gives back so many.
#[inline]
pub(crate) fn give_back(memory: &impl Memory, place: &Place, id: u32, permits: u64) -> Result<(), Corrupt> {
    let held = count(memory, place.held.count(id))?;
    memory.store(place.held.count(id), held.saturating_sub(permits), Relaxed);
    let free = memory.load(place.free, Relaxed).saturating_add(held.min(permits));
    // Too few is found out by who needs more; too many never are stored.
    if free <= count(memory, place.total)? {
        memory.store(place.free, free, Relaxed);
    }
    Ok(())
}

/// Makes more, up to [`MOST`]. How many there could be if that is too many.
pub(crate) fn add(memory: &impl Memory, place: &Place, permits: u64) -> Result<Result<(), u64>, Corrupt> {
    let total = count(memory, place.total)?;
    if permits > MOST - total {
        return Ok(Err(MOST - total));
    }
    memory.store(place.total, total + permits, Relaxed);
    // Who waits looks at it; who is killed before it leaves too few, as in `give_back`.
    let free = memory.load(place.free, Relaxed).saturating_add(permits);
    if free <= total + permits {
        memory.store(place.free, free, Relaxed);
    }
    Ok(Ok(()))
}
