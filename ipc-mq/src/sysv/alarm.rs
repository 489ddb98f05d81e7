//! How an endpoint waits: in the kernel, with an alarm that interrupts it; see the
//! transport's documentation for why.

use super::sys::{self, Handler, Timer};
use crate::{at_fork, limit};
use ipc_core::{ChannelError, OsError, Unready, Wait};
use nix::errno::Errno;
use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
    task::Wake,
    time::{Duration, Instant},
};

/// How often the alarm rings once it is due, until its thread is out of the kernel.
const INSISTENCE: Duration = Duration::from_millis(1);

/// One sleep at most; a longer wait takes several. It keeps any deadline within what the
/// kernel can count.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// Waits as long as `wait` says until `attempt` has an answer. It is told whether it may wait
/// in the kernel; `None` is "not now", or that a signal interrupted it.
#[inline]
pub(crate) fn until<T>(
    wait: Wait<'_>,
    mut attempt: impl FnMut(bool) -> Result<Option<T>, Unready>,
) -> Result<T, Unready> {
    match wait {
        Wait::Never => attempt(false)?.ok_or(Unready::WouldBlock),
        Wait::Forever => loop {
            if let Some(answer) = attempt(true)? {
                return Ok(answer);
            }
        },
        _ => match attempt(false)? {
            Some(answer) => Ok(answer),
            None => sleep_until(wait, attempt),
        },
    }
}

#[cold]
fn sleep_until<T>(
    wait: Wait<'_>,
    mut attempt: impl FnMut(bool) -> Result<Option<T>, Unready>,
) -> Result<T, Unready> {
    // Said before anything is set up: there may be nothing to wait for.
    outcome(wait)?;
    let alarm = Alarm::of_this_thread()?;
    let watch = alarm.watch()?;
    let _registration = wait.cancel().map(|cancel| cancel.register(Arc::clone(&alarm).into()));
    loop {
        // Set before the last look at the cancellation: one that is too early for the alarm
        // is seen by the look, one that is later sets the alarm anew.
        watch.set(wait.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now())))?;
        if sys::took_foreign_signal() {
            return Err(signal_taken().into());
        }
        outcome(wait)?;
        if let Some(answer) = attempt(true)? {
            return Ok(answer);
        }
    }
}

/// Whether the wait is over without an answer.
fn outcome(wait: Wait<'_>) -> Result<(), Unready> {
    if wait.is_cancelled() {
        return Err(Unready::Cancelled);
    }
    match wait.deadline() {
        Some(deadline) if deadline <= Instant::now() => Err(Unready::TimedOut),
        _ => Ok(()),
    }
}

/// What interrupts one thread. A cancellation rings it from another.
#[derive(Debug)]
struct Alarm {
    /// Whose it is, see [`at_fork`]: a child may have its parent's pid, in a namespace of its own or
    /// once it is free again.
    generation: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    timer: Timer,
    /// Whether its thread waits. A cancellation may ring late, for a wait that is over.
    waiting: bool,
}

thread_local! {
    static ALARM: RefCell<Option<Arc<Alarm>>> = const { RefCell::new(None) };
}

impl Alarm {
    /// Made at the thread's first wait; a child process makes its own, since timers stay
    /// with the parent.
    fn of_this_thread() -> Result<Arc<Self>, OsError> {
        ALARM.with_borrow_mut(|alarm| {
            let generation = at_fork::begin();
            if let Some(alarm) = alarm.as_ref().filter(|alarm| alarm.generation == generation) {
                return Ok(Arc::clone(alarm));
            }
            let timer = Timer::for_this_thread().map_err(no_timer)?;
            let state = Mutex::new(State { timer, waiting: false });
            Ok(Arc::clone(alarm.insert(Arc::new(Self { generation, state }))))
        })
    }

