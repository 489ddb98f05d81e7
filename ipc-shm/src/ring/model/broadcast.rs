//! Broadcasts: what a lossy subscriber takes for whole is whole, and its gaps are exact; what
//! a reliable one may read is not written, whoever comes and goes.

use super::{
    Case, FOREVER, Mortal, Orderings, Words as AnyWords,
    checker::{Checker, Loom},
    dies, every_ordering_is_needed as check_every_ordering,
};
use crate::ring::{
    broadcast::{Copies, Geometry, Next, Reader, Writer, leave},
    memory::Memory,
};
use std::{
    cell::Cell,
    sync::atomic::Ordering::{self, Acquire, Release},
};

type Words = AnyWords<Loom>;

/// One publisher, two subscribers, and two words of the cases' own.
const FLAGS: usize = 16;
const ENTRIES: usize = 32;
const ENTRY: usize = 120;
const ROWS: usize = ENTRIES + 3 * ENTRY;
const DATA: usize = ROWS + 2 * 16;
const PUBLISHER: u32 = 1;
const SUBSCRIBER: u32 = 2;

const RELIABLE: Geometry = Geometry {
    generation: 0,
    highest: 8,
    states: ENTRIES,
    intents: ENTRIES + 8,
    heads: ENTRIES + 16,
    checkpoints: ENTRIES + 56,
    entry_stride: ENTRY,
    rows: ROWS,
    row_stride: 16,
    data: DATA,
    data_stride: 0,
    // A record of three words, and the header behind it: the next one runs over its payload.
    capacity: 56,
    publishers: 1,
    participants: 3,
    lossy: false,
};
/// Two records, to be published together.
const RELIABLE_PAIR: Geometry = Geometry { capacity: 64, ..RELIABLE };
/// A record of two words, and the header behind it: the next but one runs over the first.
const LOSSY: Geometry = Geometry { capacity: 48, lossy: true, ..RELIABLE };

fn words(geometry: &Geometry, orderings: &Orderings) -> Words {
    Words::new(vec![0; (DATA + geometry.capacity as usize) / 8], orderings.clone())
}

/// The ring's second mapping, folded onto the first.
#[derive(Clone)]
struct Folded {
    words: Mortal<Loom>,
    capacity: usize,
}

impl Folded {
    fn new(words: &Words, geometry: &Geometry, accesses: usize) -> Self {
        Self { words: Mortal::new(words, accesses), capacity: geometry.capacity as usize }
    }

    fn at(&self, offset: usize) -> usize {
        if offset < DATA { offset } else { DATA + (offset - DATA) % self.capacity }
    }
}

impl Memory for Folded {
    #[track_caller]
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        self.words.load(self.at(offset), order)
    }

    #[track_caller]
    fn store(&self, offset: usize, value: u64, order: Ordering) {
        self.words.store(self.at(offset), value, order);
    }

    #[track_caller]
    fn compare_exchange(&self, offset: usize, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        self.words.compare_exchange(self.at(offset), current, new, order)
    }

    #[track_caller]
    fn fetch_add(&self, offset: usize, value: u64, order: Ordering) -> u64 {
        self.words.fetch_add(self.at(offset), value, order)
    }

    #[track_caller]
    fn fence(&self, order: Ordering) {
        self.words.fence(order);
    }
}

/// Two words that both say `value`.
fn doubled(value: u64) -> [u8; 16] {
    let mut message = [0; 16];
    message[..8].copy_from_slice(&value.to_ne_bytes());
    message[8..].copy_from_slice(&value.to_ne_bytes());
    message
}

/// A case's own word, by which its threads agree on what came first.
fn set_flag(words: &Words, flag: usize) {
    Loom::store(words.word(FLAGS + 8 * flag), 1, Release);
}

fn is_set(words: &Words, flag: usize) -> bool {
    Loom::load(words.word(FLAGS + 8 * flag), Acquire) == 1
}

const SUBSCRIBED: usize = 0;
const DONE: usize = 1;

