//! The spsc ring under a model checker: `loom` runs all schedules of small cases, with
//! every value that the orderings allow a load to see.
//!
//! The words of the ring are `loom`'s atomics; payloads are its cells, for which it checks
//! that every access happens before or after every conflicting one. Death is an endpoint
//! that stops at its k-th access, for every k; its successor starts when the kernel's lock
//! would let it. Each ordering is also weakened in turn, and the model must notice: what it
//! doesn't notice would not be needed.

use super::super::{
    ledger::Progress,
    memory::Memory,
    spsc::{Geometry, RECORD_EVERY, Reader, Writer, glance, look},
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
    Geometry { sender_ledger: 0, receiver_ledger: 24, released: 40, data: 48, capacity: 40 };
/// Four words: one record at a time, and each payload's word is reused by the next but one.
const ROOM_FOR_ONE: Geometry = Geometry { capacity: 32, ..ROOM_FOR_TWO };
/// Three words: two empty records and the word behind them.
const ROOM_FOR_TWO_EMPTY: Geometry = Geometry { capacity: 24, ..ROOM_FOR_TWO };
/// Five words: four empty records and the word behind them.
const ROOM_FOR_FOUR_EMPTY: Geometry = ROOM_FOR_TWO;
const WORDS: usize = 6 + 5;

/// Where it all begins: so that the sender's ledger is written after two messages, and
/// positions go from 32 bits to 33 and stand for other places than in the first lap.
const START: Progress = Progress { position: (1 << 32) - 16, count: 3 * RECORD_EVERY - 2 };

/// An ordering to take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakened {
    Nothing,
    CommitRelease,
    ZeroRelease,
    NextAcquire,
    /// Of a ledger's word, which is also what the sender polls for room.
    PositionRelease,
    PositionAcquire,
    CountRelease,
    CountAcquire,
}

/// The shared words.
#[derive(Clone)]
struct Words {
    words: Arc<Vec<AtomicU64>>,
    payloads: Arc<Vec<UnsafeCell<u64>>>,
    /// Changed at each access, in no particular order: the checker takes two accesses of a
    /// word for independent if the thread of the later one has loaded the word in between,
    /// and wouldn't swap them.
    turn: Arc<AtomicU64>,
    geometry: Geometry,
    weakened: Weakened,
}

impl Words {
    fn new(geometry: Geometry, weakened: Weakened) -> Self {
        Self::starting_at(START, geometry, weakened)
    }

    #[expect(clippy::arc_with_non_send_sync, reason = "the checker's threads run one at a time")]
    fn starting_at(progress: Progress, geometry: Geometry, weakened: Weakened) -> Self {
        let start = |offset: usize| match offset {
            _ if offset == geometry.released || offset == geometry.sender_ledger => progress.position,
            _ if offset < geometry.data => progress.count,
            _ => 0,
        };
        Self {
            words: Arc::new((0..WORDS).map(|index| AtomicU64::new(start(8 * index))).collect()),
            payloads: Arc::new((0..WORDS).map(|_| UnsafeCell::new(0)).collect()),
            turn: Arc::new(AtomicU64::new(0)),
            geometry,
            weakened,
        }
    }

    fn is_data(&self, offset: usize) -> bool {
        offset >= self.geometry.data
    }

    fn is_position(&self, offset: usize) -> bool {
        offset == self.geometry.released || offset == self.geometry.sender_ledger
    }

    fn is_count(&self, offset: usize) -> bool {
        !self.is_data(offset) && !self.is_position(offset)
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
        self.turn.fetch_add(1, Ordering::Relaxed);
        let weaken = match self.weakened {
            Weakened::NextAcquire => self.is_data(offset),
            Weakened::PositionAcquire => self.is_position(offset),
            Weakened::CountAcquire => self.is_count(offset),
            _ => false,
        };
        self.words[offset / 8].load(if weaken { Ordering::Relaxed } else { order })
    }

    fn store(&self, offset: usize, value: u64, order: Ordering) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        let weaken = match self.weakened {
            Weakened::CommitRelease => self.is_data(offset) && value != 0,
            Weakened::ZeroRelease => self.is_data(offset) && value == 0,
            Weakened::PositionRelease => self.is_position(offset),
            Weakened::CountRelease => self.is_count(offset),
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
            until_room(&mut ring);
            memory.write_payload(ring.payload(), next.get());
            ring.commit(8);
            next.set(next.get() + 1);
        }
        ring.record();
    }));
    died_or_done(done);
    next.get()
}

/// Sends the numbers `first` and the next one together.
fn send_two(words: &Words, first: u64, accesses: usize) {
    let memory = Mortal::new(words, accesses);
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut ring = Writer::attach(memory.clone(), words.geometry).expect("sound");
        until_room(&mut ring);
        memory.write_payload(ring.payload(), first);
        let mut batch = ring.begin(8);
        let payload = loop {
            match ring.add(&mut batch, 8).expect("sound") {
                Some(payload) => break payload,
                None => thread::yield_now(),
            }
        };
        memory.write_payload(payload, first + 1);
        ring.commit_batch(batch);
    }));
    died_or_done(done);
}

