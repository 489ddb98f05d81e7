//! Who among the endpoints of a channel is to be notified, `mq_notify(3)`.
//!
//! The kernel knows the process that asked, not the endpoint, and takes its registration back
//! whenever that process closes a descriptor of the queue, be it another one (`mqueue_flush_file` of
//! `ipc/mqueue.c`). So it is written down here which endpoint asked last: one that asked before takes
//! nothing back when it goes. And while one may be registered, the descriptors of those that go aren't
//! closed: endpoints that come have them next, so there are never more than there were endpoints at
//! once. Descriptors that this channel knows nothing of are beyond it.

use crate::at_fork;
use std::{
    os::fd::OwnedFd,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What the endpoints of a channel know of each other.
#[derive(Debug)]
pub(crate) struct Notification {
    state: Mutex<State>,
    /// Of the process that made the lock, see [`at_fork`].
    generation: u32,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    asked_last: Option<Asked>,
    /// Not to be closed while somebody has asked.
    spare: Vec<OwnedFd>,
}

/// One asking, unlike all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked(u64);

impl Notification {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), generation: at_fork::begin() }
    }

    /// Nobody else asks, and no descriptor is closed, while this is held.
    ///
    /// `None` in a forked child, if another thread of the parent held it then and it will never be
    /// given back (or another thread of the child does: they can't be told apart). It goes on
    /// without: the worst is a notification too few or too many.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, State>> {
        // The state is valid at every step, so a panic elsewhere doesn't spoil it.
        if self.generation == at_fork::generation() {
            return Some(self.state.lock().unwrap_or_else(PoisonError::into_inner));
        }
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A descriptor that nobody uses, if there is one.
    pub(crate) fn reuse(&self) -> Option<OwnedFd> {
        self.lock()?.spare.pop()
    }

    /// Closes the descriptor of an endpoint that goes, or keeps it for another one.
    pub(crate) fn give_up(&self, descriptor: OwnedFd) {
        let state = self.lock();
        match state {
            Some(mut state) if state.asked_last.is_some() => state.spare.push(descriptor),
            // Under the lock, so that nobody has asked before it is closed.
            _ => drop(descriptor),
        }
    }
}

impl State {
    /// Somebody has asked, and is registered.
    pub(crate) fn asked(&mut self) -> Asked {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let asked = Asked(NEXT.fetch_add(1, Relaxed));
        self.asked_last = Some(asked);
        asked
    }

    /// Whether nobody has asked since.
    pub(crate) fn is_last(&self, asked: Asked) -> bool {
        self.asked_last == Some(asked)
    }

    /// Nobody is registered any more.
    pub(crate) fn forgotten(&mut self) {
        self.asked_last = None;
        self.spare.clear();
    }
}
