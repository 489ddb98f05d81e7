//! What a participant writes down for itself, outside of any segment: what it meant to
//! send, what was acknowledged, what it received and what it has given back.
//!
//! A record is written whole or not at all: a kill doesn't divide a short write(2).

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Event {
    /// It is about to be sent.
    Meant,
    /// `send` said so.
    Acknowledged,
    /// `send` said that it was not sent; or a call was given up.
    Refused,
    /// It was received; of a call, its own answer.
    Got,
    /// It was given back for good.
    Released,
    /// A subscriber or a reader came.
    Began,
    /// There is nothing more to come.
    Ended,
    /// So many messages were missed.
    Missed,
    /// It was read, new or not.
    Looked,
    /// A call had another answer than its own.
    Foreign,
    /// A caller was told that its server died.
    Bereaved,
    /// A caller was told that its server didn't answer.
    Declined,
    /// A caller was told nothing.
    Unended,
    /// A server took a request.
    Taken,
    /// A server was told that its answer is there for its caller.
    Answered,
    /// A server was told that its caller is gone.
    Unheard,
    /// A server gave a request back.
    Returned,
}

impl Event {
    const ALL: [Self; 17] = [
        Self::Meant,
        Self::Acknowledged,
        Self::Refused,
        Self::Got,
        Self::Released,
        Self::Began,
        Self::Ended,
        Self::Missed,
        Self::Looked,
        Self::Foreign,
        Self::Bereaved,
        Self::Declined,
        Self::Unended,
        Self::Taken,
        Self::Answered,
        Self::Unheard,
        Self::Returned,
    ];
}

/// Which message: of whom, and which one of its.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) sender: u32,
    pub(super) number: u32,
}

/// A line of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) event: Event,
    pub(super) message: Message,
    /// Earlier deliveries, where that is known; of broadcasts, the place of the publisher; of
    /// newest values, the version.
    pub(super) attempts: Option<u32>,
    /// Its place among all that happened; or a number, of what is counted.
    pub(super) order: u64,
}

const RECORD_LEN: usize = 24;
const UNKNOWN: u32 = u32::MAX;

impl Record {
    fn to_bytes(self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        let words =
            [self.event as u32, self.message.sender, self.message.number, self.attempts.unwrap_or(UNKNOWN)];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[16..].copy_from_slice(&self.order.to_ne_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let event = Event::ALL.into_iter().find(|event| *event as u32 == word(0));
        Self {
            event: event.expect("nobody else writes to a log"),
            message: Message { sender: word(4), number: word(8) },
            attempts: Some(word(12)).filter(|&attempts| attempts != UNKNOWN),
            order: u64::from_ne_bytes(bytes[16..24].try_into().expect("eight bytes")),
        }
    }
}

/// A participant's log.
#[derive(Debug)]
pub(super) struct Log(File);

impl Log {
    pub(super) fn create(folder: &Path, participant: u32) -> Self {
        let path = folder.join(participant.to_string());
        Self(OpenOptions::new().append(true).create_new(true).open(path).expect("a log of one's own"))
    }

    pub(super) fn write(&mut self, event: Event, message: Message) {
        self.record(Record { event, message, attempts: None, order: 0 });
    }

    pub(super) fn record(&mut self, record: Record) {
        self.0.write_all(&record.to_bytes()).expect("there is room for logs");
    }
}

/// All logs in the folder, by participant.
pub(super) fn read_all(folder: &Path) -> Vec<Vec<Record>> {
    let entries = fs::read_dir(folder).expect("the logs are there");
    let logs =
        entries.map(|entry| fs::read(entry.expect("the logs are there").path()).expect("a log can be read"));
    logs.map(|bytes| bytes.chunks_exact(RECORD_LEN).map(Record::parse).collect()).collect()
}
