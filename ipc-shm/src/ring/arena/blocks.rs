//! Blocks and their lists, within a transaction. Whatever is read of them is checked.

use super::{
    ALIGNMENT_BYTES, BIN_COUNT, HEADER_BYTES, LEAST_BYTES, MARK, MARK_MASK, Refused, SLACK_MASK, Session,
    UNITS_SHIFT, bin_of, corrupt, header_word,
};
use crate::ring::memory::Memory;

/// A block, as its header says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) start: u64,
    pub(super) size: u64,
    /// The size of the one before it, unchecked; 0 if it is the first one.
    pub(super) before: u64,
    pub(super) is_used: bool,
    /// Of its payload, what was asked for.
    pub(super) len: u64,
}

impl Block {
    pub(super) fn payload(&self) -> u64 {
        self.start + HEADER_BYTES
    }
}

impl<M: Memory> Session<M> {
    /// The block at this offset in the heap.
    pub(super) fn block(&self, start: u64) -> Result<Block, Refused> {
        let heap_bytes = self.place.heap_bytes;
        if start % ALIGNMENT_BYTES != 0 || start > heap_bytes - LEAST_BYTES {
            return corrupt(format!("no block begins at offset {start}"));
        }
        let at = self.place.word(start);
        let (word, before) = (self.load(at), self.load(at + 8));
        let size = ((word & !MARK_MASK) >> UNITS_SHIFT) * ALIGNMENT_BYTES;
        let slack = word >> 1 & SLACK_MASK;
        let is_sound = word & MARK_MASK == MARK
            && (LEAST_BYTES..=heap_bytes - start).contains(&size)
            && slack <= size - HEADER_BYTES;
        if !is_sound {
            return corrupt(format!("the header at offset {start} is {word:#x}"));
        }
        Ok(Block { start, size, before, is_used: word & 1 == 1, len: size - HEADER_BYTES - slack })
    }

    /// The free block with this payload, which a list names.
    fn listed(&self, payload: u64) -> Result<Block, Refused> {
        match payload.checked_sub(HEADER_BYTES).map(|start| self.block(start)) {
            Some(Ok(block)) if !block.is_used => Ok(block),
            _ => corrupt(format!("a list of free blocks names offset {payload}")),
        }
    }

    /// Looks at the free blocks of a list until one will do.
    pub(super) fn walk(
        &self,
        bin: usize,
        mut will_do: impl FnMut(&Block) -> bool,
    ) -> Result<Option<Block>, Refused> {
        let mut payload = self.load(self.place.bin(bin));
        for _ in 0..=self.place.most_objects() {
            if payload == 0 {
                return Ok(None);
            }
            let block = self.listed(payload)?;
            if bin_of(block.size) != bin {
                return corrupt(format!("the free block at offset {payload} is in another one's list"));
            }
            if will_do(&block) {
                return Ok(Some(block));
            }
            payload = self.load(self.place.word(payload));
        }
        corrupt("a list of free blocks has no end".into())
    }

