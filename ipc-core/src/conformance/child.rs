//! Parts played by processes of their own: this executable, started again.
//!
//! An environment variable names the part, the arguments say the rest. What a child has to
//! report it writes to its standard output, a line at a time and each with one write, so
//! that a killed child's report is complete up to the kill. Its standard input ends when
//! the parent is gone, and then it goes too.

use super::{Fixture, Stage, Surroundings, stage::unless_busy};
use crate::{Channel, ChannelName, Transport};
use std::{
    env,
    fmt::Display,
    io::{self, BufRead, BufReader, Write},
    process::{self, ChildStdin, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

const PART: &str = "IPC_CONFORMANCE_PART";
/// Exit codes of children that are not to blame.
const ORPHANED: i32 = 3;
const NO_SUCH_PART: u8 = 4;

/// What a child process can be asked to do.
pub(super) struct Part<F: Surroundings> {
    pub(super) name: &'static str,
    pub(super) play: fn(&Stage<F>, &Cue),
}

/// What a part is given: its arguments, and the word to begin.
pub(super) struct Cue {
    arguments: Vec<String>,
    words: mpsc::Receiver<String>,
}

impl Cue {
    #[track_caller]
    pub(super) fn name(&self, place: usize) -> ChannelName {
        ChannelName::new(&self.arguments[place]).expect("a name")
    }

    #[track_caller]
    pub(super) fn number(&self, place: usize) -> u64 {
        self.arguments[place].parse().expect("a number")
    }

    /// Waits until the parent says so.
    pub(super) fn wait_for_go(&self) {
        self.words.recv().expect("the parent lives");
    }
}

/// The part that this process was started for.
pub(super) fn part_asked_for() -> Option<String> {
    env::var(PART).ok()
}

/// Plays a part to its end.
pub(super) fn play<F: Surroundings>(stage: &Stage<F>, parts: &[Part<F>], name: &str) -> ExitCode {
    let Some(part) = parts.iter().find(|part| part.name == name) else {
        eprintln!("{PART}={name}: there is no such part");
        return ExitCode::from(NO_SUCH_PART);
    };
    let (say, words) = mpsc::channel();
    thread::spawn(move || {
        for word in io::stdin().lines().map_while(Result::ok) {
            // A part that waits for no word doesn't listen.
            let _ = say.send(word);
        }
        process::exit(ORPHANED);
    });
    (part.play)(stage, &Cue { arguments: env::args().skip(1).collect(), words });
    ExitCode::SUCCESS
}

/// Reports to the parent.
pub(super) fn say(line: impl Display) {
    // The standard output is buffered by lines, so this is one write.
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).expect("the parent listens");
}

/// Does nothing until it is killed.
pub(super) fn wait_to_be_killed() -> ! {
    loop {
        thread::park();
    }
}

impl<F: Surroundings> Stage<F> {
    /// Starts a child that plays `part`.
    #[track_caller]
    pub(super) fn start(&self, part: &'static str, arguments: &[&dyn Display]) -> Child {
        let this = env::current_exe().expect("the path of this executable");
        let mut process = Command::new(this)
            .args(arguments.iter().map(ToString::to_string))
            .env(PART, part)
            .envs(self.fixture().environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a child");
        let (report, lines) = mpsc::channel();
        let output = BufReader::new(process.stdout.take().expect("its standard output is a pipe"));
        // It ends with the child, whose end of the pipe is the only one.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = report.send(line);
            }
        });
        let input = process.stdin.take();
        Child { part, process, input, lines, patience: self.patience() }
    }
}

impl<F: Fixture> Stage<F> {
    /// In a child: the sender's role, which a dead process may have had a moment ago.
    #[track_caller]
    pub(super) fn sender_of(&self, name: &ChannelName) -> super::SenderOf<F> {
        let channel = self.transport().open(name).expect("open");
        unless_busy(self.patience(), || channel.sender()).expect("a sender")
    }

    /// In a child: the receiver's role, likewise.
    #[track_caller]
    pub(super) fn receiver_of(&self, name: &ChannelName) -> super::ReceiverOf<F> {
        let channel = self.transport().open(name).expect("open");
        unless_busy(self.patience(), || channel.receiver()).expect("a receiver")
    }
}

/// A process that plays a part. It is killed if it still runs when this is dropped.
pub(super) struct Child {
    part: &'static str,
    process: process::Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    patience: Duration,
}

impl Child {
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Tells it to begin.
    #[track_caller]
    pub(super) fn go(&mut self) {
        let input = self.input.as_mut().expect("it is open as long as the child runs");
        input.write_all(b"go\n").expect("the child listens");
    }

    /// The next line of its report.
    #[track_caller]
    pub(super) fn line(&mut self) -> String {
        match self.lines.recv_timeout(self.patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("`{}` hangs: no word in {:?}", self.part, self.patience),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.reap();
                panic!("`{}` ended too early: {status}", self.part)
            }
        }
    }

    #[track_caller]
    pub(super) fn expect_line(&mut self, expected: &str) {
        let line = self.line();
        assert_eq!(line, expected, "`{}` said", self.part);
    }

    /// Waits for its orderly end; the rest of its report.
    #[track_caller]
    pub(super) fn finish(mut self) -> Vec<String> {
        let mut report = Vec::new();
        let deadline = Instant::now() + self.patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => report.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "`{}` hangs: not done in {:?}, last word {:?}",
                        self.part,
                        self.patience,
                        report.last()
                    )
                }
            }
        }
        let status = self.reap();
        assert!(status.success(), "`{}` failed: {status}", self.part);
        report
    }

    /// Kills it (SIGKILL) and waits until it is gone; the rest of its report.
    #[track_caller]
    pub(super) fn kill(mut self) -> Vec<String> {
        self.process.kill().expect("kill the child");
        let status = self.reap();
        assert!(status.code().is_none(), "`{}` ended before it was killed: {status}", self.part);
        // All that is in the pipe, up to its end.
        let rest: Vec<String> = self.lines.iter().collect();
        rest
    }

    #[track_caller]
    fn reap(&mut self) -> ExitStatus {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(status) = self.process.try_wait().expect("wait for the child") {
                return status;
            }
            assert!(Instant::now() < deadline, "`{}` hangs: it doesn't exit", self.part);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(unix)]
impl Child {
    /// Pauses it (SIGSTOP); returns when it stands still.
    #[track_caller]
    pub(super) fn pause(&self) {
        self.signal("STOP");
        let deadline = Instant::now() + self.patience;
        while !self.stands_still() {
            assert!(Instant::now() < deadline, "`{}` doesn't stop", self.part);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on (SIGCONT).
    #[track_caller]
    pub(super) fn resume(&self) {
        self.signal("CONT");
    }

    /// The shell's own `kill`, since the standard library sends no other signal than
    /// SIGKILL and this crate does without libc.
    #[track_caller]
    fn signal(&self, signal: &str) {
        let command = format!("kill -s {signal} {}", self.id());
        let status = Command::new("sh").args(["-c", &command]).status().expect("run a shell");
        assert!(status.success(), "{command}: {status}");
    }

    /// Whether all of its threads are stopped, as proc(5) tells.
    #[cfg(target_os = "linux")]
    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("its threads");
        let stats = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        // The state follows the command in parentheses, which may hold anything.
        stats.into_iter().all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
    }

    #[cfg(not(target_os = "linux"))]
    fn stands_still(&self) -> bool {
        let state = Command::new("ps").args(["-o", "state=", "-p", &self.id().to_string()]).output();
        state.expect("run ps").stdout.trim_ascii().starts_with(b"T")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be dead and reaped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
