//! Where peers who don't trust each other meet: `unix(7)` sockets of type `SOCK_SEQPACKET`,
//! with `SO_PEERCRED`, `SCM_CREDENTIALS` and `SCM_RIGHTS`.
//!
//! The kernel says who is at the other end, hands descriptors over, and lets the socket hang
//! up when the last process that has it is gone. No call here waits; [`until_readable`] does.

use super::{
    attempt, call,
    fork::{Private, Window},
    once,
};
use ipc_core::OsError;
use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
            UnixAddr, UnixCredentials, accept4, bind, connect as connect_to, getsockopt, listen as listen_at,
            recv, recvmsg, sendmsg, setsockopt, socket,
            sockopt::{PassCred, PeerCredentials},
        },
        stat::{FchmodatFlags, Mode, fchmodat},
    },
};
use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

/// The most descriptors that the kernel hands over at once (`SCM_MAX_FD`).
const MOST_DESCRIPTORS: usize = 253;
/// Connections that wait for being accepted.
const BACKLOG: i32 = 64;

/// Who a process is, as the kernel tells it to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: i32,
}

impl From<UnixCredentials> for Credentials {
    fn from(found: UnixCredentials) -> Self {
        Self { uid: found.uid(), gid: found.gid(), pid: found.pid() }
    }
}

/// A socket that passes credentials.
fn make(window: &Window) -> Result<Private, OsError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = call("socket", || socket(AddressFamily::Unix, SockType::SeqPacket, flags, None))
        .map(|socket| Private::new(socket, window))?;
    call("setsockopt(SO_PASSCRED)", || setsockopt(&made, PassCred, &true))?;
    Ok(made)
}

fn address(path: &Path) -> Result<UnixAddr, OsError> {
    UnixAddr::new(path).map_err(|errno| OsError::new("bind", errno))
}

/// Listens at a path where nothing is, with these permission bits: whoever may write to the
/// socket's file may connect.
pub(crate) fn listen(path: &Path, mode: u32, window: &Window) -> Result<Private, OsError> {
    let socket = make(window)?;
    let address = address(path)?;
    call("bind", || bind(socket.as_fd().as_raw_fd(), &address))?;
    // Nobody can connect before it listens.
    let mode = Mode::from_bits_truncate(mode);
    call("fchmodat", || fchmodat(nix::fcntl::AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink))?;
    let backlog = Backlog::new(BACKLOG).map_err(|errno| OsError::new("listen", errno))?;
    call("listen", || listen_at(&socket, backlog))?;
    Ok(socket)
}

/// What a try to connect comes to.
#[derive(Debug)]
pub(crate) enum Connected {
    Yes(Private),
    /// Too many others are waiting there.
    NotNow,
    /// Nobody listens.
    Nobody,
}

/// Connects to who listens at `path`.
pub(crate) fn connect(path: &Path, window: &Window) -> Result<Connected, OsError> {
    let socket = make(window)?;
    let address = address(path)?;
    match attempt("connect", || connect_to(socket.as_fd().as_raw_fd(), &address)) {
        Ok(()) => Ok(Connected::Yes(socket)),
        Err(Errno::EAGAIN) => Ok(Connected::NotNow),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(Connected::Nobody),
        Err(errno) => Err(OsError::new("connect", errno)),
    }
}

/// The next one that wants to connect, if there is one now.
pub(crate) fn accept(listener: &Private, window: &Window) -> Result<Option<Private>, OsError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match attempt("accept4", || accept4(listener.as_fd().as_raw_fd(), flags)) {
        Ok(number) => {
            // SAFETY: the kernel made this descriptor for us just now.
            let accepted = unsafe { OwnedFd::from_raw_fd(number) };
            Ok(Some(Private::new(accepted, window)))
        }
        // Gone again before we came.
        Err(Errno::EAGAIN | Errno::ECONNABORTED) => Ok(None),
        Err(errno) => Err(OsError::new("accept4", errno)),
    }
}

