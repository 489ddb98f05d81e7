//! The spsc ring.

use super::{
    Case, FOREVER, Half, Mortal, Orderings, Weakening, Words as AnyWords,
    checker::{Checker, Loom},
    dies, is_noticed, report_weakened,
};
use crate::ring::spsc::{Geometry, Reader, Writer};
use std::cell::{Cell, RefCell};

type Words = AnyWords<Loom>;

/// Five words of data: two records of 8 bytes and the word behind them, so that every
/// third record runs over the end.
const ROOM_FOR_TWO: Geometry =
    Geometry { sender_ledger: 0, receiver_ledger: 40, released: 80, data: 88, capacity: 40 };
/// Four words: one record at a time, and each payload's word is reused by the next but one.
const ROOM_FOR_ONE: Geometry = Geometry { capacity: 32, ..ROOM_FOR_TWO };
const WORDS: usize = 11 + 5;

fn words(orderings: &Orderings) -> Words {
    Words::new([0; WORDS], orderings.clone())
}

/// A payload's place; its second mapping is folded onto the first.
fn fold(geometry: &Geometry, offset: usize) -> usize {
    geometry.data + (offset - geometry.data) % geometry.capacity as usize
}

/// Sends the numbers from `first` to `last`; returns the first that was not acknowledged,
/// and whether the sender died.
fn send(words: &Words, geometry: Geometry, first: u64, last: u64, accesses: usize) -> (u64, bool) {
    let memory = Mortal::new(words, accesses);
    let next = Cell::new(first);
    let died = dies(|| {
        let mut ring = Writer::attach(memory.clone(), geometry).expect("sound");
        while next.get() <= last {
            while !ring.has_room(8).expect("sound") {
                Loom::yield_now();
            }
            memory.write_payload(fold(&geometry, ring.payload()), next.get());
            ring.commit(8);
            next.set(next.get() + 1);
        }
    });
    (next.get(), died)
}

/// Receives up to the number `last`; returns what came and whether its release returned, and
/// whether the receiver died.
fn receive(words: &Words, geometry: Geometry, last: u64, accesses: usize) -> (Vec<(u64, bool)>, bool) {
    let memory = Mortal::new(words, accesses);
    let seen = RefCell::new(Vec::new());
    let died = dies(|| {
        let mut ring = Reader::attach(memory.clone(), geometry).expect("sound");
        loop {
            let record = match ring.next().expect("sound") {
                Some(record) => record,
                None => {
                    Loom::yield_now();
                    continue;
                }
            };
            assert_eq!(record.len(), 8);
            let value = memory.read_payload(fold(&geometry, ring.payload(&record)));
            seen.borrow_mut().push((value, false));
            ring.release([&record]);
            seen.borrow_mut().last_mut().expect("pushed").1 = true;
            if value == last {
                return;
            }
        }
    });
    (seen.into_inner(), died)
}

const IS_DATA: fn(usize, Option<u64>) -> bool = |offset, _| offset >= ROOM_FOR_TWO.data;
const IS_RELEASED: fn(usize, Option<u64>) -> bool = |offset, _| offset == ROOM_FOR_TWO.released;

const ORDERINGS: [Weakening; 4] = [
    Weakening { name: "the commit's Release", half: Half::Release, is_meant: IS_DATA },
    Weakening { name: "the Acquire of a record", half: Half::Acquire, is_meant: IS_DATA },
    Weakening { name: "the Release of room", half: Half::Release, is_meant: IS_RELEASED },
    Weakening { name: "the Acquire of room", half: Half::Acquire, is_meant: IS_RELEASED },
];

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
    preemptions: [3, 4],
    run: |orderings, _| {
        hand_over(ROOM_FOR_TWO, orderings, 4);
        false
    },
};

const REUSE: Case = Case {
    name: "a payload is not overwritten while it is read",
    preemptions: [3, 5],
    run: |orderings, _| {
        hand_over(ROOM_FOR_ONE, orderings, 3);
        false
    },
};

const DEAD_SENDER: Case = Case {
    name: "a sender may die at any access",
    preemptions: [2, 3],
    run: |orderings, accesses| {
        let words = words(orderings);
        let theirs = words.clone();
        let sender = Loom::spawn(move || {
            let (next, died) = send(&theirs, ROOM_FOR_TWO, 1, 2, accesses);
            // The lock of the dead is free: a successor comes.
            assert_eq!(send(&theirs, ROOM_FOR_TWO, 9, 9, FOREVER), (10, false));
            (next, died)
        });
        let (seen, _) = receive(&words, ROOM_FOR_TWO, 9, FOREVER);
        let seen: Vec<u64> = seen.into_iter().map(|(value, _)| value).collect();
        let (next, died) = Loom::join(sender);
        // All that was acknowledged, perhaps the one under way, then the successor's.
        let acknowledged: Vec<u64> = (1..next).chain([9]).collect();
        let one_more: Vec<u64> = (1..=next).chain([9]).collect();
        assert!(seen == acknowledged || died && seen == one_more, "{seen:?} of {acknowledged:?}");
        died
    },
};

const DEAD_RECEIVER: Case = Case {
    name: "a receiver may die at any access",
    preemptions: [2, 3],
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
        let seen: Vec<u64> = seen.into_iter().map(|(value, _)| value).collect();
        assert_eq!(seen, [1, 2, 3]);
        died
    },
};

#[rstest::rstest]
fn holds(#[values(OVER_THE_WRAP, REUSE, DEAD_SENDER, DEAD_RECEIVER)] case: Case) {
    case.check("spsc");
}

#[test]
fn every_ordering_is_needed() {
    let unnoticed: Vec<&str> = ORDERINGS
        .iter()
        .filter(|weakening| !is_noticed(&[REUSE], &Orderings::Weakened(**weakening)))
        .map(|weakening| weakening.name)
        .collect();
    report_weakened("spsc", ORDERINGS.len() - unnoticed.len(), ORDERINGS.len());
    assert!(unnoticed.is_empty(), "nothing goes wrong without {unnoticed:?}");
}
