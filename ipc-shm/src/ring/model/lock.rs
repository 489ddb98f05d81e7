//! Locks: never two at a time, never taken over in silence, never lost, whoever gives up or dies.

use super::{
    Case, FOREVER, Half, Mortal, Orderings, Weakening, Words as AnyWords,
    checker::{Checker, Loom, Shuttle},
    dies, every_ordering_is_needed, is_long_run, is_noticed, report, report_weakened,
};
use crate::ring::{
    lock::{self, Attempt, Manner, Owner, State},
    memory::Memory,
    permits, readers, state,
};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

type Words<C> = AnyWords<C>;

/// Participants 1 to 3, each of one thread: the lock, the value that it protects, a count for
/// each, and a word for the lock that the kernel keeps of each: who is dead has given it up.
const LOCK: lock::Place = lock::Place::at(0);
const VALUE: usize = 40;
const SHARES: readers::Place = readers::Place { lock: LOCK, counts: 48, stride: 8, participants: 3 };
const ALIVE: usize = 72;
const PERMITS: permits::Place = permits::Place { total: 96, free: 104, held: SHARES };
const NOTIFICATIONS: usize = 112;
const WORDS: usize = 15;

/// The same as a state, whose own words are those of the permits.
const STATE: state::Place =
    state::Place { lock: LOCK, own: [PERMITS.total, PERMITS.free], shares: SHARES, data: VALUE };

const DEAD: u64 = 1;
/// No time passes: who it is reserved for has its time for so many looks of somebody else.
const NOW_MS: u64 = 7;
const RESERVED: State = State::Reserved { since_ms: NOW_MS };

fn words<C: Checker>(orderings: &Orderings, permits: u64) -> Words<C> {
    let mut values = [0; WORDS];
    values[PERMITS.total / 8] = permits;
    Words::new(values, orderings.clone())
}

fn thread(id: u32) -> Owner {
    Owner::new(id, 1)
}

/// What the kernel does when a process is gone.
fn end<C: Checker>(words: &Words<C>, id: u32) {
    C::store(words.word(ALIVE + 8 * (id - 1) as usize), DEAD, Release);
}

/// Puts in order what `id` left, if it is dead.
fn look_at<C: Checker>(memory: &impl Memory, words: &Words<C>, id: u32) {
    let has_part = state::has_part(memory, &STATE, id);
    if has_part && C::load(words.word(ALIVE + 8 * (id - 1) as usize), Acquire) == DEAD {
        state::bury(memory, &STATE, id);
    }
}

/// How a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Had,
    Repaired,
    GivenUp,
}

/// Takes the lock within `looks` looks, and does something with what it protects.
fn visit<C: Checker>(
    memory: &Mortal<C>,
    words: &Words<C>,
    id: u32,
    looks: usize,
    act: impl FnOnce(&Mortal<C>, bool),
) -> End {
    let me = thread(id);
    if lock::take_free(memory, LOCK, me) {
        act(memory, false);
        lock::give_back(memory, LOCK, || NOW_MS);
        return End::Had;
    }
    for look in 1..=looks {
        // Who it is reserved for had its time by the last look.
        let overrides = (look > 1 && look == looks).then_some(RESERVED);
        let manner = Manner { asks: true, overrides, repairs: true };
        match lock::attempt(memory, LOCK, me, manner).expect("sound") {
            Attempt::Taken { to_repair } => {
                act(memory, to_repair);
                lock::give_back(memory, LOCK, || NOW_MS);
                return if to_repair { End::Repaired } else { End::Had };
            }
            Attempt::Refused(State::Held(owner) | State::Forgotten(owner)) => {
                look_at(memory, words, owner.id());
            }
            Attempt::Refused(_) => {}
        }
        C::yield_now();
    }
    lock::withdraw(memory, LOCK, me);
    End::GivenUp
}

