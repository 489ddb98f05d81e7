//! Waiting for something to become true that a mutex protects.

use super::{
    Form, LockError, MutexGuard, Plain, Primitive, State,
    handle::Handle,
    space::sealed::{self, Part},
};
use crate::ring::memory::Memory;
use ipc_core::{ChannelError, Wait};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// A word to wait at, for whoever changes what a [`Mutex`](super::Mutex) protects to wake.
///
/// It is a name of its own and goes with any mutex, since nothing ties the two but the guard.
/// As everywhere, a wait may end for no reason: look at the condition again
/// ([`wait_while`](Self::wait_while) does).
///
/// A notification is a count that goes up, and who waits has seen it lower. So a waiter that
/// is killed takes nothing along, and a notifier that is killed before it wakes anybody is
/// made up for within 250 ms, when the sleepers look around. What is notified wakes all who
/// wait: a notification for one that died on the way to the mutex would be lost.
///
/// ```
/// # let directory = std::env::temp_dir().join(format!("ipc-shm-condvar-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let state = ipc_shm::sync::State::at(&directory).transient();
/// use ipc_shm::sync::{Condvar, Mutex};
///
/// let jobs = state.open_or_create::<Mutex<u64>>("jobs", || 1)?;
/// let some = state.open_or_create::<Condvar>("jobs.some", || ())?;
/// let mut waiting = some.wait_while(jobs.lock()?, |jobs| *jobs == 0)?; // one process
/// *waiting -= 1;
/// drop(waiting);
/// *jobs.lock()? += 1;                                                  // another one
/// some.notify_all()?;
/// # drop((jobs, some));
/// # std::fs::remove_dir(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Condvar {
    handle: Arc<Handle>,
}

impl Condvar {
    /// Opens the condition variable `name` in the default directory, or makes it. It is kept
    /// until it is removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if it is something else, and the others.
    pub fn open_or_create(name: &str) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, || ())
    }

    /// Opens the condition variable `name` in the default directory.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; and as [`open_or_create`](Self::open_or_create).
    pub fn open(name: &str) -> Result<Self, ChannelError> {
        State::new().open(name)
    }

    /// Gives the mutex back, waits for a notification, and takes the mutex again.
    ///
    /// # Errors
    ///
    /// As [`Mutex::lock`](super::Mutex::lock); the mutex isn't held then.
    ///
    /// # Blocking
    ///
    /// Until somebody notifies, then until the mutex is free.
    pub fn wait<'a, T: Plain>(&self, guard: MutexGuard<'a, T>) -> Result<MutexGuard<'a, T>, LockError> {
        self.wait_until(guard, Wait::Forever).map(|(guard, _)| guard)
    }

    /// The same for at most `timeout`; whether the time is up beside the guard.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Blocking
    ///
    /// For at most `timeout`, then until the mutex is free.
    pub fn wait_timeout<'a, T: Plain>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> Result<(MutexGuard<'a, T>, bool), LockError> {
        self.wait_until(guard, Wait::timeout(timeout))
    }

    /// The same as `wait` says; whether that is over beside the guard: its time is up, or it is
    /// [`Wait::Never`].
    ///
    /// # Errors
    ///
    /// [`LockError::Cancelled`]; and as [`wait`](Self::wait).
    ///
    /// # Blocking
    ///
    /// As `wait` says, then until the mutex is free, or the wait is cancelled.
    pub fn wait_until<'a, T: Plain>(
        &self,
        guard: MutexGuard<'a, T>,
        wait: Wait<'_>,
    ) -> Result<(MutexGuard<'a, T>, bool), LockError> {
        let seen = self.seen()?;
        let mutex = guard.mutex();
        drop(guard);
        let is_over = match self.wait_for_more(seen, mutex.waiting(), wait) {
            Ok(()) => false,
            Err(LockError::TimedOut | LockError::WouldBlock) => true,
            Err(error) => return Err(error),
        };
        let relock = wait.cancel().map_or(Wait::Forever, |cancel| Wait::Forever.or_cancel(cancel));
        Ok((mutex.lock_wait(relock)?, is_over))
    }

    /// Waits as long as `condition` holds.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Blocking
    ///
    /// As long as `condition` holds, and until the mutex is free.
    pub fn wait_while<'a, T: Plain>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Result<MutexGuard<'a, T>, LockError> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// The same for at most `timeout`; whether `condition` still holds beside the guard.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Blocking
    ///
    /// As long as `condition` holds, but for at most `timeout`, and until the mutex is free.
    pub fn wait_timeout_while<'a, T: Plain>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Result<(MutexGuard<'a, T>, bool), LockError> {
        self.wait_while_until(guard, Wait::timeout(timeout), condition)
    }

    /// The same as `wait` says.
    ///
    /// # Errors
    ///
    /// [`LockError::Cancelled`]; and as [`wait`](Self::wait).
    ///
    /// # Blocking
    ///
    /// As long as `condition` holds, but not longer than `wait` says, and until the mutex is free,
    /// or the wait is cancelled.
    pub fn wait_while_until<'a, T: Plain>(
        &self,
        mut guard: MutexGuard<'a, T>,
        wait: Wait<'_>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Result<(MutexGuard<'a, T>, bool), LockError> {
        let mut is_over = false;
        loop {
            let holds = condition(&mut guard);
            if is_over || !holds {
                return Ok((guard, holds));
            }
            (guard, is_over) = self.wait_until(guard, wait)?;
        }
    }

    /// Wakes all who wait.
    ///
    /// # Errors
    ///
    /// [`LockError::Forked`].
    pub fn notify_all(&self) -> Result<(), LockError> {
        self.check()?;
        // Release: pairs with the Acquire of who waits; what was done before is seen by it,
        // though the mutex sees to that already.
        self.handle.words.fetch_add(self.handle.place.own[0], 1, Ordering::Release);
        self.handle.ring();
        Ok(())
    }

    /// Wakes at least one of those who wait: all of them, by now.
    ///
    /// # Errors
    ///
    /// As [`notify_all`](Self::notify_all).
    pub fn notify_one(&self) -> Result<(), LockError> {
        self.notify_all()
    }

    /// How many notifications there were. Whoever has the mutex knows that none is under way
    /// that it has to wait for.
    fn seen(&self) -> Result<u64, LockError> {
        self.check()?;
        Ok(self.handle.words.load(self.handle.place.own[0], Ordering::Relaxed))
    }

    /// In a forked child, the memory isn't there.
    fn check(&self) -> Result<(), LockError> {
        if self.handle.is_ours() { Ok(()) } else { Err(LockError::Forked) }
    }

    fn wait_for_more(&self, seen: u64, waiting: crate::Waiting, wait: Wait<'_>) -> Result<(), LockError> {
        let Handle { words, place, .. } = &*self.handle;
        // Acquire: pairs with the Release in `notify_all`.
        let is_more = || Ok((words.load(place.own[0], Ordering::Acquire) != seen).then_some(()));
        self.handle.wait(waiting, wait, is_more)
    }
}

impl sealed::Sealed for Condvar {}

impl Primitive for Condvar {
    type Initial = ();
    const FORM: Form = Form::Condvar;

    fn contents((): ()) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        Ok((Vec::new(), [0; 2]))
    }

    fn of(Part(handle): Part) -> Result<Self, ChannelError> {
        Ok(Self { handle })
    }
}
