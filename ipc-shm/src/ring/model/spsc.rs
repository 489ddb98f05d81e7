//! The spsc ring.

use super::{
    Case, FOREVER, Half, Mortal, Orderings, Weakening, Words as AnyWords,
    checker::{Checker, Loom},
    dies, is_noticed, report_weakened,
};
use crate::ring::{
    ledger::Progress,
    memory::Memory,
    spsc::{Geometry, RECORD_EVERY, Reader, Writer, glance, look},
};
use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering,
};

type Words = AnyWords<Loom>;

/// Five words of data: two records of 8 bytes and the word behind them, so that every
/// third record runs over the end; or four empty ones.
const ROOM_FOR_TWO: Geometry =
    Geometry { sender_ledger: 0, receiver_ledger: 24, released: 40, data: 48, capacity: 40 };
/// Four words: one record at a time, and each payload's word is reused by the next but one.
const ROOM_FOR_ONE: Geometry = Geometry { capacity: 32, ..ROOM_FOR_TWO };
/// Three words: two empty records and the word behind them.
const ROOM_FOR_TWO_EMPTY: Geometry = Geometry { capacity: 24, ..ROOM_FOR_TWO };
/// Behind the ring: see [`Turning`].
const TURN: usize = 48 + 40;
const WORDS: usize = TURN / 8 + 1;

/// Where it all begins: so that the sender's ledger is written after two messages, and
/// positions go from 32 bits to 33 and stand for other places than in the first lap.
const START: Progress = Progress { position: (1 << 32) - 16, count: 3 * RECORD_EVERY - 2 };

fn words(orderings: &Orderings) -> Words {
    words_from(START, orderings)
}

fn words_from(start: Progress, orderings: &Orderings) -> Words {
    let value = |offset| match offset {
        _ if is_position(offset) => start.position,
        _ if is_count(offset) => start.count,
        _ => 0,
    };
    Words::new((0..WORDS).map(|index| value(8 * index)), orderings.clone())
}

fn is_data(offset: usize) -> bool {
    (ROOM_FOR_TWO.data..TURN).contains(&offset)
}

fn is_position(offset: usize) -> bool {
    offset == ROOM_FOR_TWO.sender_ledger || offset == ROOM_FOR_TWO.released
}

fn is_count(offset: usize) -> bool {
    offset < ROOM_FOR_TWO.data && !is_position(offset)
}

/// A payload's place; its second mapping is folded onto the first.
fn fold(geometry: &Geometry, offset: usize) -> usize {
    geometry.data + (offset - geometry.data) % geometry.capacity as usize
}

/// Words with one more that is changed before each access, in no particular order. For the
/// checker takes two accesses of a word for independent if the later one's thread has loaded
/// the word in between, and doesn't swap them: those of who looks and who attaches.
#[derive(Clone)]
struct Turning<M> {
    memory: M,
    words: Words,
}

impl<M> Turning<M> {
    fn new(memory: M, words: &Words) -> Self {
        Self { memory, words: words.clone() }
    }

    fn turn(&self) {
        self.words.fetch_add(TURN, 1, Ordering::Relaxed);
    }
}

impl<M: Memory> Memory for Turning<M> {
    #[track_caller]
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        self.turn();
        self.memory.load(offset, order)
    }

    #[track_caller]
    fn store(&self, offset: usize, value: u64, order: Ordering) {
        self.turn();
        self.memory.store(offset, value, order);
    }

    fn compare_exchange(&self, _offset: usize, _: u64, _: u64, _: Ordering) -> Result<u64, u64> {
        unreachable!("each word of the ring has one writer");
    }

    fn fetch_add(&self, _offset: usize, _: u64, _: Ordering) -> u64 {
        unreachable!("each word of the ring has one writer");
    }

    fn fence(&self, _order: Ordering) {
        unreachable!("the ring does without fences");
    }
}

type Endpoint = Turning<Mortal<Loom>>;

