//! The system calls of this transport, and its only unsafe code: the kernel's queues as
//! `mq_open(3)`, `mq_send(3)`, `mq_receive(3)` and `mq_getattr(3)` describe them, each as a
//! safe function that says what the kernel answered and decides nothing.
//!
//! `nix` has these calls too, but leaves `mq_open` without its last two arguments when a
//! queue is to be created with the kernel's defaults, and doesn't close descriptors.

use super::notification::Notification;
use crate::{limit, wait::uninterrupted};
use ipc_core::OsError;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, open, openat},
    libc,
    sys::{
        resource::{Resource, getrlimit},
        stat::{FileStat, Mode, fchmod, fstat},
        statfs::{FsType, fstatfs},
    },
};
use std::{
    ffi::CStr,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What a descriptor is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Both,
    Receive,
    Send,
}

/// What is settled when a queue is made: `mq_maxmsg` and `mq_msgsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) depth: usize,
    pub(crate) max_message_len: usize,
}

/// What the kernel says about a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub(crate) geometry: Geometry,
    pub(crate) queued_messages: u64,
}

/// A descriptor of a queue, in blocking mode, closed on exec and when all that share it have
/// dropped it.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    common: Arc<Common>,
    /// A duplicate of the first descriptor, for an endpoint that has its own.
    own: Option<Arc<OwnedFd>>,
}

/// What a queue and its duplicates have in common.
#[derive(Debug)]
struct Common {
    first: OwnedFd,
    notification: Notification,
    geometry: Known,
}

/// What is settled of a queue, once it was asked for.
#[derive(Debug, Default)]
struct Known {
    depth: AtomicUsize,
    /// 0 until it is known; no queue has that.
    max_message_len: AtomicUsize,
}

impl Known {
    fn get(&self) -> Option<Geometry> {
        // Acquire: pairs with the Release in `set`.
        let max_message_len = self.max_message_len.load(Ordering::Acquire);
        let depth = self.depth.load(Ordering::Relaxed);
        (max_message_len > 0).then_some(Geometry { depth, max_message_len })
    }

    fn set(&self, Geometry { depth, max_message_len }: Geometry) {
        self.depth.store(depth, Ordering::Relaxed);
        // Release: pairs with the Acquire in `get`, so that the depth is there too.
        self.max_message_len.store(max_message_len, Ordering::Release);
    }
}

impl Queue {
    /// `mq_open` of a queue that exists.
    pub(crate) fn open(path: &CStr, access: Access) -> Result<Self, Errno> {
        let access = match access {
            Access::Both => libc::O_RDWR,
            Access::Receive => libc::O_RDONLY,
            Access::Send => libc::O_WRONLY,
        };
        // SAFETY: `path` ends with a NUL and lives through the call; without O_CREAT the
        // call takes two arguments.
        Self::opened(unsafe { libc::mq_open(path.as_ptr(), access | libc::O_CLOEXEC) })
    }

