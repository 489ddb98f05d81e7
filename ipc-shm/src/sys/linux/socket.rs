//! Where peers who don't trust each other meet: `unix(7)` sockets of type `SOCK_SEQPACKET`,
//! with `SO_PEERCRED`, `SCM_CREDENTIALS` and `SCM_RIGHTS`.
//!
//! The kernel says who is at the other end, hands descriptors over, and lets the socket hang
//! up when the last process that has it is gone. No call here waits; [`until_readable`] does.

use super::{
    attempt, call,
    file::{Directory, FileKind},
    fork::{Private, Window},
    limit, once,
};
use ipc_core::OsError;
use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            AddressFamily, Backlog, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr,
            UnixCredentials, accept4, bind, connect as connect_to, getsockopt, listen as listen_at, recv,
            recvmsg, sendmsg, setsockopt, shutdown, socket,
            sockopt::{PassCred, PeerCredentials},
        },
        stat::{Mode, fchmod},
    },
};
use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
    mem::{self, ManuallyDrop},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    ptr::{self, NonNull},
    time::Duration,
};

/// Room for the descriptors that come with a message, of which one is wanted: for as many as the
/// kernel passes at once (`SCM_MAX_FD`), since those that have no room it closes itself, in our
/// call.
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

/// A socket that no forked child has.
///
/// What a peer has sent and nobody has received lies in it, and is closed with it: that may be a
/// descriptor that can't be closed before the peer pleases. Nobody waits for that here.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Gone only while it is being dropped.
    private: Option<Private>,
    listens: bool,
}

impl Socket {
    fn new(descriptor: OwnedFd, window: &Window) -> Self {
        Self { private: Some(window.keep(descriptor)), listens: false }
    }

    /// Whether this process is the one that has it.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.private.as_ref().is_some_and(Private::is_ours)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.private.as_ref().expect("there until dropped").as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(private) = self.private.take().filter(Private::is_ours) else { return };
        let is_empty = if self.listens { turn_all_away(private.as_fd()) } else { hang_up(private.as_fd()) };
        if is_empty {
            return drop(private);
        }
        // A child that is forked now may have a copy of it, for whose end nobody waits.
        if let Some(descriptor) = private.publish() {
            ipc_core::close_apart(descriptor);
        }
    }
}

/// How much is looked at that a peer has left.
const MOST_UNREAD: u32 = 16;

/// Hangs up, so that the peer sees it whoever else has the socket, and no more comes in. False
/// if descriptors may lie in it.
fn hang_up(socket: BorrowedFd<'_>) -> bool {
    // One that isn't connected can't be, and is empty.
    let _ = attempt("shutdown", || shutdown(socket.as_raw_fd(), Shutdown::Both));
    for _ in 0..MOST_UNREAD {
        match next_unread(socket, MsgFlags::MSG_PEEK) {
            Ok(Unread::Nothing) | Err(Errno::EAGAIN | Errno::ENOTCONN) => return true,
            Ok(Unread::Descriptors) => return false,
            Ok(Unread::Bytes) => {
                let _ = next_unread(socket, MsgFlags::empty());
            }
            // That a peer has gone is said once, and then what it has left.
            Err(_) => {}
        }
    }
    false
}

/// Lets nobody connect any more, and hangs up on those who were never accepted. False if some
/// may be left.
fn turn_all_away(listener: BorrowedFd<'_>) -> bool {
    let _ = attempt("shutdown", || shutdown(listener.as_raw_fd(), Shutdown::Both));
    for _ in 0..2 * BACKLOG {
        match accept_next(listener) {
            // A child may have a copy by now, but not of the connection.
            Ok(waiting) if hang_up(waiting.as_fd()) => {}
            Ok(waiting) => ipc_core::close_apart(waiting),
            // There is nobody, and nobody will come.
            Err(Errno::EAGAIN | Errno::EINVAL) => return true,
            Err(_) => {}
        }
    }
    false
}

/// What lies in a socket next.
enum Unread {
    Nothing,
    Bytes,
    Descriptors,
}

