//! `raw:unix` and `raw:memfd`: sequenced-packet sockets as the system offers them, the floors
//! of `unix`; see unix(7) and memfd_create(2).
//!
//! `raw:unix` is `send` and `recv`, blocking or with MSG_DONTWAIT again and again. A message
//! that doesn't fit the socket's buffer goes in pieces that do, an empty one as it is. `raw:memfd`
//! writes each message to a memfd, seals it and passes it; the other end maps it.

use super::{link::Link, site::Site};
use crate::{
    spec::{LaneSpec, Payload, Side, Waiting},
    trouble::Fallible,
};
use memmap2::Mmap;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        socket::{
            AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
            UnixAddr, accept, bind, connect, listen, recv, recvmsg, send, sendmsg, socket,
        },
    },
};
use std::{
    fs::{self, File},
    io::{IoSlice, IoSliceMut, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Longer messages go in pieces of this length, which the default buffer takes.
const PIECE_LEN_BYTES: usize = 128 * 1024;

/// How many messages of this length a socket of the default buffer holds, at least: the kernel's own
/// part of each is less than 1 KiB.
pub(crate) fn depth(message_len_bytes: usize) -> usize {
    let text = fs::read_to_string("/proc/sys/net/core/wmem_default").ok();
    let buffer_bytes: usize = text.and_then(|text| text.trim().parse().ok()).unwrap_or(212_992);
    buffer_bytes / (message_len_bytes + 1024)
}

/// One connection, used both ways.
struct Connection {
    listener: Option<OwnedFd>,
    socket: Option<OwnedFd>,
    flags: MsgFlags,
}

impl Connection {
    /// The near side listens, the far one connects.
    fn attach(spec: &LaneSpec, side: Side, site: &Site) -> Fallible<Self> {
        let address = UnixAddr::new(&site.directory.join(format!("{}.sock", spec.tag)))?;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let flags = if spec.waiting == Waiting::Spin { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        match side {
            Side::Near => {
                bind(socket.as_raw_fd(), &address)?;
                listen(&socket, Backlog::new(1)?)?;
                Ok(Self { listener: Some(socket), socket: None, flags })
            }
            Side::Far => {
                connect(socket.as_raw_fd(), &address)?;
                Ok(Self { listener: None, socket: Some(socket), flags })
            }
        }
    }

    /// The far side is there when the first message is sent or received.
    #[inline]
    fn socket(&mut self) -> Fallible<RawFd> {
        if let Some(socket) = &self.socket {
            return Ok(socket.as_raw_fd());
        }
        let listener = self.listener.as_ref().ok_or("nobody listens")?;
        // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(accept(listener.as_raw_fd())?) };
        Ok(self.socket.insert(socket).as_raw_fd())
    }
}

/// Calls until the answer isn't "not now".
#[inline]
fn insistently<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Fallible<T> {
    loop {
        match call() {
            Err(Errno::EAGAIN) => {}
            answer => return Ok(answer?),
        }
    }
}

/// A socket with the buffers of a plain program.
pub(crate) struct RawUnix {
    connection: Connection,
    payload: Payload,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl RawUnix {
    pub(crate) fn attach(spec: &LaneSpec, side: Side, site: &Site) -> Fallible<Self> {
        Ok(Self {
            connection: Connection::attach(spec, side, site)?,
            payload: spec.payload(),
            outgoing: vec![0; spec.message_len_bytes],
            incoming: vec![0; spec.message_len_bytes],
        })
    }
}

impl Link for RawUnix {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.outgoing, number);
        let (socket, flags) = (self.connection.socket()?, self.connection.flags);
        let empty = self.outgoing.is_empty().then_some(&[][..]);
        for piece in self.outgoing.chunks(PIECE_LEN_BYTES).chain(empty) {
            insistently(|| send(socket, piece, flags))?;
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        let (socket, flags) = (self.connection.socket()?, self.connection.flags);
        for piece in self.incoming.chunks_mut(PIECE_LEN_BYTES) {
            let len_bytes = insistently(|| recv(socket, piece, flags))?;
            if len_bytes != piece.len() {
                return Err(format!("a piece of {} bytes came with {len_bytes}", piece.len()).into());
            }
        }
        if self.incoming.is_empty() {
            // With room for a byte, so that a message that isn't empty is seen. Nothing is also what comes
            // once the other side has gone; the coordinator hears of that.
            let len_bytes = insistently(|| recv(socket, &mut [0], flags))?;
            if len_bytes != 0 {
                return Err("an empty message came with something in it".into());
            }
        }
        self.payload.check(&self.incoming, number)
    }
}

/// A memfd for each message.
pub(crate) struct RawMemfd {
    connection: Connection,
    payload: Payload,
    outgoing: Vec<u8>,
    control: Vec<u8>,
}

impl RawMemfd {
    pub(crate) fn attach(spec: &LaneSpec, side: Side, site: &Site) -> Fallible<Self> {
        Ok(Self {
            connection: Connection::attach(spec, side, site)?,
            payload: spec.payload(),
            outgoing: vec![0; spec.message_len_bytes],
            control: nix::cmsg_space!(RawFd),
        })
    }
}

impl Link for RawMemfd {
    fn send(&mut self, number: u64) -> Fallible<()> {
        self.payload.write(&mut self.outgoing, number);
        let mut memfd =
            File::from(memfd_create(c"ipc-bench", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        memfd.write_all(&self.outgoing)?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals))?;
        let (socket, flags) = (self.connection.socket()?, self.connection.flags);
        let descriptors = [memfd.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        insistently(|| sendmsg::<UnixAddr>(socket, &[IoSlice::new(b"m")], &control, flags, None))?;
        Ok(())
    }

    fn receive(&mut self, number: u64) -> Fallible<()> {
        let (socket, flags) = (self.connection.socket()?, self.connection.flags);
        let control = &mut self.control;
        let memfd = insistently(|| {
            let mut byte = [0];
            let mut parts = [IoSliceMut::new(&mut byte)];
            let message = recvmsg::<UnixAddr>(socket, &mut parts, Some(control), flags)?;
            let raw = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
                _ => None,
            });
            Ok(raw)
        })?;
        let memfd = memfd.ok_or("no descriptor came")?;
        // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
        let memfd = unsafe { OwnedFd::from_raw_fd(memfd) };
        let memfd = File::from(memfd);
        // SAFETY: it is sealed against all changes.
        let pages = unsafe { Mmap::map(&memfd)? };
        self.payload.check(&pages, number)
    }
}

#[cfg(test)]
mod tests {
    use super::RawUnix;
    use crate::{
        links::{link::Link, site::Ground},
        spec::{LaneSpec, Side, TransportId, Waiting},
    };
    use nix::{
        errno::Errno,
        sys::socket::{MsgFlags, recv},
    };
    use std::os::fd::RawFd;

    /// Whether something is there to be received.
    fn is_something_there(socket: RawFd) -> bool {
        let answer = recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        assert!(matches!(answer, Ok(0) | Err(Errno::EAGAIN)), "{answer:?}");
        answer.is_ok()
    }

    #[test]
    fn an_empty_message_is_sent_and_received() {
        let spec = LaneSpec { message_len_bytes: 0, ..LaneSpec::sample(TransportId::RawUnix, Waiting::Spin) };
        let site = Ground::new(std::slice::from_ref(&spec)).unwrap();
        let [mut near, mut far] =
            [Side::Near, Side::Far].map(|side| RawUnix::attach(&spec, side, &site).unwrap());
        let socket = near.connection.socket().unwrap();
        assert!(!is_something_there(socket));
        far.send(1).unwrap();
        assert!(is_something_there(socket), "nothing was sent");
        near.receive(1).unwrap();
        assert!(!is_something_there(socket), "nothing was received");
    }
}
