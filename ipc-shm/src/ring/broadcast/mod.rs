//! Every subscriber sees every message: one ring of variable-length records for each
//! publisher, in the manner of `spsc`, with private positions on the reading side.
//!
//! ```text
//! record:  | commit word | number | payload, padded to 8 bytes |    word = len << 8 | flags, or 0
//! ring:    … record | record | 0, next number | not yet written …   positions ever grow
//! ```
//!
//! **Publish**: write the payload; behind it, prepare the header of the next record (word 0,
//! its number); then release-store this record's word, and the position behind it in `head`,
//! for those who come. A kill leaves the whole record or nothing: a successor starts at
//! `head` and walks the records that were committed and not recorded, at most the last one,
//! or the last batch. Each ring has one writer, so nothing is claimed or swapped.
//!
//! **Lossy.** The publisher never looks at subscribers. Before it overwrites anything it
//! stores its *intent*, the position up to which it is going to write: what lies more than a
//! ring before that is no longer to be trusted. A subscriber copies and then looks at the
//! intent. The copy and the overwriting are relaxed accesses to words, so they may meet; the
//! fences see to it that they don't meet unnoticed (a sequence lock whose count is the
//! intent):
//!
//! ```text
//! publisher                          subscriber
//!   intent = up to here                word, number, payload …     relaxed loads
//!   Release fence                      Acquire fence
//!   payload …    relaxed stores        intent beyond my position + a ring?  all of it is void
//! ```
//!
//! A load that sees one of the stores behind the Release fence makes the fences synchronize,
//! and so the intent is seen. The intent runs ahead by an eighth of the ring, so that its
//! line, which subscribers keep looking at, changes rarely; that much less they may lag.
//!
//! Each time the intent is raised, the position of then is noted as a *checkpoint*, the last
//! eight of which span at least half a ring. A subscriber that was overtaken goes on at the
//! oldest one in the newer half: at the oldest record that is left it would be overtaken
//! again at once, and at the newest it would lose what is still there. The numbers before
//! and after say exactly how many it missed.
//!
//! **Reliable.** The publisher keeps within a ring of every subscriber that is entered. Each
//! subscriber's positions are words that only it writes; the publisher looks at them when it
//! reaches the limit that it last computed. A subscriber enters, fences, and only then reads
//! where the publishers are; a publisher has recorded where it is, fences, and only then
//! reads who is entered. So either the publisher sees the subscriber, or the subscriber
//! starts no further back than where the publisher was when it computed its limit, and the
//! limit is within a ring of that.
//!
//! Positions would wrap after 2^64 bytes; they are refused from 2^63.
//!
//! In the manner of Aeron's broadcast buffers (an intent before the overwriting), with
//! numbers that make gaps exact.

mod reader;
mod record;
mod writer;

use self::reader::{all_losses, start_of};
use super::{
    Corrupt, Survey,
    ledger::{Ledger, Place},
    memory::Memory,
};
use crate::{config, kind::WhenFull, segment::Layout};
use ipc_core::Participant;
use std::{
    ops::RangeInclusive,
    sync::atomic::Ordering::{Relaxed, Release},
};

pub(crate) use {
    reader::Reader,
    record::{Copies, Next, Record},
    writer::Writer,
};

/// What a message needs besides its payload: its own header, and the one behind it.
pub(crate) const OVERHEAD_BYTES: u64 = 2 * HEADER;

const HEADER: u64 = 16;
const WORD: u64 = 8;
const COMMITTED: u64 = 1;
const END: u64 = 2;
const LEN_SHIFT: u32 = 8;

/// How many checkpoints a publisher keeps.
const CHECKPOINTS: usize = 8;

/// What a subscriber's positions take up: for each publisher, how far it has released, in
/// bytes and in messages. Rows of different subscribers are 128 bytes apart, since
/// processors fetch lines in pairs.
pub(crate) fn row_bytes(publishers: u32) -> u64 {
    (u64::from(publishers) * 2 * WORD).next_multiple_of(128)
}

/// What all subscribers' positions take up.
pub(crate) fn table_bytes(participants: u32, publishers: u32) -> u64 {
    u64::from(participants.saturating_sub(publishers)) * row_bytes(publishers)
}

