//! A world of its own for each test: a directory for segments, queues that are removed, and
//! processes that end with the test.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File, Permissions},
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SigHandler, Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// Far longer than anything here takes, even on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    directory: TempDir,
    queues: RefCell<Vec<String>>,
    count: Cell<u32>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    pub(crate) fn within(parent: &Path) -> Self {
        heed_signals();
        let directory = tempfile::Builder::new().prefix("ipc-cli-test").tempdir_in(parent).unwrap();
        Self { directory, queues: RefCell::default(), count: Cell::new(0) }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The address of a channel that doesn't exist yet; it is removed with the world.
    pub(crate) fn address(&self, scheme: &str) -> String {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        self.count.set(self.count.get() + 1);
        let unique = WORLDS.fetch_add(1, Ordering::Relaxed);
        let address = format!("{scheme}:cli-test-{}-{unique}-{}", std::process::id(), self.count.get());
        if matches!(scheme, "mq" | "sysv") {
            self.queues.borrow_mut().push(address.clone());
        }
        address
    }

    /// A small channel.
    pub(crate) fn channel(&self, scheme: &str) -> String {
        let address = self.address(scheme);
        let settings: &[&str] = match scheme {
            "mq" | "sysv" => &["--depth", "4", "--max-message", "128"],
            _ => &["--capacity", "64K"],
        };
        self.done(&[&["create", &address], settings].concat());
        address
    }

    /// A small channel in shared memory for one sender and one receiver.
    pub(crate) fn ring(&self) -> String {
        let address = self.address("shm");
        self.done(&["create", &address, "--capacity", "64K", "--kind", "spsc"]);
        address
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipc"));
        command.args(arguments).env("IPC_DIR", self.directory());
        command
    }

    /// The same as another user, which takes root: the program is put where all users find it, and
    /// the directory opened to them.
    pub(crate) fn command_as(&self, uid: u32, arguments: &[&str]) -> Command {
        let program = self.directory().join("-program");
        if !program.exists() {
            // By cp(1): a child that another test forks meanwhile would inherit our open file, and
            // what is open for writing can't be run.
            let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_ipc")).arg(&program).status();
            assert!(copied.unwrap().success());
            fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            fs::set_permissions(self.directory(), Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new(program);
        command.args(arguments).env("IPC_DIR", self.directory()).uid(uid).gid(uid);
        command
    }

    /// The same where this signal is ignored, as whoever starts it may have it.
    pub(crate) fn command_ignoring(&self, ignored: Signal, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        let ignore = move || {
            // SAFETY: no handler is set, and it is a system call, which a child may make after a fork.
            unsafe { nix::sys::signal::signal(ignored, SigHandler::SigIgn) }?;
            Ok(())
        };
        // SAFETY: `ignore` neither allocates nor takes a lock.
        unsafe { command.pre_exec(ignore) };
        command
    }

    /// Runs to the end as another user, with nothing on standard input.
    pub(crate) fn run_as(&self, uid: u32, arguments: &[&str]) -> Ran {
        Running::start(self.command_as(uid, arguments).stdin(Stdio::null())).finish()
    }

    /// Runs to the end, with nothing on standard input.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, b"")
    }

    /// Runs to the end with nothing on standard input and a standard error that takes nothing.
    pub(crate) fn run_unheard(&self, arguments: &[&str]) -> Ran {
        Running::unheard(self.command(arguments).stdin(Stdio::null())).finish()
    }

    /// Runs to the end, with this on standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut running = self.spawn(arguments);
        let mut stdin = running.stdin.take().unwrap();
        let input = input.to_vec();
        // It may end without having read all.
        let feeding = thread::spawn(move || drop(stdin.write_all(&input)));
        let ran = running.finish();
        feeding.join().unwrap();
        ran
    }

    /// Runs to the end, which is to be 0 without a word on standard error.
    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> Vec<u8> {
        self.run(arguments).assert_done()
    }

    /// As `done`, with this on standard input.
    #[track_caller]
    pub(crate) fn done_with(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        self.run_with(arguments, input).assert_done()
    }

    /// Starts; all three streams are pipes.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments).stdin(Stdio::piped()))
    }

    /// How many messages are in the channel.
    pub(crate) fn queued(&self, address: &str) -> u64 {
        self.stat(address)["queued_messages"].as_u64().unwrap()
    }

    pub(crate) fn stat(&self, address: &str) -> serde_json::Value {
        serde_json::from_slice(&self.done(&["stat", address, "--json"])).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for queue in self.queues.borrow().iter() {
            // Many tests remove theirs.
            let _ = self.command(&["rm", queue]).stderr(Stdio::null()).status();
        }
    }
}

