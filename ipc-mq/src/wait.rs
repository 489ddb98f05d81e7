//! How an endpoint waits, after `ppoll(2)` and `eventfd(2)`.
//!
//! The descriptor stays in blocking mode, so that a wait without a deadline is one plain
//! `mq_send` or `mq_receive`. Every other wait is a try that can't block, then `ppoll` with
//! what is left until the deadline, then another try, since another process may have been
//! faster. What is left is worked out from the monotonic clock each time, so that neither a
//! signal nor a step of the wall clock shortens or prolongs the wait.

use crate::{at_fork, limit};
use ipc_core::{OsError, Unready, Wait};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        signal::SigSet,
        time::TimeSpec,
    },
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    task::Wake,
    time::{Duration, Instant},
};

/// One sleep at most; a longer wait takes several. It keeps any deadline within what the
/// kernel can count.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// How a single call is to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Wait in the kernel for as long as it takes.
    Endless,
    /// Answer at once.
    None,
}

/// Sorts out what `call` answered. `None` is "not now".
///
/// A try that a signal interrupted found the queue unready too: the kernel looks at it
/// first and at signals only before it would sleep. An endless wait that a signal
/// interrupted goes on in `ppoll`, like one on a descriptor that someone made non-blocking.
#[inline]
pub(crate) fn sort_out<T>(call: &'static str, answer: Result<T, Errno>) -> Result<Option<T>, OsError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Errno::ETIMEDOUT | Errno::EINTR | Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(OsError::new(call, errno)),
    }
}

/// Makes a call again when a signal has interrupted it.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            answer => return answer,
        }
    }
}

/// What a wait watches: something with a descriptor that `ppoll` takes.
pub(crate) trait Watched {
    fn watched(&self) -> BorrowedFd<'_>;

    /// A second one, if there is one that is to be watched as well.
    fn watched_besides(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// After so long it is to be looked again, whatever this says.
    fn longest_sleep(&self) -> Option<Duration> {
        None
    }
}

impl Watched for BorrowedFd<'_> {
    fn watched(&self) -> BorrowedFd<'_> {
        *self
    }
}

/// What an endpoint needs to wait, made when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    bell: Option<Arc<Bell>>,
}

impl Waiter {
    /// Waits as long as `wait` says until `attempt` has an answer. `readiness` is what
    /// `ppoll` calls the state in which an attempt may have one.
    #[inline]
    pub(crate) fn until<T, E: Into<Unready>>(
        &mut self,
        queue: BorrowedFd<'_>,
        readiness: PollFlags,
        wait: Wait<'_>,
        mut attempt: impl FnMut(Patience) -> Result<Option<T>, E>,
    ) -> Result<T, Unready> {
        let mut queue = queue;
        self.until_of(&mut queue, readiness, wait, |_, patience| attempt(patience))
    }

    /// The same for attempts that change what is watched.
    #[inline]
    pub(crate) fn until_of<W: Watched, T, E: Into<Unready>>(
        &mut self,
        watched: &mut W,
        readiness: PollFlags,
        wait: Wait<'_>,
        mut attempt: impl FnMut(&mut W, Patience) -> Result<Option<T>, E>,
    ) -> Result<T, Unready> {
        let patience = if matches!(wait, Wait::Forever) { Patience::Endless } else { Patience::None };
        match attempt(watched, patience).map_err(Into::into)? {
            Some(answer) => Ok(answer),
            None if matches!(wait, Wait::Never) => Err(Unready::WouldBlock),
            None => self.sleep_until(watched, readiness, wait, attempt),
        }
    }

    #[cold]
    fn sleep_until<W: Watched, T, E: Into<Unready>>(
        &mut self,
        watched: &mut W,
        readiness: PollFlags,
        wait: Wait<'_>,
        mut attempt: impl FnMut(&mut W, Patience) -> Result<Option<T>, E>,
    ) -> Result<T, Unready> {
        let bell = wait.cancel().map(|_| self.bell()).transpose()?;
        let _registration =
            wait.cancel().zip(bell).map(|(cancel, bell)| cancel.register(Arc::clone(bell).into()));
        loop {
            // Asked after registering and before each sleep: a cancellation that is too
            // early for the bell is seen here.
            if wait.is_cancelled() {
                return Err(Unready::Cancelled);
            }
            let sleep = remaining(wait.deadline()).ok_or(Unready::TimedOut)?;
            let sleep = watched.longest_sleep().map_or(sleep, |longest| longest.min(sleep));
            doze(watched, readiness, bell, sleep)?;
            if let Some(answer) = attempt(watched, Patience::None).map_err(Into::into)? {
                return Ok(answer);
            }
        }
    }

