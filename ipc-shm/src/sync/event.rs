//! Something that has happened, or hasn't yet.

use super::{
    Form, LockError, Primitive, State,
    handle::Handle,
    space::sealed::{self, Part},
};
use crate::{ring::memory::Memory, wait::Waiting};
use ipc_core::{ChannelError, Wait};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Something that has happened or hasn't: whoever waits for it goes on when it is set, even if it is
/// taken back at once, and nobody waits as long as it is. Nobody has it, so nobody's death matters; if who sets it is
/// killed before it wakes the others, they look around within 250 ms.
#[derive(Debug)]
pub struct Event {
    waiting: Waiting,
    handle: Arc<Handle>,
}

impl Event {
    /// Opens the event `name` in the default directory, or makes it, not set. It is kept
    /// until it is removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if it is something else, and the others.
    pub fn open_or_create(name: &str) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, || ())
    }

    /// Opens the event `name` in the default directory.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; and as [`open_or_create`](Self::open_or_create).
    pub fn open(name: &str) -> Result<Self, ChannelError> {
        State::new().open(name)
    }

    /// Sets how this process waits; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// Sets it, and wakes all who wait. They see what was stored before.
    ///
    /// # Errors
    ///
    /// [`LockError::Forked`].
    pub fn set(&self) -> Result<(), LockError> {
        self.change(true)
    }

    /// Takes it back: from now on, it is waited for again.
    ///
    /// # Errors
    ///
    /// [`LockError::Forked`].
    pub fn reset(&self) -> Result<(), LockError> {
        self.change(false)
    }

    /// Whether it is set.
    ///
    /// # Errors
    ///
    /// [`LockError::Forked`].
    pub fn is_set(&self) -> Result<bool, LockError> {
        self.changes().map(is_set)
    }

    /// Waits until it is set.
    ///
    /// # Errors
    ///
    /// [`LockError::Closed`], [`LockError::Forked`], [`LockError::Os`].
    ///
    /// # Blocking
    ///
    /// Until it is set.
    pub fn wait(&self) -> Result<(), LockError> {
        self.wait_until(Wait::Forever)
    }

    /// Waits until it is set, or the time is up.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`]; and as [`wait`](Self::wait).
    ///
    /// # Blocking
    ///
    /// For at most `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<(), LockError> {
        self.wait_until(Wait::timeout(timeout))
    }

    /// Waits until it is set.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Cancelled`]; and as
    /// [`wait`](Self::wait).
    ///
    /// # Blocking
    ///
    /// As `wait` says.
    pub fn wait_until(&self, wait: Wait<'_>) -> Result<(), LockError> {
        let before = self.changes()?;
        if is_set(before) {
            return Ok(());
        }
        // It may be taken back before we look.
        let was_set = || self.changes().map(|changes| (changes != before).then_some(()));
        self.handle.wait(self.waiting, wait, was_set)
    }

    fn change(&self, set: bool) -> Result<(), LockError> {
        let (words, at) = (&self.handle.words, self.handle.place.own[0]);
        let mut changes = self.changes()?;
        while is_set(changes) != set {
            // Release: pairs with the Acquire in `changes`, also where it was taken back since: that is
            // a swap, too.
            match words.compare_exchange(at, changes, changes.wrapping_add(1), Ordering::Release) {
                Ok(_) => break,
                Err(found) => changes = found,
            }
        }
        // Again where it is set already: who has set it may be dead.
        self.handle.ring();
        Ok(())
    }

    /// How often it was set and taken back.
    fn changes(&self) -> Result<u64, LockError> {
        if !self.handle.is_ours() {
            return Err(LockError::Forked);
        }
        // Acquire: pairs with the Release in `change`.
        Ok(self.handle.words.load(self.handle.place.own[0], Ordering::Acquire))
    }
}

/// It is set and taken back by turns.
fn is_set(changes: u64) -> bool {
    changes % 2 == 1
}

impl sealed::Sealed for Event {}

impl Primitive for Event {
    type Initial = ();
    const FORM: Form = Form::Event;

    fn contents((): ()) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        Ok((Vec::new(), [0; 2]))
    }

    fn of(Part(handle): Part) -> Result<Self, ChannelError> {
        Ok(Self { waiting: Waiting::default(), handle })
    }
}
