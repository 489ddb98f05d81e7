//! What `fork(2)` must not break, for backends.
//!
//! A forked child has its parent's open file descriptions and the locks of its parent's threads,
//! but of the threads only the one that forked. With a lock on a file it would keep a dead parent
//! alive; and for what another thread of the parent was in the middle of, it would wait for ever.
//! So neither is at a moment at which somebody forks:
//!
//! - What may not be torn happens within a [`Window`], which no fork falls into.
//! - A descriptor that no child is to have is [`Private`]: it is closed in the child.
//! - Copies of a parent's objects notice by the [`generation`] that they are not theirs.
//!
//! The handlers ([`before`], [`in_parent`], [`in_child`]) are for `pthread_atfork(3)`, a call that
//! is not safe code. So a backend makes it, by [`notice`], before it opens its first window. Nobody
//! may wait for another thread to make it, for the reason above: so it may be made more than once,
//! and the handlers then run more than once for a fork. They take no locks but those of this
//! module, and allocate nothing.
//!
//! Other handlers of the program's run between these. One of them may open windows and drop what
//! is private; it mustn't wait for a lock whose owner may be about to open one.
//!
//! `posix_spawn` and `vfork` run no such handlers; there `O_CLOEXEC` ends the sharing at `exec`,
//! microseconds later.

