//! Why something wasn't had.

use crate::ring::Corrupt;
use ipc_core::{ChannelError, OsError, Unready};
use std::{error::Error, fmt, io};

/// Why a lock, a permit or a value was not had. Nothing is held then.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockError {
    /// It isn't free, or reserved for somebody who waits, and the call was not to wait.
    WouldBlock,
    /// It didn't become free until the deadline.
    TimedOut,
    /// The wait was cancelled.
    Cancelled,
    /// Its last owner died, or panicked, and may have left what it protects half changed.
    /// Nobody gets it until somebody has repaired it
    /// ([`lock_or_repair`](crate::sync::Mutex::lock_or_repair),
    /// [`recover`](crate::sync::Mutex::recover)).
    OwnerDied,
    /// A thread has ended that had it and never gave it back: its guard was forgotten
    /// ([`std::mem::forget`]), and something may refer to the value still. Nobody gets it until
    /// that process has dropped what it had opened, or is gone. Then it is
    /// [`OwnerDied`](Self::OwnerDied), or free if it was only read.
    Forgotten,
    /// Its last owner died, and who was to repair it gave up. Nobody gets it ever again.
    Poisoned,
    /// This thread has it already, if only to read, and would wait for itself for ever.
    Recursive,
    /// More than there can ever be.
    TooMany {
        /// What was asked for.
        asked: u64,
        /// The most that can be.
        max: u64,
    },
    /// It was removed, and what was opened is of no use any more: another one may have its name.
    Closed,
    /// Its memory holds what no correct peer writes.
    Corrupt(String),
    /// This process is a fork of the one that opened it; open one of its own.
    Forked,
    /// The system refused for another reason.
    Os(OsError),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("it isn't to be had now: try again, or wait for it"),
            Self::TimedOut => f.write_str("timed out: it stayed taken"),
            Self::Cancelled => f.write_str("the wait was cancelled"),
            Self::OwnerDied => f.write_str(
                "its owner died and may have left it half changed: repair it (`lock_or_repair`) or remove it",
            ),
            Self::Forgotten => f.write_str(
                "a thread ended without giving it back: nobody gets it until its process drops it or ends",
            ),
            Self::Poisoned => {
                f.write_str("it is poisoned: its owner died, and it was given up without repair: remove it")
            }
            Self::Recursive => {
                f.write_str("this thread has it already, and would wait for itself: drop its guard first")
            }
            Self::TooMany { asked, max } => write!(f, "{asked} are asked for, there can be at most {max}"),
            Self::Closed => f.write_str("it was removed while it was in use: open it anew"),
            Self::Corrupt(what) => write!(f, "it is corrupt: {what}"),
            Self::Forked => f.write_str("it belongs to the parent process: open another one after the fork"),
            Self::Os(error) => error.fmt(f),
        }
    }
}

impl Error for LockError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Unready> for LockError {
    fn from(unready: Unready) -> Self {
        match unready {
            Unready::WouldBlock => Self::WouldBlock,
            Unready::TimedOut => Self::TimedOut,
            Unready::Cancelled => Self::Cancelled,
            Unready::Closed => Self::Closed,
            Unready::Os(error) => Self::Os(error),
        }
    }
}

impl From<Corrupt> for LockError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt.0)
    }
}

impl From<OsError> for LockError {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}

/// For looking around: what can't be asked now is asked again later.
impl From<ChannelError> for LockError {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Os(error) => Self::Os(error),
            ChannelError::Forked => Self::Forked,
            ChannelError::NotFound => Self::Closed,
            ChannelError::NotPermitted(what) => {
                Self::Os(OsError::new("open", io::Error::new(io::ErrorKind::PermissionDenied, what)))
            }
            other => Self::Corrupt(other.to_string()),
        }
    }
}
