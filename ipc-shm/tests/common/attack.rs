//! Peers of sealed channels that follow no rule: what they have, and what they try.
#![allow(dead_code, reason = "each test program has its own attacks")]

use crate::common::{Arena, PATIENCE};
use ipc_shm::{
    Wait,
    sealed::{Link, LinkError, Listener, Peers},
};
use nix::{
    cmsg_space,
    errno::Errno,
    fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open},
    libc,
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap, mprotect},
        socket::{
            ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recv, recvmsg, sendmsg, setsockopt,
            sockopt,
        },
        stat::Mode,
    },
    unistd::{ftruncate, write},
};
use std::{
    fs::File,
    io::{IoSlice, IoSliceMut, Write},
    net::{TcpListener, TcpStream},
    num::NonZeroUsize,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
    path::Path,
    ptr::NonNull,
};

pub(crate) const PAGE: usize = 4096;

pub(crate) fn soon() -> Wait<'static> {
    Wait::timeout(PATIENCE)
}

/// What an attacker is that has the socket, and a greeting of an honest peer.
pub(crate) struct Attacker {
    pub(crate) socket: OwnedFd,
}

impl Attacker {
    pub(crate) fn connect(path: &Path) -> Self {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, socket};
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).unwrap();
        connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Self { socket }
    }

    pub(crate) fn send(&self, greeting: &[u8], descriptors: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights };
        let sent = sendmsg::<UnixAddr>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(greeting)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        // The other one may have hung up already.
        assert!(matches!(sent, Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET)), "{sent:?}");
    }

    /// Whether nobody will ever send it anything more than what it has, which is thrown away.
    pub(crate) fn is_hung_up_on(&self) -> bool {
        loop {
            match recv(self.socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                Ok(1) => {}
                answer => return matches!(answer, Ok(0) | Err(Errno::ECONNRESET)),
            }
        }
    }

    pub(crate) fn receive(&self) -> Option<File> {
        let mut bytes = [0; 64];
        let mut control = cmsg_space!([RawFd; 4]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message =
            recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())
                .ok()?;
        message.cmsgs().ok()?.find_map(|control| match control {
            // SAFETY: the kernel made the descriptor for us just now.
            ControlMessageOwned::ScmRights(numbers) => Some(unsafe { File::from_raw_fd(numbers[0]) }),
            _ => None,
        })
    }
}

/// A peer's greeting, written down a second time, since it is what programs agree on.
pub(crate) fn greeting(part: u32, capacity: u64) -> Vec<u8> {
    greeting_with(part, capacity, [0; 3])
}

/// The same, with a writer's longest value, and a publisher's position and number.
pub(crate) fn greeting_with(part: u32, capacity: u64, more: [u64; 3]) -> Vec<u8> {
    let mut bytes = b"ipc-seal".to_vec();
    bytes.extend(0x0102_0304_u32.to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes());
    bytes.extend(part.to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes());
    bytes.extend((PAGE as u64).to_ne_bytes());
    bytes.extend(capacity.to_ne_bytes());
    bytes.extend(more.map(u64::to_ne_bytes).as_flattened());
    bytes
}

pub(crate) const SENDS: u32 = 1;
pub(crate) const RECEIVES: u32 = 2;
pub(crate) const PUBLISHES: u32 = 3;
pub(crate) const SUBSCRIBES: u32 = 4;
pub(crate) const WRITES: u32 = 5;
pub(crate) const READS: u32 = 6;
pub(crate) const RING: u64 = PAGE as u64;
pub(crate) const ALL: [i32; 4] =
    [libc::F_SEAL_SEAL, libc::F_SEAL_SHRINK, libc::F_SEAL_GROW, libc::F_SEAL_FUTURE_WRITE];

