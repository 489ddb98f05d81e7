//! Noticing by a descriptor that a file was touched, or that a time has passed:
//! `utimensat(2)`, `inotify(7)`, `timerfd_create(2)`, `epoll(7)`.
//!
//! To touch a file is to set its times to now, which takes one system call and the right to
//! write to it. Everybody who watches it is told, in whatever process, and nothing is left
//! that a kill could leave behind. A watch on the file is told as well when a name of it is
//! taken away.

use super::{
    attempt, call,
    limit::{self, Limit},
};
use ipc_core::OsError;
use nix::{
    errno::Errno,
    fcntl::AT_FDCWD,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
        inotify::{AddWatchFlags, InitFlags, Inotify},
        stat::{UtimensatFlags, utimensat},
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    unistd::read,
};
use std::{
    ffi::CString,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
    time::Duration,
};

/// Where a file is that is touched and watched.
#[derive(Debug)]
pub(crate) struct Spot(CString);

impl Spot {
    /// The file at this path, which is absolute.
    pub(crate) fn new(path: PathBuf) -> Result<Self, OsError> {
        let path = CString::new(path.into_os_string().into_vec());
        path.map(Self).map_err(|_| OsError::new("utimensat", Errno::EINVAL))
    }

    /// Tells everybody who watches the file. Who isn't told, because the path leads us
    /// elsewhere (another root directory, privileges given up), finds out when its time has
    /// passed.
    pub(crate) fn touch(&self) {
        let now = TimeSpec::UTIME_NOW;
        let _ = attempt("utimensat", || {
            utimensat(AT_FDCWD, self.0.as_c_str(), &now, &now, UtimensatFlags::NoFollowSymlink)
        });
    }
}

/// A descriptor that is readable from when a file is touched, or a time has passed.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: Epoll,
    timer: TimerFd,
    inotify: Inotify,
}

impl Watch {
    /// Watches the file that is there now. One that is gone is never touched.
    pub(crate) fn new(spot: &Spot) -> Result<Self, OsError> {
        let epoll = call("epoll_create1", || Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC))
            .map_err(limit::explained)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = call("timerfd_create", || TimerFd::new(ClockId::CLOCK_MONOTONIC, flags))
            .map_err(limit::explained)?;
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = attempt("inotify_init1", || Inotify::init(flags))
            .map_err(|errno| too_many_instances(&timer, errno))?;
        let events = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DONT_FOLLOW;
        match attempt("inotify_add_watch", || inotify.add_watch(spot.0.as_c_str(), events)) {
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => return Err(too_many_watches(errno)),
        }
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        call("epoll_ctl", || epoll.add(&timer, readable))?;
        call("epoll_ctl", || epoll.add(inotify.as_fd(), readable))?;
        Ok(Self { epoll, timer, inotify })
    }

    /// Forgets the touches so far. False if there were none.
    pub(crate) fn forget(&self) -> Result<bool, OsError> {
        // Equal events are one while nobody reads them. If there are more than fit, the
        // descriptor stays readable, which costs a needless look.
        let mut events = [0; 1024];
        match attempt("read", || read(self.inotify.as_fd(), &mut events)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN) => Ok(false),
            Err(errno) => Err(OsError::new("read", errno)),
        }
    }

    /// Has the descriptor become readable after `time`, instead of what was set before.
    pub(crate) fn set_time(&self, time: Duration) -> Result<(), OsError> {
        // Zero would mean never.
        let expiration = Expiration::OneShot(TimeSpec::from_duration(time.max(Duration::from_nanos(1))));
        call("timerfd_settime", || self.timer.set(expiration, TimerSetTimeFlags::empty()))
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// `EMFILE` means that the user has too many instances, or the process too many descriptors.
fn too_many_instances(any: &TimerFd, errno: Errno) -> OsError {
    match errno {
        Errno::EMFILE if any.as_fd().try_clone_to_owned().is_ok() => {
            exhausted("inotify_init1", "instances", limit::INOTIFY_INSTANCES)
        }
        errno => limit::explained(OsError::new("inotify_init1", errno)),
    }
}

fn too_many_watches(errno: Errno) -> OsError {
    match errno {
        Errno::ENOSPC => exhausted("inotify_add_watch", "watches", limit::INOTIFY_WATCHES),
        errno => OsError::new("inotify_add_watch", errno),
    }
}

fn exhausted(call: &'static str, what: &str, limit: Limit) -> OsError {
    let what =
        format_args!("this user has too many inotify {what}, and each receiver that is polled takes one");
    OsError::new(call, limit::reached(what, limit, "poll fewer receivers"))
}
