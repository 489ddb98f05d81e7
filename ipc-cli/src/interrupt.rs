//! What ends a command from outside: SIGINT, SIGTERM, and nobody reading its output.
//!
//! The signals are blocked in every thread and fetched by one that waits for them
//! (signalfd(2)), so that nothing runs in a signal handler. It cancels the waits on the
//! channel ([`Cancel`]) and, since read(2) and write(2) know nothing of that, makes a
//! descriptor readable that every wait for standard input or output polls too. While a command
//! runs for us, it hands them on to that.

use crate::exit::{Ending, Failure};
use ipc_core::{Cancel, Wait};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd, siginfo},
    },
    unistd::Pid,
};
use std::{
    fs,
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Why a command is to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A signal of this number came.
    Signal(i32),
    /// Nobody reads the output any more.
    ClosedPipe,
}

/// The place where causes to end arrive.
#[derive(Debug)]
pub(crate) struct Interrupt {
    cancel: Cancel,
    /// 0: none yet; [`CLOSED_PIPE`]; else a signal's number.
    cause: AtomicI32,
    /// Readable from the first cause on.
    wake_rx: UnixStream,
    wake_tx: UnixStream,
    /// What was blocked before we blocked signals.
    blocked_before: OnceLock<SigSet>,
    command: Mutex<Option<Command>>,
    last_words: Mutex<Option<Arc<Failure>>>,
}

/// A running command that signals are handed on to.
#[derive(Clone, Copy, Debug)]
struct Command {
    pid: Pid,
    persistence: Persistence,
}

/// How long we live when signals come while a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// As long as the command: what it relies on would end with us.
    UntilItEnds,
    /// Until the second signal, as without a command.
    UntilASecondSignal,
}

const CLOSED_PIPE: i32 = -1;

impl Interrupt {
    /// Signals that come so soon after the first are no second request: timeout(1) sends one
    /// to its child and one to the child's group, and a terminal one to every process.
    const ONE_AND_THE_SAME: Duration = Duration::from_millis(300);

