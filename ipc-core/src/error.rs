//! What can go wrong: small enums of *outcomes*, with the figures in them, and the
//! operating system's error with the name of the call as their `source`.

use crate::{InvalidName, Role};
use std::{error::Error, fmt, io};

/// A system call that failed, by name.
#[derive(Debug)]
pub struct OsError {
    /// The call, as its manual page names it.
    pub call: &'static str,
    /// What it answered.
    pub error: io::Error,
}

impl OsError {
    /// The failure of `call`.
    pub fn new(call: &'static str, error: impl Into<io::Error>) -> Self {
        Self { call, error: error.into() }
    }

    /// The failure of `call`, read from the thread's `errno`.
    pub fn last(call: &'static str) -> Self {
        Self { call, error: io::Error::last_os_error() }
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.call, self.error)
    }
}

impl Error for OsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

/// Why a message was not sent. Nothing of it is in the channel.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The channel is full, or stores nothing and nobody receives, and the call was not to wait.
    WouldBlock,
    /// That stayed so until the deadline.
    TimedOut,
    /// The wait was cancelled.
    Cancelled,
    /// The message can never fit.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest that the channel takes, in bytes.
        max: usize,
    },
    /// The channel was removed, or its other end is gone for good.
    Closed,
    /// The peer died, and this kind of channel can't go on without it. Where senders connect to a
    /// receiver it may have gone in good order as well, and the next call waits for its successor.
    PeerDied,
    /// The channel's memory holds what no correct peer writes.
    Corrupt(String),
    /// This process is a fork of the one that opened the endpoint; open one of its own.
    Forked,
    /// The system refused for another reason.
    Os(OsError),
}

/// Why no message was received. None was lost.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// The channel is empty, and the call was not to wait.
    WouldBlock,
    /// The channel stayed empty until the deadline.
    TimedOut,
    /// The wait was cancelled.
    Cancelled,
    /// A sender marked the end of its stream here ([`EndMark`](crate::EndMark)). The mark
    /// is consumed; the next call goes on behind it.
    End,
    /// This receiver was too slow, or too far behind when it came, and messages were
    /// overwritten before it saw them. Said once; the next call goes on behind the gap.
    Lagged {
        /// How many it missed.
        missed: u64,
    },
    /// The channel was removed, or its other end is gone for good.
    Closed,
    /// The peer died, and this kind of channel can't go on without it.
    PeerDied,
    /// The channel's memory holds what no correct peer writes.
    Corrupt(String),
    /// This process is a fork of the one that opened the endpoint; open one of its own.
    Forked,
    /// The system refused for another reason.
    Os(OsError),
}

/// Why a wait ended without what it was for: what sending and receiving have in common, for
/// backends, whose waiting is the same at both ends.
#[derive(Debug)]
pub enum Unready {
    /// The call was not to wait.
    WouldBlock,
    /// The deadline passed.
    TimedOut,
    /// The wait was cancelled.
    Cancelled,
    /// The channel was removed.
    Closed,
    /// The system refused to wait.
    Os(OsError),
}

/// Why a channel could not be made, opened, inspected or removed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ChannelError {
    /// There is no channel of this name.
    NotFound,
    /// There is a channel of this name already.
    AlreadyExists,
    /// The channel exists with other settings than those asked for.
    Mismatch {
        /// The setting, as the configuration names it.
        setting: &'static str,
        /// What was asked for.
        asked: String,
        /// What the channel has.
        found: String,
    },
    /// Another endpoint has the role, or the channel is in use and can't be removed.
    Busy {
        /// The role that is taken.
        role: Role,
        /// The process that has it, as far as it is known. For people to read.
        pid: Option<u32>,
    },
    /// The system doesn't permit it.
    NotPermitted(String),
    /// The name is not one.
    InvalidName(InvalidName),
    /// The settings make no sense; the text says which and why.
    InvalidConfig(String),
    /// A limit of the system was reached; the text names it, its value and what raises it.
    Limit(String),
    /// The channel's memory holds what no correct peer writes, or isn't a channel.
    Corrupt(String),
    /// The channel was in use when the machine went down, or some of it couldn't be written to the
    /// disk; the text says what to do.
    Unrecovered(String),
    /// This system can't do it; the text says what to do instead.
    Unsupported(String),
    /// This process is a fork of the one that opened the channel; open it anew.
    Forked,
    /// The system refused for another reason.
    Os(OsError),
}

