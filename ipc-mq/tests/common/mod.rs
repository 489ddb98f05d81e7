//! What the tests share: queues that go away by themselves, processes of one's own, and
//! ways to know that somebody sleeps.
#![allow(dead_code, reason = "each test binary uses a part of it")]

#[cfg(target_arch = "x86_64")]
pub(crate) mod faults;
pub(crate) mod signals;
pub(crate) mod sockets;

use ipc_mq::{Channel, ChannelName, Mq, MqChannel, MqConfig, MqReceiver, MqSender, Transport};
use nix::{
    libc,
    sys::{
        ptrace,
        signal::{Signal, kill, raise},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, Uid, fork, geteuid, getsid, gettid, setresuid},
};
use std::{
    env, fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Only nine queues of the default size fit a user's limit, so tests use small ones.
pub(crate) const DEPTH: usize = 4;
pub(crate) const MAX_LEN: usize = 128;

pub(crate) fn small() -> MqConfig {
    MqConfig::new().depth(DEPTH).max_message_len(MAX_LEN)
}

/// A name that no other test has.
pub(crate) fn fresh_name() -> ChannelName {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    ChannelName::new(&format!("ipc-mq-test.{pid}.{number}")).unwrap()
}

/// A name whose queue, if there is one, is removed in the end.
pub(crate) struct Removed(pub(crate) ChannelName);

impl Removed {
    pub(crate) fn fresh() -> Self {
        Self(fresh_name())
    }

    /// As the kernel knows it.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.0)
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = Mq::new().remove(&self.0);
    }
}

/// A queue of its own.
pub(crate) struct TestQueue {
    pub(crate) channel: MqChannel,
    pub(crate) name: Removed,
}

impl TestQueue {
    pub(crate) fn small() -> Self {
        Self::with(&small())
    }

    pub(crate) fn with(config: &MqConfig) -> Self {
        let name = Removed::fresh();
        Self { channel: Mq::new().create(&name.0, config).unwrap(), name }
    }

    pub(crate) fn pair(&self) -> (MqSender, MqReceiver) {
        (self.channel.sender().unwrap(), self.channel.receiver().unwrap())
    }
}

/// Runs `body` in a process of its own, since user, umask and limits belong to the process:
/// the test called `test` starts itself anew, alone.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    let refused = alone_by(Command::new(env::current_exe().unwrap()), test, body);
    assert_eq!(refused, None);
}

/// The same as root of a user namespace and a mount namespace of its own; skipped where there are
/// none to be had.
pub(crate) fn alone_in_namespaces(test: &str, body: impl FnOnce()) {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount"]).arg(env::current_exe().unwrap());
    if let Some(why) = alone_by(command, test, body) {
        skip(&format!("no user namespaces here: {}", why.lines().next().unwrap_or_default()));
    }
}

/// What `command` says if it doesn't come so far as to run the test.
fn alone_by(mut command: Command, test: &str, body: impl FnOnce()) -> Option<String> {
    const ALONE: &str = "IPC_MQ_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        body();
        return None;
    }
    let output = match command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output() {
        Ok(output) => output,
        Err(error) => return Some(error.to_string()),
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !said.contains("running 1 test") {
        return Some(said.into_owned());
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    print!("{said}");
    said.lines().filter_map(|line| line.strip_prefix(SKIPPED)).for_each(say_skipped);
    None
}

/// What stands before the name of a test that can't be made here, and why.
const SKIPPED: &str = "skipped: ";

/// Says that the test can't be made here, or not all of it, and why.
pub(crate) fn skip(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    say_skipped(&format!("{test}: {}", why.trim().replace('\n', " ")));
}

/// Past the harness, which keeps what tests print that pass.
fn say_skipped(what: &str) {
    // The harness may have begun the line.
    writeln!(std::io::stdout().lock(), "\n{SKIPPED}{what}").unwrap();
}

/// While it lives, the process has no privileges. Only for processes of one's own.
pub(crate) struct OrdinaryUser {
    privileged: bool,
}

pub(crate) const NOBODY: u32 = 65_534;
const UNCHANGED: Uid = Uid::from_raw(u32::MAX);

impl OrdinaryUser {
    pub(crate) fn new() -> Self {
        let privileged = geteuid().is_root();
        if privileged {
            setresuid(UNCHANGED, Uid::from_raw(NOBODY), UNCHANGED).unwrap();
        }
        Self { privileged }
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        if self.privileged {
            setresuid(UNCHANGED, Uid::from_raw(0), UNCHANGED).unwrap();
        }
    }
}

/// Runs `body` in a child process with one thread; it must go well.
pub(crate) fn in_child(body: impl FnOnce()) {
    await_child(start_child(body));
}

/// Starts `body` in a child process with one thread.
pub(crate) fn start_child(body: impl FnOnce()) -> Pid {
    // SAFETY: the child runs on copies of its own and leaves by _exit; what it allocates, the
    // C library has made safe after a fork.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let went_well = catch_unwind(AssertUnwindSafe(body)).is_ok();
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(i32::from(!went_well)) }
        }
    }
}

