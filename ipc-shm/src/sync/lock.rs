//! A mutex for its lock's sake.

use super::{
    Form, Mutex, Primitive, State,
    space::sealed::{self, Part},
};
use ipc_core::ChannelError;
use std::ops::{Deref, DerefMut};

/// A [`Mutex`] whose value isn't looked at, if it has any: for programs that take turns at
/// something else, and for those that don't know what the others have in it (`ipc lock`).
///
/// What is made so protects nothing in the segment; what is opened may be a mutex with
/// whatever value. As nothing can refer to that by this lock, a guard that is forgotten counts
/// as abandoned when its thread ends.
#[derive(Debug)]
pub struct Lock {
    value_bytes: u64,
    mutex: Mutex<()>,
}

impl Lock {
    /// Opens the mutex `name` in the default directory, or makes one without a value. It is
    /// kept until it is removed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Mismatch`] if it is something else, and the others.
    pub fn open_or_create(name: &str) -> Result<Self, ChannelError> {
        State::new().open_or_create(name, || ())
    }

    /// Opens the mutex `name` in the default directory.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; and as [`open_or_create`](Self::open_or_create).
    pub fn open(name: &str) -> Result<Self, ChannelError> {
        State::new().open(name)
    }

    /// How many bytes the value has that others find in it: if there are any, a lock whose
    /// owner died is theirs to repair.
    pub fn value_bytes(&self) -> u64 {
        self.value_bytes
    }
}

impl sealed::Sealed for Lock {}

impl Primitive for Lock {
    type Initial = ();
    const FORM: Form = Form::Mutex;
    const ANY_LAYOUT: bool = true;

    fn contents((): ()) -> Result<(Vec<u8>, [u64; 2]), ChannelError> {
        Mutex::<()>::contents(())
    }

    fn of(part: Part) -> Result<Self, ChannelError> {
        let value_bytes = part.0.attachment().header().geometry.max_message_len;
        Ok(Self { value_bytes, mutex: Mutex::of(part)? })
    }
}

impl Deref for Lock {
    type Target = Mutex<()>;

    fn deref(&self) -> &Mutex<()> {
        &self.mutex
    }
}

impl DerefMut for Lock {
    fn deref_mut(&mut self) -> &mut Mutex<()> {
        &mut self.mutex
    }
}