/// A loan that could not be committed, given back together with the reason.
#[derive(Debug)]
pub struct Rejected<L> {
    /// The loan, as it was; commit it again or drop it.
    pub loan: L,
    /// Why it was not sent.
    pub error: SendError,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the channel is full, or nobody receives"),
            Self::TimedOut => f.write_str("timed out: there was no room, or nobody received"),
            Self::Cancelled => f.write_str("the wait was cancelled"),
            Self::TooLong { len, max } => {
                write!(f, "the message has {len} bytes, the channel takes at most {max}")
            }
            Self::Closed => f.write_str(CLOSED),
            Self::PeerDied => f.write_str("the peer died or went away"),
            Self::Corrupt(what) => corrupt(f, what),
            Self::Forked => f.write_str(FORKED),
            Self::Os(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the channel is empty"),
            Self::TimedOut => f.write_str("timed out: the channel stayed empty"),
            Self::Cancelled => f.write_str("the wait was cancelled"),
            Self::End => f.write_str("the sender marked the end of its stream"),
            Self::Lagged { missed } => {
                write!(f, "{missed} messages were overwritten before they were received")
            }
            Self::Closed => f.write_str(CLOSED),
            Self::PeerDied => f.write_str("the peer died"),
            Self::Corrupt(what) => corrupt(f, what),
            Self::Forked => f.write_str(FORKED),
            Self::Os(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such channel"),
            Self::AlreadyExists => f.write_str("the channel exists already"),
            // There may be no way to leave it out.
            Self::Mismatch { setting: "kind", asked, found } => write!(
                f,
                "the channel exists and is of kind {found}, not {asked}: \
                 use it as what it is, or take another name"
            ),
            Self::Mismatch { setting, asked, found } => write!(
                f,
                "the channel exists with {setting} {found}, not {asked}: \
                 ask for the same or leave it out"
            ),
            Self::Busy { role, pid } => {
                write!(f, "the channel's {role} is taken")?;
                match pid {
                    Some(pid) => write!(f, " by process {pid}"),
                    None => Ok(()),
                }
            }
            Self::NotPermitted(what) => write!(f, "not permitted: {what}"),
            Self::InvalidName(error) => error.fmt(f),
            Self::InvalidConfig(what)
            | Self::Limit(what)
            | Self::Unrecovered(what)
            | Self::Unsupported(what) => f.write_str(what),
            Self::Corrupt(what) => corrupt(f, what),
            Self::Forked => f.write_str(FORKED),
            Self::Os(error) => error.fmt(f),
        }
    }
}

const CLOSED: &str = "the channel was removed, or its other end is gone for good";
const FORKED: &str = "the endpoint belongs to the parent process: open another one after the fork";

fn corrupt(f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
    write!(f, "the channel is corrupt: {what}")
}

impl<L> fmt::Display for Rejected<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

impl Error for RecvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

impl Error for ChannelError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            Self::InvalidName(error) => Some(error),
            _ => None,
        }
    }
}

impl<L: fmt::Debug> Error for Rejected<L> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl From<Unready> for SendError {
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

impl From<Unready> for RecvError {
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

impl From<OsError> for Unready {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}

impl From<OsError> for SendError {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}

impl From<OsError> for RecvError {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}

impl From<OsError> for ChannelError {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}

impl From<InvalidName> for ChannelError {
    fn from(error: InvalidName) -> Self {
        Self::InvalidName(error)
    }
}

#[cfg(test)]
mod tests {
    use super::{ChannelError, RecvError, SendError};
    use rstest::rstest;

    fn mismatch(setting: &'static str) -> String {
        ChannelError::Mismatch { setting, asked: "rpc".into(), found: "mpmc".into() }.to_string()
    }

    /// Who calls or serves always asks for a kind, and can't leave it out.
    #[test]
    fn a_channel_of_another_kind_is_to_be_used_as_what_it_is() {
        assert_eq!(
            mismatch("kind"),
            "the channel exists and is of kind mpmc, not rpc: use it as what it is, or take another name"
        );
        assert!(mismatch("depth").contains("with depth mpmc, not rpc: ask for the same or leave it out"));
    }

    #[rstest]
    #[case(SendError::Closed.to_string(), &["removed", "gone for good"])]
    #[case(RecvError::Closed.to_string(), &["removed", "gone for good"])]
    #[case(SendError::WouldBlock.to_string(), &["full", "nobody receives"])]
    #[case(SendError::TimedOut.to_string(), &["no room", "nobody received"])]
    fn what_has_several_causes_names_them(#[case] text: String, #[case] causes: &[&str]) {
        assert!(causes.iter().all(|cause| text.contains(cause)), "{text}");
    }
}
