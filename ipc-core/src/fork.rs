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
//! is not safe code. So a backend makes it, before it opens its first window. Nobody may wait for
//! another thread to make it, for the reason above: so it may be made more than once, by several
//! backends and by several threads of one, and the handlers then run more than once for a fork.
//! They take no locks but those of this module, and allocate nothing.
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
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// How many forks lie between this process and the one that first noticed any.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// How many windows are open, and whether a thread forks or waits to. A lock by hand, because
/// the child must be able to release it without touching what other threads of the parent were
/// doing: a library's lock could have a queue of threads that the child doesn't have.
static STATE: AtomicU32 = AtomicU32::new(0);
/// No window opens any more: a thread forks when the last one has closed.
const FORKING: u32 = 1 << 31;
/// Which thread forks, as it is called by [`this_thread`]; 0 is none.
static FORKER: AtomicUsize = AtomicUsize::new(0);
/// Of the handlers that ran before the fork, how many have no counterpart yet. The forking thread's.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Changes with every fork; equal numbers mean the same process.
#[inline]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
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
        begin();
        Self(())
    }

    /// Closes it while something is done that may take long. Whoever does so has no descriptor
    /// of a description that carries a lock.
    pub fn pause<T>(&mut self, meanwhile: impl FnOnce() -> T) -> T {
        struct Resume;
        impl Drop for Resume {
            fn drop(&mut self) {
                begin();
            }
        }
        end();
        let _resume = Resume;
        meanwhile()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        end();
    }
}

fn begin() {
    // A second one would wait for a fork that waits for the first.
    debug_assert_eq!(opened_here(0), 0, "a window within a window");
    patiently(|| enter(&STATE));
    opened_here(1);
}

fn end() {
    opened_here(-1);
    // Release: pairs with the Acquire of who forks.
    STATE.fetch_sub(1, Ordering::Release);
}

