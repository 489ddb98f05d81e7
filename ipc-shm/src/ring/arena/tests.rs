//! Transactions at random beside a model of what they come to: whole ones, and ones that die
//! before each store that they make, of whose stores no later one happens.

use super::*;
use crate::ring::{lock, readers};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::Ordering,
};

/// Words of one thread, which dies before a store.
struct Mortal {
    words: RefCell<Vec<u64>>,
    stores_left: Cell<u64>,
}

impl Memory for Mortal {
    fn load(&self, offset: usize, _: Ordering) -> u64 {
        self.words.borrow()[offset / 8]
    }

    fn store(&self, offset: usize, value: u64, _: Ordering) {
        match self.stores_left.get().checked_sub(1) {
            Some(left) => self.stores_left.set(left),
            None => resume_unwind(Box::new("dead")),
        }
        self.words.borrow_mut()[offset / 8] = value;
    }

    fn compare_exchange(&self, _: usize, _: u64, _: u64, _: Ordering) -> Result<u64, u64> {
        unreachable!("all is done under the lock")
    }

    fn fetch_add(&self, _: usize, _: u64, _: Ordering) -> u64 {
        unreachable!("all is done under the lock")
    }
}

const DATA: usize = 64;
const HEAP: u64 = 2048;

/// An arena, and what is in it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    objects: BTreeMap<u64, Vec<u8>>,
    root: u64,
}

fn place() -> Place {
    let lock = lock::Place::at(16);
    let shares = readers::Place { lock, counts: 16, stride: 0, participants: 1 };
    let state = state::Place { lock, own: [0, 8], shares, data: DATA };
    Place::of(&state, overhead_bytes(8) + HEAP, 8).unwrap()
}

fn fresh() -> Mortal {
    let data_bytes = overhead_bytes(8) + HEAP;
    let mut bytes = vec![0; DATA];
    bytes.extend(first_contents(&0_u64.to_ne_bytes(), data_bytes));
    bytes.resize(DATA + data_bytes as usize, 0);
    let words = bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
    Mortal { words: RefCell::new(words), stores_left: Cell::new(u64::MAX) }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % bound
    }
}

