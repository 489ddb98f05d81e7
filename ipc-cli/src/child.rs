//! The command that `lock` and `serve` run, as if nobody stood between it and the signals.
//!
//! We block signals ([`Interrupt::on_signals`]), and a child inherits what is blocked where it is
//! started: nothing but SIGKILL would end it. std's `Command` knows no remedy, posix_spawn(3)
//! does. To let the signals through for a moment while the child is started would not be one:
//! such a moment is enough to end us and leave the child behind.

use crate::{
    interrupt::{Interrupt, Persistence, is_ready, poll_uninterrupted},
    streams,
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags},
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp},
    sys::signal::{SigSet, Signal},
    unistd::{AccessFlags, Pid, access},
};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};
use std::{
    env,
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    path::Path,
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

/// A process that signals are handed on to.
pub(crate) struct Child<'a> {
    pid: Pid,
    interrupt: &'a Interrupt,
}

/// How long those whom a command leaves behind may go on printing in its name.
const AFTERMATH: Duration = Duration::from_millis(100);

/// How much is read at once.
const READ_LEN: usize = 64 * 1024;

impl<'a> Child<'a> {
    /// Starts it with our standard input and output; until it has ended, no signal ends us.
    /// `None` if a cause to end came before.
    pub(crate) fn start(command: &[OsString], interrupt: &'a Interrupt) -> io::Result<Option<Self>> {
        Self::start_with(command, interrupt, Persistence::UntilItEnds, &[])
    }

    /// Runs it with pipes for its standard input and output: what it printed, up to `most` bytes,
    /// and how it ended. `None` if a cause to end came before.
    pub(crate) fn converse(
        command: &[OsString],
        input: &[u8],
        most: usize,
        interrupt: &'a Interrupt,
    ) -> io::Result<Option<(Vec<u8>, ExitStatus)>> {
        let (its_stdin, stdin) = pipe()?;
        let (stdout, its_stdout) = pipe()?;
        let (ended, its_end) = pipe()?;
        let streams = [(&its_stdin, nix::libc::STDIN_FILENO), (&its_stdout, nix::libc::STDOUT_FILENO)];
        let started = Self::start_with(command, interrupt, Persistence::UntilASecondSignal, &streams)?;
        let Some(child) = started else { return Ok(None) };
        drop((its_stdin, its_stdout));
        thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                let status = child.wait();
                drop(its_end);
                status
            });
            let output = exchange(stdin, stdout, &ended, input, most);
            let status = waiting.join().map_err(|_| io::Error::other("it could not be waited for"))??;
            Ok(Some((output?, status)))
        })
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

/// Fails unless there is such a program, where execvp(3) looks for it, and we may run it.
pub(crate) fn look_for(program: &OsStr) -> io::Result<()> {
    let attempt = |path: &Path| match path.is_file() {
        true => access(path, AccessFlags::X_OK),
        false => Err(Errno::ENOENT),
    };
    if program.as_bytes().contains(&b'/') {
        return Ok(attempt(Path::new(program))?);
    }
    let directories = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut answer = Err(Errno::ENOENT);
    for directory in env::split_paths(&directories) {
        match attempt(&directory.join(program)) {
            Ok(()) => return Ok(()),
            Err(Errno::ENOENT) => {}
            // What may be run can come behind one that may not.
            refusal => answer = refusal,
        }
    }
    Ok(answer?)
}

/// Writes `input` and reads what is printed, until all is written and nobody can print any more,
/// or the command has `ended` and nothing more comes: others may have its output still, and keep
/// it for long. One that prints nothing may close its output first, and read then.
fn exchange(
    stdin: OwnedFd,
    stdout: OwnedFd,
    ended: &OwnedFd,
    mut input: &[u8],
    most: usize,
) -> io::Result<Vec<u8>> {
    // Ready is a pipe that takes something, if not all of it.
    fcntl(&stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let (mut stdin, mut stdout) = (Some(File::from(stdin)), Some(File::from(stdout)));
    let (mut output, mut buffer) = (Vec::new(), vec![0; READ_LEN]);
    let mut until = None;
    while output.len() < most {
        stdin = stdin.filter(|_| !input.is_empty() && until.is_none());
        if stdin.is_none() && stdout.is_none() {
            break;
        }
        let watched = [
            stdin.as_ref().map(|stdin| PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)),
            stdout.as_ref().map(|stdout| PollFd::new(stdout.as_fd(), PollFlags::POLLIN)),
            until.is_none().then(|| PollFd::new(ended.as_fd(), PollFlags::POLLIN)),
        ];
        let mut watched: Vec<_> = watched.into_iter().flatten().collect();
        let patience = until.map(|until: Instant| until.saturating_duration_since(Instant::now()));
        if poll_uninterrupted(&mut watched, patience)? == 0 {
            break;
        }
        let ready: Vec<_> =
            watched.iter().filter(|one| is_ready(one)).map(|one| one.as_fd().as_raw_fd()).collect();
        let is_ready = |stream: &dyn AsRawFd| ready.contains(&stream.as_raw_fd());
        if until.is_none() && is_ready(ended) {
            until = Some(Instant::now() + AFTERMATH);
        }
        if let Some(pipe) = stdin.as_mut().filter(|pipe| is_ready(*pipe)) {
            match pipe.write(input) {
                Ok(len) => input = &input[len..],
                Err(error) if is_passing(&error) => {}
                // One that doesn't want its input is no failure.
                Err(_) => stdin = None,
            }
        }
        if let Some(pipe) = stdout.as_mut().filter(|pipe| is_ready(*pipe)) {
            match uninterrupted(|| pipe.read(&mut buffer))? {
                0 => stdout = None,
                len => output.extend_from_slice(&buffer[..len.min(most - output.len())]),
            }
        }
    }
    Ok(output)
}

/// A pipe's reading and writing end, which no other child inherits.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// Starts `command` with these signals blocked and these pipes in their places.
fn spawn(command: &[OsString], blocked: &SigSet, pipes: &[(&OwnedFd, RawFd)]) -> io::Result<Pid> {
    let arguments = command.iter().map(|argument| c_string(argument)).collect::<io::Result<Vec<_>>>()?;
    let program = arguments.first().ok_or(io::ErrorKind::InvalidInput)?;
    let variables = env::vars_os()
        .map(|(name, value)| {
            c_string(&[name.as_os_str(), OsStr::new("="), &value].into_iter().collect::<OsString>())
        })
        .collect::<io::Result<Vec<_>>>()?;
    let mut actions = PosixSpawnFileActions::init()?;
    // What was closed for us is closed for it, whatever Rust's runtime has opened in its place.
    for stream in streams::closed() {
        actions.add_close(stream)?;
    }
    for (stream, place) in pipes {
        actions.add_dup2(stream.as_raw_fd(), *place)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    attributes.set_sigmask(blocked)?;
    // Rust's runtime ignores it, which a child would inherit.
    attributes.set_sigdefault(&Signal::SIGPIPE.into())?;
    streams::keep_ended_children()?;
    Ok(posix_spawnp(program, &actions, &attributes, &arguments, &variables)?)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}

fn uninterrupted<T, E: Into<io::Error>>(mut call: impl FnMut() -> Result<T, E>) -> io::Result<T> {
    loop {
        match call().map_err(Into::into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// Whether it is to be tried again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
