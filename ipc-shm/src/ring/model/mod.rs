//! The rings under model checkers: `loom` runs all schedules of small cases, with every
//! value that the orderings allow a load to see; `shuttle` runs schedules of larger ones.
//!
//! The words of a ring are the checker's atomics; payloads are its plain memory, where it
//! fails if a conflicting access is neither before nor after. Death is an endpoint that
//! stops at its k-th access without running anything more, for every k that there is; what
//! the kernel knows of it is a lock that is free from then on, and orders.
//!
//! Each ordering is also taken away in turn, and some case must fail: what none notices is
//! not needed. Which there are is found by running: an access knows where in the source it
//! was asked for. (Or a kind says by classes of words which are its own: [`Weakening`].)
//!
//! With `IPC_SHM_LONG_RUN` set, more is explored (`cargo xtask model`). Each test prints
//! what it has explored, in lines that start with `model`.

mod broadcast;
mod checker;
mod latest;
mod lock;
mod mpmc;
mod rpc;
mod spsc;

use super::memory::Memory;
use checker::{Checker, Loom};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Whether there is time.
fn is_long_run() -> bool {
    std::env::var_os("IPC_SHM_LONG_RUN").is_some()
}

/// Says how much of a case was explored, in words that `cargo xtask model` understands.
/// How long an exploration may take when there is time; all it needs if nothing is said.
fn time_limit() -> Option<Duration> {
    let seconds = std::env::var("IPC_SHM_EXPLORE_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().expect("a number of seconds")))
}

fn report(model: &str, case: &str, schedules: usize) {
    println!("model {model}: {case}: {schedules} schedules");
}

/// What is taken away of an ordering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    Acquire,
    Release,
    /// The Acquire of a compare-and-swap that fails.
    FailureAcquire,
    /// What a fence has beyond both, in one order for all.
    Total,
}

/// An ordering, by the place in the source where it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Site {
    file: &'static str,
    line: u32,
    column: u32,
    half: Half,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{} {:?}", self.file, self.line, self.column, self.half)
    }
}

/// An ordering, by what it is for: a half to take away from some words' accesses.
#[derive(Clone, Copy, Debug)]
struct Weakening {
    name: &'static str,
    half: Half,
    /// Whether it is meant, by the word's offset and the value that is stored, if one is.
    is_meant: fn(usize, Option<u64>) -> bool,
}

/// The orderings under which a case runs.
#[derive(Clone)]
enum Orderings {
    AsWritten,
    /// As written, and each is put down here.
    Recorded(Arc<Mutex<BTreeSet<Site>>>),
    /// All but this one.
    Without(Site),
    /// All but these.
    Weakened(Weakening),
}

/// An access for which an ordering is asked.
#[derive(Clone, Copy)]
struct Access {
    place: &'static Location<'static>,
    offset: usize,
    stored: Option<u64>,
}

impl Orderings {
    /// What comes of an ordering.
    fn apply(&self, access: Access, order: Ordering) -> Ordering {
        let acquires = matches!(order, Ordering::Acquire | Ordering::AcqRel);
        let releases = matches!(order, Ordering::Release | Ordering::AcqRel);
        assert!(order != Ordering::SeqCst, "an ordering that the checker doesn't know");
        let acquires = acquires && self.keeps(access, Half::Acquire);
        let releases = releases && self.keeps(access, Half::Release);
        match (acquires, releases) {
            (false, false) => Ordering::Relaxed,
            (true, false) => Ordering::Acquire,
            (false, true) => Ordering::Release,
            (true, true) => Ordering::AcqRel,
        }
    }

    /// The ordering of a compare-and-swap that fails.
    fn apply_to_failure(&self, access: Access) -> Ordering {
        if self.keeps(access, Half::FailureAcquire) { Ordering::Acquire } else { Ordering::Relaxed }
    }

