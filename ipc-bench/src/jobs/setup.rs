//! What comes before the first message on the kernel's channels, beside the bare calls.
//!
//! Each operation is timed by itself and ends when the channel is there, or when its first
//! message has been sent or received; what is undone afterwards is not part of it. The bare
//! calls are those that nothing can do without: `mq_open`, `msgget`, `socket` with `bind`,
//! `listen` and `connect`. `sysv` and `unix` find their channels by name, which the bare calls
//! beneath them don't.

use super::{
    footprint,
    opening::{Openable, OpeningLane},
};
use crate::{
    links::{
        raw_mq, raw_sysv,
        site::{SETUP_NAMES, Site},
    },
    spec::{LaneSpec, Memory, Payload},
    trouble::Fallible,
};
use ipc_core::{ChannelName, Receiver, Sender, Transport, Wait};
use nix::{
    mqueue::{MQ_OFlag, MqAttr, mq_close, mq_open, mq_receive, mq_send, mq_unlink},
    sys::{
        socket::{
            AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, connect, listen,
            recv, send, socket,
        },
        stat::Mode,
    },
};
use std::{
    fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

/// The channel that is opened, and the one that is made.
const OPENED: &str = SETUP_NAMES[0];
pub(super) const MADE: &str = SETUP_NAMES[1];

/// The lane of one of these.
pub(crate) type SetupLane<O> = OpeningLane<O>;

/// The toolkit's channels. Where nothing is stored, somebody receives all the time, and
/// receiving means to come as a receiver.
pub(crate) struct Kept<T: Transport> {
    transport: T,
    config: T::Config,
    opened: ChannelName,
    made: ChannelName,
    payload: Payload,
    message: Vec<u8>,
}

impl<T: Transport> Kept<T> {
    pub(crate) fn new(transport: T, config: T::Config, spec: &LaneSpec, site: &Site) -> Fallible<Self> {
        let name = |which| ChannelName::new(&site.channel(spec, which));
        let (opened, made) = (name(OPENED)?, name(MADE)?);
        transport.create(&opened, &config)?;
        let message = vec![0; spec.message_len_bytes];
        Ok(Self { transport, config, opened, made, payload: spec.payload(), message })
    }
}

impl<T: Transport> Openable for Kept<T> {
    fn create(&mut self) -> Fallible<Duration> {
        let start = Instant::now();
        let channel = self.transport.create(&self.made, &self.config)?;
        let took = start.elapsed();
        drop(channel);
        self.transport.remove(&self.made)?;
        Ok(took)
    }

    fn open_to_send(&mut self, number: u64) -> Fallible<Duration> {
        self.payload.write(&mut self.message, number);
        let early =
            (!T::CAPABILITIES.stores).then(|| self.transport.open_receiver(&self.opened)).transpose()?;
        let start = Instant::now();
        let mut tx = self.transport.open_sender(&self.opened)?;
        tx.try_send(&self.message)?;
        let took = start.elapsed();
        let mut rx = early.map_or_else(|| self.transport.open_receiver(&self.opened), Ok)?;
        self.payload.check(&rx.receive(Wait::Forever)?, number)?;
        Ok(took)
    }

    fn open_to_receive(&mut self, number: u64) -> Fallible<Duration> {
        self.payload.write(&mut self.message, number);
        if T::CAPABILITIES.stores {
            self.transport.open_sender(&self.opened)?.try_send(&self.message)?;
        }
        let start = Instant::now();
        let mut rx = self.transport.open_receiver(&self.opened)?;
        let mut took = start.elapsed();
        let tx = (!T::CAPABILITIES.stores).then(|| self.transport.open_sender(&self.opened)).transpose()?;
        let _tx = tx.map(|mut tx| tx.try_send(&self.message).map(|()| tx)).transpose()?;
        let start = Instant::now();
        self.payload.check(&rx.receive(Wait::Forever)?, number)?;
        took += start.elapsed();
        Ok(took)
    }

    fn footprint(&mut self) -> Fallible<Memory> {
        footprint::of(&self.transport, &self.config, &self.made)
    }
}

/// `mq_open` and what comes of it.
pub(crate) struct BareMq {
    opened: String,
    made: String,
    message: Vec<u8>,
}

impl BareMq {
    pub(crate) fn new(spec: &LaneSpec, site: &Site) -> Fallible<Self> {
        let name = |which| format!("/{}", site.channel(spec, which));
        let (opened, made) = (name(OPENED), name(MADE));
        let flags = MQ_OFlag::O_RDWR | MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL;
        mq_close(mq_open(opened.as_str(), flags, OWNER, Some(&attributes()))?)?;
        Ok(Self { opened, made, message: vec![0; spec.message_len_bytes] })
    }
}

/// What a queue has that asks for nothing, where the system's limits are untouched.
fn attributes() -> MqAttr {
    MqAttr::new(0, raw_mq::depth() as _, 8192, 0)
}

const OWNER: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

impl Openable for BareMq {
    fn create(&mut self) -> Fallible<Duration> {
        let attributes = attributes();
        let flags = MQ_OFlag::O_RDWR | MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL;
        let start = Instant::now();
        let queue = mq_open(self.made.as_str(), flags, OWNER, Some(&attributes))?;
        let took = start.elapsed();
        mq_close(queue)?;
        mq_unlink(self.made.as_str())?;
        Ok(took)
    }

    fn open_to_send(&mut self, _number: u64) -> Fallible<Duration> {
        let start = Instant::now();
        let queue = mq_open(self.opened.as_str(), MQ_OFlag::O_WRONLY, OWNER, None)?;
        mq_send(&queue, &self.message, 0)?;
        let took = start.elapsed();
        let other = mq_open(self.opened.as_str(), MQ_OFlag::O_RDONLY, OWNER, None)?;
        mq_receive(&other, &mut [0; 8192], &mut 0)?;
        mq_close(other)?;
        mq_close(queue)?;
        Ok(took)
    }

    fn open_to_receive(&mut self, _number: u64) -> Fallible<Duration> {
        let other = mq_open(self.opened.as_str(), MQ_OFlag::O_WRONLY, OWNER, None)?;
        mq_send(&other, &self.message, 0)?;
        let mut buffer = [0; 8192];
        let start = Instant::now();
        let queue = mq_open(self.opened.as_str(), MQ_OFlag::O_RDONLY, OWNER, None)?;
        mq_receive(&queue, &mut buffer, &mut 0)?;
        let took = start.elapsed();
        mq_close(other)?;
        mq_close(queue)?;
        Ok(took)
    }
}

/// `msgget` and what comes of it.
pub(crate) struct BareSysv {
    opened: String,
    made: String,
    typed: Vec<u8>,
}

impl BareSysv {
    pub(crate) fn new(spec: &LaneSpec, site: &Site) -> Fallible<Self> {
        let (opened, made) = (site.channel(spec, OPENED), site.channel(spec, MADE));
        raw_sysv::create(&opened)?;
        Ok(Self { opened, made, typed: raw_sysv::typed(spec.message_len_bytes) })
    }
}

impl Openable for BareSysv {
    fn create(&mut self) -> Fallible<Duration> {
        let start = Instant::now();
        raw_sysv::create(&self.made)?;
        let took = start.elapsed();
        raw_sysv::remove(&self.made);
        Ok(took)
    }

    fn open_to_send(&mut self, _number: u64) -> Fallible<Duration> {
        let start = Instant::now();
        let queue = raw_sysv::open(&self.opened)?;
        raw_sysv::send(queue, &self.typed, 0)?;
        let took = start.elapsed();
        raw_sysv::receive(queue, &mut self.typed, 0)?;
        Ok(took)
    }

    fn open_to_receive(&mut self, _number: u64) -> Fallible<Duration> {
        raw_sysv::send(raw_sysv::open(&self.opened)?, &self.typed, 0)?;
        let start = Instant::now();
        let queue = raw_sysv::open(&self.opened)?;
        raw_sysv::receive(queue, &mut self.typed, 0)?;
        Ok(start.elapsed())
    }
}

/// `socket`, `bind`, `listen` and `connect`.
pub(crate) struct BareUnix {
    path: PathBuf,
    message: Vec<u8>,
}

impl BareUnix {
    pub(crate) fn new(spec: &LaneSpec, site: &Site) -> Self {
        let path = site.directory.join(format!("{}.setup", spec.tag));
        Self { path, message: vec![0; spec.message_len_bytes] }
    }

    fn listen(&self) -> Fallible<OwnedFd> {
        let socket = seqpacket()?;
        bind(socket.as_raw_fd(), &UnixAddr::new(&self.path)?)?;
        listen(&socket, Backlog::new(1)?)?;
        Ok(socket)
    }

    fn connect(&self) -> Fallible<OwnedFd> {
        let socket = seqpacket()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(&self.path)?)?;
        Ok(socket)
    }
}

fn seqpacket() -> Fallible<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

impl Openable for BareUnix {
    fn create(&mut self) -> Fallible<Duration> {
        let start = Instant::now();
        let listener = self.listen()?;
        let took = start.elapsed();
        drop(listener);
        fs::remove_file(&self.path)?;
        Ok(took)
    }

    fn open_to_send(&mut self, _number: u64) -> Fallible<Duration> {
        let _listener = self.listen()?;
        let start = Instant::now();
        let socket = self.connect()?;
        send(socket.as_raw_fd(), &self.message, MsgFlags::empty())?;
        let took = start.elapsed();
        fs::remove_file(&self.path)?;
        Ok(took)
    }

    fn open_to_receive(&mut self, _number: u64) -> Fallible<Duration> {
        let start = Instant::now();
        let listener = self.listen()?;
        let mut took = start.elapsed();
        let other = self.connect()?;
        send(other.as_raw_fd(), &self.message, MsgFlags::empty())?;
        let start = Instant::now();
        // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(accept(listener.as_raw_fd())?) };
        recv(socket.as_raw_fd(), &mut self.message, MsgFlags::empty())?;
        took += start.elapsed();
        fs::remove_file(&self.path)?;
        Ok(took)
    }
}