    /// Has the signal interrupt this thread until the watch is dropped.
    fn watch(&self) -> Result<Watch<'_>, OsError> {
        match sys::handler().map_err(|errno| OsError::new("sigaction", errno))? {
            Handler::Ours => {}
            Handler::Default => {
                sys::install_handler().map_err(|errno| OsError::new("sigaction", errno))?;
            }
            Handler::Foreign => return Err(signal_in_use()),
        }
        let blocked = sys::block_alarm(false).map_err(|errno| OsError::new("pthread_sigmask", errno))?;
        self.lock().waiting = true;
        Ok(Watch { alarm: self, blocked })
    }

    /// The state is valid at every step, so a panic elsewhere doesn't spoil it.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        let state = self.lock();
        if state.waiting {
            // It was set before with figures like these.
            let _ = state.timer.set(Duration::from_nanos(1), INSISTENCE);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // In a child process the number may be another timer's.
        if self.generation == at_fork::generation() {
            self.lock().timer.delete();
        }
    }
}

/// A thread that may be interrupted.
struct Watch<'a> {
    alarm: &'a Alarm,
    /// Whether the signal was blocked before.
    blocked: bool,
}

impl Watch<'_> {
    /// Rings after this time, if it is given.
    fn set(&self, delay: Option<Duration>) -> Result<(), OsError> {
        let delay = delay.unwrap_or(LONGEST_SLEEP).clamp(Duration::from_nanos(1), LONGEST_SLEEP);
        self.alarm.lock().timer.set(delay, INSISTENCE).map_err(|errno| OsError::new("timer_settime", errno))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut state = self.alarm.lock();
        state.waiting = false;
        // It was set before, so it can be unset.
        let _ = state.timer.set(Duration::ZERO, Duration::ZERO);
        drop(state);
        if self.blocked {
            let _ = sys::block_alarm(true);
        }
    }
}

/// A timer has room for its signal from the beginning.
fn no_timer(errno: Errno) -> OsError {
    let call = "timer_create";
    match errno {
        Errno::EAGAIN => limit::failure(
            call,
            "this user has as many signals under way as it may, and who waits with a deadline or a cancellation takes one",
            limit::QUEUED_SIGNALS,
            "wait without either",
        ),
        errno => OsError::new(call, errno),
    }
}

/// The error of a program that has other uses for the signal.
fn signal_in_use() -> OsError {
    let signal = sys::alarm_signal();
    OsError::new(
        "sigaction",
        std::io::Error::other(format!(
            "signal {signal} (SIGRTMAX-3) has a handler of this program's own, but ends waits on sysv: channels: \
             use another signal, or wait without a deadline"
        )),
    )
}

/// The error of a program to which others send the signal. Who was to have it doesn't get it; it can't
/// be left to them, since to be interrupted by our own, this thread takes any.
fn signal_taken() -> OsError {
    let signal = sys::alarm_signal();
    OsError::new(
        "waiting on a System V queue",
        std::io::Error::other(format!(
            "signal {signal} (SIGRTMAX-3), which ends waits on sysv: channels, was sent to this program by \
             somebody else, and is lost: use another signal, or wait without a deadline"
        )),
    )
}

/// Sorts out what a call on a queue answered.
#[inline]
pub(crate) fn sort_out<T>(call: &'static str, answer: Result<T, Errno>) -> Result<Option<T>, Unready> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Errno::EAGAIN | Errno::ENOMSG | Errno::EINTR) => Ok(None),
        // Removed while we waited; removed before, so that the number means nothing.
        Err(Errno::EIDRM | Errno::EINVAL) => Err(Unready::Closed),
        Err(errno) => Err(OsError::new(call, errno).into()),
    }
}

/// The same for calls that look after queues.
pub(crate) fn gone_or(call: &'static str, errno: Errno) -> ChannelError {
    match errno {
        Errno::EIDRM | Errno::EINVAL | Errno::ENOENT => ChannelError::NotFound,
        other => OsError::new(call, other).into(),
    }
}
