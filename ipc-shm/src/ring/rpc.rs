//! Calls: any number of clients make requests, any number of servers answer them, each call
//! in a slot of its own.
//!
//! ```text
//! slot: | word | length | payload …     word = call 35 · client 13 · server 13 · stage 3
//!
//! Free → Claimed → Requested → Taken → Answered or Declined → Free, one call later
//!                                 ↘ Died (the server was killed)
//!                                 ↘ Abandoned (the client gave up) → Free, one call later
//! ```
//!
//! The client claims a free slot, writes its request and offers it; a server takes it, reads
//! it, writes its answer over it and gives it back to the client, who frees the slot. In each
//! stage one of the two has the payload, and its id is in the word. A client that gives up
//! withdraws a request that nobody has taken; one that was taken it abandons, and the server
//! frees the slot when it is done. So an answer never meets another call than its own.
//!
//! There is no queue besides the slots: a server looks at them in turn, beginning behind the
//! one that it served last, so that nobody's request waits for more than one of each other
//! slot's.
//!
//! The ids are what makes it survive a kill: whoever learns from the kernel that a
//! participant is dead ([`repair`]) frees what it had as a client, or abandons it to its
//! server, and tells the clients of what it had as a server that it died. A request is taken
//! once: whether a dead server acted on it isn't known, so it isn't given to another one.

use super::{Corrupt, Survey, memory::Memory};
use crate::{config, segment::Layout};
use ipc_core::Participant;
use std::{
    collections::BTreeSet,
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
};

/// What a slot takes up besides its payload.
const OVERHEAD_BYTES: u64 = 16;

/// The most slots there can be: a server looks at all of them.
pub(crate) const MAX_DEPTH: u64 = 4096;

/// What a slot takes up for messages of up to `max_message_len` bytes: an odd number of
/// lines, so that the words of the slots don't compete for the same place in a cache.
pub(crate) fn slot_bytes(max_message_len: u64) -> u64 {
    match max_message_len.saturating_add(OVERHEAD_BYTES).checked_next_multiple_of(64) {
        Some(bytes) if bytes % 128 == 0 => bytes.saturating_add(64),
        Some(bytes) => bytes,
        None => u64::MAX,
    }
}

/// Where things are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// The state word of participant 1, and how far the others' are from it.
    pub(crate) states: usize,
    pub(crate) state_stride: usize,
    pub(crate) participants: u32,
    /// The first slot, the distance between slots, and their number.
    pub(crate) slots: usize,
    pub(crate) stride: usize,
    pub(crate) depth: u64,
    pub(crate) max_message_len: usize,
}

impl Geometry {
    pub(crate) fn of(layout: &Layout, geometry: &config::Geometry) -> Self {
        let first = layout.entry(1);
        let state_stride = if layout.participants > 1 { layout.entry(2).state() - first.state() } else { 0 };
        Self {
            states: first.state(),
            state_stride,
            participants: layout.participants,
            slots: layout.data as usize,
            stride: slot_bytes(geometry.max_message_len) as usize,
            depth: geometry.depth,
            max_message_len: geometry.max_message_len as usize,
        }
    }

    fn state(&self, id: u32) -> usize {
        self.states + (id - 1) as usize * self.state_stride
    }

    #[inline]
    fn slot(&self, index: u64) -> usize {
        self.slots + index as usize * self.stride
    }

    /// The slot after this one.
    #[inline]
    fn after(&self, index: u64) -> u64 {
        if index + 1 == self.depth { 0 } else { index + 1 }
    }

    #[inline]
    fn word(&self, memory: &impl Memory, index: u64) -> Result<Word, Corrupt> {
        // Acquire: pairs with the Release of whoever stored it.
        self.check(index, Word(memory.load(self.slot(index), Acquire)))
    }

    /// A word as some participant may have written it.
    #[inline]
    fn check(&self, index: u64, word: Word) -> Result<Word, Corrupt> {
        let (has_client, has_server) = word.stage().roles();
        let fits = |has: bool, id: u32| if has { id != 0 && id <= self.participants } else { id == 0 };
        if fits(has_client, word.client()) && fits(has_server, word.server()) {
            return Ok(word);
        }
        Err(bad_word(index, word))
    }

    /// The length of what is in a slot.
    #[inline]
    fn len(&self, memory: &impl Memory, index: u64) -> Result<usize, Corrupt> {
        let len = memory.load(self.slot(index) + 8, Relaxed);
        if len <= self.max_message_len as u64 {
            return Ok(len as usize);
        }
        Err(Corrupt(format!("the message in slot {index} has {len} bytes")))
    }

    /// Where a slot's payload is.
    #[inline]
    pub(crate) fn payload(&self, index: u64) -> usize {
        self.slot(index) + OVERHEAD_BYTES as usize
    }
}

