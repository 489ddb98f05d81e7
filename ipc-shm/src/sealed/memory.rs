//! The memory of a sealed channel: two files without a name, each of which one process writes.
//!
//! ```text
//! the receiver's:  | its words |                         sealed by the receiver
//! the sender's:            | its words | ring, mapped twice |   sealed by the sender
//! mapped:          | words | guard | words | ring | ring |     in both processes
//! ```
//!
//! Both processes map both, in one row, so that the ring's algorithm (`ring::spsc`) finds all
//! of its words by their offsets as in a named segment. The only difference is which of them
//! a process could store to.

use super::{LinkError, greeting::Part};
use crate::{
    ring::{memory::Words, spsc},
    sys::{
        file::Cause,
        map::{Access, Pair},
        memfd,
    },
};
use ipc_core::OsError;
use std::{fs::File, sync::Arc};

/// Where an end's words are in its page: as in a named segment's.
const LEDGER: usize = 128;
const RELEASED: usize = 168;
const BELL: usize = 256;
const ASLEEP: usize = 384;

/// The length of what an end hands over.
pub(super) fn len_bytes(part: Part, page: u64, capacity: u64) -> u64 {
    match part {
        Part::Sends => page.saturating_add(capacity),
        Part::Receives => page,
    }
}

/// The words by which an end wakes the other one: see `post`.
#[derive(Clone, Copy, Debug)]
pub(super) struct PostWords {
    pub(super) bell: usize,
    pub(super) asleep: usize,
}

/// The memory of both ends, as one of them has it mapped.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) words: Words,
    pub(super) geometry: spsc::Geometry,
    pub(super) ours: PostWords,
    pub(super) theirs: PostWords,
}

/// Room for the memory of both ends. One's own is mapped before it is sealed, since it can't
/// be mapped for writing after.
#[derive(Debug)]
pub(super) struct Unshared {
    pair: Pair,
    part: Part,
    capacity: u64,
}

impl Unshared {
    /// For the one with this part.
    pub(super) fn new(part: Part, page: u64, capacity: u64) -> Result<Self, LinkError> {
        let pair = Pair::new(page, capacity)?.ok_or_else(|| {
            LinkError::Unsupported("the channel is larger than this program's address space".into())
        })?;
        Ok(Self { pair, part, capacity })
    }

    /// Maps our own memory, and seals it.
    pub(super) fn place_ours(&self, file: &File) -> Result<(), LinkError> {
        self.place(self.part, file, Access::ReadWrite)?;
        memfd::seal(file).map_err(|error| match Cause::of(&error) {
            Cause::NotSupported => LinkError::Unsupported(
                "the system can't seal memory against the writes of others: that takes Linux 5.1".into(),
            ),
            _ => error.into(),
        })
    }

    /// Maps what the other end handed over, and was checked. Each of its pages is there then.
    pub(super) fn place_theirs(&self, file: &File) -> Result<(), LinkError> {
        Ok(self.place(self.part.other(), file, Access::Read)?)
    }

    fn place(&self, part: Part, file: &File, access: Access) -> Result<(), OsError> {
        match part {
            Part::Receives => self.pair.place_first(file, access),
            Part::Sends => self.pair.place_second(file, access),
        }
    }

    /// The memory of both, which were placed.
    pub(super) fn share(self) -> Shared {
        let at = self.pair.offsets();
        let post = |first| PostWords { bell: first + BELL, asleep: first + ASLEEP };
        let (receivers, senders) = (post(at.first), post(at.second));
        let (ours, theirs) = match self.part {
            Part::Sends => (senders, receivers),
            Part::Receives => (receivers, senders),
        };
        let geometry = spsc::Geometry {
            sender_ledger: at.second + LEDGER,
            receiver_ledger: at.first + LEDGER,
            released: at.first + RELEASED,
            data: at.ring,
            capacity: self.capacity,
        };
        Shared { words: Words::new(&Arc::new(self.pair.into_mapping())), geometry, ours, theirs }
    }
}

/// Makes the memory that this end hands over; it isn't sealed yet.
pub(super) fn make(part: Part, page: u64, capacity: u64) -> Result<File, LinkError> {
    Ok(memfd::make(len_bytes(part, page, capacity))?)
}

/// Looks whether what the other end handed over is sealed memory of the right size.
pub(super) fn check(part: Part, page: u64, capacity: u64, theirs: File) -> Result<File, LinkError> {
    let expected = len_bytes(part, page, capacity);
    let Err(flaw) = memfd::check(&theirs, expected)? else { return Ok(theirs) };
    if flaw == memfd::Flaw::NotMemory {
        memfd::close_apart(theirs);
    }
    Err(LinkError::Refused(format!("what it handed over {}", flaw.describe(expected))))
}
