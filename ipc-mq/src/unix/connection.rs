//! A sender's way to the receiver: found, waited for, and lost.

use super::{
    channel::Found,
    line::Line,
    packet::{HEADER_LEN, Header, Kind, LONGEST_INLINE},
};
use crate::{
    at_fork,
    limit::{self, Limit},
    wait::{Waiter, Watched, uninterrupted},
};
use ipc_core::{OsError, SendError, Unready, Wait};
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        socket::{
            AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, send,
            sendmsg, setsockopt, socket,
            sockopt::{PeerCredentials, SndBuf},
        },
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

/// A connection that stands, as far as is known.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Line,
    /// Longer messages go as parcels. Not asked for before there is one that may be too long.
    longest_inline: Option<usize>,
    /// Whether a send may wait in the kernel. Not before one had to wait.
    blocks: AtomicBool,
    /// The receiver expects descriptors with the next packet.
    announced: AtomicBool,
}

/// What a sender finds that comes.
enum Door {
    Open(Connection),
    Nobody,
    Crowded,
}

/// No socket's buffer is so small that this goes as a parcel, in bytes.
const SHORT: usize = 256;

impl Connection {
    /// Connects, and waits for a receiver if there is none.
    pub(crate) fn open(found: &Found, waiter: &mut Waiter, wait: Wait<'_>) -> Result<Self, SendError> {
        if let Door::Open(connection) = Self::try_open(found)? {
            return Ok(connection);
        }
        if matches!(wait, Wait::Never) {
            return Err(if found.exists()? { SendError::WouldBlock } else { SendError::Closed });
        }
        let mut news = News::of(found)?;
        let attempt = |news: &mut News, _| {
            // Before the look, so that what happens after it wakes us.
            news.forget();
            if !found.exists()? {
                return Err(Unready::Closed);
            }
            match Self::try_open(found)? {
                Door::Open(connection) => Ok(Some(connection)),
                Door::Nobody if news.tells_of_arrivals => Ok(None),
                Door::Nobody | Door::Crowded => news.come_soon().map(|()| None).map_err(Unready::from),
            }
        };
        waiter.until_of(&mut news, PollFlags::POLLIN, wait, attempt).map_err(SendError::from)
    }

    /// Connects if there is a receiver, and a place at its door.
    fn try_open(found: &Found) -> Result<Door, OsError> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let make = || socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
        let socket =
            at_fork::private(make, OwnedFd::as_raw_fd).map_err(|errno| limit::explained("socket", errno))?;
        if found.settings.buffer_bytes > 0 {
            // The kernel doubles the figure, for its bookkeeping.
            let half = (found.settings.buffer_bytes / 2).min(i32::MAX as usize);
            setsockopt(&socket, SndBuf, &half).map_err(|errno| OsError::new("setsockopt", errno))?;
        }
        let address = found.address(&found.settings.socket_name())?;
        match uninterrupted(|| connect(socket.as_raw_fd(), &address)) {
            Ok(()) => {}
            // Nobody has come yet; who was there is dead; or it isn't settled which.
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ECONNRESET) => return Ok(Door::Nobody),
            // As many wait to be taken in as `net.core.somaxconn` allows.
            Err(Errno::EAGAIN) => return Ok(Door::Crowded),
            Err(errno) => return Err(OsError::new("connect", errno)),
        }
        let socket = Line::new(socket);
        let receiver =
            getsockopt(&socket, PeerCredentials).map_err(|errno| OsError::new("getsockopt", errno))?;
        if !found.folder.trusts(receiver.uid()) {
            return Err(OsError::new(
                "connect",
                std::io::Error::other(format!("user {} receives here, who isn't trusted", receiver.uid())),
            ));
        }
        let (blocks, announced) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Door::Open(Self { socket, longest_inline: None, blocks, announced }))
    }

    /// Whether a message of this length goes in a packet.
    #[inline]
    pub(crate) fn takes_inline(&mut self, len: usize) -> Result<bool, OsError> {
        Ok(len <= SHORT || len <= self.longest_inline()?)
    }

    #[inline]
    fn longest_inline(&mut self) -> Result<usize, OsError> {
        if let Some(known) = self.longest_inline {
            return Ok(known);
        }
        let room = getsockopt(&self.socket, SndBuf).map_err(|errno| OsError::new("getsockopt", errno))?;
        // So that a few are under way at a time.
        let longest = (room / 3).saturating_sub(HEADER_LEN).min(LONGEST_INLINE);
        Ok(*self.longest_inline.insert(longest))
    }

    /// Sends a packet whose header and message stand one behind the other. `None` is "not now".
    #[inline]
    pub(crate) fn send_framed(&self, packet: &[u8], may_wait: bool) -> Result<Option<()>, Failure> {
        self.insist("send", may_wait, |flags| send(self.socket.as_fd().as_raw_fd(), packet, flags).map(drop))
    }

    /// Sends a packet, and descriptors with it, which are announced before. `None` is "not now".
    pub(crate) fn send(
        &self,
        header: Header,
        message: &[u8],
        descriptors: &[RawFd],
        may_wait: bool,
    ) -> Result<Option<()>, Failure> {
        if !descriptors.is_empty() && !self.announced.load(Relaxed) {
            let announcement = Header { kind: Kind::Announcement, len: 0 }.to_bytes();
            if self.send_framed(&announcement, may_wait)?.is_none() {
                return Ok(None);
            }
            self.announced.store(true, Relaxed);
        }
        let header = header.to_bytes();
        let parts = [IoSlice::new(&header), IoSlice::new(message)];
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        let socket = self.socket.as_fd().as_raw_fd();
        self.insist("sendmsg", may_wait, |flags| {
            sendmsg::<UnixAddr>(socket, &parts, control, flags, None).map(drop)
        })
    }

    /// Makes a call that sends a packet.
    #[inline]
    fn insist(
        &self,
        name: &'static str,
        may_wait: bool,
        mut call: impl FnMut(MsgFlags) -> Result<(), Errno>,
    ) -> Result<Option<()>, Failure> {
        let dont_wait = if may_wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
        loop {
            match call(MsgFlags::MSG_NOSIGNAL | dont_wait) {
                Ok(()) => {
                    // It is for the packet that follows it.
                    if self.announced.load(Relaxed) {
                        self.announced.store(false, Relaxed);
                    }
                    return Ok(Some(()));
                }
                Err(Errno::EAGAIN) if may_wait && !self.blocks.swap(true, Relaxed) => {
                    block(&self.socket).map_err(|errno| Failure { call: "fcntl", errno })?;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
                Err(errno) => return Err(Failure { call: name, errno }),
            }
        }
    }

    /// Says that this end goes in good order, if there is room to say it.
    pub(crate) fn farewell(&self) {
        let _ = self.send_framed(&Header { kind: Kind::Farewell, len: 0 }.to_bytes(), false);
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A call that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) call: &'static str,
    pub(crate) errno: Errno,
}