/// Adds one to the value, in two steps between which it is odd.
fn add<C: Checker>(memory: &Mortal<C>, to_repair: bool) {
    let value = memory.read_payload(VALUE);
    assert!(to_repair || value % 2 == 0, "taken over in silence");
    let value = value + value % 2;
    memory.write_payload(VALUE, value + 1);
    memory.write_payload(VALUE, value + 2);
}

/// Visits `times` times, until it dies; how many visits there were, and whether it died.
fn visits<C: Checker>(words: &Words<C>, id: u32, times: usize, looks: usize, accesses: usize) -> (u64, bool) {
    let memory = Mortal::new(words, accesses);
    let mut had = 0;
    let died = dies(|| {
        for _ in 0..times {
            had += u64::from(visit(&memory, words, id, looks, add) != End::GivenUp);
        }
    });
    if died {
        end(words, id);
    }
    (had, died)
}

/// Nobody has the lock, or somebody dead; whoever comes gets it.
fn assert_free<C: Checker>(words: &Words<C>, had: u64, died: bool) {
    [1, 2, 3].into_iter().for_each(|id| look_at(words, words, id));
    let memory = Mortal::new(words, FOREVER);
    // Nor is it reserved: who lives asks no more, and who is dead was looked at.
    let manner = Manner { asks: false, overrides: None, repairs: true };
    let taken = lock::attempt(&memory, LOCK, thread(3), manner).expect("sound");
    let Attempt::Taken { to_repair } = taken else { panic!("nobody has it: {taken:?}") };
    let value = memory.read_payload(VALUE);
    assert!(died || !to_repair);
    assert!(value % 2 == 0 || to_repair, "in disorder, and nobody is told");
    let most = had + u64::from(died);
    assert!((2 * had..=2 * most).contains(&value), "{value} by {had} of {most}");
}

fn two_at_once(orderings: &Orderings, _: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let other = words.clone();
    let other = Loom::spawn(move || visits(&other, 2, 2, 2, FOREVER).0);
    let (had, _) = visits(&words, 1, 2, 2, FOREVER);
    let all = had + Loom::join(other);
    assert_free(&words, all, false);
    false
}

fn an_owner_dies(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let other = words.clone();
    let other = Loom::spawn(move || visits(&other, 2, 1, 3, FOREVER).0);
    let (had, died) = visits(&words, 1, 1, 1, accesses);
    let all = had + Loom::join(other);
    assert_free(&words, all, died);
    died
}

/// One that dies is put in order by a second one; a third takes the lock.
fn somebody_else_looks(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let (victim, looker) = (words.clone(), words.clone());
    let victim = Loom::spawn(move || visits(&victim, 1, 1, 1, accesses));
    let looker = Loom::spawn(move || look_at(&looker, &looker, 1));
    let memory = Mortal::new(&words, FOREVER);
    let manner = Manner { asks: false, overrides: None, repairs: true };
    let mut had = 0;
    if let Attempt::Taken { to_repair } = lock::attempt(&memory, LOCK, thread(3), manner).expect("sound") {
        add(&memory, to_repair);
        lock::give_back(&memory, LOCK, || NOW_MS);
        had = 1;
    }
    let (by_victim, died) = Loom::join(victim);
    Loom::join(looker);
    assert_free(&words, had + by_victim, died);
    died
}

/// Who puts in order what a dead owner left dies as well, or while it repairs.
fn a_repairer_dies(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    assert!(lock::take_free(&words, LOCK, thread(1)));
    words.write_payload(VALUE, 1);
    end(&words, 1);
    let repairer = words.clone();
    let repairer = Loom::spawn(move || visits(&repairer, 2, 1, 3, accesses));
    let (had, _) = visits(&words, 3, 1, 2, FOREVER);
    let (by_repairer, died) = Loom::join(repairer);
    [1, 2].into_iter().for_each(|id| look_at(&words, &words, id));
    let state = lock::state(&words, LOCK).expect("sound");
    let has_told = had + by_repairer > 0;
    assert!(state == State::Abandoned || has_told, "nobody was told: {state:?}");
    died
}