/// Where things are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Counts the publishers that came; the highest id of a subscriber that ever came.
    pub(crate) generation: usize,
    pub(crate) highest: usize,
    /// The first participant's state word, head (a subscriber's: its losses), intent and
    /// checkpoints, and how far the others' are from them.
    pub(crate) states: usize,
    pub(crate) heads: usize,
    pub(crate) intents: usize,
    pub(crate) checkpoints: usize,
    pub(crate) entry_stride: usize,
    /// The subscribers' rows.
    pub(crate) rows: usize,
    pub(crate) row_stride: usize,
    /// The rings, and the length of each: a multiple of 8, more than `OVERHEAD_BYTES`.
    pub(crate) data: usize,
    pub(crate) data_stride: usize,
    pub(crate) capacity: u64,
    /// Ids: 1 to `publishers`, then subscribers up to `participants`.
    pub(crate) publishers: u32,
    pub(crate) participants: u32,
    pub(crate) lossy: bool,
}

impl Geometry {
    /// As an endpoint sees it, which has each ring mapped twice in a row.
    pub(crate) fn of(layout: &Layout, geometry: &config::Geometry) -> Self {
        Self { data_stride: 2 * layout.lane_bytes as usize, ..Self::of_file(layout, geometry) }
    }

    /// As it is in the file.
    pub(crate) fn of_file(layout: &Layout, geometry: &config::Geometry) -> Self {
        let (first, second) = (layout.entry(1), layout.entry(2));
        let table = table_bytes(layout.participants, geometry.lanes);
        Self {
            generation: layout.shared(),
            highest: layout.shared() + 8,
            states: first.state(),
            heads: first.ledger(),
            intents: first.intent(),
            checkpoints: first.checkpoints(),
            entry_stride: second.state() - first.state(),
            rows: (layout.data - table) as usize,
            row_stride: row_bytes(geometry.lanes) as usize,
            data: layout.data as usize,
            data_stride: layout.lane_bytes as usize,
            capacity: layout.lane_bytes,
            publishers: geometry.lanes,
            participants: layout.participants,
            lossy: geometry.when_full == WhenFull::DropOldest,
        }
    }

    /// The longest message, in bytes.
    pub(crate) fn max_message_len(&self) -> usize {
        (self.capacity - OVERHEAD_BYTES) as usize
    }

    fn of_entry(&self, first: usize, id: u32) -> usize {
        first + (id - 1) as usize * self.entry_stride
    }

    /// The words of the subscriber with this id for a publisher: its position, and the
    /// number behind it.
    #[inline]
    fn row(&self, subscriber: u32, publisher: u32) -> usize {
        let row = self.rows + (subscriber - self.publishers - 1) as usize * self.row_stride;
        row + (publisher - 1) as usize * 2 * WORD as usize
    }

    /// The first byte of a publisher's ring.
    #[inline]
    fn ring(&self, publisher: u32) -> usize {
        self.data + (publisher - 1) as usize * self.data_stride
    }

    fn publishers(&self) -> RangeInclusive<u32> {
        1..=self.publishers
    }

    /// Subscribers up to this id.
    fn subscribers_to(&self, highest: u64) -> RangeInclusive<u32> {
        let highest = highest.min(u64::from(self.participants));
        self.publishers + 1..=highest as u32
    }

    /// Steps over `size` bytes, from a place within a ring to another.
    #[inline]
    fn step(&self, place: u64, size: u64) -> u64 {
        let next = place + size;
        if next >= self.capacity { next - self.capacity } else { next }
    }

    /// A position that a correct peer may have stored.
    fn check(&self, publisher: u32, position: u64) -> Result<u64, Corrupt> {
        if position % WORD == 0 && position < 1 << 63 {
            return Ok(position);
        }
        Err(Corrupt(format!("publisher {publisher}'s position is {position}")))
    }
}

/// A place in a ring: where a record begins, or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    position: u64,
    /// The position's place in the ring.
    place: u64,
    /// The record's number.
    number: u64,
}

