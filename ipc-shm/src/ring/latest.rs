//! The newest value: one writer, any number of readers, who never wait for each other.
//!
//! ```text
//! newest: | version 56 · slot 8 |                           0 before the first write
//! slot:   | version, or 0 | length and flags | value | payload …
//! ```
//!
//! **Write**, to the slot after the newest one: store 0 to its word, fence, write length and
//! payload, store the version to its word, then release-store it to `newest`. **Read**: load
//! `newest`, copy that slot word by word, fence, and look whether its word is still that
//! version; if not, the copy may be torn and is thrown away. With N slots that takes N − 1
//! writes that were completed during the copy, and the beginning of another. Reading stores
//! nothing, so readers cost the writer no more than the lines they fetch.
//!
//! `newest` is all that counts: a writer that is killed before it stores that has written
//! nothing, and its successor writes the same version to the same slot again, which nobody
//! has looked at. So there is nothing to repair.
//!
//! An end mark is a version too. It carries a copy of the last value and that value's own
//! version, so that whoever comes late, or slowly, is given the last value before the end.
//!
//! A seqlock with several slots; the orderings are those of H.-J. Boehm, "Can Seqlocks Get
//! Along With Programming Language Memory Models?" (MSPC 2012).
//!
//! Versions would wrap after 2^56 writes, 45 years at 50 million in a second; no more are
//! written then.

use super::{Corrupt, Survey, memory::Memory};
use crate::{config, segment::Layout};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// What a slot takes up besides its payload.
const OVERHEAD_BYTES: u64 = 24;
const WORD_BYTES: usize = 8;

/// The most slots there can be: their numbers have 8 bits.
pub(crate) const MAX_DEPTH: u64 = 256;
const MAX_VERSION: u64 = (1 << 56) - 1;

const COMMITTED: u64 = 1;
/// The mark of a stream's end.
const END: u64 = 2;
/// An end mark before which nothing was written.
const VOID: u64 = 4;
const LEN_SHIFT: u32 = 8;
/// What is not the length.
const FLAGS: u64 = (1 << LEN_SHIFT) - 1;

/// How often a copy is made anew at once where the writer was faster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// So often in all,
    pub(crate) tries: u32,
    /// and no more after so many bytes that were copied in vain.
    pub(crate) bytes: usize,
}

/// Of one who looks at a clock in between.
const WAITING: Patience = Patience { tries: 64, bytes: 64 << 10 };

/// What a slot takes up for values of up to `max_message_len` bytes: processors fetch lines
/// in pairs, and readers of one slot aren't to have the next one taken from the writer.
pub(crate) fn slot_bytes(max_message_len: u64) -> u64 {
    max_message_len.saturating_add(OVERHEAD_BYTES).checked_next_multiple_of(128).unwrap_or(u64::MAX)
}

/// Where things are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// The word that says which slot is the newest.
    pub(crate) newest: usize,
    /// The first slot, the distance between slots, and their number.
    pub(crate) slots: usize,
    pub(crate) stride: usize,
    pub(crate) depth: u64,
    pub(crate) max_message_len: usize,
}

impl Geometry {
    pub(crate) fn of(layout: &Layout, geometry: &config::Geometry) -> Self {
        Self {
            newest: layout.shared(),
            slots: layout.data as usize,
            stride: slot_bytes(geometry.max_message_len) as usize,
            depth: geometry.depth,
            max_message_len: geometry.max_message_len as usize,
        }
    }

    #[inline]
    fn slot(&self, index: u64) -> usize {
        self.slots + index as usize * self.stride
    }

    /// The parts of a word that says which slot is the newest.
    #[inline]
    fn parse(&self, word: u64) -> Result<Newest, Corrupt> {
        let newest = Newest::of(word);
        if newest.index < self.depth { Ok(newest) } else { Err(no_such_slot(newest, self.depth)) }
    }

    /// The length in a slot's second word, if such a word is ever written.
    #[inline]
    fn len(&self, meta: u64) -> Option<usize> {
        let len = meta >> LEN_SHIFT;
        let flags = meta & FLAGS;
        let is_sound = flags & !(END | VOID) == COMMITTED && len <= self.max_message_len as u64;
        is_sound.then_some(len as usize)
    }
}