/// Publishes these values, each for a message; returns how many were acknowledged, how many
/// when somebody was known to have subscribed, and whether the publisher died.
fn publish(words: &Words, geometry: &Geometry, values: &[u64], accesses: usize) -> (u64, u64, bool) {
    let memory = Folded::new(words, geometry, accesses);
    let sent = Cell::new(0);
    let before = Cell::new(values.len() as u64);
    let died = dies(|| {
        let mut ring = Writer::attach(memory.clone(), *geometry, PUBLISHER).expect("sound");
        for &value in values {
            if is_set(words, SUBSCRIBED) {
                before.set(before.get().min(sent.get()));
            }
            if geometry.lossy {
                ring.commit_copy(&doubled(value));
            } else {
                while !ring.has_room(24).expect("sound") {
                    Loom::yield_now();
                }
                for word in [0, 8, 16] {
                    memory.words.write_payload(memory.at(ring.payload() + word), value);
                }
                ring.commit(24);
            }
            sent.set(sent.get() + 1);
        }
    });
    (sent.get(), before.get(), died)
}

/// A subscriber, and what it has come to know.
struct Subscriber {
    memory: Folded,
    ring: Reader<Folded>,
    copies: Copies,
    /// The number of the message to come; none has come yet if it isn't known.
    next: Option<u64>,
    /// The messages: their numbers and values.
    received: Vec<(u64, u64)>,
    missed_first: u64,
}

impl Subscriber {
    fn come(words: &Words, geometry: &Geometry, accesses: usize) -> Self {
        let memory = Folded::new(words, geometry, accesses);
        let ring = Reader::attach(memory.clone(), *geometry, SUBSCRIBER).expect("sound");
        Self { memory, ring, copies: Copies::default(), next: None, received: Vec::new(), missed_first: 0 }
    }

    /// Takes what there is: false if there is nothing.
    fn poll(&mut self) -> bool {
        self.copies.clear();
        match self.ring.next(&mut self.copies).expect("sound") {
            Next::Nothing | Next::Overtaken => return false,
            Next::Missed(missed) => {
                assert!(missed > 0, "a gap of nothing");
                match &mut self.next {
                    Some(next) => *next += missed,
                    None => self.missed_first += missed,
                }
            }
            Next::Record(record) => {
                let number = record.number();
                assert_eq!(number, *self.next.get_or_insert(number), "and not told of a gap");
                self.next = Some(number + 1);
                self.received.push((number, self.value(&record)));
                self.ring.release(&record);
            }
        }
        true
    }

    fn value(&self, record: &crate::ring::broadcast::Record) -> u64 {
        if !self.ring.geometry().lossy {
            let words = (0..record.len()).step_by(8);
            let mut words =
                words.map(|word| self.memory.words.read_payload(self.memory.at(record.at() + word)));
            let first = words.next().expect("not empty");
            assert!(words.all(|word| word == first), "torn");
            return first;
        }
        let copy = self.copies.get(record.at(), record.len());
        let words: Vec<u64> =
            copy.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().expect("a word"))).collect();
        assert!(words.len() == 2 && words[0] == words[1], "torn: {words:?}");
        words[0]
    }

    /// Polls until this many messages are accounted for.
    fn account_for(&mut self, messages: u64) {
        while self.next.unwrap_or(self.missed_first) < messages {
            if !self.poll() {
                Loom::yield_now();
            }
        }
    }

    /// The number of the first message that it was to get.
    fn first(&self) -> Option<u64> {
        self.received.first().map(|(number, _)| number - self.missed_first)
    }
}

/// The messages' values are their numbers, and one.
fn values(messages: u64) -> Vec<u64> {
    (1..=messages).collect()
}

fn everything(geometry: &'static Geometry, messages: u64, orderings: &Orderings) {
    let words = words(geometry, orderings);
    let mut subscriber = Subscriber::come(&words, geometry, FOREVER);
    let theirs = words.clone();
    let publisher = Loom::spawn(move || publish(&theirs, geometry, &values(messages), FOREVER));
    subscriber.account_for(messages);
    assert_eq!(Loom::join(publisher).0, messages);
    assert!(!subscriber.poll(), "one too many");
    assert_eq!((subscriber.first(), subscriber.next), (Some(0), Some(messages)));
    assert!(subscriber.received.iter().all(|(number, value)| number + 1 == *value));
    assert!(geometry.lossy || subscriber.received.len() as u64 == messages);
}

