//! The system calls of this transport, and its only unsafe code: `msgget(2)`, `msgop(2)`,
//! `msgctl(2)` and the timer that interrupts them, each as a safe function that says what
//! the kernel answered and decides nothing.

use nix::{
    errno::Errno,
    libc,
    unistd::{getegid, geteuid},
};
use std::{
    mem::{self, MaybeUninit},
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// What stands before a message's bytes: its type.
pub(crate) const PREFIX_LEN: usize = mem::size_of::<libc::c_long>();

// From linux/ipc.h and linux/msg.h; the C libraries of the day don't all have them.
const IPC_INFO: libc::c_int = 3;
const MSG_STAT_ANY: libc::c_int = 13;

/// The mode of a queue that is not settled yet. The bits to execute mean nothing to the kernel.
const HALF_MADE: u32 = 0o111;

/// The highest type there is.
pub(crate) const TYPE_MAX: libc::c_long = libc::c_long::MAX;

/// A type as the traits know it.
#[allow(clippy::unnecessary_cast, reason = "a c_long has 32 bits elsewhere")]
pub(crate) fn type_number(message_type: libc::c_long) -> u64 {
    message_type.unsigned_abs() as u64
}

/// A queue, by the kernel's number. Anybody may remove it at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue(pub(crate) RawFd);

/// Which messages `msgrcv` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) message_type: libc::c_long,
    /// All but that type.
    pub(crate) except: bool,
}

/// What the kernel says about a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) key: u32,
    pub(crate) creator_uid: u32,
    pub(crate) uid: u32,
    pub(crate) mode: u32,
    pub(crate) queued_messages: u64,
    pub(crate) queued_bytes: u64,
    pub(crate) capacity_bytes: u64,
    pub(crate) last_sender_pid: u32,
    pub(crate) last_receiver_pid: u32,
}

impl Queue {
    /// `msgget` of a queue that exists.
    pub(crate) fn find(key: u32) -> Result<Self, Errno> {
        // SAFETY: integers only.
        Errno::result(unsafe { libc::msgget(key as libc::key_t, 0) }).map(Self)
    }

    /// `msgget` of a queue that must not exist. The umask has no say in the mode.
    pub(crate) fn create(key: u32, mode: u32) -> Result<Self, Errno> {
        let flags = libc::IPC_CREAT | libc::IPC_EXCL | (mode & 0o777) as libc::c_int;
        // SAFETY: integers only.
        Errno::result(unsafe { libc::msgget(key as libc::key_t, flags) }).map(Self)
    }

    /// The same of one that is to be [settled](Self::settle) before it is used: its mode
    /// permits nothing, and is none of those that queues have.
    pub(crate) fn half_made(key: u32) -> Result<Self, Errno> {
        Self::create(key, HALF_MADE)
    }

    /// `msgctl(IPC_SET)`: its mode and its room in bytes, both at once.
    pub(crate) fn settle(self, mode: u32, capacity_bytes: u64) -> Result<(), Errno> {
        // SAFETY: integers only, for which zeroes are valid.
        let mut raw: libc::msqid_ds = unsafe { mem::zeroed() };
        raw.msg_perm.uid = geteuid().as_raw();
        raw.msg_perm.gid = getegid().as_raw();
        // Its type differs between systems; there is room for nine bits everywhere.
        raw.msg_perm.mode = (mode & 0o777) as _;
        raw.msg_qbytes = capacity_bytes;
        // SAFETY: `raw` lives through the call, which reads the fields set above.
        Errno::result(unsafe { libc::msgctl(self.0, libc::IPC_SET, &mut raw) }).map(drop)
    }

    /// `msgctl(MSG_STAT_ANY)`, which takes no permission. Before Linux 4.17 there is only
    /// `IPC_STAT`, which takes that to read.
    pub(crate) fn status(self) -> Result<Status, Errno> {
        match control(self.0, MSG_STAT_ANY) {
            Ok((status, id)) if id == self.0 => Ok(Status::from_raw(&status)),
            // Its place is another one's by now.
            Ok(_) => Err(Errno::EIDRM),
            // It is gone, or the command is unknown.
            Err(Errno::EINVAL) => {
                control(self.0, libc::IPC_STAT).map(|(status, _)| Status::from_raw(&status))
            }
            Err(errno) => Err(errno),
        }
    }