/// A process that doesn't outlive its test. Its output is collected as it comes.
pub(crate) struct Running {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts it; where standard output isn't set otherwise, it is collected.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::collecting(command.stdout(Stdio::piped()))
    }

    /// Starts it, with standard output as it is set.
    pub(crate) fn collecting(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Self { child, stdin, stdout, stderr }
    }

    /// Starts it with a standard error that takes nothing, as on a full disk.
    pub(crate) fn unheard(command: &mut Command) -> Self {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(full).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(collect);
        Self { child, stdin, stdout, stderr: None }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits until its signals are taken care of: SIGINT and SIGTERM are blocked.
    pub(crate) fn wait_for_signals_blocked(&self) {
        let blocked = 1_u64 << (Signal::SIGINT as i32 - 1) | 1_u64 << (Signal::SIGTERM as i32 - 1);
        self.wait_for_status("SigBlk:", |mask| {
            u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & blocked == blocked)
        });
    }

    /// Waits until it sleeps: it has done what it could.
    pub(crate) fn wait_for_sleep(&self) {
        self.wait_for_signals_blocked();
        self.wait_for_status("State:", |state| state.starts_with('S'));
    }

    /// Waits until it sleeps or has ended.
    pub(crate) fn wait_for_rest(&self) {
        self.wait_for_status("State:", |state| state.starts_with(['S', 'Z']));
    }

    /// Waits until it is stopped.
    pub(crate) fn wait_for_stop(&self) {
        self.wait_for_status("State:", |state| state.starts_with('T'));
    }

    fn wait_for_status(&self, key: &str, is_it: impl Fn(&str) -> bool) {
        let path = format!("/proc/{}/status", self.child.id());
        eventually(key, || {
            let status = fs::read_to_string(&path).unwrap();
            status.lines().filter_map(|line| line.strip_prefix(key)).any(|value| is_it(value.trim()))
        });
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; nothing more is written to it.
    pub(crate) fn finish(mut self) -> Ran {
        drop(self.stdin.take());
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() < until => thread::sleep(Duration::from_millis(1)),
                None => {
                    self.child.kill().unwrap();
                    panic!("it didn't end; so far: {:?}", self.output());
                }
            }
        };
        let (stdout, stderr) = self.output();
        Ran(Output { status, stdout, stderr })
    }

    fn output(&mut self) -> (Vec<u8>, Vec<u8>) {
        let collected = |handle: &mut Option<JoinHandle<Vec<u8>>>| {
            handle.take().map(|handle| handle.join().unwrap()).unwrap_or_default()
        };
        (collected(&mut self.stdout), collected(&mut self.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Has those whom we start heed the signals that end a process. A shell that runs the tests in the
/// background of a script has SIGINT ignored, which they would inherit and keep.
fn heed_signals() {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: no handler is set, and none was set before.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.unwrap();
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran(Output);

impl Ran {
    pub(crate) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub(crate) fn stdout(&self) -> &[u8] {
        &self.0.stdout
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_done(self) -> Vec<u8> {
        assert_eq!((self.code(), self.stderr().as_str()), (Some(0), ""));
        self.0.stdout
    }

    /// It ended with this code, and one line on standard error that begins with `ipc: `.
    /// Returns the rest of it.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: i32) -> String {
        let stderr = self.stderr();
        assert_eq!(self.code(), Some(code), "{stderr}");
        let line = stderr.strip_prefix("ipc: ").and_then(|rest| rest.strip_suffix('\n'));
        let line = line.filter(|line| !line.contains('\n') && !line.contains("panicked"));
        line.unwrap_or_else(|| panic!("not one line: {stderr:?}")).into()
    }
}

/// Says that the test can't be made here, or not all of it, and why: past the harness, which
/// keeps what tests print that pass.
pub(crate) fn skip(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let why = why.trim().replace('\n', " ");
    // The harness may have begun the line.
    writeln!(std::io::stdout().lock(), "\nskipped: {test}: {why}").unwrap();
}

/// A pipe: its reading and its writing end, neither of which another child inherits.
pub(crate) fn pipe() -> (File, File) {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_it: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_it() {
        assert!(Instant::now() < until, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The lines from `first` on, numbered.
pub(crate) fn numbered(numbers: std::ops::Range<u32>) -> Vec<u8> {
    numbers.flat_map(|number| format!("line {number}\n").into_bytes()).collect()
}