fn endpoint(words: &Words, accesses: usize) -> Endpoint {
    Turning::new(Mortal::new(words, accesses), words)
}

/// Sends the numbers from `first` to `last`; returns the first that was not acknowledged,
/// and whether the sender died.
fn send(words: &Words, geometry: Geometry, first: u64, last: u64, accesses: usize) -> (u64, bool) {
    let memory = endpoint(words, accesses);
    let next = Cell::new(first);
    let died = dies(|| {
        let mut ring = Writer::attach(memory.clone(), geometry).expect("sound");
        while next.get() <= last {
            until_room(&mut ring);
            // One way and the other, so that each finds what the other one left.
            let is_cleared = next.get() % 2 == 1;
            if is_cleared {
                ring.clear_for(8);
            } else {
                ring.lend();
            }
            memory.memory.write_payload(fold(&geometry, ring.payload()), next.get());
            match is_cleared {
                true => ring.commit_clear(8),
                false => ring.commit(8),
            }
            next.set(next.get() + 1);
        }
        ring.record();
    });
    (next.get(), died)
}

/// Sends the number `first` and the next one together; whether the sender died.
fn send_two(words: &Words, geometry: Geometry, first: u64, accesses: usize) -> bool {
    let memory = endpoint(words, accesses);
    dies(|| {
        let mut ring = Writer::attach(memory.clone(), geometry).expect("sound");
        until_room(&mut ring);
        memory.memory.write_payload(fold(&geometry, ring.payload()), first);
        let mut batch = ring.begin(8);
        let payload = loop {
            match ring.add(&mut batch, 8).expect("sound") {
                Some(payload) => break payload,
                None => Loom::yield_now(),
            }
        };
        memory.memory.write_payload(fold(&geometry, payload), first + 1);
        ring.commit_batch(batch);
    })
}

fn until_room(ring: &mut Writer<Endpoint>) {
    while !ring.has_room(8) && !ring.finds_room(8).expect("sound") {
        Loom::yield_now();
    }
}

/// Receives up to the number `last`; returns what came and whether its release returned, and
/// whether the receiver died.
fn receive(words: &Words, geometry: Geometry, last: u64, accesses: usize) -> (Vec<(u64, bool)>, bool) {
    let memory = endpoint(words, accesses);
    let seen = RefCell::new(Vec::new());
    let died = dies(|| {
        let mut ring = Reader::attach(memory.clone(), geometry).expect("sound");
        loop {
            let record = match ring.first() {
                Some(record) => record,
                None => {
                    Loom::yield_now();
                    continue;
                }
            };
            assert_eq!(record.len(), 8);
            let value = memory.memory.read_payload(fold(&geometry, ring.payload(0)));
            seen.borrow_mut().push((value, false));
            ring.release_first(record);
            seen.borrow_mut().last_mut().expect("pushed").1 = true;
            if value == last {
                return;
            }
        }
    });
    (seen.into_inner(), died)
}

fn numbers(seen: Vec<(u64, bool)>) -> Vec<u64> {
    seen.into_iter().map(|(value, _)| value).collect()
}

/// Both ledgers say that so many messages were sent and received.
fn assert_all_counted(words: &Words, messages: usize) {
    let (found, is_exact) = glance(words, &ROOM_FOR_TWO).expect("sound");
    assert!(is_exact, "nothing moves");
    assert_eq!(found, look(words, &ROOM_FOR_TWO).expect("sound"));
    assert_eq!(found.sent, found.received);
    assert_eq!(found.sent.count, START.count + messages as u64);
}

fn hand_over(geometry: Geometry, orderings: &Orderings, messages: u64) {
    let words = words(orderings);
    let theirs = words.clone();
    let sender = Loom::spawn(move || send(&theirs, geometry, 1, messages, FOREVER).0);
    let (seen, _) = receive(&words, geometry, messages, FOREVER);
    assert_eq!(Loom::join(sender), messages + 1);
    assert!(seen.into_iter().eq((1..=messages).map(|number| (number, true))), "lost, torn or reordered");
}

