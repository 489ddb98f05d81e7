//! The system calls of this transport that need unsafe code: those that bring descriptors,
//! and the mappings of `memfd`s.

use nix::{
    errno::Errno,
    libc,
    sys::socket::{SockFlag, accept4},
};
use std::{
    mem,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
    slice,
};

use super::packet::{HEADER_LEN, MAX_DESCRIPTORS};

/// Room for a parcel's descriptor and those of the user.
const CONTROL_LEN: usize = 128;
const _: () = assert!(CONTROL_LEN >= 2 * mem::size_of::<libc::cmsghdr>() + (MAX_DESCRIPTORS + 1) * 4);

/// Control messages are read where they are, so they are aligned.
#[repr(C, align(16))]
struct Control([u8; CONTROL_LEN]);

/// What `recvmsg` brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// All bytes, the header's too.
    pub(crate) len: usize,
    pub(crate) header: [u8; HEADER_LEN],
    /// Something did not fit and was cut off.
    pub(crate) truncated: bool,
    /// Descriptors were, although there was room for them: this process may have no more.
    pub(crate) at_limit: bool,
    /// In the order of sending.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// `accept4` without waiting.
pub(crate) fn accept(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let raw = accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `recvmsg` without waiting: the header apart, the rest into `space`. A peer may send any
/// bytes and descriptors; each descriptor that arrives is owned, and so closed some time.
pub(crate) fn receive(socket: BorrowedFd<'_>, space: &mut [u8]) -> Result<Received, Errno> {
    let mut header = [0; HEADER_LEN];
    let mut control = Control([0; CONTROL_LEN]);
    let mut parts = [
        libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: HEADER_LEN },
        libc::iovec { iov_base: space.as_mut_ptr().cast(), iov_len: space.len() },
    ];
    // SAFETY: integers and pointers, for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LEN as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: all that the message points to are locals and `space`, borrowed for us alone,
    // with these lengths.
    let answer = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
    let len = Errno::result(answer)?.unsigned_abs();
    let descriptors = if message.msg_controllen == 0 { Vec::new() } else { take_descriptors(&message) };
    let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    let at_limit = message.msg_flags & libc::MSG_CTRUNC != 0 && descriptors.len() <= MAX_DESCRIPTORS;
    Ok(Received { len, header, truncated, at_limit, descriptors })
}

/// Owns all descriptors that came.
#[cold]
#[allow(clippy::unnecessary_cast, reason = "the C libraries differ in these types")]
fn take_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled in the control messages that `message` points to.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: null, or a control message within the buffer, which is aligned for it.
    while let Some(control) = unsafe { next.as_ref() } {
        if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: computes with an integer.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (control.cmsg_len as usize).saturating_sub(before) / mem::size_of::<RawFd>();
            // SAFETY: the data of a control message follows its header.
            let data = unsafe { libc::CMSG_DATA(control) }.cast::<RawFd>();
            for index in 0..count {
                // SAFETY: the kernel wrote so many numbers there.
                let place = unsafe { data.add(index) };
                // SAFETY: within what the kernel wrote.
                let raw = unsafe { place.read_unaligned() };
                // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: as above; the result is null or within the buffer.
        next = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
    descriptors
}

/// `fcntl(F_GET_SEALS)`; an error for what isn't a `memfd`.
pub(crate) fn seals(descriptor: BorrowedFd<'_>) -> Result<libc::c_int, Errno> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GET_SEALS) })
}

/// What nobody can undo, and what makes a mapping safe to read: no writing through any
/// descriptor or mapping, no shrinking under it, no more seals that matter.
pub(crate) const SEALED: libc::c_int = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

/// `fcntl(F_ADD_SEALS)` of [`SEALED`]. Refused while a writable mapping exists.
pub(crate) fn seal(descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let seals = SEALED | libc::F_SEAL_SEAL;
    // SAFETY: integers only.
    Errno::result(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

/// Pages of a `memfd`, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages are memory of the process's, owned by this value alone.
unsafe impl Send for Pages {}

// SAFETY: shared, they are only read.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps a `memfd` that is [`SEALED`] and has this length: who sent it can't change it.
    pub(crate) fn sealed(memfd: &impl AsFd, len: NonZeroUsize) -> Result<Self, Errno> {
        Self::map(memfd.as_fd(), len)
    }

    fn map(memfd: BorrowedFd<'_>, len: NonZeroUsize) -> Result<Self, Errno> {
        let (protection, number) = (libc::PROT_READ, memfd.as_raw_fd());
        // SAFETY: a new mapping, wherever the kernel has room for it.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), len.get(), protection, libc::MAP_SHARED, number, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
        let pages = Self { start, len: len.get() };
        // Each page is there from now on, or it is known now that one isn't: a file may have
        // holes, and to find at an access that there is no memory for one is a SIGBUS.
        // SAFETY: the mapping made above; the advice changes no byte.
        let asked = unsafe { libc::madvise(start.as_ptr().cast(), len.get(), libc::MADV_POPULATE_READ) };
        match Errno::result(asked) {
            // Before Linux 5.14 there is no way to ask.
            Ok(_) | Err(Errno::EINVAL) => Ok(pages),
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped with this length until drop, from a sealed file: a peer can neither
        // shrink it nor write to it.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and nobody borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
