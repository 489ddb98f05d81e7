//! Why a transaction didn't happen.

use crate::{
    ring::{
        Corrupt,
        arena::{MOST_CHANGES, Refused},
    },
    sync::LockError,
};
use std::{error::Error, fmt};

/// Why a transaction, or a part of one, didn't happen.
#[derive(Debug)]
#[non_exhaustive]
pub enum ArenaError {
    /// There is no room for an object; the transaction can go on without it.
    Full {
        /// What was asked for.
        asked_bytes: u64,
        /// What is free in all, in pieces, and without what each object takes up beside its bytes.
        free_bytes: u64,
        /// The largest object that there is room for.
        largest_bytes: u64,
    },
    /// The transaction changes more words of what there was before than can be undone; it can't
    /// be committed.
    TooManyChanges {
        /// The most words of 8 bytes.
        max: u64,
    },
    /// It couldn't be had, or can't be used. [`LockError::Corrupt`] is also what an [`Offset`]
    /// gives that leads nowhere.
    ///
    /// [`Offset`]: crate::sync::Offset
    Lock(LockError),
    /// What the program itself has to say, to have its transaction undone.
    Other(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { asked_bytes, free_bytes, largest_bytes } => write!(
                f,
                "the arena has no room for {asked_bytes} bytes: {free_bytes} are free, at most \
                 {largest_bytes} in a row: free some, or make it with a larger capacity"
            ),
            Self::TooManyChanges { max } => write!(
                f,
                "one transaction changes at most {max} words of what there was: make several of it, \
                 or allocate the new and free the old"
            ),
            Self::Lock(error) => error.fmt(f),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl Error for ArenaError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Lock(error) => error.source(),
            Self::Other(error) => error.source(),
            _ => None,
        }
    }
}

impl From<LockError> for ArenaError {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

impl From<Box<dyn Error + Send + Sync>> for ArenaError {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        Self::Other(error)
    }
}

impl From<Corrupt> for ArenaError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Lock(corrupt.into())
    }
}

impl From<Refused> for ArenaError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full { asked_bytes, free_bytes, largest_bytes } => {
                Self::Full { asked_bytes, free_bytes, largest_bytes }
            }
            Refused::TooManyChanges => Self::TooManyChanges { max: MOST_CHANGES },
            Refused::Corrupt(what) => Self::Lock(LockError::Corrupt(what)),
        }
    }
}

pub(super) fn corrupt<T>(what: String) -> Result<T, ArenaError> {
    Err(ArenaError::Lock(LockError::Corrupt(what)))
}
