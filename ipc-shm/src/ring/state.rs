//! What state has in common, whatever it is: a lock and a word for each participant, and
//! how both are put in order when their owner is dead.
//!
//! ```text
//! shared words: the lock · two words of the state's own, on the next line but one
//! each entry:   readers, permits, or arrivals
//! ```

use super::{
    Corrupt, Survey, arena,
    lock::{self, State},
    memory::Memory,
    permits, readers,
};
use crate::{config, segment::Layout, sync::Form};
use ipc_core::Participant;
use std::{fmt, sync::atomic::Ordering::Relaxed};

/// Where things are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) lock: lock::Place,
    /// Words of the state's own.
    pub(crate) own: [usize; 2],
    /// Each participant's share.
    pub(crate) shares: readers::Place,
    /// The value.
    pub(crate) data: usize,
}

/// Where the lock is in the page of shared words.
const LOCK: usize = 2048;

impl Place {
    pub(crate) fn of(layout: &Layout) -> Self {
        // Not where in its page a value begins: processors take addresses that differ in
        // the page alone for the same, and wait.
        let lock = lock::Place::at(layout.shared() + LOCK);
        let own = layout.shared() + LOCK + 128;
        let share = |id| layout.entry(id).share();
        let stride = if layout.participants > 1 { share(2) - share(1) } else { 0 };
        let shares = readers::Place { lock, counts: share(1), stride, participants: layout.participants };
        Self { lock, own: [own, own + 8], shares, data: layout.data as usize }
    }

    pub(crate) fn permits(&self) -> permits::Place {
        permits::Place { total: self.own[0], free: self.own[1], held: self.shares }
    }
}

/// Puts in order what a participant left that stores nothing any more, and whose place nobody
/// takes meanwhile. Idempotent.
pub(crate) fn bury(memory: &impl Memory, place: &Place, id: u32) {
    readers::bury(memory, &place.shares, id);
    lock::bury(memory, place.lock, id);
}

/// Whether a participant has anything of it, or has asked for the lock.
pub(crate) fn has_part(memory: &impl Memory, place: &Place, id: u32) -> bool {
    owns(&lock::state(memory, place.lock), id)
        || lock::asker(memory, place.lock).is_some_and(|asker| asker.id() == id)
        || memory.load(place.shares.count(id), Relaxed) != 0
}

/// Whether a participant has the lock.
fn owns(state: &Result<State, Corrupt>, id: u32) -> bool {
    matches!(state, Ok(state) if state.owner().is_some_and(|owner| owner.id() == id))
}

/// How state is, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Free,
    Held,
    Forgotten,
    Abandoned,
    Poisoned,
    Damaged,
    Permits { free: u64, total: u64 },
    Arrived { arrived: u64, parties: u64 },
    Set(bool),
    Done(bool),
    Used { bytes: u64, capacity_bytes: u64, objects: u64 },
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("free"),
            Self::Held => f.write_str("held"),
            Self::Forgotten => {
                f.write_str("forgotten: a thread that had it has ended, and its process still has it open")
            }
            Self::Abandoned => f.write_str("abandoned: its owner died, and nobody has repaired it yet"),
            Self::Poisoned => f.write_str("poisoned: its owner died, and it was given up without repair"),
            Self::Damaged => f.write_str("corrupt"),
            Self::Permits { free, total } => write!(f, "{free} of {total} permits free"),
            Self::Arrived { arrived, parties } => write!(f, "{arrived} of {parties} have arrived"),
            Self::Set(set) => f.write_str(if *set { "set" } else { "not set" }),
            Self::Done(done) => f.write_str(if *done { "done" } else { "not done" }),
            Self::Used { bytes, capacity_bytes, objects } => {
                write!(f, "{objects} objects in {bytes} of {capacity_bytes} bytes")
            }
        }
    }
}

/// What a looker sees, and what it sees of each participant.
pub(crate) fn survey(
    memory: &impl Memory,
    layout: &Layout,
    geometry: &config::Geometry,
    participants: &mut [(u32, Participant)],
) -> Survey {
    let place = Place::of(layout);
    let state = lock::state(memory, place.lock);
    let since = lock::since(memory, place.lock);
    let form = geometry.state.map(|state| state.form);
    let [first, second] = place.own.map(|at| memory.load(at, Relaxed));
    // Whatever is there, or can't be read.
    let (mut shares, mut forgotten) = (0, 0);
    for (id, participant) in participants {
        let share = memory.load(place.shares.count(*id), Relaxed);
        let share = match form {
            Some(Form::Barrier) => arrivals(share, second),
            Some(Form::RwLock) => {
                forgotten |= readers::forgotten(share);
                readers::readers(share)
            }
            _ => share,
        };
        shares = u64::saturating_add(shares, share);
        let owns = owns(&state, *id);
        participant.held = Some(share.saturating_add(u64::from(owns)));
        participant.held_since_unix_ns = since.filter(|_| owns);
    }
    let of_lock = match state {
        Ok(State::Free | State::Reserved { .. }) if shares == 0 => Condition::Free,
        Ok(State::Forgotten(_)) => Condition::Forgotten,
        Ok(State::Free | State::Reserved { .. } | State::Held(_)) if forgotten > 0 => Condition::Forgotten,
        Ok(State::Free | State::Reserved { .. } | State::Held(_)) => Condition::Held,
        Ok(State::Abandoned) => Condition::Abandoned,
        Ok(State::Poisoned) => Condition::Poisoned,
        Err(_) => Condition::Damaged,
    };
    let condition = match form {
        Some(Form::Semaphore) => Condition::Permits { free: first.saturating_sub(shares), total: first },
        Some(Form::Barrier) => Condition::Arrived { arrived: shares, parties: first },
        Some(Form::Event) => Condition::Set(first % 2 == 1),
        Some(Form::Once) if of_lock == Condition::Free => Condition::Done(first != 0),
        // Whoever died with it, the next one goes on.
        Some(Form::Arena) if matches!(of_lock, Condition::Free | Condition::Abandoned) => Condition::Used {
            bytes: first,
            capacity_bytes: arena::heap_bytes(layout.lane_bytes, geometry.max_message_len),
            objects: second,
        },
        _ => of_lock,
    };
    Survey { condition: Some(condition), ..Survey::default() }
}

const ARRIVALS_BITS: u32 = 16;

/// A participant's share of a barrier: how many of it have arrived, in which generation.
pub(crate) fn share_of_arrivals(arrivals: u64, generation: u64) -> u64 {
    if arrivals == 0 { 0 } else { generation << ARRIVALS_BITS | arrivals }
}

/// How many of a participant have arrived in this generation.
pub(crate) fn arrivals(share: u64, generation: u64) -> u64 {
    let is_current = share >> ARRIVALS_BITS == generation & (u64::MAX >> ARRIVALS_BITS);
    if is_current { share & ((1 << ARRIVALS_BITS) - 1) } else { 0 }
}
