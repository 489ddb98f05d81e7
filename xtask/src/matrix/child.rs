//! An `ipc` process: fed, watched while it runs, ended by a deadline at the latest.

use crate::{marks::Mark, process::wait_until};
use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A process that has been started. When it is dropped it is killed.
pub(super) struct Running {
    child: Child,
    command: String,
    stdout: Stream,
    stderr: Stream,
    deadline: Instant,
}

/// A process that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) command: String,
    /// `None`: killed by a signal.
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl Running {
    pub(super) fn start(command: &mut Command, deadline: Instant) -> Result<Self, String> {
        let line = command_line(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Mark::new().put_on(command);
        let mut child = command.spawn().map_err(|error| format!("`{line}` can't be started: {error}"))?;
        let (stdout, stderr) = (Stream::of(child.stdout.take()), Stream::of(child.stderr.take()));
        Ok(Self { child, command: line, stdout, stderr, deadline })
    }

    /// Its standard input; when it is dropped, the input ends.
    pub(super) fn stdin(&mut self) -> Result<ChildStdin, String> {
        self.child.stdin.take().ok_or_else(|| format!("the input of `{}` is used already", self.command))
    }

    /// Writes its whole input, without waiting for it to be read.
    pub(super) fn feed(&mut self, input: Vec<u8>) -> Result<(), String> {
        let mut stdin = self.stdin()?;
        // A process that ends early closes its input; how it ends is looked at elsewhere.
        thread::spawn(move || stdin.write_all(&input));
        Ok(())
    }

    /// Waits until what it has printed so far satisfies the condition.
    pub(super) fn wait_for(
        &mut self,
        what: &str,
        condition: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), String> {
        match self.stdout.wait_for(self.deadline, condition) {
            true => Ok(()),
            false => Err(format!("waited in vain for {what}\n{}", self.describe())),
        }
    }

    /// Sends it SIGKILL and waits for its end.
    pub(super) fn kill(mut self) -> Result<Ended, String> {
        self.child.kill().map_err(|error| format!("`{}` can't be killed: {error}", self.command))?;
        self.end()
    }

    /// Sends it a signal of this number and waits for its end.
    #[cfg(unix)]
    pub(super) fn signal(self, number: i32) -> Result<Ended, String> {
        use nix::{sys::signal, unistd::Pid};
        signal::Signal::try_from(number)
            .and_then(|signal| signal::kill(Pid::from_raw(self.child.id() as i32), signal))
            .map_err(|error| format!("`{}` can't be sent a signal: {error}", self.command))?;
        self.end()
    }

    #[cfg(not(unix))]
    pub(super) fn signal(self, _number: i32) -> Result<Ended, String> {
        Err("there are no signals here".into())
    }

    /// Waits for its end. Input that nobody feeds ends here.
    pub(super) fn end(mut self) -> Result<Ended, String> {
        drop(self.child.stdin.take());
        let status =
            wait_until(self.deadline, || self.child.try_wait()).map_err(|error| error.to_string())?;
        let Some(status) = status else {
            return Err(format!("still running at the time limit\n{}", self.describe()));
        };
        let (stdout, stderr) = (self.stdout.rest(self.deadline), self.stderr.rest(self.deadline));
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok(Ended { command: self.command.clone(), code: status.code(), stdout, stderr })
    }

    fn describe(&self) -> String {
        describe(
            &self.command,
            &self.stdout.lock().bytes,
            &String::from_utf8_lossy(&self.stderr.lock().bytes),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Nothing wrong if it ended with this exit code.
    pub(super) fn expect(self, code: i32) -> Result<Self, String> {
        match self.code {
            Some(actual) if actual == code => Ok(self),
            Some(actual) => Err(self.because(&format!("exit code {actual} instead of {code}"))),
            None => Err(self.because(&format!("killed by a signal instead of exit code {code}"))),
        }
    }

    /// Nothing wrong if it was killed.
    pub(super) fn expect_killed(self) -> Result<Self, String> {
        match self.code {
            None => Ok(self),
            Some(code) => Err(self.because(&format!("exit code {code} before it could be killed"))),
        }
    }

    /// Nothing wrong if it printed exactly this.
    pub(super) fn expect_output(self, expected: &[u8]) -> Result<Self, String> {
        match self.stdout == expected {
            true => Ok(self),
            false => {
                let at = self.stdout.iter().zip(expected).take_while(|(a, b)| a == b).count();
                let lengths = format!("{} bytes instead of {}", self.stdout.len(), expected.len());
                Err(self.because(&format!("wrong output from byte {at} on, {lengths}")))
            }
        }
    }

    /// Why something is wrong, with what there was to see.
    pub(super) fn because(&self, what: &str) -> String {
        format!("{what}\n{}", describe(&self.command, &self.stdout, &self.stderr))
    }
}

fn describe(command: &str, stdout: &[u8], stderr: &str) -> String {
    let mut text = format!("command: {command}\n");
    for (name, bytes) in [("stdout", stdout), ("stderr", stderr.as_bytes())] {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{name} ({} bytes): {}", bytes.len(), excerpt(bytes));
    }
    text
}

/// The end of what was printed, on one line.
fn excerpt(bytes: &[u8]) -> String {
    const MOST_BYTES: usize = 400;
    let skipped = bytes.len().saturating_sub(MOST_BYTES);
    let dots = if skipped > 0 { "…" } else { "" };
    format!("{dots}{}", String::from_utf8_lossy(&bytes[skipped..]).escape_debug())
}

fn command_line(command: &Command) -> String {
    const MOST_CHARS: usize = 200;
    let words = std::iter::once("ipc".into()).chain(command.get_args().map(|word| word.to_string_lossy()));
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().take(MOST_CHARS).collect::<String>().escape_debug().to_string()
}

/// What comes out of a process, collected by a thread as it comes.
struct Stream {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Collected>,
    changed: Condvar,
}

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn of(source: Option<impl Read + Send + 'static>) -> Self {
        let shared = Arc::new(Shared::default());
        let collector = Arc::clone(&shared);
        let reader = source.map(|source| thread::spawn(move || collector.collect(source)));
        Self { shared, reader }
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.shared.lock()
    }

    /// Whether the condition holds for what has come before the deadline and the end.
    fn wait_for(&self, deadline: Instant, mut condition: impl FnMut(&[u8]) -> bool) -> bool {
        let mut state = self.lock();
        loop {
            if condition(&state.bytes) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left == Duration::ZERO {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All that came until the end. Something that outlives the process may hold the stream
    /// open, which is no reason to wait for ever.
    fn rest(&mut self, deadline: Instant) -> Vec<u8> {
        self.wait_for(deadline, |_| false);
        if self.lock().ended {
            self.reader.take().map(JoinHandle::join);
        }
        std::mem::take(&mut self.lock().bytes)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, mut source: impl Read) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = source.read(&mut buffer);
            let mut state = self.lock();
            match read {
                Ok(0) => state.ended = true,
                Ok(len) => state.bytes.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => state.ended = true,
            }
            self.changed.notify_all();
            if state.ended {
                break;
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::Running;
    use std::{
        process::Command,
        time::{Duration, Instant},
    };

    fn shell(script: &str, limit: Duration) -> Running {
        Running::start(Command::new("sh").args(["-c", script]), Instant::now() + limit).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let mut cat = shell("cat", LONG);
        let input: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        cat.feed(input.clone()).unwrap();
        cat.end().unwrap().expect(0).unwrap().expect_output(&input).unwrap();
    }

    #[test]
    fn a_process_can_be_watched_and_killed() {
        let mut child = shell("echo begun; exec sleep 600", LONG);
        child.wait_for("its first line", |bytes| bytes == b"begun\n").unwrap();
        child.kill().unwrap().expect_killed().unwrap().expect_output(b"begun\n").unwrap();
    }

    #[test]
    fn a_wrong_exit_code_shows_what_was_printed() {
        let error = shell("echo out; echo err >&2; exit 3", LONG).end().unwrap().expect(0).unwrap_err();
        for part in ["exit code 3 instead of 0", "out\\n", "err\\n"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_deadline_ends_what_doesnt_end() {
        let error = shell("echo begun; exec sleep 600", Duration::from_millis(300)).end().unwrap_err();
        assert!(error.contains("still running") && error.contains("begun"), "{error}");
    }

    #[test]
    fn waiting_for_output_ends_with_the_output() {
        let mut child = shell("echo other", LONG);
        assert!(child.wait_for("something", |bytes| bytes == b"something\n").is_err());
    }
}
