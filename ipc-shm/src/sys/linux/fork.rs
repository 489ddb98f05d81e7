//! What `fork(2)` must not break: `pthread_atfork(3)`.
//!
//! A forked child shares its parent's open file descriptions. If it inherited one that
//! holds a lock, it would keep its dead parent alive. So a description is opened, locked,
//! mapped with `MADV_DONTFORK` and closed within a [`Window`] that no fork can fall into;
//! what a child inherits afterwards is neither descriptor nor mapping. Its copies of the
//! parent's endpoints notice by the [`generation`] that they are not theirs.
//!
//! What can't do without its descriptor (a socket, whose hang-up says that we are gone) keeps
//! it [`Private`]: the handler in the child closes it there. No thread that forks waits while
//! something is closed that a peer has a say in: that happens outside of the lock, and what a
//! child that is made meanwhile has of it keeps nobody waiting.
//!
//! `posix_spawn` and `vfork` run no such handlers; there `O_CLOEXEC` ends the sharing at
//! `exec`, microseconds later.

use nix::libc;
use std::{
    cell::UnsafeCell,
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

/// How many forks lie between this process and the one that first used the crate.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// How many windows are open, and whether a thread forks or waits to. A lock by hand, because
/// the child must be able to release it without touching what other threads of the parent were
/// doing: a library's lock could have a queue of threads that the child doesn't have.
static STATE: AtomicU32 = AtomicU32::new(0);
/// No window opens any more: a thread forks when the last one has closed.
const FORKING: u32 = 1 << 31;

/// Changes with every fork; equal numbers mean the same process.
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// While it lives, no other thread forks. Windows don't keep one another waiting, but those of
/// a process that forks wait for it, and it for those that are open: so nothing that may take
/// long, such as a look at a disk or a wait for another process, is to happen within one.
#[must_use]
pub(crate) struct Window(());

impl Window {
    /// Opens one, when no thread forks or waits to.
    pub(crate) fn open() -> Self {
        static HANDLERS: Once = Once::new();
        HANDLERS.call_once(|| {
            // SAFETY: the handlers are functions of this program that take no locks but
            // `STATE` and that of `PRIVATE`, and allocate nothing.
            let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
            assert_eq!(failed, 0, "pthread_atfork: out of memory");
        });
        begin();
        Self(())
    }

    /// Closes it while something is done that may take long. Whoever does so has no descriptor
    /// of a description that carries a lock.
    pub(crate) fn pause<T>(&mut self, meanwhile: impl FnOnce() -> T) -> T {
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

/// That no window of this thread is open, where something may take long.
pub(crate) fn assert_no_window() {
    debug_assert_eq!(opened_here(0), 0, "what takes long keeps forks waiting");
}

/// Changes how many windows this thread has open, where that is checked, and says how many.
fn opened_here(change: i32) -> i32 {
    #[cfg(debug_assertions)]
    {
        thread_local!(static OPENED: std::cell::Cell<i32> = const { std::cell::Cell::new(0) });
        OPENED.set(OPENED.get() + change);
        OPENED.get()
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = change;
        0
    }
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

fn acquire(lock: &AtomicBool) {
    // Acquire and Release: what is done under the lock is in one order.
    patiently(|| lock.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok());
}

extern "C" fn before() {
    // Of several threads that fork, one after the other.
    patiently(|| STATE.fetch_or(FORKING, Ordering::Relaxed) & FORKING == 0);
    // Acquire: pairs with the Release of windows that close.
    patiently(|| STATE.load(Ordering::Acquire) == FORKING);
    acquire(&PRIVATE.locked);
}

extern "C" fn in_parent() {
    PRIVATE.locked.store(false, Ordering::Release);
    STATE.store(0, Ordering::Release);
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    PRIVATE.close_all();
    STATE.store(0, Ordering::Release);
}

/// The descriptors that a child is not to have, under a lock of their own, so that one can be
/// let go of within a window.
struct Descriptors {
    locked: AtomicBool,
    numbers: UnsafeCell<Vec<RawFd>>,
}

// SAFETY: the numbers are reached under the lock only.
unsafe impl Sync for Descriptors {}

static PRIVATE: Descriptors =
    Descriptors { locked: AtomicBool::new(false), numbers: UnsafeCell::new(Vec::new()) };

impl Descriptors {
    /// Changes what there is, while no thread forks.
    fn with(&self, change: impl FnOnce(&mut Vec<RawFd>)) {
        acquire(&self.locked);
        // SAFETY: under the lock, until the store below; `change` doesn't come here again.
        change(unsafe { &mut *self.numbers.get() });
        self.locked.store(false, Ordering::Release);
    }

    /// In a child, before anything else runs there, under the lock that was taken for it.
    fn close_all(&self) {
        // SAFETY: under the lock, and the child has this thread only.
        let numbers = unsafe { &mut *self.numbers.get() };
        for &number in numbers.iter() {
            // SAFETY: the copy of a descriptor that its owner, of another generation, won't use.
            unsafe { libc::close(number) };
        }
        // Numbers have no drop: nothing is freed here.
        numbers.clear();
        self.locked.store(false, Ordering::Release);
    }
}

/// A descriptor that no forked child has.
#[derive(Debug)]
pub(crate) struct Private {
    descriptor: ManuallyDrop<OwnedFd>,
    generation: u32,
}

impl Private {
    /// Keeps a descriptor that was made within this window.
    pub(crate) fn new(descriptor: OwnedFd, _window: &Window) -> Self {
        PRIVATE.with(|numbers| numbers.push(descriptor.as_raw_fd()));
        Self { descriptor: ManuallyDrop::new(descriptor), generation: generation() }
    }

    /// The descriptor, of which a child may have a copy from now on. None in a child itself, where
    /// it was closed.
    pub(crate) fn into_descriptor(self) -> Option<OwnedFd> {
        let mut this = ManuallyDrop::new(self);
        if !this.is_ours() {
            return None;
        }
        let number = this.descriptor.as_raw_fd();
        PRIVATE.with(|numbers| numbers.retain(|&other| other != number));
        // SAFETY: taken once: `this` is neither used nor dropped after that.
        Some(unsafe { ManuallyDrop::take(&mut this.descriptor) })
    }

    /// Whether this process is the one that has the descriptor.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.generation == generation()
    }
}

impl AsFd for Private {
    /// For [its own](Self::is_ours) process: in a child, it is closed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// For what is closed at once, as memory is.
impl Drop for Private {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        let number = self.descriptor.as_raw_fd();
        PRIVATE.with(|numbers| {
            numbers.retain(|&other| other != number);
            // SAFETY: dropped here only, and `self` isn't used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.descriptor) };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channel, ChannelName, Receiver, RecvError, ShmConfig, Spsc, Transport};
    use std::{
        env, fs, process,
        sync::{Barrier, Mutex, mpsc},
    };

    const PATIENCE: Duration = Duration::from_secs(20);
    /// Who forks waits for open windows, and new ones for who forks.
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());

    /// Comes and goes, and waits for long enough to look whether its peer is dead.
    fn use_a_channel() {
        let directory = env::temp_dir().join(format!("ipc-shm-window-{}", process::id()));
        fs::create_dir(&directory).unwrap();
        let (shm, name) = (Spsc::at(&directory), ChannelName::new("x").unwrap());
        let channel = shm.create(&name, &ShmConfig::new()).unwrap();
        let (sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        let answer = receiver.recv_timeout(Duration::from_millis(300)).map(drop);
        assert!(matches!(answer, Err(RecvError::TimedOut)), "{answer:?}");
        drop((sender, receiver, channel));
        shm.remove(&name).unwrap();
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_window_keeps_no_other_thread_from_what_it_does() {
        let _alone = ONE_BY_ONE.lock();
        thread::scope(|scope| {
            let (opened, is_open) = mpsc::channel();
            let (close, told) = mpsc::channel::<()>();
            scope.spawn(move || {
                let _window = Window::open();
                opened.send(()).unwrap();
                let _ = told.recv();
            });
            is_open.recv().unwrap();
            let (done, is_done) = mpsc::channel();
            scope.spawn(move || {
                use_a_channel();
                done.send(()).unwrap();
            });
            let answer = is_done.recv_timeout(PATIENCE);
            drop(close);
            answer.expect("it is kept waiting by another thread's window");
        });
    }

    #[test]
    fn a_fork_gets_its_turn_among_windows_and_falls_into_none() {
        const WINDOWS: u32 = 2000;
        const FORKS: usize = 20;
        static OPEN: AtomicU32 = AtomicU32::new(0);
        let _alone = ONE_BY_ONE.lock();
        // The first one sees to it that forks are noticed.
        drop(Window::open());
        let together = Barrier::new(3);
        let is_over = AtomicBool::new(false);
        let mut seen = Vec::new();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    together.wait();
                    while !is_over.load(Ordering::Relaxed) {
                        let _window = Window::open();
                        OPEN.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        OPEN.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            together.wait();
            for _ in 0..FORKS {
                let before = generation();
                // SAFETY: the child makes no call but to end itself, and touches its own numbers.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let mut is_well = OPEN.load(Ordering::SeqCst) == 0 && generation() == before + 1;
                    // Nobody else's windows keep it from its own.
                    for _ in 0..WINDOWS {
                        drop(Window::open());
                        is_well &= STATE.load(Ordering::Relaxed) == 0;
                    }
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(i32::from(!is_well)) };
                }
                let mut status = 0;
                // SAFETY: our own child, if there is one, and a place for its status.
                let ended = if child > 0 { unsafe { libc::waitpid(child, &raw mut status, 0) } } else { 0 };
                seen.push((child > 0 && ended == child, status, generation() - before));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(seen, [(true, 0, 0); FORKS], "a window was open, or the child's own don't open");
    }
}