/// In debug builds, panics if a window of this thread is open: for places that may take long.
#[inline]
pub fn assert_no_window() {
    debug_assert_eq!(opened_here(0), 0, "what takes long keeps forks waiting");
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

/// One more window, unless a thread forks or waits to.
fn enter(state: &AtomicU32) -> bool {
    let open = state.load(Ordering::Relaxed);
    // Acquire: pairs with the Release of who has forked.
    open & FORKING == 0
        && state.compare_exchange(open, open + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
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

/// The handler before a fork: waits until no window is open, and keeps new ones from opening.
pub fn before() {
    let me = this_thread();
    if FORKER.load(Ordering::Relaxed) == me {
        DEPTH.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // Of several threads that fork, one after the other.
    patiently(|| STATE.fetch_or(FORKING, Ordering::Relaxed) & FORKING == 0);
    // Acquire: pairs with the Release of windows that close.
    patiently(|| STATE.load(Ordering::Acquire) == FORKING);
    PRIVATE.lock();
    FORKER.store(me, Ordering::Relaxed);
    DEPTH.store(1, Ordering::Relaxed);
}

/// Whether this is the last of the handlers after a fork.
fn is_last() -> bool {
    let is_last = DEPTH.fetch_sub(1, Ordering::Relaxed) == 1;
    if is_last {
        FORKER.store(0, Ordering::Relaxed);
    }
    is_last
}

fn release() {
    PRIVATE.unlock();
    // Release: pairs with the Acquire of who opens a window.
    STATE.store(0, Ordering::Release);
}

/// The handler after a fork, in the parent.
pub fn in_parent() {
    if is_last() {
        release();
    }
}

/// The handler after a fork, in the child: `close` is `close(2)`, given the number of each
/// descriptor that it is not to have.
pub fn in_child(close: impl FnMut(RawFd)) {
    if is_last() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
        PRIVATE.forget_all(close);
        release();
    }
}

/// The descriptors that a child is not to have, under a lock of their own, so that one can be
/// let go of within a window.
struct Descriptors {
    locked: AtomicBool,
    /// Reached under that lock only, so that nobody ever waits for this one.
    numbers: Mutex<Vec<RawFd>>,
}

static PRIVATE: Descriptors = Descriptors { locked: AtomicBool::new(false), numbers: Mutex::new(Vec::new()) };

impl Descriptors {
    fn lock(&self) {
        // Acquire: pairs with the Release in `unlock`.
        patiently(|| {
            self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
    }

    fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
    }

    fn numbers(&self) -> MutexGuard<'_, Vec<RawFd>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what there is, while no thread forks.
    fn with(&self, change: impl FnOnce(&mut Vec<RawFd>)) {
        /// Gives it back even if a panic passes.
        struct Unlock<'a>(&'a Descriptors);
        impl Drop for Unlock<'_> {
            fn drop(&mut self) {
                self.0.unlock();
            }
        }
        self.lock();
        let _unlock = Unlock(self);
        change(&mut self.numbers());
    }

    /// In a child, before anything else runs there, under the lock that was taken for it.
    fn forget_all(&self, close: impl FnMut(RawFd)) {
        // Numbers have no drop: nothing is freed here.
        self.numbers().drain(..).for_each(close);
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
        PRIVATE.with(|numbers| numbers.push(number));
        Self { owner: Some(owner), number, generation: generation() }
    }

    /// What has the descriptor, of which a child may have a copy from now on; `None` in a child
    /// itself, where it was closed.
    pub fn publish(mut self) -> Option<D> {
        if !self.is_ours() {
            return None;
        }
        PRIVATE.with(|numbers| numbers.retain(|&other| other != self.number));
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
        PRIVATE.with(|numbers| {
            numbers.retain(|&other| other != self.number);
            drop(owner);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{PRIVATE, Private, STATE, Window, before, generation, in_child, in_parent};
    use rstest::rstest;
    use std::{
        io::{ErrorKind, Read},
        os::{fd::AsRawFd, unix::net::UnixStream},
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        thread,
        time::Duration,
    };

    /// Forks that aren't any wait for each other's windows all the same.
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());
    /// Long enough for what isn't kept from it.
    const A_WHILE: Duration = Duration::from_millis(30);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn child() {
        in_child(|_| {});
    }

    #[rstest]
    #[case::once(1)]
    #[case::by_two_backends_or_threads(2)]
    #[case::again(5)]
    fn handlers_may_have_been_registered_more_than_once(
        #[case] registrations: u32,
        #[values((in_parent as fn(), 0), (child as fn(), 1))] (after, new_generations): (fn(), u32),
    ) {
        let _alone = ONE_BY_ONE.lock();
        let generation_before = generation();
        (0..registrations).for_each(|_| before());
        (1..registrations).for_each(|_| after());
        let (opened, is_open) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                drop(Window::open());
                opened.send(()).unwrap();
            });
            is_open.recv_timeout(A_WHILE).expect_err("a window opens before the last handler has run");
            after();
            is_open.recv_timeout(PATIENCE).expect("no window opens any more");
        });
        assert_eq!(generation() - generation_before, new_generations);
        assert!(!PRIVATE.locked.load(Ordering::Relaxed));
    }

    #[test]
    fn a_fork_waits_for_open_windows_and_for_another_fork() {
        let _alone = ONE_BY_ONE.lock();
        let (forked, has_forked) = mpsc::channel();
        let window = Window::open();
        thread::scope(|scope| {
            for _ in 0..2 {
                let forked = forked.clone();
                scope.spawn(move || {
                    static FORKS: AtomicBool = AtomicBool::new(false);
                    before();
                    assert!(!FORKS.swap(true, Ordering::Relaxed), "two threads fork at once");
                    thread::sleep(Duration::from_millis(1));
                    FORKS.store(false, Ordering::Relaxed);
                    in_parent();
                    forked.send(()).unwrap();
                });
            }
            has_forked.recv_timeout(A_WHILE).expect_err("it forks within a window");
            drop(window);
            for _ in 0..2 {
                has_forked.recv_timeout(PATIENCE).expect("it never forks");
            }
        });
    }

    #[test]
    fn while_a_window_is_paused_forks_fall_into_it() {
        let _alone = ONE_BY_ONE.lock();
        let mut window = Window::open();
        let fork = || {
            before();
            in_parent();
        };
        window.pause(|| thread::scope(|scope| scope.spawn(fork).join().unwrap()));
        assert_eq!(STATE.load(Ordering::Relaxed), 1);
    }

    /// Whether the other end of this stream is closed.
    fn is_closed(mut stream: &UnixStream) -> bool {
        stream.set_nonblocking(true).unwrap();
        match stream.read(&mut [0]) {
            Ok(0) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            other => panic!("{other:?}"),
        }
    }

    fn private() -> (Private<UnixStream>, UnixStream) {
        let window = Window::open();
        let (ours, other_end) = UnixStream::pair().unwrap();
        let number = ours.as_raw_fd();
        (Private::new(ours, number, &window), other_end)
    }

    #[test]
    fn a_child_closes_what_is_private_and_leaves_what_was_published_or_dropped() {
        let _alone = ONE_BY_ONE.lock();
        let (kept, other_end) = private();
        let (published, other_published) = private();
        let (dropped, other_dropped) = private();
        let published = published.publish().unwrap();
        drop(dropped);
        assert!(is_closed(&other_dropped) && !is_closed(&other_published) && !is_closed(&other_end));
        let mut closed = Vec::with_capacity(8);
        before();
        in_child(|number| closed.push(number));
        assert_eq!(closed, [kept.number]);
        assert!(!kept.is_ours());
        // The number is nobody's business any more: it may be another's.
        let number = kept.number;
        drop(kept);
        assert!(!is_closed(&other_end), "a child closed what wasn't its own: {number}");
        assert!(!is_closed(&other_published));
        drop(published);
        let (copy, other_copy) = private();
        before();
        in_child(|_| {});
        assert!(copy.publish().is_none());
        assert!(!is_closed(&other_copy));
    }
}