    /// The bell of this endpoint in this process. A child process makes its own, or parent
    /// and child would hear, and silence, each other's. Which it is no pid tells: in a namespace of
    /// its own, or once it is free again, the child may have the same.
    fn bell(&mut self) -> Result<&Arc<Bell>, OsError> {
        let generation = at_fork::begin();
        if self.bell.as_ref().is_none_or(|bell| bell.generation != generation) {
            self.bell = Some(Arc::new(Bell::new(generation)?));
        }
        Ok(self.bell.get_or_insert_with(|| unreachable!("made above")))
    }
}

/// How long to sleep next; `None` when the deadline has passed.
fn remaining(deadline: Option<Instant>) -> Option<Duration> {
    let Some(deadline) = deadline else { return Some(LONGEST_SLEEP) };
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left.min(LONGEST_SLEEP))
}

/// Sleeps until what is watched looks ready, the bell rings, a signal comes or the time is over.
fn doze(
    watched: &impl Watched,
    readiness: PollFlags,
    bell: Option<&Arc<Bell>>,
    timeout: Duration,
) -> Result<(), OsError> {
    let first = PollFd::new(watched.watched(), readiness);
    let second = watched.watched_besides().map(|descriptor| PollFd::new(descriptor, readiness));
    let Some(bell) = bell else {
        return match second {
            Some(second) => poll(&mut [first, second], timeout),
            None => poll(&mut [first], timeout),
        };
    };
    let ringing = PollFd::new(bell.eventfd.as_fd(), PollFlags::POLLIN);
    let rang = match second {
        Some(second) => {
            let mut descriptors = [ringing, first, second];
            poll(&mut descriptors, timeout)?;
            descriptors[0].any()
        }
        None => {
            let mut descriptors = [ringing, first];
            poll(&mut descriptors, timeout)?;
            descriptors[0].any()
        }
    };
    if rang == Some(true) {
        bell.silence();
    }
    Ok(())
}

/// Sleeps until one of these is readable; whether the first one is. `None` after a signal.
pub(crate) fn either_readable(
    first: BorrowedFd<'_>,
    second: BorrowedFd<'_>,
) -> Result<Option<bool>, OsError> {
    let mut descriptors = [first, second].map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    match ppoll(&mut descriptors, None, None::<SigSet>) {
        Ok(_) => Ok(Some(descriptors[0].any() == Some(true))),
        Err(Errno::EINTR) => Ok(None),
        Err(errno) => Err(OsError::new("ppoll", errno)),
    }
}

/// `ppoll`, for at most `timeout` by the monotonic clock. An interrupted one is a short one.
fn poll(descriptors: &mut [PollFd<'_>], timeout: Duration) -> Result<(), OsError> {
    match ppoll(descriptors, Some(TimeSpec::from_duration(timeout)), None::<SigSet>) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(OsError::new("ppoll", errno)),
    }
}

/// Whether the descriptor is in this state now.
pub(crate) fn is_ready(descriptor: BorrowedFd<'_>, readiness: PollFlags) -> Result<bool, OsError> {
    let mut descriptors = [PollFd::new(descriptor, readiness)];
    poll(&mut descriptors, Duration::ZERO)?;
    Ok(descriptors[0].any() == Some(true))
}

/// An eventfd that a cancellation rings. It may ring late, for a wait that is over; so it
/// only means "look again".
#[derive(Debug)]
struct Bell {
    eventfd: EventFd,
    /// Whose it is, see [`at_fork`].
    generation: u32,
}

impl Bell {
    fn new(generation: u32) -> Result<Self, OsError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = EventFd::from_flags(flags).map_err(|errno| limit::explained("eventfd", errno))?;
        Ok(Self { eventfd, generation })
    }

    /// The only failure is that there is nothing to read: silent already.
    fn silence(&self) {
        let _ = self.eventfd.read();
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // The only failure is a full counter, and then it rings already.
        let _ = self.eventfd.write(1);
    }
}
