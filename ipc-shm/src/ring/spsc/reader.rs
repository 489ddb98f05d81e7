//! The receiver's end.

use super::{Cursor, Geometry, LINE_BYTES, RECORD_EVERY, Record, WORD};
use crate::ring::{
    Corrupt,
    ledger::{Ledger, Progress, position_of},
    memory::Memory,
};
use std::{num::NonZeroU64, sync::atomic::Ordering::Acquire};

/// The receiver's end. Whoever makes one has made sure to be alone.
///
/// It only knows what was released; who holds records keeps account of them.
#[derive(Debug)]
pub(crate) struct Reader<M> {
    memory: M,
    geometry: Geometry,
    /// Written at each release: the last one.
    ledger: Ledger,
    /// Its position.
    cursor: Cursor,
    /// Up to where messages are released in line, as an offset in the segment: behind the data
    /// area, or 0 if none are.
    in_line: usize,
    /// How far the sender has come, as it has written down.
    written: u64,
    /// How many messages were released when that was last read.
    asked: u64,
    /// The last message given back, and what it took up.
    usual: Record,
    usual_size: u64,
    /// Where we were when we last had to wait.
    waited: Progress,
    /// Whether the next message is expected to go on in the line behind its first one.
    is_long: bool,
}

impl<M: Memory> Reader<M> {
    /// The words.
    #[inline]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Takes over from the last receiver, dead or gone. What it held comes again.
    pub(crate) fn attach(memory: M, geometry: Geometry) -> Result<Self, Corrupt> {
        let ledger = Ledger::open(&memory, geometry.receiver());
        geometry.check("receiver", ledger.progress().position)?;
        Ok(Self::new(memory, geometry, ledger, ledger.progress()))
    }

    /// For a ring that nobody has used.
    pub(crate) fn fresh(memory: M, geometry: Geometry) -> Self {
        let ledger = Ledger::open(&memory, geometry.receiver());
        Self::new(memory, geometry, ledger, Progress::default())
    }

    fn new(memory: M, geometry: Geometry, ledger: Ledger, progress: Progress) -> Self {
        let usual = Record(NonZeroU64::MIN);
        Self {
            memory,
            geometry,
            ledger,
            cursor: Cursor::at(&geometry, progress.position),
            in_line: geometry.end(),
            written: 0,
            asked: progress.count.wrapping_sub(RECORD_EVERY),
            usual,
            usual_size: usual.size(),
            waited: progress,
            is_long: false,
        }
    }

    /// Messages released, by this receiver and those before it.
    #[inline]
    pub(crate) fn released_messages(&self) -> u64 {
        self.ledger.progress().count
    }

    /// The message behind what was released, if it is there. What else there may be, `next`
    /// tells.
    #[inline]
    pub(crate) fn first(&self) -> Option<Record> {
        // Acquire: pairs with the Release of the record's word in `Writer`.
        let word = self.memory.load(self.cursor.word, Acquire);
        if word == self.usual.0.get() {
            return Some(self.usual);
        }
        Record::of_message(word, &self.geometry)
    }

    /// Has a line that is written be fetched while we are at those before it, if the sender is
    /// known to have left it: else it would be taken away from where it is being written.
    #[inline]
    pub(crate) fn expect_more(&mut self) {
        const AHEAD: u64 = 2 * LINE_BYTES as u64;
        // Once for each line.
        if self.cursor.word % LINE_BYTES >= self.usual_size as usize {
            return;
        }
        let Progress { position, count } = self.ledger.progress();
        let ahead = position + AHEAD;
        // As often as the sender writes down how far it has come.
        if ahead >= self.written && count.wrapping_sub(self.asked) >= RECORD_EVERY {
            self.asked = count;
            self.written = position_of(self.memory.peek(self.geometry.sender_ledger));
        }
        if ahead < self.written {
            self.memory.expect_load(self.cursor.word + AHEAD as usize);
        }
    }

    /// Says that there was no message, and that `has_turned` will be asked until there is one.
    #[inline]
    pub(crate) fn expect_wait(&mut self) {
        let now = self.ledger.progress();
        let bytes = now.position.wrapping_sub(self.waited.position);
        let messages = now.count.wrapping_sub(self.waited.count);
        let in_first_line = (LINE_BYTES - self.cursor.word % LINE_BYTES) as u64;
        self.is_long = bytes > messages.wrapping_mul(in_first_line);
        self.waited = now;
    }

