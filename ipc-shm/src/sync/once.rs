//! Something that is done once.

use super::{
    Form, LockError, Primitive, State,
    handle::{Handle, How, Taken},
    space::sealed::{self, Part},
};
use crate::{ring::memory::Memory, wait::Waiting};
use ipc_core::{ChannelError, Wait};
use std::sync::{Arc, atomic::Ordering};

/// Something that is done once, by whichever process comes first; the others wait for it. If
/// that process dies, or panics, while it is at it, the next one does it again, and is told so.
#[derive(Debug)]
pub struct Once {
    how: How,
    handle: Arc<Handle>,
}

impl Once {
    /// Opens the once `name` in the default directory, or makes it, not done. It is kept until
    /// it is removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if it is something else, and the others.
    pub fn open_or_create(name: &str) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, || ())
    }

    /// Opens the once `name` in the default directory.
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

    /// Whether it is done. Then all that was done is seen.
    ///
    /// # Errors
    ///
    /// [`LockError::Forked`].
    pub fn is_done(&self) -> Result<bool, LockError> {
        self.handle.me()?;
        // Acquire: pairs with the Release in `call`.
        Ok(self.handle.words.load(self.handle.place.own[0], Ordering::Acquire) != 0)
    }

    /// Does it if it isn't done. `act` is told whether somebody died who had begun it.
    ///
    /// # Errors
    ///
    /// [`LockError::Recursive`] from within `act`; [`LockError::Closed`],
    /// [`LockError::Corrupt`], [`LockError::Forked`], [`LockError::Os`].
    ///
    /// # Blocking
    ///
    /// While another one does it.
    pub fn call(&self, act: impl FnOnce(bool)) -> Result<(), LockError> {
        if self.is_done()? {
            return Ok(());
        }
        let taken = self.handle.lock(How { repairs: true, ..self.how }, Wait::Forever)?;
        let under_way = UnderWay { handle: &self.handle };
        if !self.is_done()? {
            act(taken == Taken::ToRepair);
            if !self.handle.is_ours() {
                return Err(LockError::Forked);
            }
            // Release: pairs with the Acquire in `is_done`.
            self.handle.words.store(self.handle.place.own[0], 1, Ordering::Release);
        }
        std::mem::forget(under_way);
        self.handle.give_back();
        Ok(())
    }
}

/// What becomes of the lock if the act panics.
struct UnderWay<'a> {
    handle: &'a Handle,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.handle.is_ours() {
            self.handle.abandon();
        }
    }
}

impl sealed::Sealed for Once {}

impl Primitive for Once {
    type Initial = ();
    const FORM: Form = Form::Once;

    fn contents((): ()) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        Ok((Vec::new(), [0; 2]))
    }

    fn of(Part(handle): Part) -> Result<Self, ChannelError> {
        Ok(Self { how: How::default(), handle })
    }
}