    /// One that nothing is connected to yet.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let (wake_rx, wake_tx) = UnixStream::pair()?;
        Ok(Arc::new(Self {
            cancel: Cancel::new(),
            cause: AtomicI32::new(0),
            wake_rx,
            wake_tx,
            blocked_before: OnceLock::new(),
            command: Mutex::new(None),
            last_words: Mutex::new(None),
        }))
    }

    /// Raised by SIGINT and SIGTERM from now on. A second one ends the process at once,
    /// in case that it hangs where no signal reaches it. To be called before there are
    /// other threads: they inherit which signals are blocked. What was ignored before stays so:
    /// nohup(1), or a shell that runs us in the background of a script, wished that.
    pub(crate) fn on_signals(self: &Arc<Self>) -> io::Result<()> {
        self.on(&[Signal::SIGINT, Signal::SIGTERM])
    }

    /// The same for all signals that are sent to end a process.
    pub(crate) fn on_all_signals(self: &Arc<Self>) -> io::Result<()> {
        self.on(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM])
    }

    fn on(self: &Arc<Self>, signals: &[Signal]) -> io::Result<()> {
        // A signal that is blocked is no longer ignored.
        let ignored = ignored_signals();
        let is_ignored = |signal: Signal| ignored >> (signal as u32 - 1) & 1 == 1;
        let signals: SigSet = signals.iter().copied().filter(|&signal| !is_ignored(signal)).collect();
        // Called once; of a second call's, the first answer would be the right one, too.
        let _ = self.blocked_before.set(SigSet::thread_get_mask()?);
        signals.thread_block()?;
        let arrivals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
        let interrupt = Arc::clone(self);
        thread::Builder::new().name("signals".into()).spawn(move || {
            let mut first = None;
            loop {
                match arrivals.read_signal() {
                    Ok(Some(arrival)) => interrupt.arrived(&arrival, &mut first),
                    Err(Errno::EINTR) => {}
                    _ => return,
                }
            }
        })?;
        Ok(())
    }

    fn arrived(&self, arrival: &siginfo, first: &mut Option<Instant>) {
        let number = arrival.ssi_signo as i32;
        self.raise(Cause::Signal(number));
        let command = self.command();
        if let Some(Command { pid, persistence }) = *command {
            // The kernel's own come from the terminal, which sends them to all in its foreground;
            // and many a command takes a second one for a wish to be rid of it at once.
            if arrival.ssi_code != nix::libc::SI_KERNEL {
                // It may just have ended.
                let _ = Signal::try_from(number).and_then(|signal| kill(pid, signal));
            }
            if persistence == Persistence::UntilItEnds {
                return;
            }
        }
        if first.get_or_insert_with(Instant::now).elapsed() >= Self::ONE_AND_THE_SAME {
            self.end_at_once(number);
        }
    }

    fn end_at_once(&self, number: i32) -> ! {
        // Held to the end: what is said here isn't said again.
        let last_words = self.last_words();
        let Some(failure) = &*last_words else { std::process::exit(128 + number) };
        // What it hangs at may be standard error.
        let stderr = io::stderr();
        let mut watched = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if matches!(poll_uninterrupted(&mut watched, Some(Duration::ZERO)), Ok(1)) {
            failure.report();
        }
        std::process::exit(failure.exit as i32)
    }

    /// From now on a second signal is a failure, and which one is said: something is at stake that
    /// ends with the process.
    pub(crate) fn set_last_words(&self, failure: Option<Arc<Failure>>) {
        *self.last_words() = failure;
    }

    fn last_words(&self) -> MutexGuard<'_, Option<Arc<Failure>>> {
        // It is whole at any time.
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a command, given the signals that it is to block; those that come from then on are
    /// handed on to it. `None` if a cause to end came before.
    pub(crate) fn hand_on(
        &self,
        persistence: Persistence,
        start: impl FnOnce(&SigSet) -> io::Result<Pid>,
    ) -> io::Result<Option<Pid>> {
        // Held meanwhile: what comes now waits for the command that it is handed on to.
        let mut command = self.command();
        if self.cause().is_some() {
            return Ok(None);
        }
        let pid = match self.blocked_before.get() {
            Some(blocked) => start(blocked)?,
            None => start(&SigSet::thread_get_mask()?)?,
        };
        *command = Some(Command { pid, persistence });
        Ok(Some(pid))
    }

    /// The command has ended.
    pub(crate) fn hand_on_no_more(&self) {
        *self.command() = None;
    }

    fn command(&self) -> MutexGuard<'_, Option<Command>> {
        // It is whole at any time.
        self.command.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raised when `output` is a pipe or socket that nobody reads any more.
    pub(crate) fn on_closed(self: &Arc<Self>, output: OwnedFd) -> io::Result<()> {
        let interrupt = Arc::clone(self);
        thread::Builder::new().name("output".into()).spawn(move || {
            // Asking for nothing leaves what is always reported: POLLERR, POLLHUP.
            let mut watched = [PollFd::new(output.as_fd(), PollFlags::empty())];
            if let Ok(1) = poll_uninterrupted(&mut watched, None) {
                interrupt.raise(Cause::ClosedPipe);
            }
        })?;
        Ok(())
    }

    /// The first cause stays; later ones change nothing.
    pub(crate) fn raise(&self, cause: Cause) {
        let cause = match cause {
            Cause::Signal(number) => number,
            Cause::ClosedPipe => CLOSED_PIPE,
        };
        // Release: pairs with the Acquire in `cause`, for whoever saw the wake-up first.
        if self.cause.compare_exchange(0, cause, Ordering::Release, Ordering::Relaxed).is_ok() {
            // A failure means that the byte of an earlier cause fills the socket.
            let _ = (&self.wake_tx).write_all(&[1]);
            self.cancel.cancel();
        }
    }

    /// What came first, if anything did.
    pub(crate) fn cause(&self) -> Option<Cause> {
        // Acquire: pairs with the Release in `raise`.
        match self.cause.load(Ordering::Acquire) {
            0 => None,
            CLOSED_PIPE => Some(Cause::ClosedPipe),
            number => Some(Cause::Signal(number)),
        }
    }

    /// How a command ends for that cause.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.cause().map(|cause| match cause {
            Cause::Signal(number) => Ending::Signal(number),
            Cause::ClosedPipe => Ending::Done,
        })
    }

    /// The wait of one message: `timeout` from now, zero for none at all, and never beyond
    /// a cause to end.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Wait<'_> {
        let wait = match timeout {
            None => Wait::Forever,
            Some(Duration::ZERO) => Wait::Never,
            Some(timeout) => Wait::timeout(timeout),
        };
        wait.or_cancel(&self.cancel)
    }

    /// Waits for so long, or until a cause to end comes.
    pub(crate) fn pause(&self, time: Duration) -> io::Result<()> {
        let mut watched = [PollFd::new(self.wake_rx.as_fd(), PollFlags::POLLIN)];
        poll_uninterrupted(&mut watched, Some(time)).map(drop)
    }

    /// Waits until `input` can be read without blocking. False if a cause to end came first.
    pub(crate) fn wait_readable(&self, input: BorrowedFd<'_>) -> io::Result<bool> {
        let mut watched =
            [PollFd::new(self.wake_rx.as_fd(), PollFlags::POLLIN), PollFd::new(input, PollFlags::POLLIN)];
        poll_uninterrupted(&mut watched, None)?;
        Ok(!is_ready(&watched[0]))
    }

    /// Waits until `output` takes bytes, or has an error to report. `TimedOut` if a cause to
    /// end came and it took none for `grace` since: whoever reads it doesn't any more.
    pub(crate) fn wait_writable(&self, output: BorrowedFd<'_>, grace: Duration) -> io::Result<Writable> {
        let ready = PollFd::new(output, PollFlags::POLLOUT);
        if self.cause().is_none() {
            let mut watched = [ready.clone(), PollFd::new(self.wake_rx.as_fd(), PollFlags::POLLIN)];
            poll_uninterrupted(&mut watched, None)?;
            if is_ready(&watched[0]) {
                return Ok(writable(&watched[0]));
            }
        }
        let mut watched = [ready];
        match poll_uninterrupted(&mut watched, Some(grace))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(writable(&watched[0])),
        }
    }
}

