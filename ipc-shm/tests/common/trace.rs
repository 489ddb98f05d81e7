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
