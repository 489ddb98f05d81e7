//! A sender's way to the receiver: found, waited for, and lost.

use super::{
    channel::Found,
    packet::{HEADER_LEN, Header, Kind, LONGEST_INLINE},
};
use crate::{
    limit::{self, Limit},
    wait::{Waiter, uninterrupted},
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
    },
};
use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// A connection that stands, as far as is known.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// Longer messages go as parcels. Not asked for before there is one that may be too long.
    longest_inline: Option<usize>,
    /// Whether a send may wait in the kernel. Not before one had to wait.
    blocks: AtomicBool,
    /// The receiver expects descriptors with the next packet.
    announced: AtomicBool,
}

/// No socket's buffer is so small that this goes as a parcel, in bytes.
const SHORT: usize = 256;

impl Connection {
    /// Connects, and waits for a receiver if there is none.
    pub(crate) fn open(found: &Found, waiter: &mut Waiter, wait: Wait<'_>) -> Result<Self, SendError> {
        if let Some(connection) = Self::try_open(found)? {
            return Ok(connection);
        }
        if matches!(wait, Wait::Never) {
            return Err(if found.exists()? { SendError::WouldBlock } else { SendError::Closed });
        }
        let arrivals = arrivals(found)?;
        waiter
            .until(arrivals.as_fd(), PollFlags::POLLIN, wait, |_| {
                // Before the look, so that what happens after it wakes us.
                while arrivals.read_events().is_ok_and(|events| !events.is_empty()) {}
                if !found.exists()? {
                    return Err(Unready::Closed);
                }
                Self::try_open(found).map_err(Unready::from)
            })
            .map_err(SendError::from)
    }

    /// Connects if there is a receiver.
    fn try_open(found: &Found) -> Result<Option<Self>, OsError> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
            .map_err(|errno| limit::explained("socket", errno))?;
        if found.settings.buffer_bytes > 0 {
            // The kernel doubles the figure, for its bookkeeping.
            let half = (found.settings.buffer_bytes / 2).min(i32::MAX as usize);
            setsockopt(&socket, SndBuf, &half).map_err(|errno| OsError::new("setsockopt", errno))?;
        }
        let address = found.address(&found.settings.socket_name())?;
        match uninterrupted(|| connect(socket.as_raw_fd(), &address)) {
            Ok(()) => {}
            // Nobody has come yet; who was there is dead; or it isn't settled which.
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ECONNRESET) => return Ok(None),
            Err(Errno::EAGAIN) => {
                return Err(OsError::new(
                    "connect",
                    std::io::Error::other(
                        "as many senders wait to be taken in as net.core.somaxconn allows: \
                     the receiver doesn't receive (`ipc doctor` explains the limit)",
                    ),
                ));
            }
            Err(errno) => return Err(OsError::new("connect", errno)),
        }
        let receiver =
            getsockopt(&socket, PeerCredentials).map_err(|errno| OsError::new("getsockopt", errno))?;
        if !found.folder.trusts(receiver.uid()) {
            return Err(OsError::new(
                "connect",
                std::io::Error::other(format!("user {} receives here, who isn't trusted", receiver.uid())),
            ));
        }
        let (blocks, announced) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Some(Self { socket, longest_inline: None, blocks, announced }))
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
        Ok(*self.longest_inline.insert(LONGEST_INLINE.min(room / 4).saturating_sub(HEADER_LEN)))
    }

    /// Sends a packet whose header and message stand one behind the other. `None` is "not now".
    #[inline]
    pub(crate) fn send_framed(&self, packet: &[u8], may_wait: bool) -> Result<Option<()>, Failure> {
        self.insist("send", may_wait, |flags| send(self.socket.as_raw_fd(), packet, flags).map(drop))
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
        let socket = self.socket.as_raw_fd();
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
        matches!(self.errno, Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN)
    }
}

/// Tells when a receiver comes, or the channel goes.
fn arrivals(found: &Found) -> Result<Inotify, OsError> {
    let arrivals =
        Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(too_many_instances)?;
    for (path, events) in [
        (found.folder.path(), AddWatchFlags::IN_MOVED_TO),
        (&found.path(), AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DELETE_SELF),
    ] {
        match arrivals.add_watch(path, events) {
            // Gone already: the first look says so.
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(too_many_watches(errno)),
        }
    }
    Ok(arrivals)
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

fn block(socket: &OwnedFd) -> Result<(), Errno> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(socket, FcntlArg::F_SETFL(OFlag::empty())).map(drop)
}