#[cold]
fn bad_word(index: u64, word: Word) -> Corrupt {
    Corrupt(format!("the word of slot {index} is {:#x}", word.0))
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Stage {
    Free = 0,
    Claimed = 1,
    Requested = 2,
    Taken = 3,
    Answered = 4,
    Declined = 5,
    Died = 6,
    Abandoned = 7,
}

impl Stage {
    #[inline]
    fn of(bits: u64) -> Self {
        match bits & 7 {
            0 => Self::Free,
            1 => Self::Claimed,
            2 => Self::Requested,
            3 => Self::Taken,
            4 => Self::Answered,
            5 => Self::Declined,
            6 => Self::Died,
            _ => Self::Abandoned,
        }
    }

    /// Whether there is a client, and a server.
    #[inline]
    fn roles(self) -> (bool, bool) {
        match self {
            Self::Free => (false, false),
            Self::Taken => (true, true),
            Self::Abandoned => (false, true),
            _ => (true, false),
        }
    }
}

/// A slot's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const CALLS: u64 = 1 << 35;

    #[inline]
    fn new(call: u64, client: u32, server: u32, stage: Stage) -> Self {
        Self(call << 29 | u64::from(client) << 16 | u64::from(server) << 3 | stage as u64)
    }

    #[inline]
    fn call(self) -> u64 {
        self.0 >> 29
    }

    #[inline]
    fn client(self) -> u32 {
        (self.0 >> 16 & 0x1fff) as u32
    }

    #[inline]
    fn server(self) -> u32 {
        (self.0 >> 3 & 0x1fff) as u32
    }

    #[inline]
    fn stage(self) -> Stage {
        Stage::of(self.0)
    }

    /// Free for the next call.
    #[inline]
    fn freed(self) -> Self {
        Self::new((self.call() + 1) % Self::CALLS, 0, 0, Stage::Free)
    }

    /// The same call in a stage without a server.
    #[inline]
    fn back_to_client(self, stage: Stage) -> Self {
        Self::new(self.call(), self.client(), 0, stage)
    }

    #[inline]
    fn abandoned(self) -> Self {
        Self::new(self.call(), 0, self.server(), Stage::Abandoned)
    }
}

/// A call, as its client knows it: where, and the word from which all its words follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) index: u64,
    claimed: Word,
}

/// How far a call has come, for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// No server has taken it.
    Offered,
    /// This one has.
    Taken { server: u32 },
    /// There is an answer of this length.
    Answered { len: usize },
    /// The server didn't want it.
    Declined,
    /// The server that had taken it is dead.
    Died,
}

/// A client's end.
#[derive(Debug)]
pub(crate) struct Caller<M> {
    memory: M,
    geometry: Geometry,
    id: u32,
    /// Where to look for a free slot first: where the last one was.
    start: u64,
}