fn until_room(ring: &mut Writer<Mortal>) {
    while !ring.has_room(8) && !ring.finds_room(8).expect("sound") {
        thread::yield_now();
    }
}

/// Receives up to the number `last`; returns what came and whether its release returned.
fn receive(words: &Words, last: u64, accesses: usize) -> Vec<(u64, bool)> {
    let memory = Mortal::new(words, accesses);
    let seen = std::cell::RefCell::new(Vec::new());
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut ring = Reader::attach(memory.clone(), words.geometry).expect("sound");
        loop {
            let record = match ring.next(0).expect("sound") {
                Some(record) => record,
                None => {
                    thread::yield_now();
                    continue;
                }
            };
            assert_eq!(record.len(), 8);
            let value = memory.read_payload(ring.payload(0));
            seen.borrow_mut().push((value, false));
            ring.release([record]);
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

/// Runs all schedules with at most `preemptions` unforced switches, and one more in the
/// long run; returns how many.
fn explore(preemptions: usize, case: impl Fn() + Sync + Send + 'static) -> usize {
    let more = usize::from(std::env::var_os("IPC_SHM_LONG_RUN").is_some());
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions + more);
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
    let runs = explore(2, || hand_over(ROOM_FOR_TWO, Weakened::Nothing, 4));
    println!("{runs} schedules");
    assert!(runs > 100);
}

#[test]
fn a_payload_is_not_overwritten_while_it_is_read() {
    let runs = explore(2, || hand_over(ROOM_FOR_ONE, Weakened::Nothing, 3));
    println!("{runs} schedules");
}

#[rstest::rstest]
fn every_ordering_is_needed_to_hand_over(
    #[values(
        Weakened::CommitRelease,
        Weakened::NextAcquire,
        Weakened::PositionRelease,
        Weakened::PositionAcquire
    )]
    weakened: Weakened,
) {
    let noticed = catch_unwind(move || explore(3, move || hand_over(ROOM_FOR_ONE, weakened, 3)));
    assert!(noticed.is_err(), "nothing goes wrong without {weakened:?}");
}

/// Messages, counted from where it all began.
fn after(messages: u64) -> u64 {
    START.count + messages
}

/// Accesses after which an endpoint has done its part in the cases below, or only polls.
const MOST_ACCESSES: usize = 28;

#[test]
fn a_sender_may_die_at_any_access() {
    let mut runs = 0;
    for accesses in 0..MOST_ACCESSES {
        runs += explore(1, move || {
            let words = Words::new(ROOM_FOR_TWO, Weakened::Nothing);
            let sender = spawn(&words, move |words| {
                // The lock of the dead is free: a successor comes, and dies as early. And
                // another one.
                let first = send(words, 1, 3, accesses);
                let second = send(words, 5, 6, accesses);
                assert_eq!(send(words, 9, 9, FOREVER), 10);
                [first, second]
            });
            let seen: Vec<u64> = receive(&words, 9, FOREVER).into_iter().map(|(value, _)| value).collect();
            let next = sender.join().expect("no panic");
            // All that was acknowledged, perhaps the one under way, then the successor's.
            let possible = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(one_more, another)| {
                let (first, second) = (1..next[0] + one_more, 5..next[1] + another);
                first.chain(second).chain([9]).collect::<Vec<_>>()
            });
            assert!(possible.contains(&seen), "{seen:?}, acknowledged before {next:?}");
            assert_all_counted(&words, seen.len());
        });
    }
    println!("{runs} schedules");
}

/// Both ledgers say that so many messages were sent and received.
fn assert_all_counted(words: &Words, messages: usize) {
    let (found, is_exact) = glance(words, &words.geometry).expect("sound");
    assert!(is_exact, "nothing moves");
    assert_eq!(found, look(words, &words.geometry).expect("sound"));
    assert_eq!(found.sent, found.received);
    assert_eq!(found.sent.count, after(messages as u64));
}

#[test]
fn a_sender_may_die_at_any_access_of_a_batch() {
    let mut runs = 0;
    for accesses in 0..MOST_ACCESSES {
        runs += explore(1, move || {
            let words = Words::new(ROOM_FOR_TWO, Weakened::Nothing);
            let sender = spawn(&words, move |words| {
                send(words, 1, 1, FOREVER);
                send_two(words, 2, accesses);
                send(words, 9, 9, FOREVER);
            });
            let seen: Vec<u64> = receive(&words, 9, FOREVER).into_iter().map(|(value, _)| value).collect();
            sender.join().expect("no panic");
            assert!(seen == [1, 2, 3, 9] || seen == [1, 9], "not all or nothing: {seen:?}");
            assert_all_counted(&words, seen.len());
        });
    }
    println!("{runs} schedules");
}

