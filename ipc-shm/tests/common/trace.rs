//! Victims that are traced, ptrace(2), and killed after so many steps.
//!
//! A SIGKILL that meets a process where it enters a system call cancels the call; where it
//! leaves one, the call was made.

use super::{end_after, fork};
use nix::{
    libc,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        ptrace,
        signal::{Signal, kill, raise},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

/// What a victim is stepped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    SystemCall,
    Instruction,
}

/// Runs `prepare` and then `act` in a child that is killed after `steps` steps of `act`.
/// True if it was, false if it came to its end before.
pub(crate) fn killed_after<P>(
    steps: usize,
    step: Step,
    prepare: impl FnOnce() -> P,
    act: impl FnOnce(P),
) -> bool {
    let pid = start(prepare, act);
    for _ in 0..steps {
        match step {
            Step::SystemCall => ptrace::syscall(pid, None).unwrap(),
            Step::Instruction => ptrace::step(pid, None).unwrap(),
        }
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) | WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Exited(_, 0) => return false,
            other => panic!("the victim came to another end: {other:?}"),
        }
        // Looking takes longer than the step; between instructions, it isn't worth it.
        if step == Step::SystemCall && is_over(pid) {
            kill_now(pid);
            return false;
        }
    }
    kill_now(pid);
    true
}

/// Runs `prepare` and then `act` in a child, and says how often `act` made each of these system
/// calls.
pub(crate) fn calls_of<P, const N: usize>(
    calls: [libc::c_long; N],
    prepare: impl FnOnce() -> P,
    act: impl FnOnce(P),
) -> [usize; N] {
    let pid = start(prepare, act);
    let mut stops = [0; N];
    loop {
        ptrace::syscall(pid, None).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                let now = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
                for (call, stops) in calls.iter().zip(&mut stops) {
                    *stops += usize::from(now.starts_with(&format!("{call} ")));
                }
            }
            // Where it enters, and where it leaves.
            WaitStatus::Exited(_, 0) => return stops.map(|stops| stops / 2),
            other => panic!("it came to another end: {other:?}"),
        }
    }
}

/// Runs `prepare` and then `act` in a child, and says of which files `act` had fsync(2) see to
/// it that they are on the disk.
pub(crate) fn synced_by<P>(prepare: impl FnOnce() -> P, act: impl FnOnce(P)) -> Vec<PathBuf> {
    let pid = start(prepare, act);
    let mut synced = Vec::new();
    loop {
        ptrace::syscall(pid, None).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => synced.extend(is_synced_now(pid)),
            WaitStatus::Exited(_, 0) => return synced,
            other => panic!("it came to another end: {other:?}"),
        }
    }
}

/// The file, if it is fsync(2) that is called.
fn is_synced_now(pid: Pid) -> Option<PathBuf> {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let arguments = call.strip_prefix(&format!("{} 0x", libc::SYS_fsync))?;
    let descriptor = u32::from_str_radix(arguments.split(' ').next()?, 16).ok()?;
    fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()
}

/// A traced child that has done `prepare` and goes on with `act`.
fn start<P>(prepare: impl FnOnce() -> P, act: impl FnOnce(P)) -> Pid {
    let Some(child) = fork() else {
        end_after(|| {
            let prepared = prepare();
            ptrace::traceme().unwrap();
            raise(Signal::SIGSTOP).unwrap();
            act(prepared);
        })
    };
    let pid = child.0;
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGSTOP), "it was prepared");
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    pid
}

/// Whether the victim is about to end in good order.
fn is_over(pid: Pid) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.starts_with(&format!("{} ", libc::SYS_exit_group))
}

fn kill_now(pid: Pid) {
    kill(pid, Signal::SIGKILL).unwrap();
    while !matches!(waitpid(pid, None).unwrap(), WaitStatus::Signaled(_, Signal::SIGKILL, _)) {}
}

/// The tracer and the victim take turns: without a processor to wake up, several times as
/// fast.
pub(crate) fn stay_on_one_processor() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let all: Vec<_> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
    if let Some(&cpu) = all.get(NEXT.fetch_add(1, Ordering::Relaxed) % all.len().max(1)) {
        let mut one = CpuSet::new();
        one.set(cpu).unwrap();
        let _ = sched_setaffinity(Pid::from_raw(0), &one);
    }
}
