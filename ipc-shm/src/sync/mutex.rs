//! One at a time.

use super::{
    Form, LockError, Plain, Primitive, State,
    handle::{Handle, How, Taken},
    layout::Described,
    space::sealed,
    value::Value,
};
use crate::wait::Waiting;
use ipc_core::{ChannelError, Wait};
use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::Arc,
    thread,
    time::Duration,
};

/// A value that one thread of all processes has at a time.
///
/// ```standalone_crate
/// use ipc_shm::sync::Mutex;
///
/// # let directory = std::env::temp_dir().join(format!("ipc-shm-mutex-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # // SAFETY: nothing else runs in this process.
/// # unsafe { std::env::set_var("IPC_DIR", &directory) };
/// let visits = Mutex::open_or_create("visits", || 0u64)?;
/// *visits.lock()? += 1;
/// # drop(visits);
/// # ipc_shm::sync::State::new().remove("visits")?;
/// # std::fs::remove_dir(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Death
///
/// If a process is killed while it has the lock, or a thread panics, what it protects may be
/// half changed. Then nobody else gets it: [`lock`](Self::lock) says
/// [`LockError::OwnerDied`], to everybody and without touching anything, until somebody
/// who knows how has put the value in order: by [`lock_or_repair`](Self::lock_or_repair),
/// or [`recover`](Self::recover), whose guard has to be told that it's
/// [`repaired`](Recovery::repaired). If that guard is dropped instead, the lock is poisoned for
/// good. (The guard isn't within the error, as `std` has it: a mere `?` would drop it.)
///
/// A guard that is forgotten ([`std::mem::forget`]) has the lock as long as something may refer
/// to the value: it counts as abandoned when the mutex is dropped, or the process ends. When its
/// thread ends before that, all who want the lock are told: [`LockError::Forgotten`].
///
/// # Waiting
///
/// An uncontended lock takes no system call. Who waits gets the lock after at most 256
/// acquisitions by others from when it has asked for it, which one waiter does at a time,
/// as long as it runs when its turn has come: after 5 ms, others go on without it, whether they
/// wait or only try; at once if it is dead.
#[derive(Debug)]
pub struct Mutex<T> {
    how: How,
    value: Value<T>,
    handle: Arc<Handle>,
}

impl<T: Plain> Mutex<T> {
    /// Opens the mutex `name` in the default directory, or makes it, with the value that
    /// `initial` says. It is kept until it is removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if it is something else, or protects a value of another
    /// layout, and the others.
    pub fn open_or_create(name: &str, initial: impl FnOnce() -> T) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, initial)
    }

    /// Opens the mutex `name` in the default directory.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; and as [`open_or_create`](Self::open_or_create).
    pub fn open(name: &str) -> Result<Self, ChannelError> {
        State::new().open(name)
    }

    /// Sets how this process waits; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.how.waiting = waiting;
    }

    /// Has the time noted whenever the lock is taken, for [`State::stat`]; it costs some 10 ns.
    /// Otherwise, only locks that somebody waits for are timed, from then on.
    pub fn set_timed(&mut self, timed: bool) {
        self.how.timed = timed;
    }

    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnerDied`], [`LockError::Forgotten`], [`LockError::Poisoned`],
    /// [`LockError::Recursive`] if this thread has it already, [`LockError::Closed`],
    /// [`LockError::Corrupt`], [`LockError::Forked`], [`LockError::Os`].
    ///
    /// # Blocking
    ///
    /// Until it is free.
    #[inline]
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, LockError> {
        self.lock_wait(Wait::Forever)
    }

    /// Takes the lock if it is free, and not reserved for somebody who waits. Whether its owner
    /// lives is looked at once in 5 ms.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`]; and as [`lock`](Self::lock).
    #[inline]
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>, LockError> {
        self.lock_wait(Wait::Never)
    }

    /// Takes the lock if it becomes free in time.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`]; and as [`lock`](Self::lock).
    ///
    /// # Blocking
    ///
    /// For at most `timeout`.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<MutexGuard<'_, T>, LockError> {
        self.lock_wait(Wait::timeout(timeout))
    }

    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Cancelled`]; and as
    /// [`lock`](Self::lock).
    ///
    /// # Blocking
    ///
    /// As `wait` says.
    #[inline]
    pub fn lock_wait(&self, wait: Wait<'_>) -> Result<MutexGuard<'_, T>, LockError> {
        self.handle.lock(self.how, wait)?;
        Ok(MutexGuard { mutex: self, panicking: thread::panicking(), unsendable: PhantomData })
    }

    /// Takes the lock; if its last owner died with it, `repair` puts the value in order first.
    ///
    /// ```
    /// # let directory = std::env::temp_dir().join(format!("ipc-shm-repair-{}", std::process::id()));
    /// # std::fs::create_dir_all(&directory)?;
    /// # let state = ipc_shm::sync::State::at(&directory).transient();
    /// # let both = state.open_or_create::<ipc_shm::sync::Mutex<[u64; 2]>>("both", || [0; 2])?;
    /// // The two are to be the same; whoever died had perhaps written one of them.
    /// let mut both = both.lock_or_repair(|both| both[0] = both[1])?;
    /// both[1] += 1;
    /// both[0] += 1;
    /// # drop(both);
    /// # drop(state.open::<ipc_shm::sync::Mutex<[u64; 2]>>("both")?);
    /// # let _ = std::fs::remove_dir_all(&directory);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock), but for [`LockError::OwnerDied`].
    ///
    /// # Blocking
    ///
    /// Until it is free.
    pub fn lock_or_repair(&self, repair: impl FnOnce(&mut T)) -> Result<MutexGuard<'_, T>, LockError> {
        let taken = self.handle.lock(self.repairing(), Wait::Forever)?;
        let mut recovery = Recovery::of(self);
        if taken == Taken::ToRepair {
            repair(&mut recovery);
        }
        Ok(recovery.repaired())
    }

    /// Takes the lock if its last owner died with it, to put the value in order. `None` if
    /// that isn't so, or not any more. Whether an owner that has it lives is asked each time, which
    /// takes some 10 µs.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Self::try_lock).
    pub fn recover(&self) -> Result<Option<Recovery<'_, T>>, LockError> {
        match self.handle.lock(How { certifies: true, ..self.repairing() }, Wait::Never) {
            Ok(Taken::ToRepair) => Ok(Some(Recovery::of(self))),
            Ok(Taken::InOrder) => {
                self.handle.give_back();
                Ok(None)
            }
            Err(LockError::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How this process waits.
    pub(super) fn waiting(&self) -> Waiting {
        self.how.waiting
    }

    fn repairing(&self) -> How {
        How { repairs: true, ..self.how }
    }
}

impl<T: Plain> sealed::Sealed for Mutex<T> {}

impl<T: Plain> Primitive for Mutex<T> {
    type Initial = T;
    const FORM: Form = Form::Mutex;
    const LENDS: bool = size_of::<T>() > 0;

    fn layout() -> sealed::Layout {
        sealed::Layout(Described::of::<T>())
    }

    fn contents(initial: T) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        Ok((initial.as_bytes().into(), [0; 2]))
    }

    fn of(sealed::Part(handle): sealed::Part) -> Result<Self, ChannelError> {
        Ok(Self { how: How::default(), value: Value::of(&handle), handle })
    }
}

