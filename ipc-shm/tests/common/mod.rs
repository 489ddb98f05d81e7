//! What the tests share: a directory of their own, real child processes, and time limits
//! that turn a hang into a failed test with a message.
//!
//! A child is this test binary again, told to run the one test that is its entry point:
//! each file that needs children has a test that calls [`serve`] with what its children
//! can do, and does nothing when it runs as a test.

#![allow(dead_code, reason = "no file of tests needs all of it")]

pub(crate) mod kinds;
pub(crate) mod trace;

use ipc_shm::{ChannelName, Spsc};
use nix::{
    libc,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that takes milliseconds, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory for one test's channels, removed with all that is in it.
#[derive(Debug)]
pub(crate) struct Arena {
    path: PathBuf,
}

impl Arena {
    /// In memory, where channels usually are.
    pub(crate) fn new() -> Self {
        let parent = Path::new("/dev/shm");
        Self::within(if parent.is_dir() { parent } else { Path::new(env!("CARGO_TARGET_TMPDIR")) })
    }

    /// Beneath what cargo makes, which is on a disk unless somebody has put it elsewhere.
    pub(crate) fn on_disk() -> Self {
        Self::within(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    fn within(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ipc-test-{}-{number}", process::id()));
        fs::create_dir(&path).expect("the test's directory can be made");
        Self { path }
    }

    pub(crate) fn shm(&self) -> Spsc {
        Spsc::at(&self.path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What is in the directory, hidden names included.
    pub(crate) fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).expect("the test's directory is there");
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A channel's name.
pub(crate) fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

/// Whether we may act as other users.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Waits until `condition` holds; fails if it takes too long.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_micros(500));
    }
}

/// Runs `body` in a thread and fails if it isn't done in time.
pub(crate) fn within<T: Send + 'static>(limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, answer) = mpsc::channel();
    let worker = thread::spawn(move || {
        let _ = done.send(body());
    });
    match answer.recv_timeout(limit) {
        Ok(answer) => answer,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs: not done within {limit:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it answers before it ends"),
        },
    }
}

const ROLE: &str = "IPC_SHM_TEST_CHILD";
const ARGUMENTS: &str = "IPC_SHM_TEST_CHILD_ARGUMENTS";
const SEPARATOR: char = '\u{1f}';
const MARK: &str = "@child ";
/// The name of the test that is a child's entry point.
const ENTRY: &str = "this_binary_is_its_own_child";
/// Children that were forgotten end by themselves.
const LIFE_SPAN_S: u32 = 240;

/// Does what a child was started for, if this process is one.
pub(crate) fn serve(body: impl FnOnce(&str, &[String])) {
    let Ok(role) = env::var(ROLE) else { return };
    let arguments: Vec<_> =
        env::var(ARGUMENTS).unwrap_or_default().split(SEPARATOR).map(str::to_owned).collect();
    // SAFETY: takes a number and sets a timer.
    unsafe { libc::alarm(LIFE_SPAN_S) };
    // By `exit` the first thread would lose its signal stack, on which it may still be answering what
    // `setuid` has asked of all threads.
    end_after(|| body(&role, &arguments))
}

/// In a child: tells the parent something.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{text}").unwrap();
    out.flush().unwrap();
}

/// Figures for whoever runs the tests, past the harness that keeps what they print. It may
/// have begun the line.
pub(crate) fn prove(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nproof: {text}").unwrap();
}

/// Says that the test can't be made here, and why, past the harness: it is counted apart.
pub(crate) fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nskipped: {test}: {why}").unwrap();
}

/// In a child of root's: the rest of its life is without /proc.
pub(crate) fn take_proc_away() {
    use nix::{
        mount::{MntFlags, MsFlags, mount, umount2},
        sched::{CloneFlags, unshare},
    };
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
    umount2("/proc", MntFlags::MNT_DETACH).unwrap();
    assert!(!Path::new("/proc/self").exists());
}

