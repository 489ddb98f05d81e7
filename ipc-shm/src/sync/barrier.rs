//! A point where so many meet.

use super::{
    Form, LockError, Primitive, State,
    handle::{Handle, How},
    space::sealed::{self, Part},
    voice::Voice,
};
use crate::{
    ring::{memory::Memory, state, troubled},
    wait::{Awaited, Waiting},
};
use ipc_core::{ChannelError, Wait};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// A point where so many threads, of whatever processes, wait for each other, over and over.
///
/// It counts the living: one that dies while it waits hasn't arrived, and the others wait for
/// somebody to come in its place. One whose time is up takes its arrival back. Who comes last
/// asks the kernel by the barrier's name who lives; when that can't be told, it gets an error,
/// and hasn't arrived.
///
/// Arrivals are counted one at a time: while a process is *stopped* in the few instructions of
/// that, everybody else waits for it, beyond a deadline of theirs.
#[derive(Debug)]
pub struct Barrier {
    how: How,
    /// Before the handle: its place is free when it is silent.
    _voice: Voice,
    handle: Arc<Handle>,
}

/// The most that can meet.
const MOST: u64 = u16::MAX as u64;

impl Barrier {
    /// Opens the barrier `name` in the default directory, or makes it for so many: 1 to 65,535.
    /// It is kept until it is removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::InvalidConfig`] for another number, [`ChannelError::Mismatch`] if it is
    /// something else, and the others. How many an existing one is for isn't compared.
    pub fn open_or_create(name: &str, parties: u32) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, || parties)
    }

    /// Opens the barrier `name` in the default directory.
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

    /// Waits until all have arrived. True for one of them.
    ///
    /// # Errors
    ///
    /// [`LockError::Closed`], [`LockError::Corrupt`], [`LockError::Forked`],
    /// [`LockError::Os`].
    ///
    /// # Blocking
    ///
    /// Until all have arrived.
    pub fn wait(&self) -> Result<bool, LockError> {
        self.wait_until(Wait::Forever)
    }

    /// Waits until all have arrived, or the time is up.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`]; and as [`wait`](Self::wait).
    ///
    /// # Blocking
    ///
    /// For at most `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, LockError> {
        self.wait_until(Wait::timeout(timeout))
    }

    /// Waits until all have arrived. True for one of them.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`] if others are yet to come, [`LockError::TimedOut`],
    /// [`LockError::Cancelled`]; and as [`wait`](Self::wait).
    ///
    /// # Blocking
    ///
    /// As `wait` says.
    pub fn wait_until(&self, wait: Wait<'_>) -> Result<bool, LockError> {
        let generation = match self.alone(|id| self.arrive(id))? {
            Arrived::Last => return Ok(true),
            Arrived::In(generation) => generation,
        };
        let over = Over { barrier: self, generation };
        match self.handle.wait(self.how.waiting, wait, over) {
            Ok(()) => Ok(false),
            // In time after all, or it never was here.
            Err(error) => match self.alone(|id| Ok(self.retreat(id, generation)))? {
                true => Err(error),
                false => Ok(false),
            },
        }
    }

    /// Counts one more. The last one opens the barrier, unless somebody whom it counted on is
    /// dead.
    fn arrive(&self, id: u32) -> Result<Arrived, LockError> {
        let generation = self.generation();
        self.put(id, generation, 1)?;
        let parties = self.handle.words.load(self.handle.place.own[0], Ordering::Relaxed);
        let are_all = self.are_all(generation, parties);
        // Who isn't told that it has arrived hasn't.
        if !are_all.or_else(|error| self.put(id, generation, -1).and(Err(error)))? {
            return Ok(Arrived::In(generation));
        }
        // Release: pairs with the Acquire in `generation`.
        let next = generation.wrapping_add(1);
        self.handle.words.store(self.handle.place.own[1], next, Ordering::Release);
        Ok(Arrived::Last)
    }

    /// Whether all have arrived and live.
    fn are_all(&self, generation: u64, parties: u64) -> Result<bool, LockError> {
        let ids = || self.handle.place.shares.ids();
        let arrivals =
            |ids: &mut dyn Iterator<Item = u32>| -> u64 { ids.map(|id| self.arrivals(id, generation)).sum() };
        if arrivals(&mut ids()) < parties {
            return Ok(false);
        }
        let living = Voice::heard(&self.handle, ids().filter(|&id| self.arrivals(id, generation) > 0))?;
        // Once more: those of the dead are gone by now wherever somebody else is heard.
        if arrivals(&mut living.into_iter()) >= parties {
            return Ok(true);
        }
        self.handle.look_around(None).or_else(troubled::<LockError>)?;
        Ok(false)
    }

    /// Takes an arrival back, unless the barrier has opened since.
    fn retreat(&self, id: u32, generation: u64) -> bool {
        self.generation() == generation && self.put(id, generation, -1).is_ok()
    }

    fn put(&self, id: u32, generation: u64, change: i64) -> Result<(), LockError> {
        let Handle { words, place, .. } = &*self.handle;
        let at = place.shares.count(id);
        let arrived = self.arrivals(id, generation);
        match arrived.checked_add_signed(change) {
            Some(arrived @ 0..=MOST) => {
                words.store(at, state::share_of_arrivals(arrived, generation), Ordering::Relaxed);
                Ok(())
            }
            _ => Err(LockError::TooMany { asked: arrived + 1, max: MOST }),
        }
    }

    /// How many of a participant have arrived.
    fn arrivals(&self, id: u32, generation: u64) -> u64 {
        let Handle { words, place, .. } = &*self.handle;
        state::arrivals(words.load(place.shares.count(id), Ordering::Relaxed), generation)
    }

    fn generation(&self) -> u64 {
        // Acquire: pairs with the Release in `arrive`.
        self.handle.words.load(self.handle.place.own[1], Ordering::Acquire)
    }

    /// Does something with the counts. Whoever died with the lock left no count half done.
    fn alone<R>(&self, act: impl FnOnce(u32) -> Result<R, LockError>) -> Result<R, LockError> {
        let me = self.handle.me()?;
        self.handle.lock(How { repairs: true, ..self.how }, Wait::Forever)?;
        let answer = act(me.id());
        self.handle.give_back();
        answer
    }
}

impl sealed::Sealed for Barrier {}

impl Primitive for Barrier {
    type Initial = u32;
    const FORM: Form = Form::Barrier;

    fn contents(parties: u32) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        if !(1..=MOST).contains(&u64::from(parties)) {
            return Err(ChannelError::InvalidConfig(format!(
                "a barrier can't be for {parties}: give 1 to {MOST}"
            )));
        }
        Ok((Vec::new(), [u64::from(parties), 0]))
    }

    fn of(Part(handle): Part) -> Result<Self, ChannelError> {
        Ok(Self { how: How::default(), _voice: Voice::raise(&handle)?, handle })
    }
}

/// What an arrival comes to.
enum Arrived {
    Last,
    In(u64),
}

/// The barrier's opening, which is waited for.
struct Over<'a> {
    barrier: &'a Barrier,
    generation: u64,
}

impl Awaited for Over<'_> {
    type Answer = ();
    type Error = LockError;

    fn poll(&mut self) -> Result<Option<()>, LockError> {
        Ok((self.barrier.generation() != self.generation).then_some(()))
    }
}
