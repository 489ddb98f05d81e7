//! Looking at a ring without taking part: from record to record, as far as they are committed.

use super::{Cursor, Geometry, RECORD_EVERY, WORD};
use crate::ring::{
    Corrupt,
    ledger::{Ledger, Progress},
    memory::Memory,
};
use std::sync::atomic::Ordering::Acquire;

/// How often somebody who looks at a ring that is changing tries again.
const LOOKS: u32 = 4;

/// Goes from record to record, as far as they are committed.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) cursor: Cursor,
    pub(super) count: u64,
    /// No record ends behind this position, because the ring can't hold more than a ring.
    limit: u64,
}

impl Walk {
    /// From the further of both ledgers.
    pub(super) fn new(geometry: &Geometry, sender: Progress, receiver: Progress) -> Result<Self, Corrupt> {
        geometry.check("receiver", receiver.position)?;
        geometry.check("sender", sender.position)?;
        let start = if receiver.position > sender.position { receiver } else { sender };
        geometry.used(start.position, receiver.position)?;
        Ok(Self {
            cursor: Cursor::at(geometry, start.position),
            count: start.count,
            limit: receiver.position + geometry.capacity - WORD,
        })
    }

    /// Steps over a record; false if there is none.
    pub(super) fn step(&mut self, memory: &impl Memory, geometry: &Geometry) -> Result<bool, Corrupt> {
        let Some(record) = self.cursor.record(memory, geometry)? else { return Ok(false) };
        self.cursor.advance(geometry, record.size());
        self.count = self.count.wrapping_add(u64::from(!record.is_end()));
        if self.cursor.position(geometry) > self.limit {
            return Err(Corrupt("its records have no end".into()));
        }
        Ok(true)
    }

    /// Steps over all there are, or as many as a ledger that has been written meanwhile
    /// knows of: then false, because a sender that is faster may keep us walking.
    fn go_to_the_end(
        &mut self,
        memory: &impl Memory,
        geometry: &Geometry,
        sender: &Ledger,
    ) -> Result<bool, Corrupt> {
        for steps in 1.. {
            if !self.step(memory, geometry)? {
                return Ok(true);
            }
            if steps % RECORD_EVERY == 0 && !sender.is_current(memory) {
                break;
            }
        }
        Ok(false)
    }

    fn progress(&self, geometry: &Geometry) -> Progress {
        Progress { position: self.cursor.position(geometry), count: self.count }
    }
}

/// How far both ends have come, for somebody who takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// What was sent.
    pub(crate) sent: Progress,
    /// What was received and released.
    pub(crate) received: Progress,
}

impl Look {
    /// Messages sent and not released.
    pub(crate) fn queued_messages(&self) -> u64 {
        self.sent.count.saturating_sub(self.received.count)
    }
}

/// Looks at a ring, whoever works with it meanwhile. The answer is exact, as of one moment,
/// if for a fraction of the time it takes nothing is released and the sender's ledger isn't
/// written. Else it may be behind: by what was released meanwhile, and by what the sender
/// has not recorded, which is fewer than [`RECORD_EVERY`] messages, or its last batch.
///
/// # Errors
///
/// What can't be, each time it was looked at.
pub(crate) fn look(memory: &impl Memory, geometry: &Geometry) -> Result<Look, Corrupt> {
    let mut answer = glance(memory, geometry);
    for _ in 1..LOOKS {
        if matches!(answer, Ok((_, true))) {
            break;
        }
        answer = glance(memory, geometry).or(answer);
    }
    answer.map(|(look, _)| look)
}

/// One look, and whether it is exact.
pub(crate) fn glance(memory: &impl Memory, geometry: &Geometry) -> Result<(Look, bool), Corrupt> {
    let sender = Ledger::open(memory, geometry.sender());
    let sender_is_current = sender.is_current(memory);
    // After the sender's, which is never further ahead of this than a ring's length.
    let receiver = Ledger::open(memory, geometry.receiver());
    let mut walk = Walk::new(geometry, sender.progress(), receiver.progress())?;
    let recorded = Look { sent: walk.progress(geometry), received: receiver.progress() };
    let is_paired = sender_is_current || recorded.sent == recorded.received;
    let walked = walk.go_to_the_end(memory, geometry, &sender);
    // The sender overwrites what the receiver has left behind; and then the count that
    // belongs to the receiver's position may be another one. If the sender's count is a later
    // one than its position, what was walked over is in it already.
    if !is_paired || !receiver.is_current(memory) {
        let count = recorded.sent.count.max(recorded.received.count);
        return Ok((Look { sent: Progress { count, ..recorded.sent }, ..recorded }, false));
    }
    Ok((Look { sent: walk.progress(geometry), ..recorded }, walked?))
}

/// Whether a ring that nobody changes holds nothing for a receiver.
pub(crate) fn is_empty(memory: &impl Memory, geometry: &Geometry) -> bool {
    let receiver = Ledger::open(memory, geometry.receiver()).progress();
    let cursor = Cursor::at(geometry, receiver.position);
    memory.load(cursor.word, Acquire) == 0
}

/// What a receiver's ledger says that is being written meanwhile, but by nobody but the
/// receiver: without a sender it can't go on for ever.
pub(super) fn settled(memory: &impl Memory, geometry: &Geometry) -> Result<Progress, Corrupt> {
    for _ in 0..=geometry.capacity / WORD {
        let receiver = Ledger::open(memory, geometry.receiver());
        if receiver.is_current(memory) {
            return Ok(receiver.progress());
        }
    }
    Err(Corrupt("the receiver releases more than the ring can hold".into()))
}