/// The lock, had: given back when it is dropped. If its thread panics meanwhile, the next one
/// is told that its owner died.
///
/// It can't go to another thread, since the segment knows which one has the lock. In a forked
/// child it does nothing, and mustn't be used: the memory isn't there.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct MutexGuard<'a, T: Plain> {
    mutex: &'a Mutex<T>,
    /// Whether its thread was panicking before.
    panicking: bool,
    unsendable: PhantomData<*const ()>,
}

impl<'a, T: Plain> MutexGuard<'a, T> {
    /// What it is the lock of.
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T: Plain> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard is the lock, and borrows what keeps the mapping. Is it forgotten, the
        // lock is kept as long as that borrow may last: until the handle is dropped, whether the
        // thread ends or not (`Handle::lends`).
        unsafe { self.mutex.value.get() }
    }
}

impl<T: Plain> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and the guard is borrowed alone.
        unsafe { self.mutex.value.get_mut() }
    }
}

impl<T: Plain> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let handle = &self.mutex.handle;
        if !handle.is_ours() {
            return;
        }
        if !self.panicking && thread::panicking() {
            handle.abandon();
        } else {
            handle.give_back();
        }
    }
}

/// The lock, had after its last owner died with it: to be declared
/// [repaired](Self::repaired). If it is dropped instead, the lock is poisoned for good; if
/// this process dies too, the next one repairs.
#[derive(Debug)]
#[must_use = "the lock is poisoned when this is dropped"]
pub struct Recovery<'a, T: Plain> {
    guard: Option<MutexGuard<'a, T>>,
}

impl<'a, T: Plain> Recovery<'a, T> {
    fn of(mutex: &'a Mutex<T>) -> Self {
        let panicking = thread::panicking();
        Self { guard: Some(MutexGuard { mutex, panicking, unsendable: PhantomData }) }
    }

    /// The value is in order again: the lock goes on as if nothing had happened.
    pub fn repaired(mut self) -> MutexGuard<'a, T> {
        self.guard.take().expect("kept until then")
    }
}

impl<T: Plain> Deref for Recovery<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("kept until it is repaired")
    }
}

impl<T: Plain> DerefMut for Recovery<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("kept until it is repaired")
    }
}

impl<T: Plain> Drop for Recovery<'_, T> {
    fn drop(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        let handle = &guard.mutex.handle;
        if handle.is_ours() {
            handle.poison();
        }
        std::mem::forget(guard);
    }
}

#[cfg(test)]
mod tests {
    use super::{LockError, Mutex, State};
    use crate::ring::lock::Owner;
    use std::{env, fs, process};

    #[test]
    fn a_seat_that_was_another_ones_a_moment_ago_is_no_recursion() {
        let directory = env::temp_dir().join(format!("ipc-shm-seats-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let state = State::at(&directory).transient();
        let one = state.create::<Mutex<u64>>("x", || 0).unwrap();
        let two = state.open::<Mutex<u64>>("x").unwrap();
        let me = one.handle.me().unwrap();
        // As it was seen before that one, of another process, gave up the lock and left its seat.
        let owner = Owner::new(two.handle.id(), me.thread());
        one.handle.refuse_recursion(me, owner).unwrap();
        let guard = two.lock().unwrap();
        assert!(matches!(one.handle.refuse_recursion(me, owner), Err(LockError::Recursive)));
        drop(guard);
        drop((one, two));
        fs::remove_dir(&directory).unwrap();
    }
}
