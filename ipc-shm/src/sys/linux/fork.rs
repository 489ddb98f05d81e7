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
};

/// How many forks lie between this process and the one that first used the crate.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// Whether a window is open. A lock by hand, because the child must be able to release it
/// without touching what other threads of the parent were doing: a library's mutex could
/// have a queue of threads that the child doesn't have.
static OPEN: AtomicBool = AtomicBool::new(false);

/// Changes with every fork; equal numbers mean the same process.
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// While it lives, no other thread forks.
#[must_use]
pub(crate) struct Window(());

impl Window {
    /// Waits for the other windows of this process to close, and opens one.
    pub(crate) fn open() -> Self {
        static HANDLERS: Once = Once::new();
        HANDLERS.call_once(|| {
            // SAFETY: the handlers are functions of this program that take no locks but
            // `OPEN` and allocate nothing.
            let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
            assert_eq!(failed, 0, "pthread_atfork: out of memory");
        });
        acquire(&OPEN);
        Self(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        OPEN.store(false, Ordering::Release);
    }
}

fn acquire(lock: &AtomicBool) {
    // Acquire and Release: windows don't overlap in any thread's eyes.
    while lock.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        thread::yield_now();
    }
}

extern "C" fn before() {
    acquire(&OPEN);
    acquire(&PRIVATE.locked);
}

extern "C" fn in_parent() {
    PRIVATE.locked.store(false, Ordering::Release);
    OPEN.store(false, Ordering::Release);
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    PRIVATE.close_all();
    OPEN.store(false, Ordering::Release);
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