/// One that asked gives up, or dies, while it is reserved or about to be.
fn a_waiter_leaves(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let waiter = words.clone();
    let waiter = Loom::spawn(move || visits(&waiter, 2, 1, 1, accesses));
    let (had, _) = visits(&words, 1, 3, 1, FOREVER);
    let (by_waiter, died) = Loom::join(waiter);
    assert_free(&words, had + by_waiter, died);
    died
}

/// Takes the lock if that can be without asking for it: who has it is looked at, or who it is
/// reserved for.
fn try_once<C: Checker>(words: &Words<C>, id: u32) -> bool {
    let memory = Mortal::new(words, FOREVER);
    let manner = Manner { asks: false, overrides: None, repairs: true };
    for _ in 0..2 {
        match lock::attempt(&memory, LOCK, thread(id), manner).expect("sound") {
            Attempt::Taken { to_repair } => {
                add(&memory, to_repair);
                lock::give_back(&memory, LOCK, || NOW_MS);
                return true;
            }
            Attempt::Refused(State::Reserved { .. }) => {
                if let Some(asker) = lock::asker(&memory, LOCK) {
                    look_at(&memory, words, asker.id());
                }
            }
            Attempt::Refused(State::Held(owner)) => look_at(&memory, words, owner.id()),
            Attempt::Refused(_) => return false,
        }
    }
    false
}

/// One that asked dies, while it is reserved or about to be: those who only try go on without it.
fn an_asker_dies(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let asker = words.clone();
    let asker = Loom::spawn(move || visits(&asker, 2, 1, 1, accesses));
    let mut had = (0..2).filter(|_| try_once(&words, 1)).count() as u64;
    let (by_asker, died) = Loom::join(asker);
    for _ in 0..2 {
        assert!(try_once(&words, 1), "nobody has it");
        had += 1;
    }
    assert_free(&words, had + by_asker, died);
    died
}

/// A thread ends with the lock, and what it left refers to the value still: until it is given
/// back after all, or the process dies.
fn an_owner_forgets(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let other = words.clone();
    let other = Loom::spawn(move || visits(&other, 2, 1, 3, FOREVER).0);
    let memory = Mortal::new(&words, accesses);
    let mut had = 0;
    let died = dies(|| {
        if lock::take_free(&memory, LOCK, thread(1)) {
            let value = memory.read_payload(VALUE);
            memory.write_payload(VALUE, value + 1);
            assert!(lock::forget(&memory, LOCK, thread(1)));
            memory.write_payload(VALUE, value + 2);
            lock::give_back(&memory, LOCK, || NOW_MS);
            had = 1;
        }
    });
    if died {
        end(&words, 1);
    }
    let all = had + Loom::join(other);
    assert_free(&words, all, died);
    died
}

/// Reads within `looks` looks.
fn read<C: Checker>(words: &Words<C>, id: u32, looks: usize, accesses: usize) -> bool {
    let memory = Mortal::new(words, accesses);
    let died = dies(|| {
        for _ in 0..looks {
            match readers::enter(&memory, &SHARES, thread(id)).expect("sound") {
                Ok(_) => {
                    lock::withdraw(&memory, LOCK, thread(id));
                    assert_eq!(memory.read_payload(VALUE) % 2, 0, "a writer is here");
                    readers::leave(&memory, &SHARES, thread(id));
                    break;
                }
                Err(_) => lock::ask(&memory, LOCK, thread(id)),
            }
            C::yield_now();
        }
        lock::withdraw(&memory, LOCK, thread(id));
    });
    if died {
        end(words, id);
    }
    died
}