/// A segment's first value, as it is before anybody reads it: the bytes of its slots, and the
/// word that says which one is the newest.
pub(crate) fn first_value(payload: &[u8]) -> (Vec<u8>, u64) {
    let first = Newest { version: 1, index: 0 };
    let meta = (payload.len() as u64) << LEN_SHIFT | COMMITTED;
    let words = [first.version, meta, 0].map(u64::to_ne_bytes);
    ([words.as_flattened(), payload].concat(), first.word())
}

/// A version, and the slot that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Newest {
    version: u64,
    index: u64,
}

impl Newest {
    #[inline]
    fn of(word: u64) -> Self {
        Self { version: word >> 8, index: word & 0xff }
    }

    #[inline]
    fn word(self) -> u64 {
        self.version << 8 | self.index
    }

    /// The version that is written next, and where.
    #[inline]
    fn next(self, depth: u64) -> Self {
        if self.version == 0 {
            return Self { version: 1, index: self.index };
        }
        let index = self.index + 1;
        Self { version: self.version + 1, index: if index == depth { 0 } else { index } }
    }
}

/// The writer's end. Whoever makes one has made sure to be alone.
#[derive(Debug)]
pub(crate) struct Writer<M> {
    memory: M,
    geometry: Geometry,
    newest: Newest,
    /// What is being written, or will be.
    next: Newest,
    at: usize,
}

impl<M: Memory> Writer<M> {
    /// Takes over from the last writer, dead or gone.
    pub(crate) fn attach(memory: M, geometry: Geometry) -> Result<Self, Corrupt> {
        // Acquire: what a dead process stored; nothing else pairs.
        let newest = geometry.parse(memory.load(geometry.newest, Acquire))?;
        let next = newest.next(geometry.depth);
        Ok(Self { at: geometry.slot(next.index), memory, geometry, newest, next })
    }

    /// The words.
    #[inline]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// The number of the newest version.
    #[cfg(test)]
    pub(crate) fn newest_version(&self) -> u64 {
        self.newest.version
    }

    /// Takes the next slot from those who may still read it. Until this is done, its payload
    /// mustn't be written. Idempotent.
    #[inline]
    pub(crate) fn begin(&mut self) {
        // Release: pairs with the fence in `try_copy`. Who sees the slot taken away sees that
        // another one is the newest.
        self.memory.store(self.at, 0, Release);
        // Pairs with the fence in `try_copy`: who copies any of what is written from here on
        // sees the slot taken away.
        self.memory.fence(Release);
    }

    /// Where the next value's payload goes, as an offset in the segment.
    #[inline]
    pub(crate) fn payload(&self) -> usize {
        self.at + OVERHEAD_BYTES as usize
    }

    /// Publishes the value whose payload was written after [`begin`](Self::begin).
    #[inline]
    pub(crate) fn commit(&mut self, len: usize) -> Result<(), Corrupt> {
        self.publish((len as u64) << LEN_SHIFT | COMMITTED)
    }

    /// Publishes the mark of a stream's end.
    pub(crate) fn commit_end(&mut self) -> Result<(), Corrupt> {
        self.begin();
        if self.newest.version == 0 {
            return self.publish(COMMITTED | END | VOID);
        }
        let last = self.geometry.slot(self.newest.index);
        // Relaxed, all of these: the last value is our own, or a dead writer's.
        let meta = self.memory.load(last + WORD_BYTES, Relaxed);
        let Some(len) = self.geometry.len(meta) else { return Err(bad_meta(self.newest, meta)) };
        let value = match meta & END {
            0 => self.newest.version,
            _ => self.memory.load(last + 2 * WORD_BYTES, Relaxed),
        };
        self.memory.store(self.at + 2 * WORD_BYTES, value, Relaxed);
        for word in (0..len.div_ceil(WORD_BYTES)).map(|word| OVERHEAD_BYTES as usize + word * WORD_BYTES) {
            self.memory.store(self.at + word, self.memory.load(last + word, Relaxed), Relaxed);
        }
        self.publish(meta | END)
    }