/// A transaction at random; what it comes to if it does.
fn play(memory: &Mortal, before: &Model, seed: u64) -> Model {
    let (mut dice, mut after) = (Dice(seed), before.clone());
    let mut session = Session::begin(memory, place()).unwrap();
    for _ in 0..1 + dice.below(6) {
        let known: Vec<u64> = after.objects.keys().copied().collect();
        let one = known.get(dice.below(known.len().max(1) as u64) as usize).copied();
        match (dice.below(4), one) {
            (0 | 1, _) => {
                let bytes = vec![dice.below(255) as u8; dice.below(180) as usize];
                match session.allocate(bytes.len() as u64) {
                    Ok(at) => {
                        session.write(at, 0, &bytes).unwrap();
                        assert!(after.objects.insert(at, bytes).is_none(), "given out twice");
                    }
                    Err(Refused::Full { asked_bytes, largest_bytes, free_bytes }) => {
                        assert!(asked_bytes > largest_bytes || largest_bytes == 0);
                        assert!(largest_bytes <= free_bytes);
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            (2, Some(at)) => {
                session.free(at).unwrap();
                assert!(session.free(at).is_err() && session.write(at, 0, &[]).is_err(), "freed twice");
                after.objects.remove(&at);
            }
            (_, Some(at)) => {
                let bytes = after.objects.get_mut(&at).unwrap();
                bytes.fill(dice.below(255) as u8);
                session.write(at, 0, bytes).unwrap();
            }
            (_, None) => {}
        }
    }
    after.root += 1;
    session.set_root(&after.root.to_ne_bytes()).unwrap();
    session.commit().unwrap();
    after
}

/// All that holds of an arena that nobody is at, and what is in it.
fn audit(memory: &Mortal) -> Model {
    let session = Session::begin(memory, place()).unwrap();
    let (mut start, mut before, mut was_free) = (0, 0, false);
    let (mut used, mut objects, mut free) = (0, BTreeMap::new(), BTreeSet::new());
    while start < HEAP {
        let block = session.block(start).unwrap();
        assert_eq!(block.before, before, "at {start}");
        assert!(block.is_used || !was_free, "free neighbours at {start}");
        if block.is_used {
            used += block.size;
            let (at, len) = session.find(block.payload()).unwrap();
            let byte = |at: usize| memory.words.borrow()[at / 8].to_ne_bytes()[at % 8];
            objects.insert(block.payload(), (at..at + len as usize).map(byte).collect());
        } else {
            free.insert(block.payload());
        }
        (before, was_free) = (block.size, !block.is_used);
        start += block.size;
    }
    assert_eq!(start, HEAP);
    for bin in 0..BIN_COUNT {
        session
            .walk(bin, |block| {
                assert!(free.remove(&block.payload()), "in two lists");
                false
            })
            .unwrap();
    }
    assert!(free.is_empty(), "in no list: {free:?}");
    let figures = session.figures().unwrap();
    assert_eq!((figures.used_bytes, figures.objects), (used, objects.len() as u64));
    Model { objects, root: session.load(place().root()) }
}

#[test]
fn transactions_come_to_what_the_model_says() {
    let (memory, mut model) = (fresh(), Model::default());
    for seed in 0..20_000 {
        model = play(&memory, &model, seed);
        assert_eq!(audit(&memory), model, "seed {seed}");
    }
}

#[test]
fn whoever_dies_before_any_store_has_done_all_or_nothing() {
    let (mut memory, mut model, mut deaths) = (fresh(), Model::default(), 0);
    for seed in 0..150 {
        let image = memory.words.borrow().clone();
        for stores in 0.. {
            memory.words.replace(image.clone());
            memory.stores_left = Cell::new(stores);
            let came = catch_unwind(AssertUnwindSafe(|| play(&memory, &model, seed)));
            memory.stores_left = Cell::new(u64::MAX);
            if let Ok(after) = came {
                assert_eq!(audit(&memory), after);
                model = after;
                break;
            }
            deaths += 1;
            // The next one dies at undoing it, somewhere.
            memory.stores_left = Cell::new(stores % 7);
            let _ = catch_unwind(AssertUnwindSafe(|| undo(&&memory, &place())));
            memory.stores_left = Cell::new(u64::MAX);
            assert_eq!(audit(&memory), model, "seed {seed}, {stores} stores");
        }
    }
    assert!(deaths > 1000, "{deaths} deaths");
}

#[test]
fn what_is_freed_is_all_there_again() {
    let memory = fresh();
    let mut payloads = Vec::new();
    let mut session = Session::begin(&memory, place()).unwrap();
    while let Ok(payload) = session.allocate(40) {
        payloads.push(payload);
    }
    session.commit().unwrap();
    assert!(payloads.len() as u64 >= HEAP / 64);
    let mut session = Session::begin(&memory, place()).unwrap();
    let (even, odd): (Vec<_>, Vec<_>) =
        payloads.into_iter().enumerate().partition(|(index, _)| index % 2 == 0);
    for (_, payload) in even.into_iter().chain(odd) {
        session.free(payload).unwrap();
    }
    session.commit().unwrap();
    let figures = Session::begin(&memory, place()).unwrap().figures().unwrap();
    assert_eq!((figures.used_bytes, figures.largest_bytes), (0, HEAP - HEADER_BYTES));
}

#[test]
fn a_transaction_of_too_many_changes_is_none() {
    let memory = fresh();
    let mut session = Session::begin(&memory, place()).unwrap();
    let payload = session.allocate(1600).unwrap();
    session.commit().unwrap();
    let before = memory.words.borrow().clone();
    let mut session = Session::begin(&memory, place()).unwrap();
    session.entries = MOST_CHANGES - 100;
    // As if so many entries were there already.
    for number in 0..session.entries {
        memory.store(place().entry(number), place().root() as u64, Relaxed);
    }
    assert_eq!(session.write(payload, 0, &[7; 1600]), Err(Refused::TooManyChanges));
    assert_eq!(session.commit(), Err(Refused::TooManyChanges));
    undo(&&memory, &place()).unwrap();
    let heap = place().heap / 8;
    assert_eq!(memory.words.borrow()[heap..], before[heap..]);
}

#[test]
fn no_word_of_the_arena_makes_a_call_fail_to_end_or_leave_the_memory() {
    let (memory, mut model) = (fresh(), Model::default());
    for seed in 0..40 {
        model = play(&memory, &model, seed);
    }
    let image = memory.words.borrow().clone();
    let known: Vec<u64> = model.objects.keys().copied().collect();
    // What is read is found to be damaged, or isn't; out of range, `Mortal` panics.
    let use_all = || -> Result<(), Refused> {
        let mut session = Session::begin(&memory, place())?;
        session.figures()?;
        for &payload in &known {
            let (at, len) = session.find(payload)?;
            session.write(payload, 0, &vec![1; len as usize])?;
            assert!(at + len as usize <= place().heap + HEAP as usize);
        }
        let all: Vec<_> = [1, 200, 900].into_iter().map(|len| session.allocate(len)).collect();
        for payload in all.into_iter().flatten().chain(known.iter().copied()) {
            session.free(payload)?;
        }
        session.commit()
    };
    let log = (DATA + ENTRIES + 64) / 8..place().root() / 8;
    for at in (0..image.len()).filter(|at| !log.contains(at)) {
        let old = image[at];
        for new in [0, 1, 16, 48, u64::MAX, 1 << 63, old ^ 1, old ^ 1 << 7, old ^ 1 << 20, old + 16, old << 1]
        {
            memory.words.replace(image.clone());
            memory.words.borrow_mut()[at] = new;
            let answer = use_all();
            if let Err(refused) = answer {
                assert!(matches!(refused, Refused::Corrupt(_)), "word {at} is {new:#x}: {refused:?}");
                let _ = undo(&&memory, &place());
            }
        }
    }
}