impl Failure {
    /// Whether it says that the receiver is gone.
    pub(crate) fn is_gone(self) -> bool {
        // The third where it is going at this moment, before Linux 6.2.
        matches!(self.errno, Errno::EPIPE | Errno::ECONNRESET | Errno::ECONNREFUSED | Errno::ENOTCONN)
    }
}

/// Tells when a receiver comes, or the channel goes.
struct News {
    notices: Inotify,
    /// Not in a directory that we may enter, but not read.
    tells_of_arrivals: bool,
    /// Of a place at the door nobody tells, so one looks again when this rings.
    bell: Option<TimerFd>,
}

/// How long to wait for what nobody tells of.
const PAUSE: Duration = Duration::from_millis(10);

impl News {
    fn of(found: &Found) -> Result<Self, OsError> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let notices = Inotify::init(flags).map_err(too_many_instances)?;
        let watch = |path: &Path, events| match notices.add_watch(path, events) {
            // Gone already: the first look says so.
            Ok(_) | Err(Errno::ENOENT) => Ok(true),
            Err(Errno::EACCES) => Ok(false),
            Err(errno) => Err(too_many_watches(errno)),
        };
        let tells_of_arrivals = watch(found.folder.path(), AddWatchFlags::IN_MOVED_TO)?;
        let tells_of_end = watch(&found.path(), AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DELETE_SELF)?;
        Ok(Self { notices, tells_of_arrivals: tells_of_arrivals && tells_of_end, bell: None })
    }

    /// It is looked at what there is now.
    fn forget(&mut self) {
        while self.notices.read_events().is_ok_and(|events| !events.is_empty()) {}
        self.bell = None;
    }

    fn come_soon(&mut self) -> Result<(), OsError> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let bell = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)
            .map_err(|errno| limit::explained("timerfd_create", errno))?;
        bell.set(Expiration::OneShot(TimeSpec::from_duration(PAUSE)), TimerSetTimeFlags::empty())
            .map_err(|errno| OsError::new("timerfd_settime", errno))?;
        self.bell = Some(bell);
        Ok(())
    }
}

impl Watched for News {
    fn watched(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }

    fn watched_besides(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(TimerFd::as_fd)
    }
}

/// `EMFILE` means that the user has too many instances, or the process too many descriptors.
fn too_many_instances(errno: Errno) -> OsError {
    let call = "inotify_init1";
    match errno {
        Errno::EMFILE if !limit::is_out_of_descriptors() => {
            exhausted(call, "instances", limit::INOTIFY_INSTANCES)
        }
        errno => limit::explained(call, errno),
    }
}

fn too_many_watches(errno: Errno) -> OsError {
    let call = "inotify_add_watch";
    match errno {
        Errno::ENOSPC => exhausted(call, "watches", limit::INOTIFY_WATCHES),
        errno => OsError::new(call, errno),
    }
}

fn exhausted(call: &'static str, kind: &str, limit: Limit) -> OsError {
    let what =
        format!("this user has too many inotify {kind}, and each sender that waits for a receiver takes one");
    limit::failure(call, &what, limit, "start the receiver first")
}

fn block(socket: &impl AsFd) -> Result<(), Errno> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(socket, FcntlArg::F_SETFL(OFlag::empty())).map(drop)
}
