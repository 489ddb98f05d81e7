//! A transaction: what is noted, changed, and committed.

use super::{
    ALIGNMENT_BYTES, BIN_COUNT, Corrupt, Figures, HEADER_BYTES, LEAST_BYTES, LOG, MOST_CHANGES, Place,
    Refused, corrupt, undo,
};
use crate::ring::memory::Memory;
use std::{
    collections::{BTreeSet, HashSet},
    mem,
    sync::atomic::Ordering::{Relaxed, Release},
};

/// A transaction, of one who has the lock. It ends with [`commit`](Self::commit) or an
/// [`undo`]; if it doesn't, the next one begins with that.
#[derive(Debug)]
pub(crate) struct Session<M> {
    memory: M,
    pub(super) place: Place,
    /// Entries of the log.
    pub(super) entries: u64,
    /// Words that are in the log, or needn't be.
    pub(super) noted: HashSet<usize>,
    /// Payloads that were free before.
    pub(super) fresh: HashSet<u64>,
    /// Payloads that are free when it is committed.
    freed: BTreeSet<u64>,
    /// Why it can't be committed, since something was only half done.
    torn: Option<Refused>,
}

impl<M: Memory> Session<M> {
    pub(crate) fn begin(memory: M, place: Place) -> Result<Self, Corrupt> {
        undo(&memory, &place)?;
        Ok(Self {
            memory,
            place,
            entries: 0,
            noted: HashSet::new(),
            fresh: HashSet::new(),
            freed: BTreeSet::new(),
            torn: None,
        })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Finds room for `len` bytes: where its payload is in the heap. What is in there is
    /// whatever was there before.
    pub(crate) fn allocate(&mut self, len: u64) -> Result<u64, Refused> {
        let size = match len.checked_add(HEADER_BYTES + ALIGNMENT_BYTES - 1) {
            Some(bytes) => (bytes / ALIGNMENT_BYTES * ALIGNMENT_BYTES).max(LEAST_BYTES),
            None => u64::MAX,
        };
        let Some(found) = self.fitting(size)? else {
            let Figures { capacity_bytes, used_bytes, largest_bytes, .. } = self.figures()?;
            let free_bytes = capacity_bytes - used_bytes;
            return Err(Refused::Full { asked_bytes: len, free_bytes, largest_bytes });
        };
        let taken = self.take(found, size, len);
        self.or_torn(taken)
    }

    /// Frees a payload when this is committed.
    pub(crate) fn free(&mut self, payload: u64) -> Result<(), Refused> {
        self.find(payload)?;
        self.freed.insert(payload);
        Ok(())
    }

    /// Where in the segment a payload is, and its length.
    pub(crate) fn find(&self, payload: u64) -> Result<(usize, u64), Refused> {
        match payload.checked_sub(HEADER_BYTES).map(|start| self.block(start)) {
            Some(Ok(block)) if block.is_used && !self.freed.contains(&payload) => {
                Ok((self.place.word(payload), block.len))
            }
            _ => corrupt(format!("nothing is allocated at offset {payload}")),
        }
    }

    /// Writes to a payload, from its byte `skip` on, a multiple of 8.
    pub(crate) fn write(&mut self, payload: u64, skip: u64, bytes: &[u8]) -> Result<(), Refused> {
        let (at, len) = self.find(payload)?;
        if skip.checked_add(bytes.len() as u64).is_none_or(|end| end > len) || skip % 8 != 0 {
            return corrupt(format!("{len} bytes are allocated at offset {payload}, too few"));
        }
        let is_fresh = self.fresh.contains(&payload);
        let written = self.put_bytes(at + skip as usize, bytes, is_fresh);
        self.or_torn(written)
    }

    pub(crate) fn set_root(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        debug_assert_eq!(bytes.len(), self.place.root_bytes, "another root");
        let written = self.put_bytes(self.place.root(), bytes, false);
        self.or_torn(written)
    }

    /// Has all of it done, at once. If it can't be, it is to be undone.
    pub(crate) fn commit(&mut self) -> Result<(), Refused> {
        if let Some(torn) = self.torn.take() {
            return Err(torn);
        }
        for payload in mem::take(&mut self.freed) {
            self.release(payload)?;
        }
        if self.entries > 0 {
            // Release: what it stands for is all stored, for who comes after our death.
            self.memory.store(self.place.data + LOG, 0, Release);
            self.entries = 0;
        }
        Ok(())
    }

    pub(crate) fn figures(&self) -> Result<Figures, Refused> {
        let (used_bytes, objects) = (self.load(self.place.used), self.load(self.place.objects));
        let capacity_bytes = self.place.heap_bytes;
        if used_bytes > capacity_bytes || objects > self.place.most_objects() {
            return corrupt(format!("{objects} objects take up {used_bytes} of {capacity_bytes} bytes"));
        }
        let mut largest_bytes = 0;
        for bin in (0..BIN_COUNT).rev() {
            self.walk(bin, |block| {
                largest_bytes = largest_bytes.max(block.size - HEADER_BYTES);
                false
            })?;
            if largest_bytes > 0 {
                break;
            }
        }
        Ok(Figures { capacity_bytes, used_bytes, objects, largest_bytes })
    }

    fn or_torn<T>(&mut self, answer: Result<T, Refused>) -> Result<T, Refused> {
        answer.inspect_err(|refused| self.torn = Some(refused.clone()))
    }

    pub(super) fn load(&self, at: usize) -> u64 {
        // Relaxed: by the lock, nobody stores meanwhile.
        self.memory.load(at, Relaxed)
    }

    /// Notes what a word holds, once.
    pub(super) fn note(&mut self, at: usize) -> Result<(), Refused> {
        if self.noted.contains(&at) {
            return Ok(());
        }
        if self.entries == MOST_CHANGES {
            return Err(Refused::TooManyChanges);
        }
        let (entry, old) = (self.place.entry(self.entries), self.load(at));
        // Release, both: not before the log was emptied of what was there.
        self.memory.store(entry, at as u64, Release);
        self.memory.store(entry + 8, old, Release);
        self.entries += 1;
        // Release: the entry is stored before it counts, for who comes after our death.
        self.memory.store(self.place.data + LOG, self.entries, Release);
        self.noted.insert(at);
        Ok(())
    }

    /// Changes a word, which can be undone.
    pub(super) fn put(&mut self, at: usize, word: u64) -> Result<(), Refused> {
        if self.load(at) == word {
            return Ok(());
        }
        self.note(at)?;
        // Release: what was there is noted before, for who comes after our death.
        self.memory.store(at, word, Release);
        Ok(())
    }

    /// Changes a word of memory that was free, which needn't be undone.
    pub(super) fn put_anew(&mut self, at: usize, word: u64) -> Result<(), Refused> {
        self.noted.insert(at);
        self.put(at, word)
    }

    /// Changes words to hold these bytes.
    fn put_bytes(&mut self, at: usize, bytes: &[u8], is_fresh: bool) -> Result<(), Refused> {
        for (number, bytes) in bytes.chunks(8).enumerate() {
            let at = at + 8 * number;
            let mut word = self.load(at).to_ne_bytes();
            word[..bytes.len()].copy_from_slice(bytes);
            let word = u64::from_ne_bytes(word);
            if is_fresh {
                // Release: what of it has to be is noted before.
                self.memory.store(at, word, Release);
            } else {
                self.put(at, word)?;
            }
        }
        Ok(())
    }
}