/// The signals that are ignored: bit 0 stands for signal 1. None is known where there is no /proc.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// What a ready output is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writable {
    /// To take bytes.
    Room,
    /// To say what is wrong; likely that nobody reads it.
    Failed,
}

fn writable(output: &PollFd<'_>) -> Writable {
    let failed = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    match output.revents() {
        Some(events) if !events.intersects(failed) => Writable::Room,
        _ => Writable::Failed,
    }
}

pub(crate) fn is_ready(watched: &PollFd<'_>) -> bool {
    watched.any().unwrap_or(true)
}

/// poll(2), begun anew when a handled signal (SIGCONT after a stop) cuts it short. `timeout`
/// counts from the first begin.
pub(crate) fn poll_uninterrupted(watched: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<i32> {
    let until = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = until.map_or(PollTimeout::NONE, |until| {
            // It counts in milliseconds: less than one is one, lest we spin.
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_nanos(999_999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(watched, left) {
            Err(Errno::EINTR) => {}
            answer => return Ok(answer?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, Interrupt, PollFd, PollFlags, Writable, poll_uninterrupted};
    use ipc_core::Wait;
    use std::{
        io::{self, Write},
        os::fd::AsFd,
        os::unix::net::UnixStream,
        time::Duration,
    };

    #[test]
    fn the_first_cause_stays() {
        let interrupt = Interrupt::new().unwrap();
        assert_eq!(interrupt.cause(), None);
        interrupt.raise(Cause::Signal(15));
        interrupt.raise(Cause::ClosedPipe);
        assert_eq!(interrupt.cause(), Some(Cause::Signal(15)));
        assert!(interrupt.wait(None).is_cancelled());
    }

    #[test]
    fn zero_means_not_waiting() {
        assert!(matches!(Interrupt::new().unwrap().wait(Some(Duration::ZERO)), Wait::Never));
    }

    #[test]
    fn a_cause_ends_the_wait_for_input() {
        let interrupt = Interrupt::new().unwrap();
        let (input, mut peer) = UnixStream::pair().unwrap();
        peer.write_all(b"x").unwrap();
        assert!(interrupt.wait_readable(input.as_fd()).unwrap());
        interrupt.raise(Cause::Signal(2));
        assert!(!interrupt.wait_readable(input.as_fd()).unwrap());
    }

    #[test]
    fn a_cause_ends_the_wait_for_an_output_that_takes_nothing() {
        let interrupt = Interrupt::new().unwrap();
        let (mut output, _peer) = UnixStream::pair().unwrap();
        assert_eq!(interrupt.wait_writable(output.as_fd(), Duration::ZERO).unwrap(), Writable::Room);
        output.set_nonblocking(true).unwrap();
        while output.write(&[0; 4096]).is_ok() {}
        interrupt.raise(Cause::Signal(2));
        let error = interrupt.wait_writable(output.as_fd(), Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_output_that_nobody_reads_is_noticed_while_idle() {
        let interrupt = Interrupt::new().unwrap();
        let (output, peer) = UnixStream::pair().unwrap();
        interrupt.on_closed(output.into()).unwrap();
        drop(peer);
        let mut watched = [PollFd::new(interrupt.wake_rx.as_fd(), PollFlags::POLLIN)];
        poll_uninterrupted(&mut watched, Some(Duration::from_secs(30))).unwrap();
        assert_eq!(interrupt.cause(), Some(Cause::ClosedPipe));
    }
}
