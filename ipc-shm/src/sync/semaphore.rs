//! So many at a time.

use super::{
    Form, LockError, Primitive, State,
    handle::{Handle, How, Taken},
    space::sealed::{self, Part},
};
use crate::{
    ring::{permits, troubled},
    wait::{Awaited, Waiting},
};
use ipc_core::{ChannelError, Wait};
use std::{sync::Arc, time::Duration};

/// A number of permits, of which each process has some: at most so many do something at a time.
///
/// ```
/// # let directory = std::env::temp_dir().join(format!("ipc-shm-permits-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let state = ipc_shm::sync::State::at(&directory).transient();
/// let slots = state.open_or_create::<ipc_shm::sync::Semaphore>("slots", || 4)?;
/// let slot = slots.acquire()?;
/// assert_eq!(slots.available()?, 3);
/// # drop(slot);
/// # drop(slots);
/// # std::fs::remove_dir(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Each permit has its holder's name on it. If that process ends, in whatever way, its permits
/// are free again, exactly, as soon as somebody waits for one, or tries to have it: within 5 ms,
/// or, where more than 64 participants have some, within 25 ms for every 64 of them.
///
/// Nobody's turn comes before another's among those who wait for permits. One that gives back its
/// permit and asks again at once may have it again and again; and who asks for several waits until so
/// many are free at the same time.
///
/// What is counted is counted one at a time: while a process is *stopped* in the few
/// instructions of that, everybody else's calls wait for it, beyond a deadline of theirs and
/// even those that never wait.
#[derive(Debug)]
pub struct Semaphore {
    how: How,
    handle: Arc<Handle>,
}

impl Semaphore {
    /// The most permits there can be: 2³² − 1.
    pub const MAX_PERMITS: u64 = permits::MOST;

    /// Opens the semaphore `name` in the default directory, or makes it with so many permits.
    /// It is kept until it is removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::InvalidConfig`] for more than [`MAX_PERMITS`](Self::MAX_PERMITS),
    /// [`ChannelError::Mismatch`] if it is something else, and the others.
    pub fn open_or_create(name: &str, permits: u64) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, || permits)
    }

    /// Opens the semaphore `name` in the default directory.
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

    /// Takes a permit.
    ///
    /// # Errors
    ///
    /// [`LockError::Closed`], [`LockError::Corrupt`], [`LockError::Forked`],
    /// [`LockError::Os`].
    ///
    /// # Blocking
    ///
    /// Until one is free.
    pub fn acquire(&self) -> Result<Permit<'_>, LockError> {
        self.acquire_many(1, Wait::Forever)
    }

    /// Takes a permit if one is free.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`]; and as [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Result<Permit<'_>, LockError> {
        self.acquire_many(1, Wait::Never)
    }

    /// Takes a permit if one becomes free in time.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`]; and as [`acquire`](Self::acquire).
    ///
    /// # Blocking
    ///
    /// For at most `timeout`.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>, LockError> {
        self.acquire_many(1, Wait::timeout(timeout))
    }

    /// Takes so many permits at once, or none.
    ///
    /// # Errors
    ///
    /// [`LockError::TooMany`] for more than there can ever be; [`LockError::WouldBlock`],
    /// [`LockError::TimedOut`], [`LockError::Cancelled`]; and as [`acquire`](Self::acquire).
    ///
    /// # Blocking
    ///
    /// As `wait` says.
    pub fn acquire_many(&self, permits: u64, wait: Wait<'_>) -> Result<Permit<'_>, LockError> {
        if permits > Self::MAX_PERMITS {
            return Err(LockError::TooMany { asked: permits, max: Self::MAX_PERMITS });
        }
        let mut taking = Taking { semaphore: self, permits, peeks: false };
        if taking.poll()?.is_none() {
            if matches!(wait, Wait::Never) {
                if !self.handle.is_time_to_look() {
                    return Err(LockError::WouldBlock);
                }
                // Those of the dead count as free.
                taking.look_around()?;
                taking.poll()?.ok_or(LockError::WouldBlock)?;
            } else {
                taking.peeks = true;
                self.handle.wait(self.how.waiting, wait, taking)?;
            }
        }
        Ok(Permit { semaphore: self, permits })
    }

    /// Makes so many more permits.
    ///
    /// # Errors
    ///
    /// [`LockError::TooMany`] if there would be more than [`MAX_PERMITS`](Self::MAX_PERMITS);
    /// and as [`acquire`](Self::acquire).
    pub fn add_permits(&self, permits: u64) -> Result<(), LockError> {
        let Handle { words, place, .. } = &*self.handle;
        let added = self.alone(|_| Ok(permits::add(words, &place.permits(), permits)?))?;
        added.map_err(|max| LockError::TooMany { asked: permits, max })
    }

    /// How many permits are free, by now.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn available(&self) -> Result<u64, LockError> {
        let Handle { words, place, .. } = &*self.handle;
        self.alone(|_| Ok(permits::recount(words, &place.permits())?))
    }

    /// Does something with the counts. Whoever died with the lock left no count half done.
    fn alone<R>(&self, act: impl FnOnce(u32) -> Result<R, LockError>) -> Result<R, LockError> {
        let me = self.handle.me()?;
        let taken = self.handle.lock(How { repairs: true, ..self.how }, Wait::Forever)?;
        let sound = match taken {
            Taken::InOrder => Ok(()),
            Taken::ToRepair => permits::recount(&self.handle.words, &self.handle.place.permits())
                .map(drop)
                .map_err(Into::into),
        };
        let answer = sound.and_then(|()| act(me.id()));
        self.handle.give_back();
        answer
    }
}

impl sealed::Sealed for Semaphore {}

impl Primitive for Semaphore {
    type Initial = u64;
    const FORM: Form = Form::Semaphore;

    fn contents(permits: u64) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        if permits > Self::MAX_PERMITS {
            return Err(ChannelError::InvalidConfig(format!(
                "a semaphore can't have {permits} permits: give at most {}",
                Self::MAX_PERMITS
            )));
        }
        Ok((Vec::new(), [permits, permits]))
    }

    fn of(Part(handle): Part) -> Result<Self, ChannelError> {
        Ok(Self { how: How::default(), handle })
    }
}

/// Permits, had: given back when this is dropped. It may go to another thread. One that is
/// forgotten stays taken until the semaphore is dropped or the process ends.
#[derive(Debug)]
#[must_use = "the permits are given back when this is dropped"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    permits: u64,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let Handle { words, place, .. } = &*self.semaphore.handle;
        // What can't be given back now is when we leave.
        let _ = self.semaphore.alone(|id| Ok(permits::give_back(words, &place.permits(), id, self.permits)?));
    }
}

/// Permits that are waited for.
struct Taking<'a> {
    semaphore: &'a Semaphore,
    permits: u64,
    /// Whether it looks before it takes the lock: who waits mustn't keep others awake.
    peeks: bool,
}

impl Awaited for Taking<'_> {
    type Answer = ();
    type Error = LockError;

    fn poll(&mut self) -> Result<Option<()>, LockError> {
        let Handle { words, place, .. } = &*self.semaphore.handle;
        if self.peeks && !permits::may_take(words, &place.permits(), self.permits) {
            return Ok(None);
        }
        let taken = |id| Ok(permits::take(words, &place.permits(), id, self.permits)?);
        Ok(self.semaphore.alone(taken)?.then_some(()))
    }

    fn is_obstructed(&self) -> bool {
        true
    }

    fn look_around(&mut self) -> Result<(), LockError> {
        self.semaphore.handle.look_around(None).or_else(troubled::<LockError>)?;
        self.semaphore.available().map(drop)
    }
}
