//! A receiver's sockets: the one that listens, and those of its senders, watched together
//! (`epoll(7)`).

use super::{
    channel::Found,
    packet::{Header, Kind},
    parcel,
    store::{Held, Tag},
    sys::{self, Received},
    transport::lock_role,
};
use crate::flock::Locked;
use ipc_core::{ChannelError, Credentials, OsError};
use nix::{
    errno::Errno,
    fcntl::renameat,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, bind, getsockopt, listen, socket,
            sockopt::PeerCredentials,
        },
        stat::{FchmodatFlags, Mode, fchmodat},
    },
};
use std::{
    fs::File,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// After so many messages of one sender the others are looked at.
const TURN: u32 = 64;
/// So many senders at a time; others wait to be taken in.
const MOST_SENDERS: usize = 1024;
/// What stands for the listening socket among the events.
const LISTENING: u64 = u64::MAX;

/// All sockets of a receiver.
#[derive(Debug)]
pub(crate) struct Listener {
    epoll: Epoll,
    socket: OwnedFd,
    /// Whether the listening socket is watched: not while there are as many senders as can
    /// be.
    watched: bool,
    senders: Vec<Option<Peer>>,
    connected: usize,
    /// Who came, but couldn't be taken in yet for want of memory.
    at_the_door: Option<OwnedFd>,
    /// Whose messages are taken, and for how many messages more.
    current: Option<usize>,
    turn: u32,
    /// It had a second message right behind the first: it is read on without asking, until it
    /// has none. Who sends one at a time is waited for at once instead.
    streams: bool,
    allowed_uids: Vec<u32>,
    max_message_len: usize,
    /// The role, held as long as this lives.
    _role: Locked<File>,
}

#[derive(Debug)]
struct Peer {
    socket: OwnedFd,
    credentials: Credentials,
    /// It said that it goes.
    said_farewell: bool,
    /// Came, but couldn't be mapped yet for want of memory.
    unmapped: Option<Parcel>,
}

/// What a look at the sockets found.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message is in the store.
    Message,
    /// A sender went without a farewell.
    Death,
}

/// What one sender's socket had.
enum Read {
    Message,
    Nothing,
    Gone { death: bool },
}