    #[inline]
    fn publish(&mut self, meta: u64) -> Result<(), Corrupt> {
        if self.next.version > MAX_VERSION {
            return Err(worn_out());
        }
        self.memory.store(self.at + WORD_BYTES, meta, Relaxed);
        self.memory.store(self.at, self.next.version, Relaxed);
        // Release: pairs with the Acquire in `try_copy`; the slot's words come first.
        self.memory.store(self.geometry.newest, self.next.word(), Release);
        self.newest = self.next;
        self.next = self.newest.next(self.geometry.depth);
        self.at = self.geometry.slot(self.next.index);
        Ok(())
    }
}

#[cold]
fn worn_out() -> Corrupt {
    Corrupt(format!("its newest version is {MAX_VERSION}, the last one that can be written"))
}

#[cold]
fn no_such_slot(newest: Newest, depth: u64) -> Corrupt {
    Corrupt(format!("the newest of its {depth} slots is number {}", newest.index))
}

#[cold]
fn bad_meta(newest: Newest, meta: u64) -> Corrupt {
    Corrupt(format!("version {} starts with {meta:#x}", newest.version))
}

/// What a look at the newest version finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing was ever written.
    Nothing,
    /// A version, of which the reader has a copy now: [`Reader::copied`].
    Copied,
    /// The writer was faster; try again without a pause.
    Again,
}

/// A version: a value, or the mark of a stream's end with the value before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// The version in which the value was written, 0 if none was.
    pub(crate) value: u64,
    /// The value's length, in bytes.
    pub(crate) len: usize,
}

impl Version {
    /// Whether it is the mark of a stream's end.
    #[inline]
    pub(crate) fn is_end(&self) -> bool {
        self.value != self.number
    }
}

/// A reader's end: it keeps a copy of the last version that it looked at.
#[derive(Debug)]
pub(crate) struct Reader<M> {
    memory: M,
    geometry: Geometry,
    /// Room for the longest value.
    copy: Box<[u64]>,
    /// What is in the copy, if it is whole, and the word that said so; 0 if it isn't.
    copied: Version,
    copied_word: u64,
    /// How many bytes were copied when the writer was faster the last time.
    in_vain: usize,
}

impl<M: Memory> Reader<M> {
    pub(crate) fn attach(memory: M, geometry: Geometry) -> Self {
        Self {
            memory,
            geometry,
            copy: vec![0; geometry.max_message_len.div_ceil(WORD_BYTES)].into(),
            copied: Version { number: 0, value: 0, len: 0 },
            copied_word: 0,
            in_vain: 0,
        }
    }

    /// The words.
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// The copy of the version that [`try_copy`](Self::try_copy) found last: whole words.
    #[inline]
    pub(crate) fn copy(&self) -> &[u64] {
        &self.copy
    }

    /// Which version that is.
    #[inline]
    pub(crate) fn copied(&self) -> Version {
        self.copied
    }

    /// Whether there is another version than the one that was copied last.
    #[inline]
    pub(crate) fn is_behind(&self) -> bool {
        self.memory.load(self.geometry.newest, Relaxed) != self.copied_word
    }

    /// Looks at the newest version and copies it, unless it is the one that was copied last.
    #[inline]
    pub(crate) fn try_copy(&mut self) -> Result<Look, Corrupt> {
        // Acquire: pairs with the Release in `publish`; the slot is as that version or later.
        let word = self.memory.load(self.geometry.newest, Acquire);
        if word == 0 {
            return Ok(Look::Nothing);
        }
        if word == self.copied_word {
            return Ok(Look::Copied);
        }
        self.copy_slot(word)
    }

    /// The same, made anew where the writer was faster.
    #[inline]
    pub(crate) fn copy_anew(&mut self, patience: Patience) -> Result<Look, Corrupt> {
        match self.try_copy()? {
            Look::Again => self.copy_again(patience),
            look => Ok(look),
        }
    }

    #[cold]
    fn copy_again(&mut self, patience: Patience) -> Result<Look, Corrupt> {
        let mut in_vain = self.in_vain;
        for _ in 1..patience.tries {
            if in_vain >= patience.bytes {
                break;
            }
            match self.try_copy()? {
                Look::Again => in_vain += self.in_vain,
                look => return Ok(look),
            }
        }
        Ok(Look::Again)
    }