const OVER_THE_WRAP: Case = Case {
    name: "messages arrive whole and in order over the wrap",
    preemptions: [2, 3],
    run: |orderings, _| {
        hand_over(ROOM_FOR_TWO, orderings, 4);
        false
    },
};

const REUSE: Case = Case {
    name: "a payload is not overwritten while it is read",
    preemptions: [2, 4],
    run: |orderings, _| {
        hand_over(ROOM_FOR_ONE, orderings, 3);
        false
    },
};

const DEAD_SENDERS: Case = Case {
    name: "a sender and its successor may die at any access",
    preemptions: [1, 2],
    run: |orderings, accesses| {
        let words = words(orderings);
        let theirs = words.clone();
        let sender = Loom::spawn(move || {
            // The lock of the dead is free: a successor comes, and dies as early. And
            // another one.
            let first = send(&theirs, ROOM_FOR_TWO, 1, 3, accesses);
            let second = send(&theirs, ROOM_FOR_TWO, 5, 6, accesses);
            assert_eq!(send(&theirs, ROOM_FOR_TWO, 9, 9, FOREVER), (10, false));
            [first, second]
        });
        let seen = numbers(receive(&words, ROOM_FOR_TWO, 9, FOREVER).0);
        let [(first, first_died), (second, second_died)] = Loom::join(sender);
        // All that was acknowledged, perhaps those under way, then the last one's.
        let possible = |one_more: bool, another: bool| {
            let (first, second) = (1..first + u64::from(one_more), 5..second + u64::from(another));
            first.chain(second).chain([9]).collect::<Vec<_>>() == seen
        };
        let is_possible = [(false, false), (false, true), (true, false), (true, true)].into_iter().any(
            |(one_more, another)| {
                one_more <= first_died && another <= second_died && possible(one_more, another)
            },
        );
        assert!(is_possible, "{seen:?}, not acknowledged: {first}, {second}");
        assert_all_counted(&words, seen.len());
        first_died || second_died
    },
};

const DEAD_IN_A_BATCH: Case = Case {
    name: "a sender may die at any access of a batch",
    preemptions: [1, 2],
    run: |orderings, accesses| {
        let words = words(orderings);
        let theirs = words.clone();
        let sender = Loom::spawn(move || {
            send(&theirs, ROOM_FOR_TWO, 1, 1, FOREVER);
            let died = send_two(&theirs, ROOM_FOR_TWO, 2, accesses);
            send(&theirs, ROOM_FOR_TWO, 9, 9, FOREVER);
            died
        });
        let seen = numbers(receive(&words, ROOM_FOR_TWO, 9, FOREVER).0);
        let died = Loom::join(sender);
        assert!(seen == [1, 2, 3, 9] || died && seen == [1, 9], "not all or nothing: {seen:?}");
        assert_all_counted(&words, seen.len());
        died
    },
};

const WHOLE_BATCH: Case = Case {
    name: "a batch appears whole",
    preemptions: [3, 4],
    run: |orderings, _| {
        let words = words(orderings);
        let theirs = words.clone();
        let sender = Loom::spawn(move || send_two(&theirs, ROOM_FOR_TWO, 1, FOREVER));
        let ring = Reader::attach(endpoint(&words, FOREVER), ROOM_FOR_TWO).expect("sound");
        if let Some(first) = ring.next(0).expect("sound") {
            let second = ring.next(first.size()).expect("sound");
            assert!(second.is_some(), "half a batch");
            assert_eq!(words.read_payload(fold(&ROOM_FOR_TWO, ring.payload(first.size()))), 2);
        }
        Loom::join(sender)
    },
};

