//! System calls that fail, `ptrace(2)`: one is not made, and answers with an error instead.

use super::stopped_after;
use nix::{errno::Errno, libc, sys::ptrace, unistd::Pid};

/// Runs `body` in a process of its own, where the `nth` call between two of
/// [`mark`](self::mark) fails.
pub(crate) fn fail(nth: usize, errno: Errno, body: impl FnOnce()) -> Failed {
    let child = stopped_after(0, || {
        // SAFETY: an integer; the signal, which ends a process that hangs, is the system's.
        unsafe { libc::alarm(300) };
        body();
    });
    let mut tracee = Tracee { pid: child.unwrap(), entered: None };
    let (mut marks, mut calls, mut failed) = (0, 0, None);
    loop {
        match tracee.next() {
            Stop::End { well } => return Failed { call: failed, well: well && marks == 2 },
            Stop::Entry(call) if call.number == libc::SYS_getsid => marks += 1,
            Stop::Entry(call) if marks == 1 && call.fails_with(errno) => {
                if calls == nth {
                    tracee.refuse(errno);
                    failed = Some(call.number);
                }
                calls += 1;
            }
            Stop::Entry(_) | Stop::Exit => {}
        }
    }
}

/// Runs `body` in a process of its own, which must go well, and looks at each call that it makes
/// before it is made. Other threads of it aren't looked at.
pub(crate) fn trace(body: impl FnOnce(), mut look: impl FnMut(Pid, Call)) {
    let mut tracee = Tracee { pid: stopped_after(0, body).unwrap(), entered: None };
    loop {
        match tracee.next() {
            Stop::End { well } => return assert!(well),
            Stop::Entry(call) => look(tracee.pid, call),
            Stop::Exit => {}
        }
    }
}

/// Runs `body` in a process of its own, which must go well, where each of these calls between two
/// of [`mark`](self::mark) fails. How many there were.
pub(crate) fn fail_each(errno: Errno, fails: impl Fn(Call) -> bool, body: impl FnOnce()) -> usize {
    let mut tracee = Tracee { pid: stopped_after(0, body).unwrap(), entered: None };
    let (mut marks, mut failed) = (0, 0);
    loop {
        match tracee.next() {
            Stop::End { well } => {
                assert!(well && marks == 2);
                return failed;
            }
            Stop::Entry(call) if call.number == libc::SYS_getsid => marks += 1,
            Stop::Entry(call) if marks == 1 && fails(call) => {
                tracee.refuse(errno);
                failed += 1;
            }
            Stop::Entry(_) | Stop::Exit => {}
        }
    }
}

/// What became of the process.
pub(crate) struct Failed {
    /// The number of the call; `None` if there weren't so many.
    pub(crate) call: Option<libc::c_long>,
    /// It came to its end, and neither panicked nor hung.
    pub(crate) well: bool,
}

/// Stands before the first call that may fail, and behind the last. Nobody else calls this.
pub(crate) fn mark() {
    nix::unistd::getsid(None).unwrap();
}

struct Tracee {
    pid: Pid,
    entered: Option<Call>,
}

enum Stop {
    Entry(Call),
    Exit,
    End { well: bool },
}

#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [u64; 5],
}

impl Call {
    /// Whether it may fail so. The allocator's can't be made up for, and those by which the
    /// standard library checks descriptors in debug builds are no part of it; others never fail,
    /// or there is nothing to be done about it. What looks at a descriptor that a peer has sent
    /// lacks memory: if it lacks anything else, that is the peer's fault.
    fn fails_with(self, errno: Errno) -> bool {
        let ([_, second, third, fourth, fifth], memory) = (self.arguments, errno == Errno::ENOMEM);
        match self.number {
            libc::SYS_brk | libc::SYS_munmap | libc::SYS_mprotect | libc::SYS_mremap => false,
            libc::SYS_close => false,
            libc::SYS_getpid | libc::SYS_gettid | libc::SYS_geteuid | libc::SYS_getegid => false,
            libc::SYS_restart_syscall | libc::SYS_rt_sigreturn => false,
            libc::SYS_mmap => memory && fifth as libc::c_int != -1,
            libc::SYS_madvise => memory && third == libc::MADV_POPULATE_READ as u64,
            libc::SYS_fstat => memory,
            libc::SYS_newfstatat => memory || fourth & libc::AT_EMPTY_PATH as u64 == 0,
            libc::SYS_fcntl if second == libc::F_GET_SEALS as u64 => memory,
            libc::SYS_fcntl => second != libc::F_GETFD as u64,
            _ => true,
        }
    }
}