    pub(super) fn fitting(&self, size: u64) -> Result<Option<Block>, Refused> {
        if size > self.place.heap_bytes {
            return Ok(None);
        }
        for bin in bin_of(size)..BIN_COUNT {
            if let Some(block) = self.walk(bin, |block| block.size >= size)? {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Takes a free block, or the beginning of it.
    pub(super) fn take(&mut self, found: Block, size: u64, len: u64) -> Result<u64, Refused> {
        self.unlink(&found)?;
        // Its list is there again if this is undone.
        self.note(self.place.word(found.payload()))?;
        self.note(self.place.word(found.payload()) + 8)?;
        let rest = found.size - size;
        let size = if rest < LEAST_BYTES { found.size } else { size };
        if rest >= LEAST_BYTES {
            let start = found.start + size;
            self.put_anew(self.place.word(start), header_word(rest, 0, false))?;
            self.put_anew(self.place.word(start) + 8, size)?;
            self.noted.insert(self.place.word(start) + 16);
            self.noted.insert(self.place.word(start) + 24);
            self.tell_next(start, found.size, rest)?;
            self.link(start, rest)?;
        }
        let slack = size - HEADER_BYTES - len;
        self.put(self.place.word(found.start), header_word(size, slack, true))?;
        self.count(|used, objects| Some((used.checked_add(size)?, objects.checked_add(1)?)))?;
        self.fresh.insert(found.payload());
        Ok(found.payload())
    }

    /// Makes a payload free, together with its neighbours that are.
    pub(super) fn release(&mut self, payload: u64) -> Result<(), Refused> {
        let Block { mut start, mut size, before, .. } = self.block(payload - HEADER_BYTES)?;
        self.count(|used, objects| Some((used.checked_sub(size)?, objects.checked_sub(1)?)))?;
        let whole = size;
        if let Some(next) = self.neighbour(start + size, whole)?.filter(|next| !next.is_used) {
            self.unlink(&next)?;
            size += next.size;
        }
        if before != 0 {
            let Some(previous) = start.checked_sub(before).map(|at| self.block(at)).transpose()? else {
                return corrupt(format!("a block of {before} bytes is said to be before offset {start}"));
            };
            if previous.size != before {
                return corrupt(format!("the block before offset {start} has {} bytes", previous.size));
            }
            if !previous.is_used {
                self.unlink(&previous)?;
                // Nothing is allocated there for who still has the offset.
                self.put(self.place.word(start), 0)?;
                start = previous.start;
                size += previous.size;
            }
        }
        self.put(self.place.word(start), header_word(size, 0, false))?;
        let end = start + size;
        if end < self.place.heap_bytes {
            self.put(self.place.word(end) + 8, size)?;
        }
        self.link(start, size)
    }

    /// The block at this offset, unless the heap ends there, after one of `before` bytes.
    fn neighbour(&self, start: u64, before: u64) -> Result<Option<Block>, Refused> {
        if start == self.place.heap_bytes {
            return Ok(None);
        }
        match self.block(start)? {
            block if block.before == before => Ok(Some(block)),
            block => corrupt(format!("the block at offset {start} follows one of {} bytes", block.before)),
        }
    }

    /// The block after the one at `start` learns that this has so many bytes, and not `old`.
    fn tell_next(&mut self, start: u64, old: u64, size: u64) -> Result<(), Refused> {
        match self.neighbour(start + size, old)? {
            Some(next) => self.put(self.place.word(next.start) + 8, size),
            None => Ok(()),
        }
    }

    fn count(&mut self, change: impl FnOnce(u64, u64) -> Option<(u64, u64)>) -> Result<(), Refused> {
        let (used, objects) = (self.load(self.place.used), self.load(self.place.objects));
        let Some((used, objects)) = change(used, objects) else {
            return corrupt(format!("{objects} objects take up {used} bytes"));
        };
        self.put(self.place.used, used)?;
        self.put(self.place.objects, objects)
    }

    /// Puts a free block first in its list.
    fn link(&mut self, start: u64, size: u64) -> Result<(), Refused> {
        let (head, payload) = (self.place.bin(bin_of(size)), start + HEADER_BYTES);
        let first = self.load(head);
        if first != 0 {
            let first = self.listed(first)?;
            self.put(self.place.word(first.payload()) + 8, payload)?;
        }
        self.put(self.place.word(payload), first)?;
        self.put(self.place.word(payload) + 8, 0)?;
        self.put(head, payload)
    }

    /// Takes a free block out of its list.
    fn unlink(&mut self, block: &Block) -> Result<(), Refused> {
        let at = self.place.word(block.payload());
        let (next, previous) = (self.load(at), self.load(at + 8));
        let from = match previous {
            0 => self.place.bin(bin_of(block.size)),
            previous => self.place.word(self.listed(previous)?.payload()),
        };
        let is_sound = self.load(from) == block.payload();
        if next != 0 {
            let next = self.place.word(self.listed(next)?.payload()) + 8;
            if self.load(next) != block.payload() {
                return corrupt(format!("the free block at offset {} isn't in its list", block.payload()));
            }
            self.put(next, previous)?;
        }
        match is_sound {
            true => self.put(from, next),
            false => corrupt(format!("the free block at offset {} isn't in its list", block.payload())),
        }
    }
}