const DEAD_RECEIVER: Case = Case {
    name: "a receiver may die at any access",
    preemptions: [1, 2],
    run: |orderings, accesses| {
        let words = words(orderings);
        let theirs = words.clone();
        let sender = Loom::spawn(move || send(&theirs, ROOM_FOR_TWO, 1, 3, FOREVER));
        let (mut seen, died) = receive(&words, ROOM_FOR_TWO, 2, accesses);
        // What was released is done with; what was held comes again, unless its release
        // was under way.
        let held = seen.last().filter(|(_, released)| !released).map(|(value, _)| *value);
        seen.retain(|(_, released)| *released);
        let (again, _) = receive(&words, ROOM_FOR_TWO, 3, FOREVER);
        if let Some(held) = held.filter(|held| again[0].0 == held + 1) {
            seen.push((held, true));
        }
        seen.extend(again);
        Loom::join(sender);
        assert_eq!(numbers(seen), [1, 2, 3]);
        assert_all_counted(&words, 3);
        died
    },
};

/// A sender that has sent so many empty messages and died, and a receiver that goes on: how
/// far the sender's successor and somebody who looks think that it came.
fn walk_beside_a_receiver(orderings: &Orderings, messages: u64) {
    // Nothing is recorded soon, so that the receiver's ledger is what one starts from.
    let start = Progress { count: START.count + 2, ..START };
    let after = |messages| start.count + messages;
    let words = words_from(start, orderings);
    let turning = Turning::new(words.clone(), &words);
    let mut sender = Writer::attach(turning.clone(), ROOM_FOR_TWO).expect("sound");
    for _ in 0..messages {
        assert!(sender.has_room(0));
        sender.commit(0);
    }
    drop(sender);
    let theirs = turning.clone();
    let receiver = Loom::spawn(move || {
        let mut ring = Reader::attach(theirs, ROOM_FOR_TWO).expect("sound");
        for _ in 0..messages {
            let record = ring.next(0).expect("sound").expect("sent before");
            ring.release(&[record]);
        }
    });
    let (found, is_exact) = glance(&turning, &ROOM_FOR_TWO).expect("sound");
    if is_exact {
        assert_eq!(found.sent.count, after(messages));
        assert_eq!(found.sent.position, start.position + 8 * messages);
        assert_eq!(found.received.count, after((found.received.position - start.position) / 8));
    }
    assert!(look(&turning, &ROOM_FOR_TWO).expect("sound").sent.count <= after(messages));
    let mut successor = Writer::attach(turning.clone(), ROOM_FOR_TWO).expect("sound");
    successor.commit(0);
    successor.record();
    Loom::join(receiver);
    let (found, is_exact) = glance(&turning, &ROOM_FOR_TWO).expect("sound");
    assert!(is_exact && found.queued_messages() == 1, "{found:?}");
    assert_eq!((found.sent.count, found.received.count), (after(messages + 1), after(messages)));
}

const WALK_OF_ONE: Case = Case {
    name: "a successor counts the one message exactly beside a receiver",
    preemptions: [3, 4],
    run: |orderings, _| {
        walk_beside_a_receiver(orderings, 1);
        false
    },
};

const WALK: Case = Case {
    name: "a successor counts three messages exactly beside a receiver",
    preemptions: [2, 3],
    run: |orderings, _| {
        walk_beside_a_receiver(orderings, 3);
        false
    },
};