impl<M: Memory> Caller<M> {
    /// Takes part with this id, whose byte the caller has locked.
    pub(crate) fn attach(memory: M, geometry: Geometry, id: u32) -> Result<Self, Corrupt> {
        enter(&memory, &geometry, id)?;
        Ok(Self { memory, geometry, id, start: u64::from(id) % geometry.depth })
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

    /// Claims a free slot, if there is one.
    #[inline]
    pub(crate) fn try_claim(&mut self) -> Result<Option<Call>, Corrupt> {
        let mut index = self.start;
        for _ in 0..self.geometry.depth {
            let word = self.geometry.word(&self.memory, index)?;
            if word.stage() == Stage::Free {
                let claimed = Word::new(word.call(), self.id, 0, Stage::Claimed);
                // The Acquire of `word` pairs with the Release that freed the slot, so that it
                // was read before we overwrite it. Relaxed: nothing of ours comes before.
                let at = self.geometry.slot(index);
                if self.memory.compare_exchange(at, word.0, claimed.0, Relaxed).is_ok() {
                    self.start = index;
                    return Ok(Some(Call { index, claimed }));
                }
            }
            index = self.geometry.after(index);
        }
        Ok(None)
    }

    /// Offers the request whose payload was written.
    #[inline]
    pub(crate) fn offer(&mut self, call: &Call, len: usize) -> Result<(), Corrupt> {
        self.is_claimed(call)?;
        let at = self.geometry.slot(call.index);
        self.memory.store(at + 8, len as u64, Relaxed);
        // Release: pairs with the Acquire in `try_take`; the payload comes first.
        self.memory.store(at, call.claimed.back_to_client(Stage::Requested).0, Release);
        Ok(())
    }

    /// Our own word, which nobody else changes: if they did, this isn't what it should be.
    #[inline]
    fn is_claimed(&self, call: &Call) -> Result<(), Corrupt> {
        let word = Word(self.memory.load(self.geometry.slot(call.index), Relaxed));
        if word == call.claimed { Ok(()) } else { Err(bad_word(call.index, word)) }
    }

    /// How far a call has come that was offered.
    #[inline]
    pub(crate) fn look(&self, call: &Call) -> Result<Progress, Corrupt> {
        let word = self.ours(call)?;
        Ok(match word.stage() {
            Stage::Requested => Progress::Offered,
            Stage::Taken => Progress::Taken { server: word.server() },
            Stage::Answered => Progress::Answered { len: self.geometry.len(&self.memory, call.index)? },
            Stage::Declined => Progress::Declined,
            Stage::Died => Progress::Died,
            Stage::Free | Stage::Claimed | Stage::Abandoned => return Err(bad_word(call.index, word)),
        })
    }

    /// The servers that have taken our calls, each once.
    pub(crate) fn servers(&self) -> impl Iterator<Item = u32> {
        // Relaxed: whoever is asked about them doesn't look at what they wrote.
        let words =
            (0..self.geometry.depth).map(|at| Word(self.memory.load(self.geometry.slot(at), Relaxed)));
        let ours = words.filter(|word| word.stage() == Stage::Taken && word.client() == self.id);
        let known = |server: &u32| (1..=self.geometry.participants).contains(server);
        ours.map(Word::server).filter(known).collect::<BTreeSet<_>>().into_iter()
    }

    #[inline]
    fn ours(&self, call: &Call) -> Result<Word, Corrupt> {
        ours(&self.memory, &self.geometry, call)
    }

    /// As [`finish`].
    pub(crate) fn finish(&mut self, call: &Call) -> Result<bool, Corrupt> {
        finish(&self.memory, &self.geometry, call)
    }
}

#[inline]
fn ours(memory: &impl Memory, geometry: &Geometry, call: &Call) -> Result<Word, Corrupt> {
    let word = geometry.word(memory, call.index)?;
    if word.call() == call.claimed.call() && word.client() == call.claimed.client() {
        return Ok(word);
    }
    Err(bad_word(call.index, word))
}

/// Is done with a call, at whatever stage it is: frees its slot, or leaves that to the server
/// that has taken it. True if the slot is free. By its client, in whatever thread.
pub(crate) fn finish(memory: &impl Memory, geometry: &Geometry, call: &Call) -> Result<bool, Corrupt> {
    // A server may take the request meanwhile, and then be done with it, or die.
    for _ in 0..4 {
        let word = ours(memory, geometry, call)?;
        let left = left_by_client(word);
        // Release: pairs with the Acquire of the next claim; our reads come before.
        if memory.compare_exchange(geometry.slot(call.index), word.0, left.0, Release).is_ok() {
            return Ok(left.stage() == Stage::Free);
        }
    }
    Err(Corrupt(format!("the word of slot {} doesn't settle", call.index)))
}

/// What becomes of a slot whose client is done with it, or dead.
fn left_by_client(word: Word) -> Word {
    if word.stage() == Stage::Taken { word.abandoned() } else { word.freed() }
}

/// What becomes of a slot whose server is dead.
fn left_by_server(word: Word) -> Word {
    if word.stage() == Stage::Taken { word.back_to_client(Stage::Died) } else { word.freed() }
}

/// A request that was taken: where, and its words, which were loaded once and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) index: u64,
    word: Word,
    /// The request's length, in bytes.
    pub(crate) len: usize,
}

impl Taken {
    /// Whose request it is.
    pub(crate) fn client(&self) -> u32 {
        self.word.client()
    }
}

/// What a server has to say of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This many bytes, which were written to the slot.
    Message { len: usize },
    /// Nothing.
    Declined,
}

/// A server's end.
#[derive(Debug)]
pub(crate) struct Answerer<M> {
    memory: M,
    geometry: Geometry,
    id: u32,
    /// Where to look for a request first: behind the last one.
    start: u64,
}