impl Tracee {
    /// Lets it go on to where it enters or leaves a system call, or has ended.
    fn next(&mut self) -> Stop {
        let mut signal = 0;
        loop {
            // SAFETY: integers only; the process is ours and stands still.
            let resumed = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, self.pid.as_raw(), 0, signal) };
            Errno::result(resumed).unwrap();
            let mut status = 0;
            // SAFETY: the status is a local.
            Errno::result(unsafe { libc::waitpid(self.pid.as_raw(), &mut status, 0) }).unwrap();
            if !libc::WIFSTOPPED(status) {
                return Stop::End { well: status == 0 };
            }
            match libc::WSTOPSIG(status) {
                stop if stop == libc::SIGTRAP | 0x80 => break,
                // It is to have it. The kernel knows more signals than `nix`.
                other => signal = other,
            }
        }
        if self.entered.take().is_some() {
            return Stop::Exit;
        }
        let registers = ptrace::getregs(self.pid).unwrap();
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8];
        let call = Call { number: registers.orig_rax as libc::c_long, arguments };
        self.entered = Some(call);
        Stop::Entry(call)
    }

    /// The call that it has just entered isn't made, and this is its answer.
    fn refuse(&mut self, errno: Errno) {
        let mut registers = ptrace::getregs(self.pid).unwrap();
        registers.orig_rax = u64::MAX;
        ptrace::setregs(self.pid, registers).unwrap();
        assert!(matches!(self.next(), Stop::Exit));
        registers = ptrace::getregs(self.pid).unwrap();
        registers.rax = (-i64::from(errno as i32)) as u64;
        ptrace::setregs(self.pid, registers).unwrap();
    }
}

/// What the errors call it; what interrupts it doesn't fail it.
pub(crate) struct Known {
    pub(crate) names: &'static [&'static str],
    pub(crate) is_interruptible: bool,
}

/// What is known of the call with this number.
pub(crate) fn known(call: libc::c_long) -> Known {
    let named = |names| Known { names, is_interruptible: false };
    let interruptible = |names| Known { names, is_interruptible: true };
    match call {
        libc::SYS_accept4 => interruptible(&["accept4"]),
        libc::SYS_bind => named(&["bind"]),
        libc::SYS_connect => interruptible(&["connect"]),
        libc::SYS_epoll_create1 => named(&["epoll_create1"]),
        libc::SYS_epoll_ctl => named(&["epoll_ctl"]),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => interruptible(&["epoll_wait"]),
        libc::SYS_eventfd2 => named(&["eventfd"]),
        libc::SYS_faccessat | libc::SYS_faccessat2 => named(&["faccessat"]),
        libc::SYS_fchmod => named(&["fchmod"]),
        libc::SYS_fchmodat => named(&["fchmodat"]),
        libc::SYS_fcntl => named(&["fcntl", "fdopendir"]),
        libc::SYS_flock => interruptible(&["flock"]),
        libc::SYS_fstat | libc::SYS_newfstatat => named(&["fstat", "fstatat", "fdopendir"]),
        libc::SYS_fsconfig => interruptible(&["fsconfig"]),
        libc::SYS_fsmount => named(&["fsmount"]),
        libc::SYS_fsopen => interruptible(&["fsopen"]),
        libc::SYS_getdents64 => named(&["readdir"]),
        libc::SYS_getrandom => interruptible(&["getrandom"]),
        libc::SYS_getsockopt => named(&["getsockopt"]),
        libc::SYS_inotify_add_watch => named(&["inotify_add_watch"]),
        libc::SYS_inotify_init1 => named(&["inotify_init1"]),
        libc::SYS_linkat => named(&["linkat"]),
        libc::SYS_listen => named(&["listen"]),
        libc::SYS_lseek => named(&["lseek"]),
        libc::SYS_madvise => named(&["madvise", "mmap"]),
        libc::SYS_memfd_create => named(&["memfd_create"]),
        libc::SYS_mkdirat => named(&["mkdirat"]),
        libc::SYS_mmap => named(&["mmap"]),
        libc::SYS_mq_getsetattr => named(&["mq_getattr"]),
        libc::SYS_mq_open => named(&["mq_open"]),
        libc::SYS_mq_timedreceive => interruptible(&["mq_receive"]),
        libc::SYS_mq_timedsend => interruptible(&["mq_send"]),
        libc::SYS_mq_unlink => named(&["mq_unlink"]),
        libc::SYS_msgctl => named(&["msgctl"]),
        libc::SYS_msgget => named(&["msgget"]),
        libc::SYS_msgrcv => interruptible(&["msgrcv"]),
        libc::SYS_msgsnd => interruptible(&["msgsnd"]),
        libc::SYS_open | libc::SYS_openat => interruptible(&["open", "openat"]),
        libc::SYS_poll | libc::SYS_ppoll => interruptible(&["ppoll"]),
        libc::SYS_read => interruptible(&["read"]),
        libc::SYS_readlinkat => named(&["readlinkat"]),
        libc::SYS_recvfrom => interruptible(&["recv"]),
        libc::SYS_recvmsg => interruptible(&["recvmsg"]),
        libc::SYS_renameat | libc::SYS_renameat2 => named(&["renameat"]),
        libc::SYS_rt_sigaction => named(&["sigaction"]),
        libc::SYS_rt_sigprocmask => named(&["pthread_sigmask"]),
        libc::SYS_sendto => interruptible(&["send"]),
        libc::SYS_sendmsg => interruptible(&["sendmsg"]),
        libc::SYS_setsockopt => named(&["setsockopt"]),
        libc::SYS_shutdown => named(&["shutdown"]),
        libc::SYS_socket => named(&["socket"]),
        libc::SYS_statfs | libc::SYS_fstatfs => named(&["fstatfs"]),
        libc::SYS_statx => named(&["statx"]),
        libc::SYS_symlinkat => named(&["symlinkat"]),
        libc::SYS_timer_create => named(&["timer_create"]),
        libc::SYS_timer_settime => named(&["timer_settime"]),
        libc::SYS_unlinkat => named(&["unlinkat"]),
        libc::SYS_write => interruptible(&["write"]),
        other => panic!("system call {other} is not known here"),
    }
}