/// Both ends go on, for more than a lap, while somebody looks. The sender zeroes the word
/// behind each message, or all ahead that is free.
fn look_beside_both(orderings: &Orderings, clears: bool) {
    // Sent and received, after each step.
    const STATES: [(u64, u64); 7] = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (4, 2)];
    let words = words(orderings);
    let turning = Turning::new(words.clone(), &words);
    let theirs = turning.clone();
    let worker = Loom::spawn(move || {
        let mut sender = Writer::attach(theirs.clone(), ROOM_FOR_TWO_EMPTY).expect("sound");
        let mut receiver = Reader::attach(theirs, ROOM_FOR_TWO_EMPTY).expect("sound");
        for pair in STATES.windows(2) {
            if pair[1].0 > pair[0].0 {
                assert!(sender.finds_room(0).expect("sound"));
                if clears {
                    sender.clear_for(0);
                    sender.commit_clear(0);
                } else {
                    sender.commit(0);
                }
            } else {
                let record = receiver.next(0).expect("sound").expect("sent before");
                receiver.release(&[record]);
            }
        }
    });
    let (found, is_exact) = glance(&turning, &ROOM_FOR_TWO_EMPTY).expect("sound");
    if is_exact {
        let state = (found.sent.count - START.count, found.received.count - START.count);
        assert!(STATES.contains(&state), "never was so much sent and received: {state:?}");
        assert_eq!(found.sent.position, START.position + 8 * state.0);
        assert_eq!(found.received.position, START.position + 8 * state.1);
    }
    Loom::join(worker);
    let found = look(&turning, &ROOM_FOR_TWO_EMPTY).expect("sound");
    assert_eq!((found.sent.count, found.received.count), (START.count + 4, START.count + 2));
}

const LOOK: Case = Case {
    name: "a look is never wrong while both ends go on",
    preemptions: [2, 3],
    run: |orderings, _| {
        look_beside_both(orderings, false);
        false
    },
};

const LOOK_CLEAR: Case = Case {
    name: "a look is never wrong while the sender clears ahead",
    preemptions: [2, 3],
    run: |orderings, _| {
        look_beside_both(orderings, true);
        false
    },
};

#[rstest::rstest]
fn holds(
    #[values(
        OVER_THE_WRAP,
        REUSE,
        DEAD_SENDERS,
        DEAD_IN_A_BATCH,
        WHOLE_BATCH,
        DEAD_RECEIVER,
        WALK_OF_ONE,
        WALK,
        LOOK,
        LOOK_CLEAR
    )]
    case: Case,
) {
    case.check("spsc");
}

/// Each ordering, and the cases of which each must notice by itself that it is missing.
const ORDERINGS: [(Weakening, &[Case]); 7] = [
    (
        Weakening {
            name: "the commit's Release",
            half: Half::Release,
            is_meant: |offset, stored| is_data(offset) && stored != Some(0),
        },
        &[REUSE],
    ),
    (
        Weakening {
            name: "the Release of the zero behind",
            half: Half::Release,
            is_meant: |offset, stored| is_data(offset) && stored == Some(0),
        },
        &[LOOK, LOOK_CLEAR],
    ),
    (
        Weakening {
            name: "the Acquire of a record",
            half: Half::Acquire,
            is_meant: |offset, _| is_data(offset),
        },
        &[REUSE],
    ),
    (
        Weakening {
            name: "the Release of a position",
            half: Half::Release,
            is_meant: |offset, _| is_position(offset),
        },
        // The room that it gives, and the count that belongs to it.
        &[REUSE, LOOK, WALK],
    ),
    (
        Weakening {
            name: "the Acquire of a position",
            half: Half::Acquire,
            is_meant: |offset, _| is_position(offset),
        },
        &[REUSE, LOOK, WALK],
    ),
    (
        Weakening {
            name: "the Release of a count",
            half: Half::Release,
            is_meant: |offset, _| is_count(offset),
        },
        &[WALK],
    ),
    (
        Weakening {
            name: "the Acquire of a count",
            half: Half::Acquire,
            is_meant: |offset, _| is_count(offset),
        },
        &[WALK],
    ),
];

#[test]
fn every_ordering_is_needed() {
    let is_needed = |(weakening, cases): &(Weakening, &[Case])| {
        let orderings = Orderings::Weakened(*weakening);
        cases.iter().all(|case| is_noticed(&[*case], &orderings))
    };
    let unnoticed: Vec<&str> = ORDERINGS
        .iter()
        .filter(|ordering| !is_needed(ordering))
        .map(|(weakening, _)| weakening.name)
        .collect();
    report_weakened("spsc", ORDERINGS.len() - unnoticed.len(), ORDERINGS.len());
    assert!(unnoticed.is_empty(), "nothing goes wrong without {unnoticed:?}");
}