/// In a child: waits for the parent's next line; false when there are no more.
pub(crate) fn told() -> bool {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok_and(|len| len > 0)
}

/// A child process. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    what: String,
    process: process::Child,
    lines: mpsc::Receiver<String>,
}

impl Child {
    pub(crate) fn spawn(role: &str, arguments: &[&str]) -> Self {
        Self::spawn_with(role, arguments, |_| {})
    }

    pub(crate) fn spawn_with(role: &str, arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args([ENTRY, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(ARGUMENTS, arguments.join(&SEPARATOR.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        prepare(&mut command);
        let mut process = command.spawn().expect("the test binary can be started");
        let stdout = process.stdout.take().unwrap();
        let (tx, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The harness may have begun the line that we end.
                if let Some((_, text)) = line.split_once(MARK) {
                    let _ = tx.send(text.to_owned());
                }
            }
        });
        Self { what: format!("{role} {arguments:?}"), process, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The child's next line.
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("the child {} hangs: no word from it for {PATIENCE:?}", self.what)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                panic!("the child {} ended without a word: {:?}", self.what, self.process.wait())
            }
        }
    }

    /// What a child that has ended said, a line at a time.
    pub(crate) fn last_words(&mut self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    /// Waits for the child to say just this.
    pub(crate) fn says(&mut self, expected: &str) {
        assert_eq!(self.line(), expected, "from the child {}", self.what);
    }

    /// Gives the child a line to read.
    pub(crate) fn tell(&mut self) {
        let stdin = self.process.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").and_then(|()| stdin.flush()).expect("the child reads");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the child is there");
    }

    /// Stops it, and waits until it is.
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let pid = Pid::from_raw(self.pid() as i32);
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Waits until the child has ended of itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        drop(self.process.stdin.take());
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < give_up, "the child {} hangs: no end within {PATIENCE:?}", self.what);
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Waits until the child has ended well.
    pub(crate) fn ends_well(mut self) {
        let status = self.ended();
        let signal = status.signal().and_then(|signal| Signal::try_from(signal).ok());
        assert!(status.success(), "the child {} ended with {status} ({signal:?})", self.what);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Forks; `body` runs in the child, which then ends.
pub(crate) fn fork_child(body: impl FnOnce()) -> Forked {
    match fork() {
        Some(child) => child,
        None => end_after(body),
    }
}

/// Forks; `None` in the child, which must go on with [`end_after`].
pub(crate) fn fork() -> Option<Forked> {
    // SAFETY: the child doesn't return to the harness. The C library takes care of its own
    // locks, and the harness's are not used.
    match unsafe { nix::unistd::fork() }.expect("fork works") {
        nix::unistd::ForkResult::Parent { child } => Some(Forked(child)),
        nix::unistd::ForkResult::Child => None,
    }
}

/// Runs `body`, then ends the process: with 0, or 101 if it panicked.
pub(crate) fn end_after(body: impl FnOnce()) -> ! {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    let code = if done.is_ok() { 0 } else { 101 };
    // SAFETY: ends the process at once, without the parent's exit handlers.
    unsafe { libc::_exit(code) }
}

/// A forked child.
#[derive(Debug)]
pub(crate) struct Forked(pub(crate) Pid);

impl Forked {
    pub(crate) fn ended(&self) -> WaitStatus {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match waitpid(self.0, Some(WaitPidFlag::WNOHANG)).expect("our child") {
                WaitStatus::StillAlive => {}
                status => return status,
            }
            if Instant::now() >= give_up {
                let _ = kill(self.0, Signal::SIGKILL);
                let _ = waitpid(self.0, None);
                panic!("the forked child hangs: no end within {PATIENCE:?}");
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    pub(crate) fn ends_well(self) {
        assert_eq!(self.ended(), WaitStatus::Exited(self.0, 0));
    }
}

/// Numbers that look random and are the same at each run.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators".
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// The permission bits of what is at `path`.
pub(crate) fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// How a segment is laid out, for tests that look into one or spoil one. It is part of the
/// ABI, so it is written down a second time here.
pub(crate) mod layout {
    pub(crate) const PAGE: u64 = 4096;
    pub(crate) const SENDER: u64 = PAGE;
    pub(crate) const RECEIVER: u64 = 2 * PAGE;
    pub(crate) const DATA: u64 = 3 * PAGE;
    pub(crate) const REACH: u64 = 16;
    pub(crate) const LEDGER: u64 = 128;
    pub(crate) const RELEASED: u64 = 168;
    pub(crate) const ASLEEP: u64 = 256;
    /// Where there are many: the flag of those who receive, look or serve.
    pub(crate) const RECEIVERS_ASLEEP: u64 = PAGE + 128;
    pub(crate) const HIGHEST_SUBSCRIBER: u64 = PAGE + 8;
}

/// Whether somebody has said at this flag that it sleeps or polls: by its lowest bits, above
/// which is counted how often they were taken.
pub(crate) fn is_waited_at(path: &Path, flag: u64) -> bool {
    read_word(path, flag) & 3 != 0
}

/// Reads a 64-bit word of a file.
pub(crate) fn read_word(path: &Path, offset: u64) -> u64 {
    use std::os::unix::fs::FileExt;
    let mut word = [0; 8];
    fs::File::open(path)
        .and_then(|file| file.read_exact_at(&mut word, offset))
        .expect("the file can be read");
    u64::from_ne_bytes(word)
}

/// Writes bytes of a file, behind the back of whoever has it mapped.
pub(crate) fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path).expect("the file can be opened");
    file.write_all_at(bytes, offset).expect("the file can be written");
}

/// Waits until the endpoint whose page this is has announced that it sleeps.
pub(crate) fn until_asleep(path: &Path, page: u64) {
    eventually("it sleeps", || is_waited_at(path, page + layout::ASLEEP));
}

/// From now on, a system call of this thread that isn't listed ends the process by SIGSYS.
pub(crate) fn allow_only(calls: &[libc::c_long]) {
    filter(calls, libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_KILL_PROCESS);
}

/// From now on, a system call of this thread that is listed ends the process by SIGSYS.
pub(crate) fn forbid(calls: &[libc::c_long]) {
    filter(calls, libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_ALLOW);
}

/// From now on, a system call of this thread that is listed fails with `errno`.
pub(crate) fn refuse(calls: &[libc::c_long], errno: i32) {
    filter(calls, libc::SECCOMP_RET_ERRNO | errno as u32, libc::SECCOMP_RET_ALLOW);
}

/// seccomp(2): what becomes of the system calls listed, and of the others.
fn filter(calls: &[libc::c_long], listed: u32, others: u32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for (index, &call) in calls.iter().enumerate() {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        // Over the calls that follow and the statement for the others.
        let jt = (calls.len() - index) as u8;
        program.push(libc::sock_filter { code, jt, jf: 0, k: call as u32 });
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, others));
    program.push(statement(libc::BPF_RET | libc::BPF_K, listed));
    install(&mut program);
}

/// From now on, this system call fails with `errno` where its argument has the flag.
pub(crate) fn refuse_flag(call: libc::c_long, argument: u32, flag: u32, errno: i32) {
    let load = |at: u32| libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: at,
    };
    let jump = |kind: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | kind | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let answer = |k: u32| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    // The arguments follow the number, the architecture and the instruction's address; the
    // lower half of one comes first on the machines that this is tested on.
    install(&mut [
        load(0),
        jump(libc::BPF_JEQ, call as u32, 0, 3),
        load(16 + 8 * argument),
        jump(libc::BPF_JSET, flag, 0, 1),
        answer(libc::SECCOMP_RET_ERRNO | errno as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ]);
}

fn install(program: &mut [libc::sock_filter]) {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program is valid during the call, which copies it.
    let set =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    assert_eq!(set, 0, "seccomp: {}", std::io::Error::last_os_error());
}