    /// What comes of a fence, if anything does.
    fn apply_to_fence(&self, place: &'static Location<'static>, order: Ordering) -> Option<Ordering> {
        let access = Access { place, offset: usize::MAX, stored: None };
        match order {
            Ordering::Acquire => self.keeps(access, Half::Acquire).then_some(order),
            Ordering::Release => self.keeps(access, Half::Release).then_some(order),
            Ordering::SeqCst if self.keeps(access, Half::Total) => Some(order),
            _ => Some(Ordering::AcqRel),
        }
    }

    fn keeps(&self, access: Access, half: Half) -> bool {
        let place = access.place;
        let site = Site { file: place.file(), line: place.line(), column: place.column(), half };
        match self {
            Self::AsWritten => true,
            Self::Recorded(sites) => {
                locked(sites).insert(site);
                true
            }
            Self::Without(missing) => *missing != site,
            Self::Weakened(weakening) => {
                weakening.half != half || !(weakening.is_meant)(access.offset, access.stored)
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shared words.
struct Words<C: Checker>(Arc<Shared<C>>);

struct Shared<C: Checker> {
    words: Vec<C::Word>,
    payloads: Vec<C::Payload>,
    orderings: Orderings,
}

impl<C: Checker> Clone for Words<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Checker> Words<C> {
    /// Words with these values.
    fn new(values: impl IntoIterator<Item = u64>, orderings: Orderings) -> Self {
        let words: Vec<_> = values.into_iter().map(C::word).collect();
        let payloads = words.iter().map(|_| C::payload()).collect();
        Self(Arc::new(Shared { words, payloads, orderings }))
    }

    /// The word at a byte offset, for what is no part of a ring.
    fn word(&self, offset: usize) -> &C::Word {
        &self.0.words[offset / 8]
    }

    fn write_payload(&self, offset: usize, value: u64) {
        C::write(&self.0.payloads[offset / 8], value);
    }

    fn read_payload(&self, offset: usize) -> u64 {
        C::read(&self.0.payloads[offset / 8])
    }
}

impl<C: Checker> Memory for Words<C> {
    #[track_caller]
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        let access = Access { place: Location::caller(), offset, stored: None };
        C::load(self.word(offset), self.0.orderings.apply(access, order))
    }

    #[track_caller]
    fn store(&self, offset: usize, value: u64, order: Ordering) {
        let access = Access { place: Location::caller(), offset, stored: Some(value) };
        C::store(self.word(offset), value, self.0.orderings.apply(access, order));
    }

    #[track_caller]
    fn compare_exchange(&self, offset: usize, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        let access = Access { place: Location::caller(), offset, stored: Some(new) };
        let orderings = &self.0.orderings;
        let success = orderings.apply(access, order);
        // Whoever asks for nothing relies on nothing when it fails, either.
        let failure = match order {
            Ordering::Relaxed => Ordering::Relaxed,
            _ => orderings.apply_to_failure(access),
        };
        C::compare_exchange(self.word(offset), current, new, success, failure)
    }

    #[track_caller]
    fn fetch_add(&self, offset: usize, value: u64, order: Ordering) -> u64 {
        let access = Access { place: Location::caller(), offset, stored: Some(value) };
        C::fetch_add(self.word(offset), value, self.0.orderings.apply(access, order))
    }

    #[track_caller]
    fn fence(&self, order: Ordering) {
        if let Some(order) = self.0.orderings.apply_to_fence(Location::caller(), order) {
            C::fence(order);
        }
    }
}

/// What an endpoint throws when its time has come.
struct Death;

/// The words as one endpoint sees them, until it dies at an access.
struct Mortal<C: Checker> {
    words: Words<C>,
    left: Arc<AtomicUsize>,
}

const FOREVER: usize = usize::MAX;

impl<C: Checker> Clone for Mortal<C> {
    fn clone(&self) -> Self {
        Self { words: self.words.clone(), left: Arc::clone(&self.left) }
    }
}

impl<C: Checker> Mortal<C> {
    fn new(words: &Words<C>, accesses: usize) -> Self {
        Self { words: words.clone(), left: Arc::new(AtomicUsize::new(accesses)) }
    }

    fn step(&self) {
        match self.left.load(Ordering::Relaxed) {
            FOREVER => {}
            0 => resume_unwind(Box::new(Death)),
            left => self.left.store(left - 1, Ordering::Relaxed),
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

impl<C: Checker> Memory for Mortal<C> {
    #[track_caller]
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        self.step();
        self.words.load(offset, order)
    }

    #[track_caller]
    fn store(&self, offset: usize, value: u64, order: Ordering) {
        self.step();
        self.words.store(offset, value, order);
    }

    #[track_caller]
    fn compare_exchange(&self, offset: usize, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        self.step();
        self.words.compare_exchange(offset, current, new, order)
    }

    #[track_caller]
    fn fetch_add(&self, offset: usize, value: u64, order: Ordering) -> u64 {
        self.step();
        self.words.fetch_add(offset, value, order)
    }

    #[track_caller]
    fn fence(&self, order: Ordering) {
        self.words.fence(order);
    }
}

/// Runs what may end in a death: whether it did.
fn dies(life: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(life)) {
        Ok(()) => false,
        Err(thrown) if thrown.is::<Death>() => true,
        Err(thrown) => resume_unwind(thrown),
    }
}

/// A case of a model: what is explored, and how far.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// How many unforced switches a schedule may have: usually, and if there is time.
    preemptions: [usize; 2],
    /// Runs one schedule, in which the victim, if the case has one, dies at the access of
    /// this number. Returns whether it did.
    run: fn(&Orderings, usize) -> bool,
}

impl Case {
    /// Runs all schedules, for every access that the victim may die at; returns how many.
    fn explore(&self, orderings: &Orderings, preemptions: usize) -> usize {
        self.explore_for(None, orderings, preemptions).0
    }

    /// The same for so long at most at each access; and whether those were all.
    fn explore_for(
        &self,
        limit: Option<Duration>,
        orderings: &Orderings,
        preemptions: usize,
    ) -> (usize, bool) {
        let (mut schedules, mut is_all) = (0, true);
        for accesses in 0.. {
            let died = Arc::new(AtomicBool::new(false));
            let (run, orderings, mark) = (self.run, orderings.clone(), Arc::clone(&died));
            let explored = Loom::explore_for(limit, preemptions, move || {
                if run(&orderings, accesses) {
                    mark.store(true, Ordering::Relaxed);
                }
            });
            schedules += explored.0;
            is_all &= explored.1;
            if !died.load(Ordering::Relaxed) {
                break;
            }
        }
        (schedules, is_all)
    }

    /// Runs the case with the orderings as they are written, and reports it.
    fn check(&self, model: &str) {
        if !is_long_run() {
            return report(model, self.name, self.reach(self.preemptions[0]).schedules);
        }
        let (schedules, is_all) = self.explore_for(time_limit(), &Orderings::AsWritten, self.preemptions[1]);
        let part = if is_all { "" } else { ", as far as it got" };
        report(model, &format!("{}{part}", self.name), schedules);
    }

    /// Runs the case with the orderings as they are written. Once in a process: the test that it
    /// holds and the test that it needs its orderings both ask.
    fn reach(&self, preemptions: usize) -> Arc<Reach> {
        type Known = BTreeMap<(&'static str, usize, usize), Arc<OnceLock<Arc<Reach>>>>;
        static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
        let key = (self.name, self.run as usize, preemptions);
        let reach = Arc::clone(locked(&KNOWN).entry(key).or_default());
        let reach = reach.get_or_init(|| {
            let sites = Arc::new(Mutex::new(BTreeSet::new()));
            let schedules = self.explore(&Orderings::Recorded(Arc::clone(&sites)), preemptions);
            let sites = locked(&sites).clone();
            Arc::new(Reach { schedules, sites })
        });
        Arc::clone(reach)
    }
}

/// What a case comes to: how many schedules there are, and the accesses they get to.
struct Reach {
    schedules: usize,
    sites: BTreeSet<Site>,
}

/// Whether some case fails with these orderings: few switches first, and cases in their
/// order, since most of what goes wrong goes wrong soon.
fn is_noticed(cases: &[Case], orderings: &Orderings) -> bool {
    let most = cases.iter().map(|case| case.preemptions[0]).max().unwrap_or(0);
    (0..=most).any(|preemptions| {
        cases.iter().filter(|case| preemptions <= case.preemptions[0]).any(|case| {
            let (case, orderings) = (*case, orderings.clone());
            catch_unwind(move || case.explore(&orderings, preemptions)).is_err()
        })
    })
}

/// Takes each ordering away in turn that is in one of `files`, the ring's sources and what is in
/// them: some case must fail.
fn every_ordering_is_needed(model: &str, files: &[(&str, &str)], cases: &[Case]) {
    // The last ones first: the tests that run beside this one begin with the first ones.
    let reaches = cases.iter().rev().map(|case| (*case, case.reach(case.preemptions[0])));
    let mut cases: Vec<(Case, Arc<Reach>)> = reaches.collect();
    // What is quickly explored is asked first.
    cases.sort_by_key(|(_, reach)| reach.schedules);
    let sites: BTreeSet<Site> = cases.iter().flat_map(|(_, reach)| &reach.sites).copied().collect();
    let mut asked = Vec::new();
    for (file, source) in files {
        let lines: Vec<&str> = source.lines().collect();
        // Where it is only asked whether a swap failed, what it found doesn't matter.
        let matters = |site: &&Site| {
            site.half != Half::FailureAcquire || !lines[site.line as usize - 1].contains(".is_ok()")
        };
        let there = sites.iter().filter(|site| site.file.ends_with(file)).filter(matters).copied();
        let there: Vec<Site> = there.collect();
        let reached: BTreeSet<u32> = there.iter().map(|site| site.line).collect();
        let written: BTreeSet<u32> = orderings_in(source).collect();
        assert_eq!(reached, written, "some lines of {file} with an ordering are not reached by any case");
        asked.extend(there);
    }
    let sites = asked;
    let (noticed, unnoticed): (Vec<Site>, Vec<Site>) = sites.iter().partition(|site| {
        // The others can't tell.
        let that_reach_it = cases.iter().filter(|(_, reach)| reach.sites.contains(site));
        let that_reach_it: Vec<Case> = that_reach_it.map(|(case, _)| *case).collect();
        is_noticed(&that_reach_it, &Orderings::Without(**site))
    });
    report_weakened(model, noticed.len(), sites.len());
    for site in &unnoticed {
        println!("nothing goes wrong without {site}");
    }
    assert!(unnoticed.is_empty(), "not needed, or no case for it: {} orderings", unnoticed.len());
}

/// The numbers of the lines of `source` that ask for an Acquire or a Release.
fn orderings_in(source: &str) -> impl Iterator<Item = u32> + '_ {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    // The compiler's fences are none of the processor's.
    let code = code.map(|code| code.replace("compiler_fence(", ""));
    (1..).zip(code).filter_map(|(number, code)| {
        let ends = [
            ", Acquire)",
            ", Release)",
            ", AcqRel)",
            "fence(Acquire)",
            "fence(Release)",
            "fence(SeqCst)",
            "fence_after_swap(SeqCst)",
        ];
        let asks = ends.iter().any(|end| code.contains(end));
        asks.then_some(number)
    })
}

/// Says how many of the orderings that were taken away were missed.
fn report_weakened(model: &str, noticed: usize, total: usize) {
    println!("model {model}: {noticed} of {total} weakened orderings noticed");
}