/// Looks at it or takes it, without its descriptors: there is room for credentials only, which
/// come with whatever comes.
fn next_unread(socket: BorrowedFd<'_>, flags: MsgFlags) -> nix::Result<Unread> {
    let mut byte = [0];
    let mut credentials = cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    attempt("recvmsg", || {
        let found = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut credentials), flags)?;
        Ok(match found.cmsgs() {
            Ok(mut with) => with.next().map_or(Unread::Nothing, |_| Unread::Bytes),
            Err(_) => Unread::Descriptors,
        })
    })
}

/// A descriptor that a peer passed, which may stand for anything. Unless it is taken, it is
/// closed where nobody waits for that.
#[derive(Debug)]
pub(crate) struct Passed(ManuallyDrop<File>);

impl Passed {
    /// The descriptor itself, for who knows that it can be closed at once.
    pub(crate) fn into_file(self) -> File {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once: `this` is neither used nor dropped after that.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl AsRef<File> for Passed {
    fn as_ref(&self) -> &File {
        &self.0
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        // SAFETY: taken once, since this is its end.
        ipc_core::close_apart(unsafe { ManuallyDrop::take(&mut self.0) }.into());
    }
}

/// A socket that passes credentials.
fn make(window: &Window) -> Result<Socket, OsError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = call("socket", || socket(AddressFamily::Unix, SockType::SeqPacket, flags, None))
        .map(|socket| Socket::new(socket, window))
        .map_err(limit::explained)?;
    call("setsockopt(SO_PASSCRED)", || setsockopt(&made, PassCred, &true))?;
    Ok(made)
}

fn address(path: &Path) -> Result<UnixAddr, OsError> {
    UnixAddr::new(path).map_err(|errno| OsError::new("bind", errno))
}

/// Listens at a name in a directory where nothing is, with these permission bits: whoever may
/// write to the socket's file may connect.
pub(crate) fn listen(
    directory: &Directory,
    name: &str,
    mode: u32,
    window: &Window,
) -> Result<Socket, OsError> {
    let mut socket = make(window)?;
    let address = address(&directory.path_of(name))?;
    // What the file is made with, less what the process's mask takes away.
    call("fchmod", || fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR))?;
    call("bind", || bind(socket.as_fd().as_raw_fd(), &address))?;
    // Nobody can connect before it listens.
    directory.set_mode(name, FileKind::Socket, mode)?;
    let backlog = Backlog::new(BACKLOG).map_err(|errno| OsError::new("listen", errno))?;
    call("listen", || listen_at(&socket, backlog))?;
    socket.listens = true;
    Ok(socket)
}

/// What a try to connect comes to.
#[derive(Debug)]
pub(crate) enum Connected {
    Yes(Socket),
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
pub(crate) fn accept(listener: &Socket, window: &Window) -> Result<Option<Socket>, OsError> {
    match accept_next(listener.as_fd()) {
        Ok(accepted) => Ok(Some(Socket::new(accepted, window))),
        // Gone again before we came.
        Err(Errno::EAGAIN | Errno::ECONNABORTED) => Ok(None),
        Err(errno) => Err(limit::explained(OsError::new("accept4", errno))),
    }
}

fn accept_next(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    attempt("accept4", || accept4(listener.as_raw_fd(), flags)).map(|number| {
        // SAFETY: the kernel made this descriptor for us just now.
        unsafe { OwnedFd::from_raw_fd(number) }
    })
}

/// Who connected, or who listens.
pub(crate) fn peer(socket: &Socket) -> Result<Credentials, OsError> {
    call("getsockopt(SO_PEERCRED)", || getsockopt(socket, PeerCredentials)).map(Credentials::from)
}

/// Sends a message and a descriptor. False if there is no room for it now, or nobody to
/// receive it any more: the next look tells.
pub(crate) fn send(
    socket: &Socket,
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
    pub(crate) descriptors: Vec<Passed>,
    /// Whether there were more of them than this process may have.
    pub(crate) has_lost_some: bool,
}

/// What is found at a socket.
#[derive(Debug)]
pub(crate) enum Mail {
    Letter(Letter),
    Nothing,
    HungUp,
}

/// Takes the next message, if there is one now.
pub(crate) fn receive(socket: &Socket, buffer: &mut [u8]) -> Result<Mail, OsError> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | libc::MSG_TRUNC;
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0_u64; CONTROL_LEN_BYTES.div_ceil(8)];
    // SAFETY: all zeros is a valid `msghdr`: no name, no parts, no control messages.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control) as _;
    let number = socket.as_fd().as_raw_fd();
    let received = attempt("recvmsg", || {
        // SAFETY: the header names the two buffers above, with their lengths.
        Errno::result(unsafe { libc::recvmsg(number, &raw mut header, flags) })
    });
    let len = match received {
        Ok(len) => usize::try_from(len).unwrap_or(0),
        Err(Errno::EAGAIN) => return Ok(Mail::Nothing),
        Err(Errno::ECONNRESET | Errno::EPIPE) => return Ok(Mail::HungUp),
        Err(errno) => return Err(OsError::new("recvmsg", errno)),
    };
    let has_lost_some = header.msg_flags & libc::MSG_CTRUNC != 0;
    let mut letter = Letter { len, sender: None, descriptors: Vec::new(), has_lost_some };
    read_control(&header, &mut letter);
    // Who hangs up sends nothing, by nobody.
    match letter.len {
        0 if letter.descriptors.is_empty() => Ok(Mail::HungUp),
        _ => Ok(Mail::Letter(letter)),
    }
}

