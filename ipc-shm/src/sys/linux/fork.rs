//! What `fork(2)` must not break: `pthread_atfork(3)`.
//!
//! A forked child shares its parent's open file descriptions. If it inherited one that
//! holds a lock, it would keep its dead parent alive. So a description is opened, locked,
//! mapped with `MADV_DONTFORK` and closed within a [`Window`] that no fork can fall into;
//! what a child inherits afterwards is neither descriptor nor mapping. Its copies of the
//! parent's endpoints notice by the [`generation`] that they are not theirs.
//!
//! `posix_spawn` and `vfork` run no such handlers; there `O_CLOEXEC` ends the sharing at
//! `exec`, microseconds later.

use nix::libc;
use std::{
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
        acquire();
        Self(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        OPEN.store(false, Ordering::Release);
    }
}

fn acquire() {
    // Acquire and Release: windows don't overlap in any thread's eyes.
    while OPEN.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        thread::yield_now();
    }
}

extern "C" fn before() {
    acquire();
}

extern "C" fn in_parent() {
    OPEN.store(false, Ordering::Release);
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    OPEN.store(false, Ordering::Release);
}