pub(crate) fn memfd(len: u64, seals: &[i32]) -> (File, NonNull<u8>) {
    let file =
        File::from(memfd_create(c"attack", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).unwrap());
    fallocate(&file, FallocateFlags::empty(), 0, len as i64).unwrap();
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let len = NonZeroUsize::new(len as usize).unwrap();
    // SAFETY: a fresh mapping that replaces nothing, and is never unmapped.
    let at = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
    let seals = seals.iter().fold(0, |all, seal| all | seal);
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals))).unwrap();
    (file, at.cast())
}

/// A stream whose close waits for as long as its other end, which is kept, reads nothing.
pub(crate) fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    setsockopt(&listener, sockopt::RcvBuf, &4096).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (never_reads, _) = listener.accept().unwrap();
    setsockopt(&stream, sockopt::SndBuf, &4096).unwrap();
    stream.set_nonblocking(true).unwrap();
    while (&stream).write(&[0; 4096]).is_ok() {}
    stream.set_nonblocking(false).unwrap();
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 3600 }).unwrap();
    (stream.into(), never_reads)
}

/// A listener and an attacker that has connected to it.
pub(crate) fn attacked(arena: &Arena) -> (Link, Attacker) {
    let listener = Listener::bind(arena.file("s"), Peers::ourselves()).unwrap();
    let attacker = Attacker::connect(&arena.file("s"));
    (listener.accept(soon()).unwrap(), attacker)
}

pub(crate) fn refused(error: &LinkError, why: &str) {
    assert!(matches!(error, LinkError::Refused(_)), "{error:?}");
    assert!(error.to_string().contains(why), "{error}");
}

/// What can be done with memory that was handed over, a page and a ring: everything is tried.
pub(crate) fn attempts_on(file: &File) -> Vec<(&'static str, String)> {
    let len = PAGE + RING as usize;
    let before: Vec<u8> = (0..len).map(|at| byte_of(file, at)).collect();
    let outcome = |answer: nix::Result<()>| match answer {
        Ok(()) => "it works".to_owned(),
        Err(errno) => format!("refused ({errno:?})"),
    };
    let map = |file: &File, access: ProtFlags| {
        // SAFETY: a fresh mapping that replaces nothing.
        unsafe { mmap(None, NonZeroUsize::new(len).unwrap(), access, MapFlags::MAP_SHARED, file, 0) }
    };
    let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let again = open(&*format!("/proc/self/fd/{}", file.as_raw_fd()), OFlag::O_RDWR, Mode::empty());
    let again = again.map(File::from);
    let by_the_new = |attempt: &dyn Fn(&File) -> nix::Result<()>| match &again {
        Ok(file) => outcome(attempt(file)),
        Err(errno) => format!("refused ({errno:?})"),
    };
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let table = vec![
        ("sealed: truncate", outcome(ftruncate(file, 0))),
        ("sealed: grow", outcome(ftruncate(file, 1 << 30))),
        ("sealed: punch a hole", outcome(fallocate(file, punch, 0, len as i64))),
        ("sealed: reseal", outcome(fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).map(drop))),
        ("sealed: write to the descriptor", outcome(write(file, b"attack").map(drop))),
        ("sealed: map for writing", outcome(map(file, both).map(drop))),
        (
            "sealed: map for reading, then mprotect",
            outcome(map(file, ProtFlags::PROT_READ).and_then(|at| {
                // SAFETY: our own mapping, of which nobody has a reference.
                unsafe { mprotect(at, len, both) }
            })),
        ),
        ("sealed: open again by /proc/self/fd, write", by_the_new(&|file| write(file, b"attack").map(drop))),
        (
            "sealed: open again by /proc/self/fd, map for writing",
            by_the_new(&|file| map(file, both).map(drop)),
        ),
        ("sealed: open again by /proc/self/fd, truncate", by_the_new(&|file| ftruncate(file, 0))),
    ];
    let after: Vec<u8> = (0..len).map(|at| byte_of(file, at)).collect();
    assert!(before == after, "not a byte changed");
    table
}

pub(crate) fn byte_of(file: &File, at: usize) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    byte[0]
}