impl Listener {
    /// Takes the receiver's role, and begins to listen.
    pub(crate) fn open(found: &Found) -> Result<Self, ChannelError> {
        let (folder, settings) = (&found.folder, &found.settings);
        let role = lock_role(folder, &found.name, &found.file)?;
        let os = |call| move |errno: Errno| OsError::new(call, errno);
        let (name, new) = (settings.socket_name(), settings.new_socket_name());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(os("socket"))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(os("epoll_create1"))?;
        // The new socket takes the name when it listens, or a sender could come too early and
        // wait for ever.
        let address = found.address(&new)?;
        if let Err(errno) = bind(socket.as_raw_fd(), &address) {
            if errno != Errno::EADDRINUSE {
                return Err(os("bind")(errno).into());
            }
            // We have the role, so what is there is a dead receiver's.
            folder.unlink_own(&new)?;
            bind(socket.as_raw_fd(), &address).map_err(os("bind"))?;
        }
        let listening = || {
            let mode = Mode::from_bits_truncate(found.file.status.st_mode & 0o666);
            fchmodat(folder, &*new, mode, FchmodatFlags::FollowSymlink).map_err(os("fchmodat"))?;
            listen(&socket, Backlog::MAXALLOWABLE).map_err(os("listen"))?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, LISTENING)).map_err(os("epoll_ctl"))?;
            renameat(folder, &*new, folder, &*name).map_err(os("renameat"))
        };
        listening().inspect_err(|_| {
            // Nobody would listen there.
            let _ = folder.unlink_own(&new);
        })?;
        Ok(Self {
            epoll,
            socket,
            watched: true,
            senders: Vec::new(),
            connected: 0,
            at_the_door: None,
            current: None,
            turn: 0,
            streams: false,
            allowed_uids: settings.allowed_uids.clone(),
            max_message_len: settings.max_message_len,
            _role: role,
        })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// The senders that are connected.
    pub(crate) fn peers(&self) -> impl Iterator<Item = Credentials> {
        self.senders.iter().flatten().map(|peer| peer.credentials)
    }

    /// Takes one message into `held`, waiting for one if that is wanted. `None` is "not now".
    pub(crate) fn next(&mut self, held: &mut Held, may_wait: bool) -> Result<Option<Event>, OsError> {
        loop {
            let reads_on = self.turn == TURN || self.streams && self.turn > 0;
            if let Some(index) = self.current.filter(|_| reads_on) {
                match self.read(index, held)? {
                    Read::Message => {
                        self.turn -= 1;
                        return Ok(Some(Event::Message));
                    }
                    Read::Nothing => (self.turn, self.streams) = (0, false),
                    Read::Gone { death } => {
                        self.forget(index)?;
                        if death {
                            return Ok(Some(Event::Death));
                        }
                    }
                }
            }
            // Where nobody is in, who comes next is at the door.
            if (self.connected == 0 || self.at_the_door.is_some()) && self.take_in()? {
                continue;
            }
            match self.ready(may_wait)? {
                Some(LISTENING) => drop(self.take_in()?),
                // One at a time: the kernel turns its list round, so that all get theirs.
                Some(index) => {
                    let again = self.current == usize::try_from(index).ok();
                    self.streams = again && (self.streams || self.turn == TURN - 1);
                    (self.current, self.turn) = (usize::try_from(index).ok(), TURN);
                }
                None => return Ok(None),
            }
        }
    }

    /// Which socket has something.
    fn ready(&self, may_wait: bool) -> Result<Option<u64>, OsError> {
        let timeout = if may_wait { EpollTimeout::NONE } else { EpollTimeout::ZERO };
        let mut events = [EpollEvent::empty()];
        match self.epoll.wait(&mut events, timeout) {
            Ok(0) | Err(Errno::EINTR) => Ok(None),
            Ok(_) => Ok(Some(events[0].data())),
            Err(errno) => Err(OsError::new("epoll_wait", errno)),
        }
    }

    /// Takes in one who waits at the door, if it is allowed, and listens to it: it will have
    /// said something. Whether there was one.
    #[cold]
    fn take_in(&mut self) -> Result<bool, OsError> {
        if self.connected == MOST_SENDERS {
            self.close_the_door()?;
            return Ok(false);
        }
        let socket = match self.at_the_door.take().map_or_else(|| sys::accept(self.socket.as_fd()), Ok) {
            Ok(socket) => socket,
            Err(Errno::EAGAIN) => return Ok(false),
            Err(Errno::EINTR | Errno::ECONNABORTED) => return Ok(true),
            // Those inside go on; when one goes there is a descriptor for another.
            Err(Errno::EMFILE | Errno::ENFILE) if self.connected > 0 => {
                self.close_the_door()?;
                return Ok(false);
            }
            Err(errno) => return Err(OsError::new("accept4", errno)),
        };
        match self.admit(&socket) {
            Ok(Some((index, credentials))) => {
                let peer = Peer { socket, credentials, said_farewell: false, unmapped: None };
                self.senders[index] = Some(peer);
                self.connected += 1;
                (self.current, self.turn, self.streams) = (Some(index), TURN, false);
                Ok(true)
            }
            Ok(None) => Ok(true),
            Err(error) => {
                // What it has sent is not to be lost.
                self.at_the_door = Some(socket);
                Err(error)
            }
        }
    }

    /// A place for the one who came, and who it is, if it is allowed.
    fn admit(&mut self, socket: &OwnedFd) -> Result<Option<(usize, Credentials)>, OsError> {
        let found = getsockopt(socket, PeerCredentials).map_err(|errno| OsError::new("getsockopt", errno))?;
        let credentials = Credentials { pid: found.pid().unsigned_abs(), uid: found.uid(), gid: found.gid() };
        if !self.allowed_uids.contains(&credentials.uid) {
            return Ok(None);
        }
        let index = self.senders.iter().position(Option::is_none).unwrap_or(self.senders.len());
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        self.epoll.add(socket, event).map_err(|errno| OsError::new("epoll_ctl", errno))?;
        if index == self.senders.len() {
            self.senders.push(None);
        }
        Ok(Some((index, credentials)))
    }

    /// Nobody else is taken in until one goes.
    fn close_the_door(&mut self) -> Result<(), OsError> {
        self.epoll.delete(&self.socket).map_err(|errno| OsError::new("epoll_ctl", errno))?;
        self.watched = false;
        Ok(())
    }

    /// Closes a sender's connection, and lets another one in.
    #[cold]
    fn forget(&mut self, index: usize) -> Result<(), OsError> {
        self.current = None;
        if let Some(peer) = self.senders[index].take() {
            // To close it isn't enough: a forked child may have the socket as well, and then it
            // would be told of for ever. An entry that isn't there needs no end.
            let _ = self.epoll.delete(&peer.socket);
            self.connected -= 1;
        }
        if !self.watched {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, LISTENING);
            self.epoll.add(&self.socket, event).map_err(|errno| OsError::new("epoll_ctl", errno))?;
            self.watched = true;
        }
        Ok(())
    }

    /// Looks at one sender's socket. What isn't a packet of ours ends the connection.
    #[inline]
    fn read(&mut self, index: usize, held: &mut Held) -> Result<Read, OsError> {
        let Some(peer) = self.senders.get_mut(index).and_then(Option::as_mut) else {
            return Ok(Read::Nothing);
        };
        if let Some(parcel) = peer.unmapped.take() {
            return map(peer, parcel, held);
        }
        let received = match sys::receive(peer.socket.as_fd(), held.space()) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Read::Nothing),
            Err(Errno::ECONNRESET) => return Ok(Read::Gone { death: !peer.said_farewell }),
            Err(errno) => return Err(OsError::new("recvmsg", errno)),
        };
        if received.len == 0 {
            return Ok(Read::Gone { death: !peer.said_farewell });
        }
        if received.at_limit {
            // It is no fault of the sender's, who stays.
            return Err(out_of_descriptors());
        }
        let max_message_len = self.max_message_len;
        match unpack(received, max_message_len) {
            Some(Unpacked::Message { inline_len, descriptors }) => {
                held.push(inline_len, Tag { credentials: peer.credentials, descriptors, pages: None });
                Ok(Read::Message)
            }
            Some(Unpacked::Parcel(parcel)) => map(peer, parcel, held),
            Some(Unpacked::Farewell) => {
                peer.said_farewell = true;
                Ok(Read::Gone { death: false })
            }
            None => Ok(Read::Gone { death: false }),
        }
    }
}