/// Waits for the end of a child, which must have gone well.
pub(crate) fn await_child(child: Pid) {
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
}

/// Starts `body` in a child process, which stands still after it has entered or left system
/// calls so many times; one that it has just entered isn't made yet. `None` if it didn't come so
/// far.
pub(crate) fn stopped_after(steps: usize, body: impl FnOnce()) -> Option<Pid> {
    let child = start_child(|| {
        ptrace::traceme().unwrap();
        raise(Signal::SIGSTOP).unwrap();
        body();
    });
    assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Stopped(..)));
    ptrace::setoptions(child, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    for _ in 0..steps {
        ptrace::syscall(child, None).unwrap();
        match waitpid(child, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {}
            WaitStatus::Exited(_, 0) => return None,
            other => panic!("{other:?}"),
        }
    }
    Some(child)
}

/// The same, and kills it there: what it has just entered is never made. Whether it came so far.
pub(crate) fn killed_after(steps: usize, body: impl FnOnce()) -> bool {
    let Some(child) = stopped_after(steps, body) else { return false };
    kill(child, Signal::SIGKILL).unwrap();
    assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Signaled(_, Signal::SIGKILL, _)));
    true
}

/// The numbers of the system calls that `body` makes in a process of its own. Those about memory
/// don't count, nor those by which the standard library checks descriptors in debug builds.
pub(crate) fn calls_of(body: impl FnOnce()) -> Vec<String> {
    calls_of_prepared(|| {}, |()| body())
}

/// The same, with what is made there before, which doesn't count.
pub(crate) fn calls_of_prepared<P>(prepare: impl FnOnce() -> P, body: impl FnOnce(&mut P)) -> Vec<String> {
    const ASIDE: [libc::c_long; 7] = [
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_fcntl,
    ];
    let child = stopped_after(0, || {
        let mut prepared = prepare();
        // Nobody else calls this; it stands at both ends of what is counted.
        getsid(None).unwrap();
        body(&mut prepared);
        getsid(None).unwrap();
    });
    let (child, mut calls) = (child.unwrap(), Vec::new());
    loop {
        ptrace::syscall(child, None).unwrap();
        match waitpid(child, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {}
            WaitStatus::Exited(_, 0) => break,
            other => panic!("{other:?}"),
        }
        let state = fs::read_to_string(format!("/proc/{child}/syscall")).unwrap();
        calls.push(state.split(' ').next().unwrap().to_owned());
    }
    // Each call stops it where it enters and where it leaves it.
    let mark = libc::SYS_getsid.to_string();
    let ends: Vec<usize> = (0..calls.len()).filter(|&index| calls[index] == mark).collect();
    assert_eq!(ends.len(), 4, "{calls:?}");
    let calls = calls[ends[1] + 1..ends[2]].iter().step_by(2);
    calls.filter(|&call| ASIDE.iter().all(|aside| *call != aside.to_string())).cloned().collect()
}

/// Waits until a process with one thread sleeps in one of these system calls.
pub(crate) fn wait_until_process_sleeps_in(process: Pid, calls: &[libc::c_long]) {
    wait_until_asleep(&format!("/proc/{process}/syscall"), calls);
}

/// Starts `body` in a thread; its thread id, to watch it by.
pub(crate) fn spawn_watched<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> (Pid, JoinHandle<T>) {
    let (send_id, id) = mpsc::channel();
    let thread = thread::spawn(move || {
        send_id.send(gettid()).unwrap();
        body()
    });
    (id.recv().unwrap(), thread)
}

/// Waits until the thread sleeps in one of these system calls.
pub(crate) fn wait_until_asleep_in(thread: Pid, calls: &[libc::c_long]) {
    wait_until_asleep(&format!("/proc/self/task/{thread}/syscall"), calls);
}

fn wait_until_asleep(state: &str, calls: &[libc::c_long]) {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < give_up, "it doesn't sleep in any of {calls:?}: {state}");
        let state = fs::read_to_string(state).unwrap();
        // "running", or the number of the call and its arguments.
        let call = state.split(' ').next().and_then(|number| number.parse().ok());
        if call.is_some_and(|call| calls.contains(&call)) {
            return;
        }
        thread::yield_now();
    }
}
