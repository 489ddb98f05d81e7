//! The memory of a sealed channel: two files without a name, each of which one process writes.
//!
//! ```text
//! the receiver's:  | its words |                         sealed by the receiver
//! the sender's:            | its words | ring, mapped twice |   sealed by the sender
//! mapped:          | words | guard | words | ring | ring |     in both processes
//! ```
//!
//! In a broadcast and for a newest value, one process's memory is mapped by many, and each of
//! those has a page of its own, which only it and that one process map: two mappings then, in
//! each of which the other part is left out.
//!
//! Else both processes map both, in one row, so that the ring's algorithm (`ring::spsc`) finds all
//! of its words by their offsets as in a named segment. The only difference is which of them
//! a process could store to.

use super::{LinkError, greeting::Part};
use crate::{
    ring::{broadcast, latest, memory::Words, spsc},
    sys::{
        file::Cause,
        map::{Access, Pair},
        memfd,
        socket::Passed,
    },
};
use ipc_core::OsError;
use std::{fs::File, sync::Arc};

/// Where an end's words are in its page: as in a named segment's.
const LEDGER: usize = 128;
const RELEASED: usize = 168;
const BELL: usize = 256;
const ASLEEP: usize = 384;
/// A publisher's and a writer's. What is looked at and what is stored often is 128 bytes from
/// each other, since processors fetch lines in pairs.
const SHARED: usize = 512;
const STATE: usize = 640;
const HEAD: usize = 768;
const INTENT: usize = 896;
const CHECKPOINTS: usize = 1024;

/// The length of what an end hands over.
pub(super) fn len_bytes(part: Part, page: u64, capacity: u64) -> u64 {
    if part.has_messages() { page.saturating_add(capacity) } else { page }
}

/// The words by which an end wakes the other one: see `post`.
#[derive(Clone, Debug)]
pub(super) struct PostWords {
    pub(super) words: Words,
    pub(super) bell: usize,
    pub(super) asleep: usize,
}

/// The memory of one end, mapped by itself: where there is one of these for many of those.
#[derive(Clone, Debug)]
pub(super) struct Single {
    pub(super) post: PostWords,
    /// Its page of words, and the memory for messages behind it.
    page: usize,
    data: usize,
    capacity: u64,
}

impl Single {
    pub(super) fn words(&self) -> &Words {
        &self.post.words
    }

    /// A ring of one publisher, who waits for nobody.
    pub(super) fn broadcast(&self) -> broadcast::Geometry {
        broadcast::Geometry {
            generation: self.page + SHARED,
            highest: self.page + SHARED + 8,
            states: self.page + STATE,
            heads: self.page + HEAD,
            intents: self.page + INTENT,
            checkpoints: self.page + CHECKPOINTS,
            entry_stride: 0,
            rows: 0,
            row_stride: 0,
            data: self.data,
            data_stride: 0,
            capacity: self.capacity,
            publishers: 1,
            participants: 1,
            lossy: true,
        }
    }

    /// Slots for values of up to so many bytes, as many as there is room for.
    pub(super) fn latest(&self, longest: u64) -> latest::Geometry {
        latest::Geometry {
            newest: self.page + SHARED,
            slots: self.data,
            stride: latest::slot_bytes(longest) as usize,
            depth: depth(self.capacity, longest),
            max_message_len: longest as usize,
        }
    }
}

/// How many values of up to so many bytes there is room for.
pub(super) fn depth(capacity: u64, longest: u64) -> u64 {
    (capacity / latest::slot_bytes(longest)).min(latest::MAX_DEPTH)
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
        if part.has_messages() {
            self.pair.place_second(file, access)
        } else {
            self.pair.place_first(file, access)
        }
    }

    /// The memory of both, which were placed.
    pub(super) fn share(self) -> Shared {
        let at = self.pair.offsets();
        let words = Words::new(&Arc::new(self.pair.into_mapping()));
        let (receivers, senders) = (post(&words, at.first), post(&words, at.second));
        let (ours, theirs) =
            if self.part.has_messages() { (senders, receivers) } else { (receivers, senders) };
        let geometry = spsc::Geometry {
            sender_ledger: at.second + LEDGER,
            receiver_ledger: at.first + LEDGER,
            released: at.first + RELEASED,
            data: at.ring,
            capacity: self.capacity,
        };
        Shared { words, geometry, ours, theirs }
    }

    /// The memory of the end that does this, which was placed, and the other's wasn't.
    pub(super) fn single(self, part: Part) -> Single {
        let at = self.pair.offsets();
        let page = if part.has_messages() { at.second } else { at.first };
        let words = Words::new(&Arc::new(self.pair.into_mapping()));
        Single { post: post(&words, page), page, data: at.ring, capacity: self.capacity }
    }
}

fn post(words: &Words, page: usize) -> PostWords {
    PostWords { words: words.clone(), bell: page + BELL, asleep: page + ASLEEP }
}

/// Makes the memory that this end hands over; it isn't sealed yet.
pub(super) fn make(part: Part, page: u64, capacity: u64) -> Result<File, LinkError> {
    Ok(memfd::make(len_bytes(part, page, capacity))?)
}

/// Looks whether what the other end handed over is sealed memory of the right size.
pub(super) fn check(part: Part, page: u64, capacity: u64, theirs: Passed) -> Result<File, LinkError> {
    let expected = len_bytes(part, page, capacity);
    match memfd::check(theirs.as_ref(), expected)? {
        Ok(()) => Ok(theirs.into_file()),
        Err(flaw) => Err(LinkError::Refused(format!("what it handed over {}", flaw.describe(expected)))),
    }
}
