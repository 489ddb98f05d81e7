//! The command that `lock` and `serve` run, as if nobody stood between it and the signals.
//!
//! We block signals ([`Interrupt::on_signals`]), and a child inherits what is blocked where it is
//! started: nothing but SIGKILL would end it. std's `Command` knows no remedy, posix_spawn(3)
//! does. To let the signals through for a moment while the child is started would not be one:
//! such a moment is enough to end us and leave the child behind.

use crate::interrupt::{Interrupt, Persistence};
use nix::{
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp},
    sys::signal::{SigSet, Signal},
    unistd::Pid,
};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};
use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    process::ExitStatus,
};

/// A process that signals are handed on to.
pub(crate) struct Child<'a> {
    pid: Pid,
    interrupt: &'a Interrupt,
}

/// Our ends of its standard input and output.
pub(crate) struct Pipes {
    pub(crate) stdin: File,
    pub(crate) stdout: File,
}

impl<'a> Child<'a> {
    /// Starts it with our standard input and output; until it has ended, no signal ends us.
    /// `None` if a cause to end came before.
    pub(crate) fn start(command: &[OsString], interrupt: &'a Interrupt) -> io::Result<Option<Self>> {
        Self::start_with(command, interrupt, Persistence::UntilItEnds, &[])
    }

    /// Starts it with pipes for its standard input and output.
    pub(crate) fn start_piped(
        command: &[OsString],
        interrupt: &'a Interrupt,
    ) -> io::Result<Option<(Self, Pipes)>> {
        let (its_stdin, stdin) = pipe()?;
        let (stdout, its_stdout) = pipe()?;
        let streams = [(&its_stdin, nix::libc::STDIN_FILENO), (&its_stdout, nix::libc::STDOUT_FILENO)];
        let child = Self::start_with(command, interrupt, Persistence::UntilASecondSignal, &streams)?;
        Ok(child.map(|child| (child, Pipes { stdin: stdin.into(), stdout: stdout.into() })))
    }

    fn start_with(
        command: &[OsString],
        interrupt: &'a Interrupt,
        persistence: Persistence,
        streams: &[(&OwnedFd, RawFd)],
    ) -> io::Result<Option<Self>> {
        let pid = interrupt.hand_on(persistence, |blocked| spawn(command, blocked, streams))?;
        Ok(pid.map(|pid| Self { pid, interrupt }))
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> io::Result<ExitStatus> {
        let pid = rustix::process::Pid::from_raw(self.pid.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
        // It stays a zombie, so that its number is still its own while signals are handed on.
        uninterrupted(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT))?;
        self.interrupt.hand_on_no_more();
        match uninterrupted(|| waitpid(Some(pid), WaitOptions::empty()))? {
            Some((_, status)) => Ok(ExitStatus::from_raw(status.as_raw())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// A pipe's reading and writing end, which no other child inherits.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// Starts `command` with these signals blocked and these streams in their places.
fn spawn(command: &[OsString], blocked: &SigSet, streams: &[(&OwnedFd, RawFd)]) -> io::Result<Pid> {
    let arguments = command.iter().map(|argument| c_string(argument)).collect::<io::Result<Vec<_>>>()?;
    let program = arguments.first().ok_or(io::ErrorKind::InvalidInput)?;
    let variables = std::env::vars_os()
        .map(|(name, value)| {
            c_string(&[name.as_os_str(), OsStr::new("="), &value].into_iter().collect::<OsString>())
        })
        .collect::<io::Result<Vec<_>>>()?;
    let mut actions = PosixSpawnFileActions::init()?;
    for (stream, place) in streams {
        actions.add_dup2(stream.as_raw_fd(), *place)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    attributes.set_sigmask(blocked)?;
    // Rust's runtime ignores it, which a child would inherit.
    attributes.set_sigdefault(&Signal::SIGPIPE.into())?;
    Ok(posix_spawnp(program, &actions, &attributes, &arguments, &variables)?)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}

fn uninterrupted<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            answer => return answer,
        }
    }
}