    /// Whether there is something behind what was released: a message, most likely. To look
    /// again and again takes a load each time. Where messages of late were longer than what is
    /// left of this line, the next one comes along with it.
    #[inline]
    pub(crate) fn has_turned(&self) -> bool {
        if self.is_long {
            self.memory.expect_load(self.cursor.word + LINE_BYTES);
        }
        self.memory.peek(self.cursor.word) != 0
    }

    /// Where the payload of the record is that `first` found.
    #[inline]
    pub(crate) fn first_payload(&self) -> usize {
        self.cursor.payload()
    }

    /// The record behind `held` bytes of records that were found and not released, if it is
    /// there.
    #[inline]
    pub(crate) fn next(&self, held: u64) -> Result<Option<Record>, Corrupt> {
        let cursor = self.cursor.ahead(&self.geometry, held);
        let Some(record) = cursor.record(&self.memory, &self.geometry)? else { return Ok(None) };
        if held + record.size() > self.geometry.capacity - WORD {
            return Err(cursor.bad_word(&self.geometry, record.0.get()));
        }
        Ok(Some(record))
    }

    /// Adds the messages behind those found, the oldest first, until there are `max_messages` of
    /// them. A mark ends them, and so does what is corrupt: both are found again when nothing is
    /// held any more.
    #[inline]
    pub(crate) fn find_more(&self, found: &mut Vec<Record>, max_messages: usize) {
        let mut held = found.iter().map(|record| record.size()).sum();
        let mut cursor = self.cursor.ahead(&self.geometry, held);
        while found.len() < max_messages {
            let Some(record) = cursor.message(&self.memory, &self.geometry) else { return };
            // For as long as they are alike: see `release_first`.
            let size = record.size();
            loop {
                held += size;
                if held > self.geometry.capacity - WORD {
                    return;
                }
                self.memory.expect_load(cursor.word + 2 * LINE_BYTES);
                found.push(record);
                cursor.advance(&self.geometry, size);
                if found.len() == max_messages || cursor.message(&self.memory, &self.geometry) != Some(record)
                {
                    break;
                }
            }
        }
    }

    /// Where the payload of the record is that `next` found there, as an offset in the
    /// segment.
    #[inline]
    pub(crate) fn payload(&self, held: u64) -> usize {
        // Behind the ring's end it is mapped again.
        self.cursor.payload() + held as usize
    }

    /// Sets whether messages may be released in line.
    #[inline]
    pub(crate) fn set_in_line(&mut self, in_line: bool) {
        self.in_line = if in_line { self.geometry.end() } else { 0 };
    }

    /// Gives back the message that `first` found, if that may be done in line, if it is as the
    /// last one was and doesn't end a lap; else nothing is done, and it is for `release_first`.
    ///
    /// So what it takes up is told by a branch and not by its word: a processor goes on at the
    /// next record before it has this one's word, and fetches the lines of several at the same
    /// time.
    #[inline]
    pub(crate) fn releases_in_line(&mut self, message: Record) -> bool {
        let next = self.cursor.word + self.usual_size as usize;
        let is_usual = message == self.usual && next < self.in_line;
        if is_usual {
            self.cursor.word = next;
            // The sender polls the position: our reads come before, by its Release.
            self.ledger.advance(&self.memory, self.usual_size, 1);
        }
        is_usual
    }

    /// Gives back the message that `first` or `next(0)` found.
    #[inline]
    pub(crate) fn release_first(&mut self, message: Record) {
        if !self.releases_in_line(message) {
            self.release_unusual(message);
        }
    }

    /// Those to come are expected to be like it.
    #[inline(never)]
    fn release_unusual(&mut self, message: Record) {
        (self.usual, self.usual_size) = (message, message.size());
        self.release_next(self.usual_size, 1);
    }

    /// Gives back the mark that `next(0)` found.
    pub(crate) fn release_end(&mut self, mark: Record) {
        self.release_next(mark.size(), 0);
    }

    /// Gives back the oldest messages that were found and not released.
    pub(crate) fn release(&mut self, messages: &[Record]) {
        self.release_next(messages.iter().map(|message| message.size()).sum(), messages.len() as u64);
    }

    fn release_next(&mut self, size: u64, messages: u64) {
        self.cursor.advance(&self.geometry, size);
        // The sender polls the position: our reads come before, by its Release.
        self.ledger.advance(&self.memory, size, messages);
    }
}