use std::{
    cell::Cell,
    mem,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, RawFd},
    ptr,
    sync::{
        Mutex, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

static FORKS: Forks = Forks::new();

/// Changes with every fork that is noticed; equal numbers mean the same process.
#[inline]
pub fn generation() -> u32 {
    FORKS.generation.load(Ordering::Relaxed)
}

/// Has the handlers registered, by `register`, if nobody has yet; the [`generation`].
pub fn notice(register: impl FnOnce()) -> u32 {
    if !FORKS.are_noticed.load(Ordering::Relaxed) {
        register();
        FORKS.are_noticed.store(true, Ordering::Relaxed);
    }
    generation()
}

/// While it lives, no other thread forks. Windows don't keep one another waiting, but those of
/// a process that forks wait for it, and it for those that are open: so nothing that may take
/// long, such as a look at a disk or a wait for another process, is to happen within one, and no
/// thread opens a second one.
#[derive(Debug)]
#[must_use = "dropping it closes it"]
pub struct Window(());

impl Window {
    /// Opens one, when no thread forks or waits to.
    pub fn open() -> Self {
        FORKS.begin();
        Self(())
    }

    /// The same for what has no backend: where forks aren't noticed none can be kept from anything.
    pub(crate) fn open_if_noticed() -> Option<Self> {
        FORKS.are_noticed.load(Ordering::Relaxed).then(Self::open)
    }

    /// Closes it while something is done that may take long. Whoever does so has no descriptor
    /// of a description that carries a lock.
    pub fn pause<T>(&mut self, meanwhile: impl FnOnce() -> T) -> T {
        struct Resume;
        impl Drop for Resume {
            fn drop(&mut self) {
                FORKS.begin();
            }
        }
        FORKS.end();
        let _resume = Resume;
        meanwhile()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        FORKS.end();
    }
}

/// In debug builds, panics if a window of this thread is open: for places that may take long.
#[inline]
pub fn assert_no_window() {
    debug_assert_eq!(opened_here(0), 0, "what takes long keeps forks waiting");
}

/// The handler before a fork: waits until no window is open, and keeps new ones from opening.
pub fn before() {
    FORKS.before();
}

/// The handler after a fork, in the parent.
pub fn in_parent() {
    FORKS.in_parent();
}

/// The handler after a fork, in the child: `close` is `close(2)`, given the number of each
/// descriptor that it is not to have.
pub fn in_child(close: impl FnMut(RawFd)) {
    FORKS.in_child(close);
}

/// What a process knows of its forks.
struct Forks {
    are_noticed: AtomicBool,
    /// How many lie between this process and the one that first noticed any.
    generation: AtomicU32,
    /// How many windows are open, and whether a thread forks or waits to. A lock by hand, because
    /// the child must be able to release it without touching what other threads of the parent were
    /// doing: a library's lock could have a queue of threads that the child doesn't have.
    state: AtomicU32,
    /// Which thread forks, as it is called by [`this_thread`]; 0 is none.
    forker: AtomicUsize,
    /// Of the handlers that ran before the fork, how many have no counterpart yet. The forker's.
    depth: AtomicU32,
    /// Whether one of those has run in the child. The forker's.
    is_born: AtomicBool,
    private: Descriptors,
}

/// No window opens any more: a thread forks when the last one has closed.
const FORKING: u32 = 1 << 31;

impl Forks {
    const fn new() -> Self {
        Self {
            are_noticed: AtomicBool::new(false),
            generation: AtomicU32::new(0),
            state: AtomicU32::new(0),
            forker: AtomicUsize::new(0),
            depth: AtomicU32::new(0),
            is_born: AtomicBool::new(false),
            private: Descriptors::new(),
        }
    }

    /// Whether this thread is between the handlers: nobody else is at what it would wait for.
    fn is_forker(&self) -> bool {
        self.forker.load(Ordering::Relaxed) == this_thread()
    }

    fn begin(&self) {
        // A second one would wait for a fork that waits for the first.
        debug_assert_eq!(opened_here(0), 0, "a window within a window");
        opened_here(1);
        if !self.is_forker() {
            patiently(|| self.enter());
        }
    }

    fn end(&self) {
        opened_here(-1);
        if !self.is_forker() {
            // Release: pairs with the Acquire of who forks.
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// One more window, unless a thread forks or waits to.
    fn enter(&self) -> bool {
        let open = self.state.load(Ordering::Relaxed);
        // Acquire: pairs with the Release of who has forked.
        open & FORKING == 0
            && self.state.compare_exchange(open, open + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn before(&self) {
        if self.is_forker() {
            self.depth.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Of several threads that fork, one after the other.
        patiently(|| self.state.fetch_or(FORKING, Ordering::Relaxed) & FORKING == 0);
        // Acquire: pairs with the Release of windows that close.
        patiently(|| self.state.load(Ordering::Acquire) == FORKING);
        self.private.lock();
        self.forker.store(this_thread(), Ordering::Relaxed);
        self.depth.store(1, Ordering::Relaxed);
    }

    fn in_parent(&self) {
        // One that was registered during the fork has no counterpart.
        if self.is_forker() && self.is_last() {
            self.release();
        }
    }

    fn in_child(&self, close: impl FnMut(RawFd)) {
        let had_counterpart = self.is_forker();
        if !had_counterpart || !self.is_born.swap(true, Ordering::Relaxed) {
            self.generation.fetch_add(1, Ordering::Relaxed);
            self.private.forget_all(close);
        }
        if !had_counterpart || self.is_last() {
            self.is_born.store(false, Ordering::Relaxed);
            self.release();
        }
    }

    /// Whether this is the last of the handlers after a fork.
    fn is_last(&self) -> bool {
        self.depth.fetch_sub(1, Ordering::Relaxed) == 1
    }

    fn release(&self) {
        self.forker.store(0, Ordering::Relaxed);
        self.private.unlock();
        // Release: pairs with the Acquire of who opens a window.
        self.state.store(0, Ordering::Release);
    }

    /// Changes which descriptors are private, while no other thread forks.
    fn with_private(&self, change: impl FnOnce(&mut Vec<RawFd>)) {
        /// Gives it back even if a panic passes.
        struct Unlock<'a>(Option<&'a Descriptors>);
        impl Drop for Unlock<'_> {
            fn drop(&mut self) {
                if let Some(descriptors) = self.0 {
                    descriptors.unlock();
                }
            }
        }
        let is_forker = self.is_forker();
        if !is_forker {
            self.private.lock();
        }
        let _unlock = Unlock((!is_forker).then_some(&self.private));
        change(&mut self.private.numbers.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Changes how many windows this thread has open, where that is checked, and says how many.
fn opened_here(change: i32) -> i32 {
    thread_local!(static OPENED: Cell<i32> = const { Cell::new(0) });
    if cfg!(debug_assertions) {
        OPENED.set(OPENED.get() + change);
        return OPENED.get();
    }
    0
}

/// Tries until it can be done. What is waited for takes microseconds, unless it is slept on.
fn patiently(mut is_done: impl FnMut() -> bool) {
    const YIELDS: u32 = 100;
    let mut failed = 0;
    while !is_done() {
        failed += 1;
        match failed {
            ..YIELDS => thread::yield_now(),
            _ => thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// A number that no other thread has while this one lives; a child's only thread has that of
/// the one that forked.
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| ptr::from_ref(place).addr())
}

/// The descriptors that a child is not to have, under a lock of their own, so that one can be
/// let go of within a window.
struct Descriptors {
    locked: AtomicBool,
    /// Reached under that lock only, so that nobody ever waits for this one.
    numbers: Mutex<Vec<RawFd>>,
}

impl Descriptors {
    const fn new() -> Self {
        Self { locked: AtomicBool::new(false), numbers: Mutex::new(Vec::new()) }
    }

    fn lock(&self) {
        // Acquire: pairs with the Release in `unlock`.
        patiently(|| {
            self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
    }

    fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
    }

    /// In a child, before anything else runs there, under the lock that was taken for it.
    fn forget_all(&self, close: impl FnMut(RawFd)) {
        let mut numbers = match self.numbers.try_lock() {
            Ok(numbers) => numbers,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Only where nothing was locked for it.
            Err(TryLockError::WouldBlock) => return,
        };
        // Numbers have no drop: nothing is freed here.
        numbers.drain(..).for_each(close);
    }
}

/// What has a descriptor that no forked child has: it is closed there, and dropping this does
/// nothing. Close elsewhere what may take long to close ([`publish`](Self::publish)): forks wait for
/// it.
#[derive(Debug)]
pub struct Private<D> {
    /// Gone only while this is taken apart.
    owner: Option<D>,
    number: RawFd,
    generation: u32,
}

impl<D> Private<D> {
    /// Keeps what was made within this window; `number` is that of its descriptor.
    pub fn new(owner: D, number: RawFd, _window: &Window) -> Self {
        FORKS.with_private(|numbers| numbers.push(number));
        Self { owner: Some(owner), number, generation: generation() }
    }

    /// What has the descriptor, of which a child may have a copy from now on; `None` in a child
    /// itself, where it was closed.
    pub fn publish(mut self) -> Option<D> {
        if !self.is_ours() {
            return None;
        }
        FORKS.with_private(|numbers| numbers.retain(|&other| other != self.number));
        self.owner.take()
    }

    /// Whether this process is the one that has the descriptor.
    #[inline]
    pub fn is_ours(&self) -> bool {
        self.generation == generation()
    }
}

/// For [its own](Private::is_ours) process: in a child, the descriptor is closed.
impl<D> Deref for Private<D> {
    type Target = D;

    fn deref(&self) -> &D {
        self.owner.as_ref().unwrap_or_else(|| unreachable!("gone only while this is taken apart"))
    }
}

/// As above.
impl<D: AsFd> AsFd for Private<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

impl<D> Drop for Private<D> {
    fn drop(&mut self) {
        let Some(owner) = self.owner.take() else { return };
        if !self.is_ours() {
            // Its number may be something else's here by now.
            return mem::forget(owner);
        }
        FORKS.with_private(|numbers| {
            numbers.retain(|&other| other != self.number);
            drop(owner);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Forks;
    use rstest::rstest;
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        thread,
        time::Duration,
    };

    /// Long enough for what isn't kept from it.
    const A_WHILE: Duration = Duration::from_millis(30);
    const PATIENCE: Duration = Duration::from_secs(20);

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum After {
        Parent,
        Child,
    }

    impl After {
        fn run(self, forks: &Forks) {
            match self {
                Self::Parent => forks.in_parent(),
                Self::Child => forks.in_child(|_| {}),
            }
        }

        fn generations(self) -> u32 {
            u32::from(self == Self::Child)
        }
    }

    /// Whether another thread can open a window and close it.
    fn opens(forks: &Forks, patience: Duration, meanwhile: impl FnOnce()) -> bool {
        let (opened, is_open) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                forks.begin();
                forks.end();
                opened.send(()).unwrap();
            });
            let has_opened = is_open.recv_timeout(patience).is_ok();
            meanwhile();
            has_opened
        })
    }

    #[rstest]
    fn handlers_may_have_been_registered_more_than_once(
        #[values(1, 2, 5)] registrations: u32,
        #[values(After::Parent, After::Child)] after: After,
    ) {
        let forks = Forks::new();
        for round in 1..=3 {
            (0..registrations).for_each(|_| forks.before());
            (1..registrations).for_each(|_| after.run(&forks));
            assert!(!opens(&forks, A_WHILE, || after.run(&forks)), "before the last handler has run");
            assert!(opens(&forks, PATIENCE, || ()), "no window opens any more");
            assert_eq!(forks.generation.load(Ordering::Relaxed), round * after.generations());
        }
        assert!(!forks.private.locked.load(Ordering::Relaxed));
    }

    #[rstest]
    fn one_that_was_registered_during_a_fork_runs_after_it_alone(
        #[values(After::Parent, After::Child)] after: After,
        #[values(0, 1)] counterparts: u32,
    ) {
        let forks = Forks::new();
        (0..counterparts).for_each(|_| forks.before());
        (0..=counterparts).for_each(|_| after.run(&forks));
        assert!(opens(&forks, PATIENCE, || ()), "no window opens any more");
        let generation = forks.generation.load(Ordering::Relaxed);
        assert!(generation >= after.generations(), "the child takes itself for its parent");
        // The next one is as ever.
        forks.before();
        after.run(&forks);
        assert_eq!(forks.generation.load(Ordering::Relaxed), generation + after.generations());
        assert!(opens(&forks, PATIENCE, || ()), "no window opens any more");
    }

    #[test]
    fn a_child_finds_no_window_open_that_none_of_its_threads_will_close() {
        let forks = Forks::new();
        // Nobody has noticed the fork that falls into it but a handler that came too late.
        forks.begin();
        thread::scope(|scope| scope.spawn(|| forks.in_child(|_| {})).join().unwrap());
        thread::scope(|scope| {
            let (forked, has_forked) = mpsc::channel();
            let forks = &forks;
            scope.spawn(move || {
                forks.before();
                forks.in_parent();
                forked.send(()).unwrap();
            });
            has_forked.recv_timeout(PATIENCE).expect("it can't fork any more");
        });
    }

    #[rstest]
    fn handlers_of_others_may_use_windows_and_let_go_of_what_is_private(
        #[values(After::Parent, After::Child)] after: After,
    ) {
        let forks = Forks::new();
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            let forks = &forks;
            scope.spawn(move || {
                let others = || {
                    forks.begin();
                    forks.end();
                    forks.with_private(|numbers| numbers.retain(|&number| number != 7));
                };
                (0..2).for_each(|_| forks.before());
                others();
                after.run(forks);
                assert_eq!(forks.generation.load(Ordering::Relaxed), after.generations());
                others();
                after.run(forks);
                done.send(()).unwrap();
            });
            is_done.recv_timeout(PATIENCE).expect("it waits for itself");
        });
        assert_eq!(forks.state.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_fork_waits_for_open_windows_and_for_another_fork() {
        let forks = &Forks::new();
        let (forked, has_forked) = mpsc::channel();
        forks.begin();
        thread::scope(|scope| {
            for _ in 0..2 {
                let forked = forked.clone();
                scope.spawn(move || {
                    static FORKS: AtomicBool = AtomicBool::new(false);
                    forks.before();
                    assert!(!FORKS.swap(true, Ordering::Relaxed), "two threads fork at once");
                    thread::sleep(Duration::from_millis(1));
                    FORKS.store(false, Ordering::Relaxed);
                    forks.in_parent();
                    forked.send(()).unwrap();
                });
            }
            has_forked.recv_timeout(A_WHILE).expect_err("it forks within a window");
            forks.end();
            for _ in 0..2 {
                has_forked.recv_timeout(PATIENCE).expect("it never forks");
            }
        });
    }

    #[test]
    fn a_child_closes_what_is_private_and_no_more() {
        let forks = Forks::new();
        forks.with_private(|numbers| numbers.extend([7, 8, 9]));
        forks.with_private(|numbers| numbers.retain(|&number| number != 8));
        let mut closed = Vec::new();
        for _ in 0..2 {
            forks.before();
            forks.in_child(|number| closed.push(number));
        }
        assert_eq!(closed, [7, 9], "each once");
    }
}