    /// A version later than this one, if there is one now. Gives up if the writer is faster all
    /// the time, so that the caller looks at its deadline.
    pub(crate) fn newer_than(&mut self, number: u64) -> Result<Look, Corrupt> {
        Ok(match self.copy_anew(WAITING)? {
            Look::Copied if self.copied.number <= number => Look::Nothing,
            look => look,
        })
    }

    /// A value in line, as a reader spends its time on nothing else; whatever else is there, apart.
    #[inline]
    fn copy_slot(&mut self, word: u64) -> Result<Look, Corrupt> {
        let newest = Newest::of(word);
        if newest.index >= self.geometry.depth {
            return Err(no_such_slot(newest, self.geometry.depth));
        }
        let at = self.geometry.slot(newest.index);
        self.copied_word = 0;
        let meta = self.memory.load(at + WORD_BYTES, Relaxed);
        let len = meta >> LEN_SHIFT;
        if meta & FLAGS != COMMITTED || len > self.geometry.max_message_len as u64 {
            return self.copy_other(newest, meta);
        }
        self.copy_words(at, len as usize);
        if !self.is_whole(at, newest) {
            return self.overtaken(word, len as usize);
        }
        self.copied = Version { number: newest.version, value: newest.version, len: len as usize };
        self.copied_word = word;
        Ok(Look::Copied)
    }

    /// The mark of an end; or what isn't sound, or torn.
    #[cold]
    fn copy_other(&mut self, newest: Newest, meta: u64) -> Result<Look, Corrupt> {
        let at = self.geometry.slot(newest.index);
        let value =
            if meta & END == 0 { newest.version } else { self.memory.load(at + 2 * WORD_BYTES, Relaxed) };
        // Whatever the length is, it may be torn like the rest.
        let len = self.geometry.len(meta);
        self.copy_words(at, len.unwrap_or(0));
        if !self.is_whole(at, newest) {
            return self.overtaken(newest.word(), len.unwrap_or(0));
        }
        let Some(len) = len else { return Err(bad_meta(newest, meta)) };
        let value = if meta & VOID == 0 { value } else { 0 };
        if meta & END != 0 && value >= newest.version {
            return Err(Corrupt(format!("version {} ends version {value}", newest.version)));
        }
        self.copied = Version { number: newest.version, value, len };
        self.copied_word = newest.word();
        Ok(Look::Copied)
    }

    /// Copies the payload of the slot that begins `at`; what is copied may be torn.
    #[inline]
    fn copy_words(&mut self, at: usize, len: usize) {
        let words = &mut self.copy[..len.div_ceil(WORD_BYTES)];
        let mut from = at + OVERHEAD_BYTES as usize;
        let mut load = |word: &mut u64| {
            *word = self.memory.load(from, Relaxed);
            from += WORD_BYTES;
        };
        let mut fours = words.chunks_exact_mut(4);
        for four in fours.by_ref() {
            four.iter_mut().for_each(&mut load);
        }
        fours.into_remainder().iter_mut().for_each(load);
    }

    /// Whether what was copied of this slot is that version.
    #[inline]
    fn is_whole(&self, at: usize, newest: Newest) -> bool {
        // Acquire: pairs with the fence in `begin`. If any of what was copied was written later than
        // this version, the slot is seen taken away.
        self.memory.fence(Acquire);
        self.memory.load(at, Relaxed) == newest.version
    }

    /// A slot is taken away only after another one has become the newest.
    #[cold]
    fn overtaken(&mut self, word: u64, in_vain: usize) -> Result<Look, Corrupt> {
        self.in_vain = in_vain;
        // Acquire: pairs with the store in `begin`, which our look at the slot may have seen.
        self.memory.fence(Acquire);
        if self.memory.load(self.geometry.newest, Acquire) == word {
            return Err(Corrupt(format!("version {} isn't in its slot", word >> 8)));
        }
        Ok(Look::Again)
    }
}

/// What a looker sees.
pub(crate) fn survey(memory: &impl Memory, geometry: &Geometry) -> Survey {
    let word = memory.load(geometry.newest, Acquire);
    Survey { sent: geometry.parse(word).ok().map(|newest| newest.version), ..Survey::default() }
}