impl<M: Memory> Answerer<M> {
    /// Takes part with this id, whose byte the caller has locked.
    pub(crate) fn attach(memory: M, geometry: Geometry, id: u32) -> Result<Self, Corrupt> {
        enter(&memory, &geometry, id)?;
        Ok(Self { memory, geometry, id, start: 0 })
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

    /// Takes a request, if there is one.
    #[inline]
    pub(crate) fn try_take(&mut self) -> Result<Option<Taken>, Corrupt> {
        let mut index = self.start;
        for _ in 0..self.geometry.depth {
            let at = self.geometry.slot(index);
            let word = Word(self.memory.load(at, Relaxed));
            if word.stage() == Stage::Requested {
                let word = self.geometry.check(index, word)?;
                let taken = Word::new(word.call(), word.client(), self.id, Stage::Taken);
                // Acquire: pairs with the Release in `offer`.
                if self.memory.compare_exchange(at, word.0, taken.0, Acquire).is_ok() {
                    self.start = self.geometry.after(index);
                    return self.taken(index, taken).map(Some);
                }
            }
            index = self.geometry.after(index);
        }
        Ok(None)
    }

    fn taken(&self, index: u64, word: Word) -> Result<Taken, Corrupt> {
        match self.geometry.len(&self.memory, index) {
            Ok(len) => Ok(Taken { index, word, len }),
            Err(corrupt) => {
                // Its client is told that it isn't answered.
                self.answer(&Taken { index, word, len: 0 }, Answer::Declined)?;
                Err(corrupt)
            }
        }
    }

    /// Gives an answer to a request. False if its client isn't there for it any more; the
    /// slot is free then.
    #[inline]
    pub(crate) fn answer(&self, taken: &Taken, answer: Answer) -> Result<bool, Corrupt> {
        let at = self.geometry.slot(taken.index);
        let stage = match answer {
            Answer::Declined => Stage::Declined,
            Answer::Message { len } => {
                // Ours alone, like the payload: also if it was abandoned.
                self.memory.store(at + 8, len as u64, Relaxed);
                Stage::Answered
            }
        };
        // Release: pairs with the Acquire in `word`; the answer comes first.
        let answered = taken.word.back_to_client(stage).0;
        if self.memory.compare_exchange(at, taken.word.0, answered, Release).is_ok() {
            return Ok(true);
        }
        // Relaxed: who abandoned it did nothing more with the payload.
        let found = Word(self.memory.load(at, Relaxed));
        if found != taken.word.abandoned() {
            return Err(bad_word(taken.index, found));
        }
        // Release: pairs with the Acquire of the next claim; our reads come before.
        self.memory.store(at, taken.word.freed().0, Release);
        Ok(false)
    }
}

const CLEAN: u64 = 0;
const ATTACHED: u64 = 1;

/// Takes part with this id, whose byte the caller has locked: first puts in order what the
/// last one with this id left.
fn enter(memory: &impl Memory, geometry: &Geometry, id: u32) -> Result<(), Corrupt> {
    repair(memory, geometry, id, |_| {})?;
    // Relaxed: whoever relies on it has been given this byte's lock, which orders. That the
    // compiler keeps it before our claims, for a kill in between, is their Release's doing.
    memory.store(geometry.state(id), ATTACHED, Relaxed);
    Ok(())
}

/// Whether participant `id` is there, or left something to be put in order.
pub(crate) fn is_entered(memory: &impl Memory, geometry: &Geometry, id: u32) -> bool {
    // Relaxed: a hint, until one has the lock, which orders.
    memory.load(geometry.state(id), Relaxed) != CLEAN
}

/// Puts in order what participant `id` left in the slots, and names the clients that wait
/// for what it had taken. The caller has the lock of its byte, or is itself the participant,
/// about to leave. May be cut short at any step and done again.
pub(crate) fn repair(
    memory: &impl Memory,
    geometry: &Geometry,
    id: u32,
    mut bereaved: impl FnMut(u32),
) -> Result<(), Corrupt> {
    if !is_entered(memory, geometry, id) {
        return Ok(());
    }
    for index in 0..geometry.depth {
        // The other one of the two may change it meanwhile, or be put in order by somebody
        // else: each does so once or twice.
        for tries in 0.. {
            let word = geometry.word(memory, index)?;
            let left = if word.client() == id {
                left_by_client(word)
            } else if word.server() == id {
                left_by_server(word)
            } else {
                break;
            };
            if tries == 8 {
                return Err(Corrupt(format!("the word of slot {index} doesn't settle")));
            }
            // Release: carries what the dead one read and wrote on to the next one that claims
            // the slot, or to its client.
            if memory.compare_exchange(geometry.slot(index), word.0, left.0, Release).is_ok() {
                if left.client() != 0 {
                    bereaved(left.client());
                }
                break;
            }
        }
    }
    // Relaxed, as in `enter`: the Acquires above keep it behind them.
    memory.store(geometry.state(id), CLEAN, Relaxed);
    Ok(())
}

/// What a looker sees: each word as it was at some moment.
pub(crate) fn survey(
    memory: &impl Memory,
    geometry: &Geometry,
    participants: &mut [(u32, Participant)],
) -> Survey {
    let (mut queued, mut sent) = (0, 0_u64);
    let mut held = vec![0; geometry.participants as usize + 1];
    for index in 0..geometry.depth {
        let Ok(word) = geometry.word(memory, index) else { continue };
        let is_under_way = word.stage() != Stage::Free;
        sent = sent.wrapping_add(word.call() + u64::from(is_under_way));
        queued += u64::from(is_under_way);
        held[word.client() as usize] += 1;
        held[word.server() as usize] += 1;
    }
    for (id, participant) in participants {
        participant.held = Some(held[*id as usize]);
    }
    Survey { queued: Some(queued), sent: Some(sent), ..Survey::default() }
}