    /// `mq_open` of a queue that must not exist, with the kernel's default geometry if none
    /// is given. The process's umask takes away from `mode`.
    pub(crate) fn create(path: &CStr, mode: u32, geometry: Option<Geometry>) -> Result<Self, Errno> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        let raw = geometry.map(Geometry::to_raw);
        let attributes = raw.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `path` ends with a NUL, `attributes` is null or points to a local of this
        // function, and with O_CREAT the call takes four arguments of these types.
        let answer = unsafe { libc::mq_open(path.as_ptr(), flags, mode as libc::mode_t, attributes) };
        let queue = Self::opened(answer)?;
        if let Some(geometry) = geometry {
            // What was asked for is what there is.
            queue.common.geometry.set(geometry);
        }
        Ok(queue)
    }

    fn opened(answer: RawFd) -> Result<Self, Errno> {
        let raw = Errno::result(answer)?;
        // SAFETY: the kernel just gave us this descriptor, so nobody else owns it; on Linux
        // a queue descriptor is a file descriptor, and mq_close(3) is close(2).
        let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
        let (notification, geometry) = (Notification::new(), Known::default());
        let common = Common { first: descriptor, notification, geometry };
        Ok(Self { common: Arc::new(common), own: None })
    }

    /// `fcntl(F_DUPFD_CLOEXEC)`: another descriptor of the same queue, for the same purposes.
    pub(crate) fn duplicate(&self) -> Result<Self, Errno> {
        let common = Arc::clone(&self.common);
        if let Some(spare) = common.notification.reuse() {
            return Ok(Self { common, own: Some(Arc::new(spare)) });
        }
        let descriptor = fcntl(self, FcntlArg::F_DUPFD_CLOEXEC(0)).map_err(|errno| match errno {
            // What it says where none may be opened at all.
            Errno::EINVAL => Errno::EMFILE,
            other => other,
        })?;
        // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { common, own: Some(Arc::new(descriptor)) })
    }

    #[inline]
    fn raw(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    pub(crate) fn notification(&self) -> &Notification {
        &self.common.notification
    }

    /// What is settled of it. It is asked once.
    pub(crate) fn geometry(&self) -> Result<Geometry, OsError> {
        if let Some(known) = self.known_geometry() {
            return Ok(known);
        }
        let geometry = self.attributes()?.geometry;
        self.common.geometry.set(geometry);
        Ok(geometry)
    }

    /// The same, if somebody has asked.
    #[inline]
    pub(crate) fn known_geometry(&self) -> Option<Geometry> {
        self.common.geometry.get()
    }

    /// For whoever can't be told of an error: the kernel has none for a queue that is open.
    pub(crate) fn max_message_len(&self) -> usize {
        self.settled().max_message_len
    }

    /// The same.
    pub(crate) fn depth(&self) -> usize {
        self.settled().depth
    }

    fn settled(&self) -> Geometry {
        self.geometry().expect("the kernel answers mq_getattr for an open queue")
    }

    /// `mq_getattr`.
    pub(crate) fn attributes(&self) -> Result<Attributes, OsError> {
        let mut raw = MaybeUninit::<libc::mq_attr>::zeroed();
        // SAFETY: `raw` is a valid place for what the call writes.
        let answer = unsafe { libc::mq_getattr(self.raw(), raw.as_mut_ptr()) };
        Errno::result(answer).map_err(|errno| OsError::new("mq_getattr", errno))?;
        // SAFETY: all integers, zeroed above and filled in by the call.
        Ok(Attributes::from_raw(unsafe { raw.assume_init_ref() }))
    }

    /// `fstat`: the owner and the permission bits.
    pub(crate) fn status(&self) -> Result<FileStat, OsError> {
        fstat(self).map_err(|errno| OsError::new("fstat", errno))
    }

    /// `fchmod`.
    pub(crate) fn set_mode(&self, mode: u32) -> Result<(), OsError> {
        fchmod(self, Mode::from_bits_truncate(mode)).map_err(|errno| OsError::new("fchmod", errno))
    }

    /// `mq_send`: waits for room.
    #[inline]
    pub(crate) fn send(&self, message: &[u8], priority: u32) -> Result<(), Errno> {
        // SAFETY: the kernel reads `message.len()` bytes from `message`, which lives
        // through the call.
        let answer = unsafe { libc::mq_send(self.raw(), message.as_ptr().cast(), message.len(), priority) };
        Errno::result(answer).map(drop)
    }

    /// `mq_timedsend` with a deadline long past, see [`EPOCH`].
    #[inline]
    pub(crate) fn send_by_epoch(&self, message: &[u8], priority: u32) -> Result<(), Errno> {
        let (start, len) = (message.as_ptr().cast(), message.len());
        // SAFETY: as in `send`, and the deadline is a static.
        let answer = unsafe { libc::mq_timedsend(self.raw(), start, len, priority, &EPOCH) };
        Errno::result(answer).map(drop)
    }

    /// `mq_receive`: waits for a message; its length and priority.
    #[inline]
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Result<(usize, u32), Errno> {
        let mut priority = 0;
        let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the kernel writes at most `len` bytes to `buffer`, which is borrowed for
        // us alone, and a priority to a local.
        let answer = unsafe { libc::mq_receive(self.raw(), start, len, &mut priority) };
        Errno::result(answer).map(|len| (len.unsigned_abs(), priority))
    }

    /// `mq_timedreceive` with a deadline long past, see [`EPOCH`].
    #[inline]
    pub(crate) fn receive_by_epoch(&self, buffer: &mut [u8]) -> Result<(usize, u32), Errno> {
        let mut priority = 0;
        let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: as in `receive`, and the deadline is a static.
        let answer = unsafe { libc::mq_timedreceive(self.raw(), start, len, &mut priority, &EPOCH) };
        Errno::result(answer).map(|len| (len.unsigned_abs(), priority))
    }

    /// `mq_notify`: registers this process for a signal, or takes its registration back.
    pub(crate) fn notify(&self, signal: Option<i32>) -> Result<(), Errno> {
        let event = signal.map(|signal| {
            // SAFETY: integers and pointers, for which zeroes are valid.
            let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = signal;
            event
        });
        let event = event.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `event` is null or points to a local of this function.
        Errno::result(unsafe { libc::mq_notify(self.raw(), event) }).map(drop)
    }
}

impl AsFd for Queue {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_deref().unwrap_or(&self.common.first).as_fd()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Some(own) = self.own.take().and_then(Arc::into_inner) {
            self.common.notification.give_up(own);
        }
    }
}