impl Cursor {
    #[inline]
    fn step(&mut self, geometry: &Geometry, record: Header) {
        let size = record.size();
        self.position += size;
        self.place = geometry.step(self.place, size);
        self.number = self.number.wrapping_add(u64::from(!record.is_end()));
    }

    fn at(geometry: &Geometry, memory: &impl Memory, publisher: u32, position: u64) -> Self {
        let place = position % geometry.capacity;
        let number = memory.load(geometry.ring(publisher) + geometry.step(place, WORD) as usize, Relaxed);
        Self { position, place, number }
    }
}

/// A record's commit word, which was loaded once and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header(u64);

impl Header {
    #[inline]
    fn message(len: usize) -> Self {
        Self((len as u64) << LEN_SHIFT | COMMITTED)
    }

    /// The word at this place, if there is a record.
    #[inline]
    fn parse(geometry: &Geometry, publisher: u32, place: u64, word: u64) -> Result<Option<Self>, Corrupt> {
        if word == 0 {
            return Ok(None);
        }
        let flags = word & ((1 << LEN_SHIFT) - 1);
        // All of its bits, also where a length in memory has fewer.
        if flags & !END != COMMITTED || word >> LEN_SHIFT > geometry.capacity - OVERHEAD_BYTES {
            return Err(bad_word(publisher, place, word));
        }
        Ok(Some(Self(word)))
    }

    #[inline]
    fn len(self) -> usize {
        (self.0 >> LEN_SHIFT) as usize
    }

    #[inline]
    fn is_end(self) -> bool {
        self.0 & END != 0
    }

    #[inline]
    fn size(self) -> u64 {
        record_size(self.len() as u64)
    }
}

#[cold]
fn bad_word(publisher: u32, place: u64, word: u64) -> Corrupt {
    Corrupt(format!("the record at byte {place} of publisher {publisher}'s ring starts with {word:#x}"))
}

#[cold]
fn bad_number(publisher: u32, expected: u64, found: u64) -> Corrupt {
    Corrupt(format!("publisher {publisher}'s message {found} is where {expected} should be"))
}

#[inline]
fn record_size(len: u64) -> u64 {
    HEADER + len.next_multiple_of(WORD)
}

/// A subscriber's state: nothing is waited for, or it is there, or was killed. A publisher's
/// stays entered, once its ring was used.
const CLEAN: u64 = 0;
const ENTERED: u64 = 1;

/// Lets nobody wait for subscriber `id` any more. The caller has the lock of its byte, or is
/// itself the subscriber, about to leave.
pub(crate) fn leave(memory: &impl Memory, geometry: &Geometry, id: u32) {
    // Release: pairs with the Acquire in `Writer::subscribers`; what it read was read before.
    memory.store(geometry.of_entry(geometry.states, id), CLEAN, Release);
}

/// What a looker sees: each word as it was at some moment.
pub(crate) fn survey(
    memory: &impl Memory,
    geometry: &Geometry,
    participants: &mut [(u32, Participant)],
) -> Survey {
    let sent_by = |publisher| start_of(memory, geometry, publisher).map_or(0, |cursor| cursor.number);
    let sent: Vec<u64> = geometry.publishers().map(sent_by).collect();
    let losses = |id| Ledger::open(memory, Place::at(geometry.of_entry(geometry.heads, id))).progress();
    for (id, participant) in participants {
        if *id <= geometry.publishers {
            participant.position = Some(sent[*id as usize - 1]);
            continue;
        }
        let lag = |publisher: u32| {
            let received = memory.load(geometry.row(*id, publisher) + WORD as usize, Relaxed);
            sent[publisher as usize - 1].saturating_sub(received)
        };
        participant.lag = Some(geometry.publishers().map(lag).fold(0, u64::saturating_add));
        participant.lost = geometry.lossy.then(|| losses(*id).count);
    }
    let highest = memory.load(geometry.highest, Relaxed);
    let lost = geometry.subscribers_to(highest).map(losses);
    let lost = lost.map(all_losses).fold(0, u64::wrapping_add);
    Survey {
        sent: Some(sent.iter().fold(0, |sum, &sent| sum.wrapping_add(sent))),
        lost: geometry.lossy.then_some(lost),
        ..Survey::default()
    }
}
