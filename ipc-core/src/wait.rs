//! How long a call may block, and how another thread ends the wait.
//!
//! Deadlines are [`Instant`]s: a monotonic clock, so that a step of the wall clock neither
//! cuts a wait short nor prolongs it.

#[cfg(unix)]
use crate::fork;
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

/// How long a blocking step may wait.
// The tag is a whole word: a copy of the value right after it was made, which is what every
// call does, is then served from the store buffer. A niche in the instant's 32-bit field
// costs 9 ns a call.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[repr(u64)]
pub enum Wait<'c> {
    /// Don't: answer at once, with `WouldBlock` if it can't be done now.
    Never,
    /// Until it can be done.
    Forever,
    /// Until this instant, then `TimedOut`. An instant in the past still tries once.
    Until(Instant),
    /// Until this instant (if there is one), or until `cancel` is cancelled: `Cancelled`.
    /// What can be done at once is done even if it was cancelled before.
    Cancellable {
        /// When the wait times out.
        until: Option<Instant>,
        /// What cuts the wait short.
        cancel: &'c Cancel,
    },
}

impl<'c> Wait<'c> {
    /// Waits for at most `timeout` from now. One too long for the clock means for ever.
    pub fn timeout(timeout: Duration) -> Self {
        Instant::now().checked_add(timeout).map_or(Self::Forever, Self::Until)
    }

    /// The same wait, which `cancel` can cut short. [`Wait::Never`] stays as it is.
    #[must_use]
    pub fn or_cancel(self, cancel: &'c Cancel) -> Self {
        match self {
            Self::Never => Self::Never,
            other => Self::Cancellable { until: other.deadline(), cancel },
        }
    }

    /// When the wait times out, if it ever does. [`Wait::Never`] has no deadline either:
    /// it doesn't wait.
    pub fn deadline(&self) -> Option<Instant> {
        match *self {
            Self::Never | Self::Forever => None,
            Self::Until(until) => Some(until),
            Self::Cancellable { until, .. } => until,
        }
    }

    /// What can cut the wait short.
    pub fn cancel(&self) -> Option<&'c Cancel> {
        match *self {
            Self::Cancellable { cancel, .. } => Some(cancel),
            _ => None,
        }
    }

    /// Whether the wait was cut short.
    pub fn is_cancelled(&self) -> bool {
        self.cancel().is_some_and(Cancel::is_cancelled)
    }
}

/// Ends waits from another thread: those under way and those still to come.
///
/// It can be a `static`. A signal handler must not call [`cancel`](Cancel::cancel) (it takes
/// a lock); wait for the signal in a thread instead.
///
/// ```
/// use ipc_core::{Cancel, Channel, ChannelName, Receiver, RecvError, Transport, Wait, local::Local};
/// static STOP: Cancel = Cancel::new();
///
/// let channel = Local::new().create(&ChannelName::new("quiet")?, &Default::default())?;
/// let mut rx = channel.receiver()?;
/// let waiter = std::thread::spawn(move || {
///     rx.advance(Wait::Forever.or_cancel(&STOP)).unwrap_err()
/// });
/// STOP.cancel();
/// assert!(matches!(waiter.join().unwrap(), RecvError::Cancelled));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    /// Of the process that they are of: those of a parent don't wait in its forked child.
    generation: u32,
    next_id: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Cancel {
    /// One that isn't cancelled yet.
    pub const fn new() -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            waiters: Mutex::new(Waiters { generation: 0, next_id: 0, wakers: Vec::new() }),
        }
    }

    /// Cancels every wait that was given this object, now and from now on.
    pub fn cancel(&self) {
        // SeqCst, with the load in `is_cancelled`: a waiter that announces itself and then
        // finds nothing here is seen by the wakers below.
        self.cancelled.store(true, Ordering::SeqCst);
        let woken = self.with(|waiters| std::mem::take(&mut waiters.wakers));
        for (_, waker) in woken {
            waker.wake();
        }
    }

    /// Whether [`cancel`](Cancel::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// For backends: has `waker` woken when the wait is cancelled, until the registration
    /// is dropped. Check [`is_cancelled`](Cancel::is_cancelled) once more *after*
    /// registering and announcing the sleep: a waker that is registered too late is not
    /// called.
    pub fn register(&self, waker: Waker) -> CancelRegistration<'_> {
        let id = self.with(|waiters| {
            let id = waiters.next_id;
            waiters.next_id += 1;
            waiters.wakers.push((id, waker));
            id
        });
        CancelRegistration { cancel: self, id }
    }

    /// Looks at the list, or changes it, while no thread forks, as far as a backend sees to that: a
    /// child would wait for ever for a thread that it doesn't have. What is taken out ends outside.
    fn with<T>(&self, change: impl FnOnce(&mut Waiters) -> T) -> T {
        #[cfg(unix)]
        let _window = fork::Window::open_if_noticed();
        // The list is valid at every step, so a panic elsewhere doesn't spoil it.
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(unix)]
        waiters.disown_a_parents(fork::generation());
        change(&mut waiters)
    }
}

#[cfg(unix)]
impl Waiters {
    /// In a child, nobody is to be woken who waits in its parent, nor what they have to be let go of.
    fn disown_a_parents(&mut self, generation: u32) {
        if self.generation != generation {
            std::mem::forget(std::mem::take(&mut self.wakers));
            self.generation = generation;
        }
    }
}

/// A registered waker; dropping it takes the waker out again.
#[derive(Debug)]
#[must_use = "dropping it takes the waker out"]
pub struct CancelRegistration<'c> {
    cancel: &'c Cancel,
    id: u64,
}

impl Drop for CancelRegistration<'_> {
    fn drop(&mut self) {
        let _waker = self.cancel.with(|Waiters { wakers, .. }| {
            let place = wakers.iter().position(|&(id, _)| id == self.id)?;
            Some(wakers.swap_remove(place))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Cancel, Wait};
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Wake,
        time::Duration,
    };

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_timeout_of_centuries_waits_for_ever() {
        assert!(matches!(Wait::timeout(Duration::MAX), Wait::Forever));
    }

    #[test]
    fn cancelling_wakes_who_is_registered_and_nobody_else() {
        let cancel = Cancel::new();
        let (stays, leaves) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let _kept = cancel.register(stays.clone().into());
        drop(cancel.register(leaves.clone().into()));
        cancel.cancel();
        assert_eq!((stays.0.load(Ordering::Relaxed), leaves.0.load(Ordering::Relaxed)), (1, 0));
        assert!(Wait::Forever.or_cancel(&cancel).is_cancelled());
    }

    #[test]
    fn never_stays_never() {
        assert!(matches!(Wait::Never.or_cancel(&Cancel::new()), Wait::Never));
    }
}