/// The room for descriptors and credentials.
// SAFETY: both compute a number from a number.
const CONTROL_LEN_BYTES: usize = unsafe { libc::CMSG_SPACE((MOST_DESCRIPTORS * size_of::<RawFd>()) as u32) }
    as usize
    // SAFETY: as above.
    + unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// Takes what the kernel wrote behind a message. All descriptors that are there are owned from
/// here on, also where others were lost.
fn read_control(header: &libc::msghdr, letter: &mut Letter) {
    // SAFETY: `recvmsg` has filled the header in, whose buffer outlives the walk.
    let mut next = NonNull::new(unsafe { libc::CMSG_FIRSTHDR(header) });
    while let Some(at) = next {
        // SAFETY: the walk stays within what the kernel wrote, and is aligned as it needs.
        let found = unsafe { at.read() };
        // SAFETY: behind the header of a control message is its data.
        let data = unsafe { libc::CMSG_DATA(at.as_ptr()) };
        // SAFETY: computes a number from a number.
        let before_data = unsafe { libc::CMSG_LEN(0) } as usize;
        #[allow(clippy::unnecessary_cast, reason = "another type in other C libraries")]
        let data_len = (found.cmsg_len as usize).saturating_sub(before_data);
        match (found.cmsg_level, found.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for index in 0..data_len / size_of::<RawFd>() {
                    // SAFETY: within the data, by its length.
                    let number = unsafe { data.cast::<RawFd>().add(index) };
                    // SAFETY: as above; the numbers may lie anywhere.
                    let number = unsafe { ptr::read_unaligned(number) };
                    // SAFETY: the kernel made this descriptor for us just now.
                    let passed = unsafe { File::from_raw_fd(number) };
                    letter.descriptors.push(Passed(ManuallyDrop::new(passed)));
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if data_len >= size_of::<libc::ucred>() => {
                // SAFETY: within the data, by its length.
                let found: libc::ucred = unsafe { ptr::read_unaligned(data.cast()) };
                letter.sender = Some(Credentials { uid: found.uid, gid: found.gid, pid: found.pid });
            }
            _ => {}
        }
        // SAFETY: `at` is a control message of this header.
        next = NonNull::new(unsafe { libc::CMSG_NXTHDR(header, at.as_ptr()) });
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
pub(crate) fn look(socket: &Socket) -> Standing {
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
pub(crate) fn until_readable(socket: &Socket, timeout: Duration) {
    let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    // Up, so as not to ask again and again within the last millisecond.
    let timeout = PollTimeout::try_from(timeout + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
    // A signal ends the wait like anything else.
    let _ = once("poll", || poll(&mut descriptors, timeout));
}