/// Takes a message in its pages. What isn't a message ends the connection.
#[cold]
fn map(peer: &mut Peer, parcel: Parcel, held: &mut Held) -> Result<Read, OsError> {
    match parcel::open(&parcel.memfd, parcel.len) {
        Ok(Some(pages)) => {
            let Parcel { descriptors, .. } = parcel;
            held.push(0, Tag { credentials: peer.credentials, descriptors, pages: Some(pages) });
            Ok(Read::Message)
        }
        Ok(None) => Ok(Read::Gone { death: false }),
        Err(error) => {
            // The next call tries again.
            peer.unmapped = Some(parcel);
            Err(error)
        }
    }
}

/// A message's descriptors were lost because this process may have no more of them.
#[cold]
fn out_of_descriptors() -> OsError {
    let advice = "a message's descriptors are lost, since this process may have no more of them: raise the \
                  limit with `ulimit -n`, or close some";
    OsError::new("recvmsg", std::io::Error::other(advice))
}

/// A packet that is one of ours.
enum Unpacked {
    Message { inline_len: usize, descriptors: Vec<OwnedFd> },
    Parcel(Parcel),
    Farewell,
}

/// A message in pages of its own, that it says to be of this length.
#[derive(Debug)]
struct Parcel {
    memfd: OwnedFd,
    len: NonZeroUsize,
    descriptors: Vec<OwnedFd>,
}

/// Checks all that a peer could have made up.
#[inline]
fn unpack(received: Received, max_message_len: usize) -> Option<Unpacked> {
    let Received { len, header, truncated, mut descriptors, .. } = received;
    let inline_len = len.checked_sub(header.len())?;
    let Header { kind, len } = Header::from_bytes(header)?;
    let len = usize::try_from(len).ok()?;
    if truncated || len > max_message_len {
        return None;
    }
    match kind {
        Kind::Inline if len == inline_len => Some(Unpacked::Message { inline_len, descriptors }),
        Kind::Parcel if inline_len == 0 && !descriptors.is_empty() => {
            let (len, memfd) = (NonZeroUsize::new(len)?, descriptors.remove(0));
            Some(Unpacked::Parcel(Parcel { memfd, len, descriptors }))
        }
        Kind::Farewell if inline_len == 0 && descriptors.is_empty() => Some(Unpacked::Farewell),
        _ => None,
    }
}