/// Writes, if the readers leave within `looks` looks, or are dead.
fn write<C: Checker>(words: &Words<C>, id: u32, looks: usize, accesses: usize) -> (u64, bool) {
    let memory = Mortal::new(words, accesses);
    let mut had = 0;
    let died = dies(|| {
        let act = |memory: &Mortal<C>, to_repair: bool| {
            readers::shut(memory);
            for _ in 0..looks {
                match readers::reading(memory, &SHARES, 1).expect("sound") {
                    None => {
                        add(memory, to_repair);
                        had = 1;
                        break;
                    }
                    Some(reading) => look_at(memory, words, reading.id),
                }
                C::yield_now();
            }
        };
        visit(&memory, words, id, looks, act);
    });
    if died {
        end(words, id);
    }
    (had, died)
}

fn a_reader_and_a_writer(orderings: &Orderings, _: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let reader = words.clone();
    let reader = Loom::spawn(move || read(&reader, 2, 2, FOREVER));
    let (had, _) = write(&words, 1, 2, FOREVER);
    Loom::join(reader);
    assert_eq!(readers::reading(&words, &SHARES, 1).expect("sound"), None);
    assert_free(&words, had, false);
    false
}

fn a_reader_dies(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let reader = words.clone();
    let reader = Loom::spawn(move || read(&reader, 2, 1, accesses));
    let (mut had, _) = write(&words, 1, 2, FOREVER);
    let died = Loom::join(reader);
    look_at(&words, &words, 2);
    assert_eq!(readers::reading(&words, &SHARES, 1).expect("sound"), None, "a count was leaked");
    had += write(&words, 3, 1, FOREVER).0;
    assert!(had > 0, "nobody stood in its way");
    died
}

/// A reader that dies is taken back by a third one, for the writer.
fn somebody_else_takes_back(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let (reader, looker) = (words.clone(), words.clone());
    let reader = Loom::spawn(move || read(&reader, 2, 1, accesses));
    let looker = Loom::spawn(move || look_at(&looker, &looker, 2));
    let memory = Mortal::new(&words, FOREVER);
    let mut had = 0;
    let act = |memory: &Mortal<Loom>, to_repair: bool| {
        readers::shut(memory);
        if readers::reading(memory, &SHARES, 1).expect("sound").is_none() {
            add(memory, to_repair);
            had = 1;
        }
    };
    visit(&memory, &words, 1, 0, act);
    let died = Loom::join(reader);
    Loom::join(looker);
    assert_free(&words, had, false);
    died
}

fn a_writer_dies(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let reader = words.clone();
    let reader = Loom::spawn(move || read(&reader, 2, 2, FOREVER));
    let (had, died) = write(&words, 1, 2, accesses);
    Loom::join(reader);
    assert_free(&words, had, died);
    died
}

/// A reader's thread ends, and what it left reads on: until it leaves after all, or dies.
fn a_reader_forgets(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let reader = words.clone();
    let reader = Loom::spawn(move || {
        let memory = Mortal::new(&reader, accesses);
        let died = dies(|| {
            if readers::enter(&memory, &SHARES, thread(2)).expect("sound").is_ok() {
                readers::forget(&memory, &SHARES, thread(2));
                assert_eq!(memory.read_payload(VALUE) % 2, 0, "a writer is here");
                readers::leave_after_all(&memory, &SHARES, thread(2));
            }
        });
        if died {
            end(&reader, 2);
        }
        died
    });
    let (had, _) = write(&words, 1, 2, FOREVER);
    let died = Loom::join(reader);
    look_at(&words, &words, 2);
    assert_eq!(readers::reading(&words, &SHARES, 1).expect("sound"), None, "a count was leaked");
    assert_free(&words, had, false);
    died
}