const OVERTAKEN: Case = Case {
    name: "what is copied is whole, and gaps are exact",
    preemptions: [1, 2],
    run: |orderings, _| {
        everything(&LOSSY, 4, orderings);
        false
    },
};

const LIMITED: Case = Case {
    name: "what is lent is not overwritten",
    preemptions: [3, 4],
    run: |orderings, _| {
        everything(&RELIABLE, 3, orderings);
        false
    },
};

/// Somebody subscribes while messages are published, and gets all from then on.
fn late(geometry: &'static Geometry, messages: u64, orderings: &Orderings) {
    let words = words(geometry, orderings);
    let theirs = words.clone();
    let publisher = Loom::spawn(move || {
        let (_, before, _) = publish(&theirs, geometry, &values(messages), FOREVER);
        set_flag(&theirs, DONE);
        before
    });
    let mut subscriber = Subscriber::come(&words, geometry, FOREVER);
    set_flag(&words, SUBSCRIBED);
    loop {
        let done = is_set(&words, DONE);
        if !subscriber.poll() {
            if done {
                break;
            }
            Loom::yield_now();
        }
    }
    let before = Loom::join(publisher);
    // It may have come when all was published.
    let first = subscriber.first().unwrap_or(messages);
    assert!(first <= before, "subscribed when {before} were published, and got only those from {first}");
    assert!(subscriber.received.iter().all(|(number, value)| number + 1 == *value));
    assert!(subscriber.next.is_none_or(|next| next == messages), "{:?} of {messages}", subscriber.next);
}

const LATE_AND_LOSSY: Case = Case {
    name: "a late subscriber knows where it starts, and misses nothing unnoticed",
    preemptions: [1, 2],
    run: |orderings, _| {
        late(&LOSSY, 3, orderings);
        false
    },
};

const LATE: Case = Case {
    name: "a late subscriber is waited for from where it starts",
    preemptions: [2, 3],
    run: |orderings, _| {
        late(&RELIABLE, 3, orderings);
        false
    },
};

const LEAVING: Case = Case {
    name: "who leaves is not waited for, and has read what it read",
    preemptions: [3, 4],
    run: |orderings, _| {
        let words = words(&RELIABLE, orderings);
        let mut subscriber = Subscriber::come(&words, &RELIABLE, FOREVER);
        let theirs = words.clone();
        let publisher = Loom::spawn(move || publish(&theirs, &RELIABLE, &values(3), FOREVER));
        let record = loop {
            match subscriber.ring.next(&mut subscriber.copies).expect("sound") {
                Next::Record(record) => break record,
                _ => Loom::yield_now(),
            }
        };
        assert_eq!(subscriber.value(&record), 1);
        // Held, and not released.
        leave(subscriber.ring.memory(), &RELIABLE, SUBSCRIBER);
        assert_eq!(Loom::join(publisher).0, 3);
        false
    },
};

const TOGETHER: Case = Case {
    name: "a batch is there whole or not at all",
    preemptions: [3, 4],
    run: |orderings, _| {
        let words = words(&RELIABLE_PAIR, orderings);
        let mut subscriber = Subscriber::come(&words, &RELIABLE_PAIR, FOREVER);
        let theirs = words.clone();
        let publisher = Loom::spawn(move || {
            let memory = Folded::new(&theirs, &RELIABLE_PAIR, FOREVER);
            let mut ring = Writer::attach(memory.clone(), RELIABLE_PAIR, PUBLISHER).expect("sound");
            for first in [1, 3] {
                while !ring.has_room(32).expect("sound") {
                    Loom::yield_now();
                }
                let mut batch = ring.batch();
                for value in first..first + 2 {
                    assert!(batch.has_room(8).expect("sound"));
                    memory.words.write_payload(memory.at(batch.payload()), value);
                    batch.add(8);
                }
                assert_eq!(batch.commit(), 2);
            }
        });
        for messages in [1, 3] {
            subscriber.account_for(messages);
            assert!(subscriber.poll(), "half a batch");
        }
        Loom::join(publisher);
        assert!(subscriber.received.into_iter().eq((0..4).map(|number| (number, number + 1))));
        false
    },
};

