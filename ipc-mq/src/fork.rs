//! What `fork(2)` must not break: `pthread_atfork(3)`.
//!
//! A forked child shares its parent's open file descriptions. With a socket it would keep a dead
//! parent's connections open, with a lock its role. So such a descriptor is [`Private`]: the
//! handler in the child closes it there, and no fork falls between the call that makes it and the
//! note of its number. The child's copies of the endpoints notice by the [`generation`] that they
//! are not theirs.
//!
//! `posix_spawn` and `vfork` run no such handlers; there `O_CLOEXEC` ends the sharing at
//! `exec`, microseconds later.

use nix::libc;
use std::{
    cell::UnsafeCell,
    mem::ManuallyDrop,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, RawFd},
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

/// How many forks lie between this process and the one that first used the crate.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Changes with every fork, from the first [`begin`] on; equal numbers mean the same process.
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// The same, for whoever is to notice forks that come.
pub(crate) fn begin() -> u32 {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        // SAFETY: the handlers are functions of this program that take no lock but that of the
        // descriptors and allocate nothing.
        let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        assert_eq!(failed, 0, "pthread_atfork: out of memory");
    });
    generation()
}

/// The descriptors that a child is not to have. Under a lock by hand, because the child must be able
/// to release it without touching what other threads of the parent were doing: a library's mutex
/// could have a queue of threads that the child doesn't have.
struct Descriptors {
    locked: AtomicBool,
    numbers: UnsafeCell<Vec<RawFd>>,
}

// SAFETY: the numbers are reached under the lock only.
unsafe impl Sync for Descriptors {}

static PRIVATE: Descriptors =
    Descriptors { locked: AtomicBool::new(false), numbers: UnsafeCell::new(Vec::new()) };

impl Descriptors {
    fn lock(&self) {
        // Acquire: pairs with the Release in `unlock`.
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            thread::yield_now();
        }
    }

    fn unlock(&self) {
        // Release: pairs with the Acquire in `lock`.
        self.locked.store(false, Ordering::Release);
    }

    /// Changes what there is, while no thread forks.
    fn with<T>(&self, change: impl FnOnce(&mut Vec<RawFd>) -> T) -> T {
        /// Gives it back even if a panic passes.
        struct Unlock<'a>(&'a Descriptors);
        impl Drop for Unlock<'_> {
            fn drop(&mut self) {
                self.0.unlock();
            }
        }
        self.lock();
        let _unlock = Unlock(self);
        // SAFETY: under the lock, until the end of this function; `change` doesn't come here again.
        change(unsafe { &mut *self.numbers.get() })
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
    }
}

extern "C" fn before() {
    PRIVATE.lock();
}

extern "C" fn in_parent() {
    PRIVATE.unlock();
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    PRIVATE.close_all();
    PRIVATE.unlock();
}

/// What has a descriptor that no forked child has. In a child it is not to be used, and dropping it
/// does nothing.
#[derive(Debug)]
pub(crate) struct Private<D> {
    owner: ManuallyDrop<D>,
    number: RawFd,
    generation: u32,
}

impl<D> Private<D> {
    /// Makes it while no thread forks; `number` is that of its descriptor. Neither may make another
    /// one meanwhile, nor drop one.
    pub(crate) fn make<E>(
        make: impl FnOnce() -> Result<D, E>,
        number: impl FnOnce(&D) -> RawFd,
    ) -> Result<Self, E> {
        begin();
        PRIVATE.with(|numbers| {
            let owner = make()?;
            let number = number(&owner);
            numbers.push(number);
            Ok(Self { owner: ManuallyDrop::new(owner), number, generation: generation() })
        })
    }

    /// What has the descriptor, which forked children will have as well from now on; `None` in a
    /// child.
    pub(crate) fn publish(self) -> Option<D> {
        let mut this = ManuallyDrop::new(self);
        if !this.is_ours() {
            return None;
        }
        PRIVATE.with(|numbers| numbers.retain(|&other| other != this.number));
        // SAFETY: taken once, since `this` is neither used nor dropped after that.
        Some(unsafe { ManuallyDrop::take(&mut this.owner) })
    }

    /// Whether this process is the one that has the descriptor.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.generation == generation()
    }
}

impl<D> Deref for Private<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.owner
    }
}

impl<D: AsFd> AsFd for Private<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.owner.as_fd()
    }
}

impl<D> Drop for Private<D> {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        // What takes long to close is published before: a fork waits for it, and all others.
        PRIVATE.with(|numbers| {
            numbers.retain(|&other| other != self.number);
            // SAFETY: dropped here only, and `self` isn't used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.owner) };
        });
    }
}