/// Takes a permit within `looks` looks, has what there is one permit for, and gives it back.
fn acquire<C: Checker>(words: &Words<C>, id: u32, looks: usize, accesses: usize) -> bool {
    let memory = Mortal::new(words, accesses);
    let died = dies(|| {
        let mut taken = false;
        for _ in 0..looks {
            let act = |memory: &Mortal<C>, to_repair: bool| {
                if to_repair {
                    permits::recount(memory, &PERMITS).expect("sound");
                }
                taken = permits::take(memory, &PERMITS, id, 1).expect("sound");
            };
            visit(&memory, words, id, 2, act);
            if taken {
                break;
            }
            [1, 2, 3].into_iter().filter(|&other| other != id).for_each(|id| look_at(&memory, words, id));
            C::yield_now();
        }
        if !taken {
            return;
        }
        memory.write_payload(VALUE, u64::from(id));
        let back = |memory: &Mortal<C>, to_repair: bool| {
            if to_repair {
                permits::recount(memory, &PERMITS).expect("sound");
            }
            permits::give_back(memory, &PERMITS, id, 1).expect("sound");
        };
        // As long as it takes: nobody has the lock for good.
        let mut back = Some(back);
        while let Some(act) = back.take() {
            let mut is_back = false;
            visit(&memory, words, id, 2, |memory, to_repair| {
                act(memory, to_repair);
                is_back = true;
            });
            if !is_back {
                back = Some(act);
                C::yield_now();
            }
        }
    });
    if died {
        end(words, id);
    }
    died
}

fn assert_all_permits<C: Checker>(words: &Words<C>, permits: u64) {
    [1, 2, 3].into_iter().for_each(|id| look_at(words, words, id));
    assert_eq!(permits::recount(words, &PERMITS).expect("sound"), permits, "a permit was lost or made");
}

fn one_permit(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 1);
    let other = words.clone();
    let other = Loom::spawn(move || acquire(&other, 2, 2, FOREVER));
    let died = acquire(&words, 1, 1, accesses);
    Loom::join(other);
    assert_all_permits(&words, 1);
    died
}

/// A notification isn't lost: whoever saw the condition false sees the count go up.
fn a_condition(orderings: &Orderings, accesses: usize) -> bool {
    let words = words::<Loom>(orderings, 0);
    let notifier = words.clone();
    let notifier = Loom::spawn(move || {
        let (had, died) = visits(&notifier, 2, 1, 3, accesses);
        if had > 0 && !died {
            notifier.fetch_add(NOTIFICATIONS, 1, Release);
        }
        (had, died)
    });
    let memory = Mortal::new(&words, FOREVER);
    let mut seen = None;
    visit(&memory, &words, 1, 2, |memory, to_repair| {
        if memory.read_payload(VALUE) == 0 && !to_repair {
            seen = Some(memory.load(NOTIFICATIONS, Relaxed));
        }
    });
    let (had, died) = Loom::join(notifier);
    if let Some(seen) = seen.filter(|_| had > 0 && !died) {
        assert!(words.load(NOTIFICATIONS, Acquire) > seen, "it would sleep on");
    }
    died
}

const LOCKS: [Case; 7] = [
    Case { name: "two at once", preemptions: [2, 3], run: two_at_once },
    Case { name: "an owner dies", preemptions: [2, 3], run: an_owner_dies },
    Case { name: "somebody else looks for the dead", preemptions: [2, 3], run: somebody_else_looks },
    Case { name: "a repairer dies", preemptions: [1, 2], run: a_repairer_dies },
    Case { name: "a waiter gives up or dies", preemptions: [2, 3], run: a_waiter_leaves },
    Case { name: "an asker dies, and others only try", preemptions: [2, 3], run: an_asker_dies },
    Case { name: "an owner forgets", preemptions: [2, 3], run: an_owner_forgets },
];

const READERS: [Case; 5] = [
    Case { name: "a reader and a writer", preemptions: [2, 3], run: a_reader_and_a_writer },
    Case { name: "a reader dies", preemptions: [2, 3], run: a_reader_dies },
    Case {
        name: "somebody else takes a dead reader back",
        preemptions: [2, 3],
        run: somebody_else_takes_back,
    },
    Case { name: "a writer dies", preemptions: [2, 3], run: a_writer_dies },
    Case { name: "a reader forgets", preemptions: [2, 3], run: a_reader_forgets },
];

