//! Why two peers didn't come together.

use ipc_core::{OsError, Unready};
use std::{error::Error, fmt};

/// Why a sealed channel could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum LinkError {
    /// Nobody was there, and the call was not to wait.
    WouldBlock,
    /// The peer didn't do its part until the deadline.
    TimedOut,
    /// The wait was cancelled.
    Cancelled,
    /// Nobody listens there.
    NotFound,
    /// Somebody listens there already, or something else has the name.
    AlreadyExists,
    /// The peer hung up before the channel was made.
    HungUp,
    /// The peer isn't one of those who may be there; the text says who it is.
    NotPermitted(String),
    /// The peer said or handed over what no correct one does; the text says what.
    Refused(String),
    /// The settings make no sense; the text says which and why.
    InvalidConfig(String),
    /// This system can't do it; the text says why.
    Unsupported(String),
    /// This process is a fork of the one that made the connection; make one anew.
    Forked,
    /// The system refused for another reason.
    Os(OsError),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("nobody is there"),
            Self::TimedOut => f.write_str("timed out: the peer didn't do its part"),
            Self::Cancelled => f.write_str("the wait was cancelled"),
            Self::NotFound => f.write_str("nobody listens there"),
            Self::AlreadyExists => {
                f.write_str("somebody listens there already, or something else has that name")
            }
            Self::HungUp => f.write_str("the peer hung up before the channel was made"),
            Self::NotPermitted(who) => write!(f, "not permitted: {who}"),
            Self::Refused(what) => write!(f, "the peer is not to be trusted: {what}"),
            Self::InvalidConfig(what) | Self::Unsupported(what) => f.write_str(what),
            Self::Forked => {
                f.write_str("the connection belongs to the parent process: make another one after the fork")
            }
            Self::Os(error) => error.fmt(f),
        }
    }
}

impl Error for LinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

impl From<OsError> for LinkError {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}

impl From<Unready> for LinkError {
    fn from(unready: Unready) -> Self {
        match unready {
            Unready::WouldBlock => Self::WouldBlock,
            Unready::TimedOut => Self::TimedOut,
            Unready::Cancelled => Self::Cancelled,
            Unready::Closed => Self::HungUp,
            Unready::Os(error) => Self::Os(error),
        }
    }
}
