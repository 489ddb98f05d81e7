//! Request and response: clients that call, servers that answer.
//!
//! Not a pair of sender and receiver: an answer belongs to one call, and a caller is to learn
//! that nobody will give it.

use crate::{OsError, RecvError, SendError, Unready, Wait};
use std::{error::Error, fmt, ops::Deref};

/// The calling end of a service.
///
/// [`call`](Client::call) makes one call at a time. Several are under way at once with
/// [`submit`](Client::submit), which gives a ticket for each, and
/// [`collect`](Client::collect).
pub trait Client: Send {
    /// A call that is under way. Dropping it gives the call up, as
    /// [`abandon`](Client::abandon) does, also while its client waits for another one. Of a
    /// client that is gone, and in a forked child, it does nothing.
    type Ticket: fmt::Debug + Send;
    /// A response lent by the endpoint. Dropping it releases it.
    type Response<'a>: Deref<Target = [u8]>
    where
        Self: 'a;

    /// The longest request and the longest response, in bytes.
    fn max_message_len(&self) -> usize;

    /// Makes a request, and doesn't wait for the response.
    ///
    /// # Errors
    ///
    /// [`CallError`]; nothing was requested then.
    ///
    /// # Blocking
    ///
    /// Waits for room for another call, as long as `wait` says. Whether a server exists
    /// doesn't matter.
    fn submit(&mut self, request: &[u8], wait: Wait<'_>) -> Result<Self::Ticket, CallError>;

    /// The blocking step: waits until the response to a call is there.
    ///
    /// # Errors
    ///
    /// [`CallError::WouldBlock`], [`CallError::TimedOut`] and [`CallError::Cancelled`] leave
    /// the call under way. With any other error it is over, and so is its ticket.
    ///
    /// # Blocking
    ///
    /// As long as `wait` says.
    fn advance(&mut self, ticket: &Self::Ticket, wait: Wait<'_>) -> Result<(), CallError>;

    /// The lending step: the response that [`advance`](Client::advance) waited for.
    ///
    /// # Panics
    ///
    /// If the last `advance` with this ticket didn't succeed, or it is another client's: a
    /// mistake in the calling program.
    fn response(&mut self, ticket: Self::Ticket) -> Self::Response<'_>;

    /// Gives a call up. A request that no server has taken is withdrawn; the response to any
    /// other is discarded when it comes.
    fn abandon(&mut self, ticket: Self::Ticket);

    /// Waits for the response to a call, and gives the call up if none comes.
    ///
    /// # Errors
    ///
    /// [`CallError`]; the call is over then.
    ///
    /// # Blocking
    ///
    /// As long as `wait` says.
    fn collect(&mut self, ticket: Self::Ticket, wait: Wait<'_>) -> Result<Self::Response<'_>, CallError> {
        match self.advance(&ticket, wait) {
            Ok(()) => Ok(self.response(ticket)),
            Err(error) => {
                self.abandon(ticket);
                Err(error)
            }
        }
    }

    /// Makes a request and waits for the response.
    ///
    /// # Errors
    ///
    /// [`CallError`]; the call is over then. Whether a server acted on the request is known
    /// only where the error says so.
    ///
    /// # Blocking
    ///
    /// Waits for room and for the response as long as `wait` says; [`Wait::Never`] is for the
    /// steps apart.
    fn call(&mut self, request: &[u8], wait: Wait<'_>) -> Result<Self::Response<'_>, CallError> {
        let ticket = self.submit(request, wait)?;
        self.collect(ticket, wait)
    }
}

/// The answering end of a service.
pub trait Server: Send {
    /// A request lent by the endpoint, see [`Request`].
    type Request<'a>: Request
    where
        Self: 'a;

    /// The longest request and the longest response, in bytes.
    fn max_message_len(&self) -> usize;

    /// The blocking step: waits until this endpoint holds a request. Returns at once if it
    /// holds one already.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    ///
    /// # Blocking
    ///
    /// As long as `wait` says.
    fn advance(&mut self, wait: Wait<'_>) -> Result<(), RecvError>;

    /// The lending step: the request that [`advance`](Server::advance) took.
    ///
    /// # Panics
    ///
    /// If this endpoint holds none: a mistake in the calling program.
    fn held(&mut self) -> Self::Request<'_>;

    /// Waits as long as `wait` says, then lends the next request.
    ///
    /// # Errors
    ///
    /// As [`advance`](Server::advance).
    fn next(&mut self, wait: Wait<'_>) -> Result<Self::Request<'_>, RecvError> {
        self.advance(wait)?;
        Ok(self.held())
    }
}

/// A request lent by its server. Dropping it declines it: the caller is told
/// [`CallError::Declined`].
pub trait Request: Deref<Target = [u8]> + Sized {
    /// Answers it. False if the caller has given the call up, or is gone: the response is
    /// discarded.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLong`] and the others; the request is declined then.
    fn respond(self, response: &[u8]) -> Result<bool, SendError>;
}

/// Why a call has no response.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// There is no room, or no response yet, and the call was not to wait.
    WouldBlock,
    /// There was no room, or no response, until the deadline.
    TimedOut,
    /// The wait was cancelled.
    Cancelled,
    /// The request can never fit.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest that the channel takes, in bytes.
        max: usize,
    },
    /// The server took the request and gave it back without a response.
    Declined,
    /// The server died after it had taken the request. Whether it acted on it isn't known;
    /// the request is not given to another server.
    ServerDied,
    /// The channel was removed.
    Closed,
    /// The channel's memory holds what no correct peer writes.
    Corrupt(String),
    /// This process is a fork of the one that opened the endpoint; open one of its own.
    Forked,
    /// The system refused for another reason.
    Os(OsError),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("there is no response yet, or no room for another call"),
            Self::TimedOut => f.write_str("timed out: no server answered"),
            Self::Cancelled => f.write_str("the wait was cancelled"),
            Self::TooLong { len, max } => {
                write!(f, "the request has {len} bytes, the channel takes at most {max}")
            }
            Self::Declined => f.write_str("the server declined the request"),
            Self::ServerDied => {
                f.write_str("the server died with the request: whether it acted on it isn't known")
            }
            // As the other ends of channels say it.
            Self::Closed => SendError::Closed.fmt(f),
            Self::Corrupt(what) => write!(f, "the channel is corrupt: {what}"),
            Self::Forked => SendError::Forked.fmt(f),
            Self::Os(error) => error.fmt(f),
        }
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Unready> for CallError {
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

impl From<OsError> for CallError {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}