/// The deadline that has always passed, so that a call on a blocking descriptor answers at
/// once: with the message or the room if there is one, else with ETIMEDOUT.
///
/// `mq_timedsend` and `mq_timedreceive` measure by the wall clock, but no step of it, in
/// either direction, gets before the epoch. Linux doesn't even ask: it takes an expiry of
/// zero for "don't sleep" (`schedule_hrtimeout_range_clock`).
static EPOCH: libc::timespec = {
    // SAFETY: all integers, for which zeroes are valid; a literal would have to name the
    // padding that some systems have.
    unsafe { std::mem::zeroed() }
};

impl Geometry {
    /// Figures beyond the kernel's types become the highest of them, which it refuses.
    fn to_raw(self) -> libc::mq_attr {
        // SAFETY: all integers, for which zeroes are valid.
        let mut raw: libc::mq_attr = unsafe { std::mem::zeroed() };
        raw.mq_maxmsg = self.depth.try_into().unwrap_or(i32::MAX.into());
        raw.mq_msgsize = self.max_message_len.try_into().unwrap_or(i32::MAX.into());
        raw
    }
}

impl Attributes {
    fn from_raw(raw: &libc::mq_attr) -> Self {
        let geometry = Geometry {
            depth: raw.mq_maxmsg.try_into().unwrap_or(0),
            max_message_len: raw.mq_msgsize.try_into().unwrap_or(0),
        };
        Self { geometry, queued_messages: raw.mq_curmsgs.try_into().unwrap_or(0) }
    }
}

/// Where a queue is that we may receive from or send to. It isn't opened (O_PATH): to close another
/// descriptor of it would take this process's notification back.
pub(crate) fn locate(path: &CStr) -> Result<FileStat, Errno> {
    let locate_for = |access| {
        // SAFETY: `path` ends with a NUL and lives through the call; without O_CREAT the
        // call takes two arguments.
        let raw =
            Errno::result(unsafe { libc::mq_open(path.as_ptr(), access | libc::O_PATH | libc::O_CLOEXEC) })?;
        // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
        fstat(unsafe { OwnedFd::from_raw_fd(raw) })
    };
    match locate_for(libc::O_RDONLY) {
        Err(Errno::EACCES) => locate_for(libc::O_WRONLY),
        answer => answer,
    }
}

/// `mq_unlink`.
pub(crate) fn unlink(path: &CStr) -> Result<(), Errno> {
    // SAFETY: `path` ends with a NUL and lives through the call.
    Errno::result(unsafe { libc::mq_unlink(path.as_ptr()) }).map(drop)
}

/// The process's limit on the bytes in its user's queues.
pub(crate) fn queue_bytes_limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_MSGQUEUE).ok().map(|(soft, _hard)| soft)
}

/// The directory at `path`, if the kernel's queues are mounted there.
pub(crate) fn mounted_queues(path: &Path) -> Result<Option<OwnedFd>, OsError> {
    let directory = match uninterrupted(|| open(path, DIRECTORY, Mode::empty())) {
        Ok(directory) => directory,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => return Ok(None),
        Err(errno) => return Err(limit::explained("open", errno)),
    };
    let kind = fstatfs(&directory).map_err(|errno| OsError::new("fstatfs", errno))?.filesystem_type();
    Ok((kind == MQUEUE).then_some(directory))
}

/// The directory of the kernel's queues without a mount point: a mount that is in no
/// process's mount table and goes with its descriptor, `fsopen(2)`, `fsconfig(2)` and
/// `fsmount(2)`. Takes CAP_SYS_ADMIN.
pub(crate) fn detached_queues() -> Result<OwnedFd, OsError> {
    let os = |call| move |errno| limit::explained(call, errno);
    let context = uninterrupted(|| fsopen(c"mqueue")).map_err(os("fsopen"))?;
    uninterrupted(|| fsconfig_create(&context)).map_err(os("fsconfig"))?;
    let mount = fsmount(&context).map_err(os("fsmount"))?;
    // The mount's descriptor only names it (O_PATH); "." opens it.
    uninterrupted(|| openat(&mount, ".", DIRECTORY, Mode::empty())).map_err(os("openat"))
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// `MQUEUE_MAGIC` of the kernel's `ipc/mqueue.c`.
const MQUEUE: FsType = FsType(0x1980_0202);

// From linux/mount.h; the C libraries of the day don't have them.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

fn fsopen(filesystem: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: the name ends with a NUL and lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, filesystem.as_ptr(), FSOPEN_CLOEXEC) })
}

fn fsconfig_create(context: &OwnedFd) -> Result<(), Errno> {
    let none = ptr::null::<libc::c_char>();
    let (call, context) = (libc::SYS_fsconfig, context.as_raw_fd());
    // SAFETY: this command takes neither key nor value, so the kernel follows no pointer.
    Errno::result(unsafe { libc::syscall(call, context, FSCONFIG_CMD_CREATE, none, none, 0) }).map(drop)
}

fn fsmount(context: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: integers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

/// What a call that opens something answered.
fn owned(answer: libc::c_long) -> Result<OwnedFd, Errno> {
    let raw = Errno::result(answer)?;
    let raw = RawFd::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
