//! What a model runs on: the atomics, threads and schedules of a checker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A model checker.
pub(super) trait Checker: Sized + Send + Sync + 'static {
    /// An atomic word.
    type Word: Send + Sync;
    /// Plain memory that holds a number; the checker fails where two meet in it.
    type Payload: Send + Sync;
    type Thread<T: Send + 'static>;

    fn word(value: u64) -> Self::Word;
    fn load(word: &Self::Word, order: Ordering) -> u64;
    fn store(word: &Self::Word, value: u64, order: Ordering);
    fn compare_exchange(
        word: &Self::Word,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;
    fn fetch_add(word: &Self::Word, value: u64, order: Ordering) -> u64;
    fn fence(order: Ordering);

    fn payload() -> Self::Payload;
    fn write(payload: &Self::Payload, value: u64);
    fn read(payload: &Self::Payload) -> u64;

    fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Self::Thread<T>;
    fn join<T: Send + 'static>(thread: Self::Thread<T>) -> T;
    /// Lets others go on, where a thread waits for what they do.
    fn yield_now();
}

/// `loom`: all schedules, and every value that the orderings allow a load to see.
pub(super) struct Loom;

/// Plain memory whose accesses `loom` checks for being ordered.
pub(super) struct LoomPayload(loom::cell::UnsafeCell<u64>);

// SAFETY: `loom` runs one thread at a time, and fails the test if the algorithm under it
// would let two meet in a cell.
unsafe impl Sync for LoomPayload {}

/// A word, and a second one that is stored to before each load.
///
/// `loom` finds what else to run by who has accessed a word last, and keeps one such access:
/// a thread's own load hides that of another thread from the compare-and-swap that follows,
/// and the schedules in which it goes first are never run. The second word has `loom` try the
/// loads in either order too, and what is hidden one way isn't the other. It orders nothing.
/// Whatever changes the word conflicts with all accesses anyway.
pub(super) struct LoomWord {
    word: loom::sync::atomic::AtomicU64,
    loaded: loom::sync::atomic::AtomicU64,
}

impl Checker for Loom {
    type Word = LoomWord;
    type Payload = LoomPayload;
    type Thread<T: Send + 'static> = loom::thread::JoinHandle<T>;

    fn word(value: u64) -> LoomWord {
        let [word, loaded] = [value, 0].map(loom::sync::atomic::AtomicU64::new);
        LoomWord { word, loaded }
    }

    fn load(word: &LoomWord, order: Ordering) -> u64 {
        word.loaded.store(0, Ordering::Relaxed);
        word.word.load(order)
    }

    fn store(word: &LoomWord, value: u64, order: Ordering) {
        word.word.store(value, order);
    }

    fn compare_exchange(
        word: &LoomWord,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        word.word.compare_exchange(current, new, success, failure)
    }

    fn fetch_add(word: &LoomWord, value: u64, order: Ordering) -> u64 {
        word.word.fetch_add(value, order)
    }

    #[track_caller]
    fn fence(order: Ordering) {
        loom::sync::atomic::fence(order);
    }

    fn payload() -> LoomPayload {
        LoomPayload(loom::cell::UnsafeCell::new(0))
    }

    fn write(payload: &LoomPayload, value: u64) {
        // SAFETY: nobody else is here now, see `LoomPayload`.
        payload.0.with_mut(|payload| unsafe { *payload = value });
    }

    fn read(payload: &LoomPayload) -> u64 {
        // SAFETY: as in `write`.
        payload.0.with(|payload| unsafe { *payload })
    }

    fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Self::Thread<T> {
        loom::thread::spawn(run)
    }

    fn join<T: Send + 'static>(thread: Self::Thread<T>) -> T {
        thread.join().expect("no panic")
    }

    fn yield_now() {
        loom::thread::yield_now();
    }
}

impl Loom {
    /// Runs all schedules with at most `preemptions` unforced switches; returns how many.
    pub(super) fn explore(preemptions: usize, case: impl Fn() + Send + Sync + 'static) -> usize {
        Self::explore_for(None, preemptions, case).0
    }

    /// The same for so long at most; and whether those were all.
    pub(super) fn explore_for(
        limit: Option<Duration>,
        preemptions: usize,
        case: impl Fn() + Send + Sync + 'static,
    ) -> (usize, bool) {
        let started = Instant::now();
        let runs = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&runs);
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(preemptions);
        model.max_branches = 10_000;
        model.max_duration = limit;
        // So often the time is looked at.
        model.checkpoint_interval = 100;
        model.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            case();
        });
        let is_all = limit.is_none_or(|limit| started.elapsed() < limit);
        (runs.load(Ordering::Relaxed), is_all)
    }
}

/// `shuttle`: schedules by chance, of cases too large to run all of theirs. Its atomics are
/// sequentially consistent, whatever ordering is asked for.
pub(super) struct Shuttle;

impl Checker for Shuttle {
    type Word = shuttle::sync::atomic::AtomicU64;
    /// The number twice, so that it can be caught half written.
    type Payload = [shuttle::sync::atomic::AtomicU64; 2];
    type Thread<T: Send + 'static> = shuttle::thread::JoinHandle<T>;

    fn word(value: u64) -> Self::Word {
        Self::Word::new(value)
    }

    fn load(word: &Self::Word, order: Ordering) -> u64 {
        word.load(order)
    }

    fn store(word: &Self::Word, value: u64, order: Ordering) {
        word.store(value, order);
    }

    fn compare_exchange(
        word: &Self::Word,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        word.compare_exchange(current, new, success, failure)
    }

    fn fetch_add(word: &Self::Word, value: u64, order: Ordering) -> u64 {
        word.fetch_add(value, order)
    }

    fn fence(order: Ordering) {
        shuttle::sync::atomic::fence(order);
    }

    fn payload() -> Self::Payload {
        [Self::word(0), Self::word(0)]
    }

    fn write(payload: &Self::Payload, value: u64) {
        payload.iter().for_each(|half| half.store(value, Ordering::SeqCst));
    }

    fn read(payload: &Self::Payload) -> u64 {
        let [one, other] = payload.each_ref().map(|half| half.load(Ordering::SeqCst));
        assert_eq!(one, other, "a torn payload");
        one
    }

    fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Self::Thread<T> {
        shuttle::thread::spawn(run)
    }

    fn join<T: Send + 'static>(thread: Self::Thread<T>) -> T {
        thread.join().expect("no panic")
    }

    fn yield_now() {
        shuttle::thread::yield_now();
    }
}

impl Shuttle {
    /// Runs `schedules` schedules by pure chance and as many by PCT: threads in an order of
    /// priority that changes at three points (Burckhardt et al., "A randomized scheduler
    /// with probabilistic guarantees of finding bugs"). Returns how many.
    pub(super) fn explore(schedules: usize, case: impl Fn() + Clone + Send + Sync + 'static) -> usize {
        use shuttle::scheduler::{PctScheduler, RandomScheduler};
        let mut config = shuttle::Config::new();
        config.failure_persistence = shuttle::FailurePersistence::Print;
        let by_chance = RandomScheduler::new(schedules);
        let by_priority = PctScheduler::new(3, schedules);
        shuttle::Runner::new(by_chance, config.clone()).run(case.clone())
            + shuttle::Runner::new(by_priority, config).run(case)
    }

    /// A number below `limit`, of the schedule's own.
    pub(super) fn any_below(limit: usize) -> usize {
        use shuttle::rand::Rng;
        shuttle::rand::thread_rng().gen_range(0..limit)
    }
}