/// A publisher dies; its successor goes on. Subscribers see whole messages or none.
fn succeeded(geometry: &'static Geometry, orderings: &Orderings, accesses: usize) -> bool {
    let words = words(geometry, orderings);
    let mut subscriber = Subscriber::come(&words, geometry, FOREVER);
    let theirs = words.clone();
    let publisher = Loom::spawn(move || {
        let (sent, _, died) = publish(&theirs, geometry, &[1, 2], accesses);
        // The lock of the dead is free: a successor comes.
        assert_eq!(publish(&theirs, geometry, &[9], FOREVER).0, 1);
        (sent, died)
    });
    while subscriber.received.last().is_none_or(|(_, value)| *value != 9) {
        if !subscriber.poll() {
            Loom::yield_now();
        }
    }
    let (sent, died) = Loom::join(publisher);
    // All that was acknowledged, perhaps the one under way, then the successor's.
    let (last, _) = *subscriber.received.last().expect("the successor's");
    assert!(last == sent || died && last == sent + 1, "{last} after {sent}");
    assert_eq!(subscriber.first(), Some(0));
    for (number, value) in subscriber.received {
        assert_eq!(value, if number == last { 9 } else { number + 1 });
    }
    died
}

const DEAD_PUBLISHER: Case = Case {
    name: "a publisher may die at any access",
    preemptions: [1, 2],
    run: |orderings, accesses| succeeded(&RELIABLE, orderings, accesses),
};

const DEAD_AND_LOSSY: Case = Case {
    name: "a publisher that doesn't wait may die at any access",
    preemptions: [1, 2],
    run: |orderings, accesses| succeeded(&LOSSY, orderings, accesses),
};

const DEAD_SUBSCRIBER: Case = Case {
    name: "a subscriber may die at any access",
    preemptions: [1, 2],
    run: |orderings, accesses| {
        let words = words(&RELIABLE, orderings);
        let theirs = words.clone();
        let publisher = Loom::spawn(move || publish(&theirs, &RELIABLE, &values(3), FOREVER));
        let died = dies(|| {
            let mut subscriber = Subscriber::come(&words, &RELIABLE, accesses);
            // It may have come when all was published.
            subscriber.poll();
            subscriber.poll();
            leave(subscriber.ring.memory(), &RELIABLE, SUBSCRIBER);
        });
        if died {
            // By the kernel's word, who waits learns of it.
            leave(&words, &RELIABLE, SUBSCRIBER);
        }
        assert_eq!(Loom::join(publisher).0, 3);
        died
    },
};

const CASES: [Case; 9] = [
    OVERTAKEN,
    LIMITED,
    LATE_AND_LOSSY,
    LATE,
    LEAVING,
    TOGETHER,
    DEAD_PUBLISHER,
    DEAD_AND_LOSSY,
    DEAD_SUBSCRIBER,
];

#[rstest::rstest]
fn holds(#[values(0, 1, 2, 3, 4, 5, 6, 7, 8)] case: usize) {
    CASES[case].check("broadcast");
}

#[test]
fn every_ordering_is_needed() {
    // Those without deaths, the short ones first.
    let cases = [LIMITED, LEAVING, TOGETHER, LATE, LATE_AND_LOSSY, OVERTAKEN];
    let files = [
        ("ring/broadcast/mod.rs", include_str!("../broadcast/mod.rs")),
        ("ring/broadcast/reader.rs", include_str!("../broadcast/reader.rs")),
        ("ring/broadcast/writer.rs", include_str!("../broadcast/writer.rs")),
    ];
    check_every_ordering("broadcast", &files, &cases);
}
