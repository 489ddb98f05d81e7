//! A shared value, for reading only.

use super::{LockError, Plain, Shared, shared::Copy, space::State};
use crate::{
    observer::Window,
    ring::{memory::Words, state},
    wait::Waiting,
};
use ipc_core::{ChannelError, Wait};

/// A [`Shared`] value of somebody else's, which this process can read and can't change: its
/// pages are mapped for reading only, from a file that was opened so. It works where the file
/// may not be written (mode 0640, another user's: see [`State::trust`]).
///
/// The writers don't know of it: it is no participant, and can't be awaited by any.
#[derive(Debug)]
pub struct SharedReader<T> {
    copy: Copy<T, Words>,
    window: Window,
}

impl<T: Plain + Clone> SharedReader<T> {
    /// Opens the value `name` in the default directory.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`], [`ChannelError::Mismatch`] if it is something else, or of
    /// another layout (the error names both), and the others.
    pub fn open(name: &str) -> Result<Self, ChannelError> {
        State::new().reader(name)
    }

    pub(super) fn of(onlooker: crate::segment::Onlooker) -> Self {
        let place = state::Place::of(onlooker.layout());
        let window = Window::new(onlooker, place.lock.flag);
        Self { copy: Copy::of(window.words.clone(), &place), window }
    }

    /// Sets how [`changed`](Self::changed) waits; [`Waiting::Adaptive`] at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.window.waiting = waiting;
    }

    /// The value as it is now. If it hasn't changed since the last time, that is known by a
    /// single load.
    ///
    /// # Errors
    ///
    /// [`LockError::Forked`], [`LockError::Corrupt`]; [`LockError::WouldBlock`] if the writers
    /// were faster than each of a thousand copies.
    #[inline]
    pub fn read(&mut self) -> Result<&T, LockError> {
        if !self.window.is_ours() {
            return Err(LockError::Forked);
        }
        self.copy.read()
    }

    /// Waits until the value is another one than that which was read last, and reads it.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], [`LockError::TimedOut`], [`LockError::Cancelled`],
    /// [`LockError::Closed`]; and as [`read`](Self::read).
    ///
    /// # Blocking
    ///
    /// As `wait` says.
    pub fn changed(&mut self, wait: Wait<'_>) -> Result<&T, LockError> {
        if !self.window.is_ours() {
            return Err(LockError::Forked);
        }
        if !self.copy.is_changed() {
            let copy = &mut self.copy;
            self.window.until(wait, || Ok::<_, LockError>(copy.is_changed().then_some(())))?;
        }
        self.copy.read()
    }
}

impl State {
    /// Opens a [`Shared`] value to read it, and no more.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn reader<T: Plain + Clone>(&self, name: &str) -> Result<SharedReader<T>, ChannelError> {
        Ok(SharedReader::of(self.onlooker::<Shared<T>>(name)?))
    }
}