#[test]
fn a_batch_appears_whole() {
    let runs = explore(3, || {
        let words = Words::new(ROOM_FOR_TWO, Weakened::Nothing);
        let sender = spawn(&words, |words| send_two(words, 1, FOREVER));
        let ring = Reader::attach(Mortal::new(&words, FOREVER), words.geometry).expect("sound");
        if let Some(first) = ring.next(0).expect("sound") {
            let second = ring.next(first.size()).expect("sound");
            assert!(second.is_some(), "half a batch");
            assert_eq!(words.read_payload(ring.payload(first.size())), 2);
        }
        sender.join().expect("no panic");
    });
    println!("{runs} schedules");
}

/// A sender that has come `messages` far and died, and a receiver that goes on: how far the
/// sender's successor and somebody who looks think that it came.
fn walk_beside_a_receiver(weakened: Weakened, messages: u64) {
    // Nothing is recorded soon, so that the receiver's ledger is what one starts from.
    let start = Progress { count: after(2), ..START };
    let after = |messages| start.count + messages;
    let words = Words::starting_at(start, ROOM_FOR_FOUR_EMPTY, weakened);
    let mut sender = Writer::attach(words.clone(), words.geometry).expect("sound");
    for _ in 0..messages {
        assert!(sender.has_room(0));
        sender.commit(0);
    }
    drop(sender);
    let receiver = spawn(&words, move |words| {
        let mut ring = Reader::attach(words.clone(), words.geometry).expect("sound");
        for _ in 0..messages {
            let record = ring.next(0).expect("sound").expect("sent before");
            ring.release([record]);
        }
    });
    let (found, is_exact) = glance(&words, &words.geometry).expect("sound");
    if is_exact {
        assert_eq!(found.sent.count, after(messages));
        assert_eq!(found.sent.position, START.position + 8 * messages);
        assert_eq!(found.received.count, after((found.received.position - START.position) / 8));
    }
    assert!(look(&words, &words.geometry).expect("sound").sent.count <= after(messages));
    let mut successor = Writer::attach(words.clone(), words.geometry).expect("sound");
    successor.commit(0);
    successor.record();
    receiver.join().expect("no panic");
    let (found, is_exact) = glance(&words, &words.geometry).expect("sound");
    assert!(is_exact && found.queued_messages() == 1, "{found:?}");
    assert_eq!((found.sent.count, found.received.count), (after(messages + 1), after(messages)));
}

#[rstest::rstest]
fn a_successor_counts_exactly_beside_a_receiver(#[values(1, 3)] messages: u64) {
    let runs = explore(2, move || walk_beside_a_receiver(Weakened::Nothing, messages));
    println!("{runs} schedules");
    assert!(runs > 10);
}

/// Both ends go on, for more than a lap, while somebody looks.
fn look_at_both(weakened: Weakened) {
    // Sent and received, after each step.
    const STATES: [(u64, u64); 7] = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (4, 2)];
    let words = Words::new(ROOM_FOR_TWO_EMPTY, weakened);
    let worker = spawn(&words, |words| {
        let mut sender = Writer::attach(words.clone(), words.geometry).expect("sound");
        let mut receiver = Reader::attach(words.clone(), words.geometry).expect("sound");
        for pair in STATES.windows(2) {
            if pair[1].0 > pair[0].0 {
                assert!(sender.finds_room(0).expect("sound"));
                sender.commit(0);
            } else {
                let record = receiver.next(0).expect("sound").expect("sent before");
                receiver.release([record]);
            }
        }
    });
    let (found, is_exact) = glance(&words, &words.geometry).expect("sound");
    if is_exact {
        let state = (found.sent.count - START.count, found.received.count - START.count);
        assert!(STATES.contains(&state), "never was so much sent and received: {state:?}");
        assert_eq!(found.sent.position, START.position + 8 * state.0);
        assert_eq!(found.received.position, START.position + 8 * state.1);
    }
    worker.join().expect("no panic");
    let found = look(&words, &words.geometry).expect("sound");
    assert_eq!((found.sent.count, found.received.count), (after(4), after(2)));
}

#[test]
fn a_look_is_never_wrong_while_both_ends_go_on() {
    let runs = explore(2, || look_at_both(Weakened::Nothing));
    println!("{runs} schedules");
    assert!(runs > 100);
}

#[rstest::rstest]
#[case::of_a_look(look_at_both, &[Weakened::ZeroRelease, Weakened::PositionRelease, Weakened::PositionAcquire])]
#[case::of_a_walk(
    |weakened| walk_beside_a_receiver(weakened, 3),
    &[Weakened::CountRelease, Weakened::CountAcquire, Weakened::PositionRelease, Weakened::PositionAcquire]
)]
fn every_ordering_is_needed(#[case] case: fn(Weakened), #[case] orderings: &[Weakened]) {
    for &weakened in orderings {
        let noticed = catch_unwind(move || explore(2, move || case(weakened)));
        assert!(noticed.is_err(), "nothing goes wrong without {weakened:?}");
    }
}

#[test]
fn a_receiver_may_die_at_any_access() {
    let mut runs = 0;
    for accesses in 0..MOST_ACCESSES {
        runs += explore(1, move || {
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
            assert_all_counted(&words, 3);
        });
    }
    println!("{runs} schedules");
}