    /// `msgctl(IPC_RMID)`: who waits in it is told.
    pub(crate) fn remove(self) -> Result<(), Errno> {
        // SAFETY: this command takes no argument, so the kernel follows no pointer.
        Errno::result(unsafe { libc::msgctl(self.0, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
    }

    /// `msgsnd` of a message behind its type, which takes up the first [`PREFIX_LEN`] bytes.
    #[inline]
    pub(crate) fn send(self, typed: &[u8], wait: bool) -> Result<(), Errno> {
        let len = typed.len().checked_sub(PREFIX_LEN).ok_or(Errno::EFAULT)?;
        let flags = if wait { 0 } else { libc::IPC_NOWAIT };
        // SAFETY: the kernel reads the type and `len` bytes behind it, at whatever address,
        // and `typed` has so many.
        Errno::result(unsafe { libc::msgsnd(self.0, typed.as_ptr().cast(), len, flags) }).map(drop)
    }

    /// `msgrcv` of the first message that is wanted: its type into the first bytes of
    /// `space`, the rest behind; how many bytes it has.
    #[inline]
    pub(crate) fn receive(self, space: &mut [u8], wanted: Wanted, wait: bool) -> Result<usize, Errno> {
        let except = if wanted.except { libc::MSG_EXCEPT } else { 0 };
        self.take(space, wanted.message_type, except | if wait { 0 } else { libc::IPC_NOWAIT })
    }

    /// `msgrcv(MSG_COPY)`: a copy of the message at this place.
    pub(crate) fn copy(self, space: &mut [u8], index: libc::c_long) -> Result<usize, Errno> {
        self.take(space, index, libc::MSG_COPY | libc::IPC_NOWAIT)
    }

    #[inline]
    fn take(self, space: &mut [u8], which: libc::c_long, flags: libc::c_int) -> Result<usize, Errno> {
        let len = space.len().checked_sub(PREFIX_LEN).ok_or(Errno::EFAULT)?;
        // SAFETY: the kernel writes the type and at most `len` bytes behind it, at whatever
        // address, to `space`, which has room for them and is borrowed for us alone.
        let answer = unsafe { libc::msgrcv(self.0, space.as_mut_ptr().cast(), len, which, flags) };
        Errno::result(answer).map(isize::unsigned_abs)
    }
}

impl Status {
    /// Whether it is yet to be settled, or its maker was killed before it could do so.
    pub(crate) fn is_half_made(&self) -> bool {
        self.mode == HALF_MADE
    }

    fn from_raw(raw: &libc::msqid_ds) -> Self {
        Self {
            key: raw.msg_perm.__key as u32,
            creator_uid: raw.msg_perm.cuid,
            uid: raw.msg_perm.uid,
            mode: u32::from(raw.msg_perm.mode) & 0o777,
            queued_messages: raw.msg_qnum,
            queued_bytes: raw.__msg_cbytes,
            capacity_bytes: raw.msg_qbytes,
            last_sender_pid: raw.msg_lspid.unsigned_abs(),
            last_receiver_pid: raw.msg_lrpid.unsigned_abs(),
        }
    }
}

/// All queues of this namespace, whoever's: `msgctl(MSG_INFO)`, `msgctl(MSG_STAT_ANY)`.
pub(crate) fn all() -> Result<Vec<(Queue, Status)>, Errno> {
    let (_, highest_index) = control(0, libc::MSG_INFO)?;
    let found = (0..=highest_index).filter_map(|index| match control(index, MSG_STAT_ANY) {
        Ok((status, id)) => Some((Queue(id), Status::from_raw(&status))),
        // There is none at this place, or none any more.
        Err(_) => None,
    });
    Ok(found.collect())
}

/// What the kernel allows, `msgctl(IPC_INFO)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest message, in bytes (`kernel.msgmax`).
    pub(crate) max_message_len: usize,
    /// The room of a queue, in bytes (`kernel.msgmnb`).
    pub(crate) capacity_bytes: usize,
    /// How many queues there can be (`kernel.msgmni`).
    pub(crate) queues: usize,
}

pub(crate) fn limits() -> Result<Limits, Errno> {
    let mut raw = MaybeUninit::<libc::msginfo>::zeroed();
    // SAFETY: this command writes a `msginfo`, for which there is room.
    Errno::result(unsafe { libc::msgctl(0, IPC_INFO, raw.as_mut_ptr().cast()) })?;
    // SAFETY: all integers, zeroed above and filled in by the call.
    let raw = unsafe { raw.assume_init() };
    let figure = |raw: libc::c_int| usize::try_from(raw).unwrap_or(0);
    Ok(Limits {
        max_message_len: figure(raw.msgmax),
        capacity_bytes: figure(raw.msgmnb),
        queues: figure(raw.msgmni),
    })
}

/// An `msgctl` that fills in a status; and what it answered.
fn control(id: libc::c_int, command: libc::c_int) -> Result<(libc::msqid_ds, libc::c_int), Errno> {
    let mut raw = MaybeUninit::<libc::msqid_ds>::zeroed();
    // SAFETY: `raw` has room for what these commands write; MSG_INFO writes less.
    let answer = Errno::result(unsafe { libc::msgctl(id, command, raw.as_mut_ptr()) })?;
    // SAFETY: all integers, zeroed above and filled in by the call.
    Ok((unsafe { raw.assume_init() }, answer))
}

/// The signal that ends waits, see the transport's documentation.
pub(crate) fn alarm_signal() -> libc::c_int {
    libc::SIGRTMAX() - 3
}

/// What the process does on the alarm's signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handler {
    /// What it began with.
    Default,
    /// Our own.
    Ours,
    /// Somebody else's.
    Foreign,
}

/// Whether a signal was taken that is of no alarm of ours.
static FOREIGN_SIGNAL: AtomicBool = AtomicBool::new(false);

/// What our timers send along, to tell their signals from others'.
static MARK: u8 = 0;

fn mark() -> *mut libc::c_void {
    (&raw const MARK).cast_mut().cast()
}

/// Interrupts, and does nothing but to note whose the signal is.
extern "C" fn interrupt(_: libc::c_int, found: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel hands over a valid one, for as long as this runs.
    let found = unsafe { &*found };
    // SAFETY: signals of timers have a value; it is read only if this is one.
    if found.si_code != libc::SI_TIMER || unsafe { found.si_value() }.sival_ptr != mark() {
        FOREIGN_SIGNAL.store(true, Ordering::Relaxed);
    }
}

/// Whether a signal was taken since that somebody else sent.
pub(crate) fn took_foreign_signal() -> bool {
    FOREIGN_SIGNAL.load(Ordering::Relaxed) && FOREIGN_SIGNAL.swap(false, Ordering::Relaxed)
}

/// `sigaction(2)`: whose handler there is.
pub(crate) fn handler() -> Result<Handler, Errno> {
    let mut found = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and `found` has room for what there is.
    let answer = unsafe { libc::sigaction(alarm_signal(), ptr::null(), found.as_mut_ptr()) };
    Errno::result(answer)?;
    // SAFETY: zeroed above, for which all fields are valid, and filled in by the call.
    let found = unsafe { found.assume_init() };
    Ok(match found.sa_sigaction {
        libc::SIG_DFL => Handler::Default,
        ours if ours == interrupt as *const () as libc::sighandler_t => Handler::Ours,
        _ => Handler::Foreign,
    })
}

/// `sigaction(2)`: our handler from now on. It interrupts system calls.
pub(crate) fn install_handler() -> Result<(), Errno> {
    // SAFETY: integers and a pointer, for which zeroes are valid: an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // Not SA_RESTART.
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = interrupt as *const () as libc::sighandler_t;
    // SAFETY: the handler, which takes three arguments as the flag says, reads what it was given and
    // stores to an atomic: that is safe in every state of the process.
    Errno::result(unsafe { libc::sigaction(alarm_signal(), &action, ptr::null_mut()) }).map(drop)
}

/// `pthread_sigmask(3)`: lets the alarm's signal through to this thread, or blocks it;
/// whether it was blocked before.
pub(crate) fn block_alarm(block: bool) -> Result<bool, Errno> {
    let mut alarm = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `alarm` has room for a set.
    Errno::result(unsafe { libc::sigemptyset(alarm.as_mut_ptr()) })?;
    // SAFETY: `alarm` was initialised by the call above.
    Errno::result(unsafe { libc::sigaddset(alarm.as_mut_ptr(), alarm_signal()) })?;
    let how = if block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: one set is initialised, the other has room.
    match unsafe { libc::pthread_sigmask(how, alarm.as_ptr(), before.as_mut_ptr()) } {
        // SAFETY: the call filled it in.
        0 => Ok(unsafe { libc::sigismember(before.as_ptr(), alarm_signal()) } == 1),
        error => Err(Errno::from_raw(error)),
    }
}

/// A timer that sends the alarm's signal to the thread that made it.
#[derive(Debug)]
pub(crate) struct Timer(libc::timer_t);

// SAFETY: it is a number of the kernel's (or a pointer that the C library takes from any
// thread), and the calls on it are the kernel's to order.
unsafe impl Send for Timer {}

impl Timer {
    /// `timer_create(2)` by the monotonic clock.
    pub(crate) fn for_this_thread() -> Result<Self, Errno> {
        // SAFETY: integers and pointers, for which zeroes are valid.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = alarm_signal();
        event.sigev_value.sival_ptr = mark();
        event.sigev_notify_thread_id = nix::unistd::gettid().as_raw();
        let mut timer = MaybeUninit::<libc::timer_t>::zeroed();
        // SAFETY: `event` lives through the call, `timer` has room for what it writes.
        let answer = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, timer.as_mut_ptr()) };
        Errno::result(answer)?;
        // SAFETY: the call filled it in.
        Ok(Self(unsafe { timer.assume_init() }))
    }

    /// `timer_settime(2)`: rings after `delay` and from then on at each `interval`; never
    /// again if `delay` is zero.
    pub(crate) fn set(&self, delay: Duration, interval: Duration) -> Result<(), Errno> {
        let times = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(delay) };
        // SAFETY: the timer is ours until it is dropped, `times` lives through the call.
        Errno::result(unsafe { libc::timer_settime(self.0, 0, &times, ptr::null_mut()) }).map(drop)
    }

    /// `timer_delete(2)`.
    pub(crate) fn delete(&self) {
        // SAFETY: the timer is ours; once it is deleted, another call on it is an error, no
        // more.
        unsafe { libc::timer_delete(self.0) };
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    *nix::sys::time::TimeSpec::from_duration(duration).as_ref()
}
