//! The newest value under the model checker: never torn, never older than the one before,
//! never taken for damage, wherever the writer dies.

use super::{Death, FOREVER, checker::Loom, dies, report, report_weakened};
use crate::ring::{
    latest::{Geometry, Look, Reader, Writer},
    memory::Memory,
};
use loom::{
    sync::atomic::{AtomicU64, fence},
    thread,
};
use std::{
    cell::Cell,
    panic::{catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Two slots, so that the second write from now takes the newest one away; values of two
/// words, so that they can be torn.
const TWO_SLOTS: Geometry = Geometry { newest: 0, slots: 8, stride: 40, depth: 2, max_message_len: 16 };
const WORDS: usize = 1 + 2 * 5;

/// An ordering to take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakened {
    Nothing,
    NewestRelease,
    NewestAcquire,
    BeginRelease,
    BeginFence,
    CopyFence,
    OvertakenFence,
}

/// The shared words as one endpoint sees them, until it dies at an access.
#[derive(Clone)]
struct Words {
    words: Arc<Vec<AtomicU64>>,
    /// Stored to before each access, and never loaded: the checker remembers one access of a
    /// word only, and overlooks that a store conflicts with a load behind which its own
    /// thread loaded the word too. A conflict that it does see makes it try every order.
    order: Arc<AtomicU64>,
    weakened: Weakened,
    accesses_left: Cell<usize>,
    /// Whether the last access was the look at a slot's word.
    looked_at_slot: Cell<bool>,
}

impl Words {
    fn new(weakened: Weakened) -> Self {
        let words = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        Self {
            words: Arc::new(words),
            order: Arc::new(AtomicU64::new(0)),
            weakened,
            accesses_left: Cell::new(FOREVER),
            looked_at_slot: Cell::new(false),
        }
    }

    fn until(&self, accesses: usize) -> Self {
        Self { accesses_left: Cell::new(accesses), ..self.clone() }
    }

    fn step(&self, offset: usize) -> &AtomicU64 {
        match self.accesses_left.get().checked_sub(1) {
            Some(left) => self.accesses_left.set(left),
            None => resume_unwind(Box::new(Death)),
        }
        self.order.store(0, Ordering::Relaxed);
        self.looked_at_slot
            .set(offset >= TWO_SLOTS.slots && (offset - TWO_SLOTS.slots) % TWO_SLOTS.stride == 0);
        &self.words[offset / 8]
    }
}

impl Memory for Words {
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        let weaken = self.weakened == Weakened::NewestAcquire && offset == TWO_SLOTS.newest;
        self.step(offset).load(if weaken { Ordering::Relaxed } else { order })
    }

    fn store(&self, offset: usize, value: u64, order: Ordering) {
        let weaken = match self.weakened {
            Weakened::NewestRelease => offset == TWO_SLOTS.newest,
            Weakened::BeginRelease => offset != TWO_SLOTS.newest,
            _ => false,
        };
        self.step(offset).store(value, if weaken { Ordering::Relaxed } else { order });
    }

    fn compare_exchange(&self, _: usize, _: u64, _: u64, _: Ordering) -> Result<u64, u64> {
        unreachable!("one writer")
    }

    fn fetch_add(&self, _: usize, _: u64, _: Ordering) -> u64 {
        unreachable!("one writer")
    }

    fn fence(&self, order: Ordering) {
        let weaken = match self.weakened {
            Weakened::BeginFence => order == Ordering::Release,
            Weakened::CopyFence => order == Ordering::Acquire && !self.looked_at_slot.get(),
            Weakened::OvertakenFence => order == Ordering::Acquire && self.looked_at_slot.get(),
            _ => false,
        };
        if !weaken {
            fence(order);
        }
    }
}

/// Writes values until `last`, each the version's number twice; a successor goes on. Returns
/// whether the writer died.
fn write(words: &Words, last: u64, accesses: usize) -> bool {
    let memory = words.until(accesses);
    dies(|| {
        let mut ring = Writer::attach(memory.clone(), TWO_SLOTS).expect("sound");
        while ring.newest_version() < last {
            let number = ring.newest_version() + 1;
            ring.begin();
            for word in 0..2 {
                memory.store(ring.payload() + 8 * word, number, Ordering::Relaxed);
            }
            ring.commit(16).expect("sound");
        }
    })
}

/// Looks `looks` times; returns the last version that it got.
fn read(words: &Words, looks: usize) -> u64 {
    let mut ring = Reader::attach(words.clone(), TWO_SLOTS);
    let mut last = 0;
    for _ in 0..looks {
        match ring.try_copy().expect("what a writer wrote is sound") {
            Look::Nothing => assert_eq!(last, 0, "a value vanished"),
            Look::Again => {}
            Look::Copied => {
                let version = ring.copied();
                assert_eq!((version.value, version.len), (version.number, 16));
                assert_eq!(ring.copy(), [version.number; 2], "torn");
                assert!(version.number >= last, "{} after {last}", version.number);
                last = version.number;
            }
        }
    }
    last
}

fn write_beside_a_reader(weakened: Weakened, writes: u64, looks: usize) {
    let words = Words::new(weakened);
    let writer = thread::spawn({
        let words = words.clone();
        move || write(&words, writes, FOREVER)
    });
    read(&words, looks);
    writer.join().expect("no panic");
    assert_eq!(read(&words, 1), writes);
}

#[test]
fn values_are_whole_and_in_order() {
    let schedules = Loom::explore(2, || write_beside_a_reader(Weakened::Nothing, 4, 3))
        + Loom::explore(3, || write_beside_a_reader(Weakened::Nothing, 4, 1));
    report("latest", "values are whole and in order", schedules);
    assert!(schedules > 1000);
}

#[test]
fn every_ordering_of_latest_is_needed() {
    const ALL: [Weakened; 6] = [
        Weakened::NewestRelease,
        Weakened::NewestAcquire,
        Weakened::BeginRelease,
        Weakened::BeginFence,
        Weakened::CopyFence,
        Weakened::OvertakenFence,
    ];
    let unnoticed: Vec<_> = ALL
        .into_iter()
        .filter(|&weakened| {
            catch_unwind(move || Loom::explore(3, move || write_beside_a_reader(weakened, 4, 2))).is_ok()
        })
        .collect();
    report_weakened("latest", ALL.len() - unnoticed.len(), ALL.len());
    assert!(unnoticed.is_empty(), "nothing goes wrong without {unnoticed:?}");
}

#[test]
fn a_writer_may_die_at_any_access() {
    let mut schedules = 0;
    for accesses in 0.. {
        let died = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&died);
        schedules += Loom::explore(2, move || {
            let words = Words::new(Weakened::Nothing);
            let (writers, mark) = (words.clone(), Arc::clone(&mark));
            let writers = thread::spawn(move || {
                if write(&writers, 2, accesses) {
                    mark.store(true, Ordering::Relaxed);
                }
                // The lock of the dead is free: a successor comes.
                write(&writers, 3, FOREVER);
            });
            read(&words, 2);
            writers.join().expect("no panic");
            assert_eq!(read(&words, 1), 3);
        });
        if !died.load(Ordering::Relaxed) {
            break;
        }
    }
    report("latest", "a writer may die at any access", schedules);
}
