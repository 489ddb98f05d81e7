//! The spsc ring under a model checker: `loom` runs all schedules of small cases, with
//! every value that the orderings allow a load to see.
//!
//! The words of the ring are `loom`'s atomics; payloads are its cells, for which it checks
//! that every access happens before or after every conflicting one. Death is an endpoint that stops at its k-th access, for every k; its
//! successor starts when the kernel's lock would let it. Each ordering is also weakened in
//! turn, and the model must notice: what it doesn't notice would not be needed.

use super::{
    memory::Memory,
    spsc::{Geometry, Reader, Writer},
};
use loom::{
    cell::UnsafeCell,
    sync::atomic::AtomicU64,
    thread::{self, JoinHandle},
};
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Five words of data: two records of 8 bytes and the word behind them, so that every
/// third record runs over the end.
const ROOM_FOR_TWO: Geometry =
    Geometry { sender_ledger: 0, receiver_ledger: 40, released: 80, data: 88, capacity: 40 };
/// Four words: one record at a time, and each payload's word is reused by the next but one.
const ROOM_FOR_ONE: Geometry = Geometry { capacity: 32, ..ROOM_FOR_TWO };
const WORDS: usize = 11 + 5;

/// An ordering to take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakened {
    Nothing,
    CommitRelease,
    NextAcquire,
    ReleasedRelease,
    RoomAcquire,
}

/// The shared words.
#[derive(Clone)]
struct Words {
    words: Arc<Vec<AtomicU64>>,
    payloads: Arc<Vec<UnsafeCell<u64>>>,
    geometry: Geometry,
    weakened: Weakened,
}

impl Words {
    #[expect(clippy::arc_with_non_send_sync, reason = "the checker's threads run one at a time")]
    fn new(geometry: Geometry, weakened: Weakened) -> Self {
        Self {
            words: Arc::new((0..WORDS).map(|_| AtomicU64::new(0)).collect()),
            payloads: Arc::new((0..WORDS).map(|_| UnsafeCell::new(0)).collect()),
            geometry,
            weakened,
        }
    }

    fn is_data(&self, offset: usize) -> bool {
        offset >= self.geometry.data
    }

    /// Plain bytes of a payload; its second mapping is folded onto the first.
    fn payload(&self, offset: usize) -> &UnsafeCell<u64> {
        let place = (offset - self.geometry.data) % self.geometry.capacity as usize;
        &self.payloads[(self.geometry.data + place) / 8]
    }

    fn write_payload(&self, offset: usize, value: u64) {
        // SAFETY: `loom` runs one thread at a time, and fails the test if the algorithm
        // would let two meet here.
        self.payload(offset).with_mut(|payload| unsafe { *payload = value });
    }

    fn read_payload(&self, offset: usize) -> u64 {
        // SAFETY: as in `write_payload`.
        self.payload(offset).with(|payload| unsafe { *payload })
    }
}

impl Memory for Words {
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        let weaken = match self.weakened {
            Weakened::NextAcquire => self.is_data(offset),
            Weakened::RoomAcquire => offset == self.geometry.released,
            _ => false,
        };
        self.words[offset / 8].load(if weaken { Ordering::Relaxed } else { order })
    }

    fn store(&self, offset: usize, value: u64, order: Ordering) {
        let weaken = match self.weakened {
            Weakened::CommitRelease => self.is_data(offset),
            Weakened::ReleasedRelease => offset == self.geometry.released,
            _ => false,
        };
        self.words[offset / 8].store(value, if weaken { Ordering::Relaxed } else { order });
    }

    fn compare_exchange(&self, offset: usize, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        self.words[offset / 8].compare_exchange(current, new, order, Ordering::Acquire)
    }

    fn fetch_add(&self, offset: usize, value: u64, order: Ordering) -> u64 {
        self.words[offset / 8].fetch_add(value, order)
    }
}

/// What an endpoint throws when its time has come.
struct Death;

/// The words as one endpoint sees them, until it dies at an access.
#[derive(Clone)]
struct Mortal {
    words: Words,
    left: Arc<std::sync::Mutex<Cell<usize>>>,
}

impl Mortal {
    fn new(words: &Words, accesses: usize) -> Self {
        Self { words: words.clone(), left: Arc::new(std::sync::Mutex::new(Cell::new(accesses))) }
    }

    fn step(&self) {
        let left = self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match left.get().checked_sub(1) {
            Some(less) => left.set(less),
            None => {
                drop(left);
                resume_unwind(Box::new(Death));
            }
        }
    }

    fn write_payload(&self, offset: usize, value: u64) {
        self.step();
        self.words.write_payload(offset, value);
    }

    fn read_payload(&self, offset: usize) -> u64 {
        self.step();
        self.words.read_payload(offset)
    }
}

impl Memory for Mortal {
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        self.step();
        self.words.load(offset, order)
    }

    fn store(&self, offset: usize, value: u64, order: Ordering) {
        self.step();
        self.words.store(offset, value, order);
    }

    fn compare_exchange(&self, offset: usize, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        self.step();
        self.words.compare_exchange(offset, current, new, order)
    }

    fn fetch_add(&self, offset: usize, value: u64, order: Ordering) -> u64 {
        self.step();
        self.words.fetch_add(offset, value, order)
    }
}

const FOREVER: usize = usize::MAX;