/// Who connected, or who listens.
pub(crate) fn peer(socket: &Private) -> Result<Credentials, OsError> {
    call("getsockopt(SO_PEERCRED)", || getsockopt(socket, PeerCredentials)).map(Credentials::from)
}

/// Sends a message and a descriptor. False if there is no room for it now, or nobody to
/// receive it any more: the next look tells.
pub(crate) fn send(
    socket: &Private,
    message: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<bool, OsError> {
    let numbers: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let number = socket.as_fd().as_raw_fd();
    match attempt("sendmsg", || sendmsg::<UnixAddr>(number, &[IoSlice::new(message)], control, flags, None)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EPIPE | Errno::ECONNRESET) => Ok(false),
        Err(errno) => Err(OsError::new("sendmsg", errno)),
    }
}

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Letter {
    /// Its length, also where the buffer was shorter.
    pub(crate) len: usize,
    pub(crate) sender: Option<Credentials>,
    pub(crate) descriptors: Vec<File>,
}

/// What is found at a socket.
#[derive(Debug)]
pub(crate) enum Mail {
    Letter(Letter),
    Nothing,
    HungUp,
}

/// Takes the next message, if there is one now.
pub(crate) fn receive(socket: &Private, buffer: &mut [u8]) -> Result<Mail, OsError> {
    // As many as can come: those that had no room would be lost, but not closed.
    let mut control = cmsg_space!([RawFd; MOST_DESCRIPTORS], UnixCredentials);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_TRUNC;
    let mut parts = [IoSliceMut::new(buffer)];
    let number = socket.as_fd().as_raw_fd();
    let message = loop {
        match once("recvmsg", || recvmsg::<UnixAddr>(number, &mut parts, Some(&mut control), flags)) {
            Ok(message) => break message,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(Mail::Nothing),
            Err(Errno::ECONNRESET | Errno::EPIPE) => return Ok(Mail::HungUp),
            Err(errno) => return Err(OsError::new("recvmsg", errno)),
        }
    };
    let mut letter = Letter { len: message.bytes, sender: None, descriptors: Vec::new() };
    for control in message.cmsgs().map_err(|errno| OsError::new("recvmsg", errno))? {
        match control {
            ControlMessageOwned::ScmCredentials(sender) => letter.sender = Some(sender.into()),
            ControlMessageOwned::ScmRights(numbers) => {
                // SAFETY: the kernel made these descriptors for us just now.
                letter
                    .descriptors
                    .extend(numbers.into_iter().map(|number| unsafe { File::from_raw_fd(number) }));
            }
            _ => {}
        }
    }
    // Who hangs up sends nothing, by nobody.
    match letter.len {
        0 if letter.descriptors.is_empty() => Ok(Mail::HungUp),
        _ => Ok(Mail::Letter(letter)),
    }
}

/// How a peer stands to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Connected,
    /// It has sent something, which begins with this byte.
    Says(u8),
    HungUp,
}

/// Looks whether the peer is there, and takes nothing.
pub(crate) fn look(socket: &Private) -> Standing {
    let mut byte = [0];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    match attempt("recv", || recv(socket.as_fd().as_raw_fd(), &mut byte, flags)) {
        Ok(0) => Standing::HungUp,
        Ok(_) => Standing::Says(byte[0]),
        Err(Errno::ECONNRESET | Errno::EPIPE) => Standing::HungUp,
        // Whatever it is, it doesn't say that the peer is gone; who asks will ask again.
        Err(_) => Standing::Connected,
    }
}

/// Waits until there is something to receive or accept, or to find out, for at most `timeout`.
pub(crate) fn until_readable(socket: &Private, timeout: Duration) {
    let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    // Up, so as not to ask again and again within the last millisecond.
    let timeout = PollTimeout::try_from(timeout + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
    // A signal ends the wait like anything else.
    let _ = once("poll", || poll(&mut descriptors, timeout));
}