const OTHERS: [Case; 2] = [
    Case { name: "one permit, whose holder dies", preemptions: [1, 2], run: one_permit },
    Case { name: "a condition, whose notifier dies", preemptions: [2, 3], run: a_condition },
];

#[rstest::rstest]
fn one_at_a_time_and_nobody_in_silence(#[values(0, 1, 2, 3, 4, 5, 6)] case: usize) {
    LOCKS[case].check("lock");
}

#[rstest::rstest]
fn readers_or_a_writer(#[values(0, 1, 2, 3, 4)] case: usize) {
    READERS[case].check("rwlock");
}

#[rstest::rstest]
fn permits_and_conditions(#[values(0, 1)] case: usize) {
    OTHERS[case].check(["semaphore", "condvar"][case]);
}

#[test]
fn every_ordering_of_locks_is_needed() {
    // Of those that read a word without taking it, too.
    let cases = [&LOCKS[..], &READERS[3..4]].concat();
    every_ordering_is_needed("lock", &[("ring/lock.rs", include_str!("../lock.rs"))], &cases);
}

#[test]
fn every_ordering_of_readers_is_needed() {
    every_ordering_is_needed("rwlock", &[("ring/readers.rs", include_str!("../readers.rs"))], &READERS);
}

/// What the lock under them does for permits and conditions: without it, they fail.
#[rstest::rstest]
fn permits_and_conditions_need_the_lock(#[values(0, 1)] case: usize) {
    let of_lock = |offset: usize, _: Option<u64>| offset == 0;
    let weakenings = [("what was stored before", Half::Release), ("what is loaded after", Half::Acquire)]
        .map(|(name, half)| Weakening { name, half, is_meant: of_lock });
    let is_noticed =
        |weakening: &&Weakening| is_noticed(&OTHERS[case..=case], &Orderings::Weakened(**weakening));
    let noticed = weakenings.iter().filter(is_noticed).count();
    report_weakened(["semaphore", "condvar"][case], noticed, weakenings.len());
    assert_eq!(noticed, weakenings.len());
}

/// Larger: three who lock, read or acquire, over and over, one of whom dies.
#[test]
fn a_crowd_by_chance() {
    let schedules = if is_long_run() { 200_000 } else { 2_000 };
    let case = || {
        let words = words::<Shuttle>(&Orderings::AsWritten, 0);
        let accesses = Shuttle::any_below(40);
        let others = [2, 3].map(|id| {
            let words = words.clone();
            Shuttle::spawn(move || match id {
                2 => write(&words, 2, 3, FOREVER).0,
                _ => u64::from(read(&words, 3, 3, FOREVER)),
            })
        });
        let (had, died) = write(&words, 1, 3, accesses);
        let all = others.into_iter().map(Shuttle::join).sum::<u64>() + had;
        assert!(all <= 2 && (died || readers::reading(&words, &SHARES, 1).expect("sound").is_none()));
        [1, 2, 3].into_iter().for_each(|id| look_at(&words, &words, id));
        assert!(!matches!(lock::state(&words, LOCK), Ok(State::Held(_)) | Err(_)));
    };
    report("lock", "a crowd by chance", Shuttle::explore(schedules, case));
    let case = || {
        let words = words::<Shuttle>(&Orderings::AsWritten, 2);
        let accesses = Shuttle::any_below(60);
        let others = [2, 3].map(|id| {
            let words = words.clone();
            Shuttle::spawn(move || acquire(&words, id, 3, FOREVER))
        });
        acquire(&words, 1, 2, accesses);
        for other in others {
            Shuttle::join(other);
        }
        assert_all_permits(&words, 2);
    };
    report("semaphore", "a crowd by chance", Shuttle::explore(schedules, case));
}