/// Sends the numbers from `first` to `last`; returns the first that was not acknowledged.
fn send(words: &Words, first: u64, last: u64, accesses: usize) -> u64 {
    let memory = Mortal::new(words, accesses);
    let next = Cell::new(first);
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut ring = Writer::attach(memory.clone(), words.geometry).expect("sound");
        while next.get() <= last {
            while !ring.has_room(8).expect("sound") {
                thread::yield_now();
            }
            memory.write_payload(ring.payload(), next.get());
            ring.commit(8);
            next.set(next.get() + 1);
        }
    }));
    died_or_done(done);
    next.get()
}

/// Receives up to the number `last`; returns what came and whether its release returned.
fn receive(words: &Words, last: u64, accesses: usize) -> Vec<(u64, bool)> {
    let memory = Mortal::new(words, accesses);
    let seen = std::cell::RefCell::new(Vec::new());
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut ring = Reader::attach(memory.clone(), words.geometry).expect("sound");
        loop {
            let record = match ring.next().expect("sound") {
                Some(record) => record,
                None => {
                    thread::yield_now();
                    continue;
                }
            };
            assert_eq!(record.len(), 8);
            let value = memory.read_payload(ring.payload(&record));
            seen.borrow_mut().push((value, false));
            ring.release([&record]);
            seen.borrow_mut().last_mut().expect("pushed").1 = true;
            if value == last {
                return;
            }
        }
    }));
    died_or_done(done);
    seen.into_inner()
}

fn died_or_done(end: std::thread::Result<()>) {
    if let Err(thrown) = end {
        if !thrown.is::<Death>() {
            resume_unwind(thrown);
        }
    }
}

fn spawn<T: 'static>(words: &Words, run: impl FnOnce(&Words) -> T + 'static) -> JoinHandle<T> {
    let words = words.clone();
    thread::spawn(move || run(&words))
}

/// Runs all schedules with at most `preemptions` unforced switches; returns how many.
fn explore(preemptions: usize, case: impl Fn() + Sync + Send + 'static) -> usize {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        case();
    });
    runs.load(Ordering::Relaxed)
}

fn hand_over(geometry: Geometry, weakened: Weakened, messages: u64) {
    let words = Words::new(geometry, weakened);
    let sender = spawn(&words, move |words| send(words, 1, messages, FOREVER));
    let seen = receive(&words, messages, FOREVER);
    assert_eq!(sender.join().expect("no panic"), messages + 1);
    assert!(seen.into_iter().eq((1..=messages).map(|number| (number, true))), "lost, torn or reordered");
}

#[test]
fn messages_arrive_whole_and_in_order_over_the_wrap() {
    let runs = explore(3, || hand_over(ROOM_FOR_TWO, Weakened::Nothing, 4));
    println!("{runs} schedules");
    assert!(runs > 100);
}

#[test]
fn a_payload_is_not_overwritten_while_it_is_read() {
    let runs = explore(3, || hand_over(ROOM_FOR_ONE, Weakened::Nothing, 3));
    println!("{runs} schedules");
}

#[rstest::rstest]
fn every_ordering_is_needed(
    #[values(
        Weakened::CommitRelease,
        Weakened::NextAcquire,
        Weakened::ReleasedRelease,
        Weakened::RoomAcquire
    )]
    weakened: Weakened,
) {
    let noticed = catch_unwind(move || explore(3, move || hand_over(ROOM_FOR_ONE, weakened, 3)));
    assert!(noticed.is_err(), "nothing goes wrong without {weakened:?}");
}

/// Accesses after which an endpoint has done its part in the cases below, or only polls.
const MOST_ACCESSES: usize = 28;

#[test]
fn a_sender_may_die_at_any_access() {
    let mut runs = 0;
    for accesses in 0..MOST_ACCESSES {
        runs += explore(2, move || {
            let words = Words::new(ROOM_FOR_TWO, Weakened::Nothing);
            let sender = spawn(&words, move |words| {
                let next = send(words, 1, 2, accesses);
                // The lock of the dead is free: a successor comes.
                let sent = send(words, 9, 9, FOREVER);
                assert_eq!(sent, 10);
                next
            });
            let seen: Vec<u64> = receive(&words, 9, FOREVER).into_iter().map(|(value, _)| value).collect();
            let next = sender.join().expect("no panic");
            // All that was acknowledged, perhaps the one under way, then the successor's.
            let acknowledged: Vec<u64> = (1..next).chain([9]).collect();
            let one_more: Vec<u64> = (1..=next).chain([9]).collect();
            assert!(seen == acknowledged || seen == one_more, "{seen:?} of {acknowledged:?}");
        });
    }
    println!("{runs} schedules");
}

#[test]
fn a_receiver_may_die_at_any_access() {
    let mut runs = 0;
    for accesses in 0..MOST_ACCESSES {
        runs += explore(2, move || {
            let words = Words::new(ROOM_FOR_TWO, Weakened::Nothing);
            let sender = spawn(&words, |words| send(words, 1, 3, FOREVER));
            let mut seen = receive(&words, 2, accesses);
            // What was released is done with; what was held comes again, unless its release
            // was under way.
            let held = seen.last().filter(|(_, released)| !released).map(|(value, _)| *value);
            seen.retain(|(_, released)| *released);
            let again = receive(&words, 3, FOREVER);
            if held.is_some_and(|held| again[0].0 == held + 1) {
                seen.push((held.expect("some"), true));
            }
            seen.extend(again);
            sender.join().expect("no panic");
            let seen: Vec<u64> = seen.into_iter().map(|(value, _)| value).collect();
            assert_eq!(seen, [1, 2, 3]);
        });
    }
    println!("{runs} schedules");
}
