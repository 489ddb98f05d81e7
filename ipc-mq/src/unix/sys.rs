//! The system calls that bring descriptors, and what becomes of those.

use super::{memory::seals, packet::MAX_DESCRIPTORS};
use ipc_core::close_apart;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, SockFlag, accept4, recv},
};
use std::{
    mem::{self, ManuallyDrop, MaybeUninit},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// Room for as many descriptors as the kernel passes at once (`SCM_MAX_FD`): those that there is
/// no room for it would close itself, in our call.
const CONTROL_LEN: usize = 1040;
const _: () = assert!(CONTROL_LEN >= mem::size_of::<libc::cmsghdr>() + 253 * mem::size_of::<RawFd>());

/// Control messages are read where they are, so they are aligned.
#[repr(C, align(16))]
struct Control([u8; CONTROL_LEN]);

/// What was received.
#[derive(Debug)]
pub(crate) struct Received {
    /// All bytes, the header's too.
    pub(crate) len: usize,
    /// Something did not fit and was cut off.
    pub(crate) truncated: bool,
    /// Descriptors were, although there was room for them: this process may have no more.
    pub(crate) at_limit: bool,
    /// In the order of sending.
    pub(crate) descriptors: Vec<Passed>,
}

/// A descriptor that a peer passed. It may stand for anything, also for what holds up who closes
/// it.
#[derive(Debug)]
pub(crate) struct Passed(ManuallyDrop<OwnedFd>);

impl Passed {
    /// The descriptor itself, for who asked for it.
    pub(crate) fn into_inner(self) -> OwnedFd {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once, since `this` is neither used nor dropped after that.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl AsFd for Passed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        // SAFETY: taken once, since this is its end.
        let descriptor = unsafe { ManuallyDrop::take(&mut self.0) };
        // Only memory has seals, and it is closed at once. To ask for them asks nobody's program.
        if seals(descriptor.as_fd()).is_ok() { drop(descriptor) } else { close_apart(descriptor) }
    }
}

/// `accept4` without waiting.
pub(crate) fn accept(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let raw = accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `recv` without waiting: the packet's own length, though it be cut. Descriptors that come along
/// the kernel closes, in this call.
#[inline]
pub(crate) fn receive_bytes(socket: BorrowedFd<'_>, space: &mut [u8]) -> Result<usize, Errno> {
    recv(socket.as_raw_fd(), space, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)
}

/// `recvmsg` without waiting. A peer may send any bytes and descriptors; each descriptor that
/// arrives is owned, and so closed some time.
pub(crate) fn receive(socket: BorrowedFd<'_>, space: &mut [u8]) -> Result<Received, Errno> {
    let mut control = MaybeUninit::<Control>::uninit();
    let mut part = libc::iovec { iov_base: space.as_mut_ptr().cast(), iov_len: space.len() };
    // SAFETY: integers and pointers, for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LEN as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: all that the message points to are locals and `space`, borrowed for us alone,
    // with these lengths.
    let answer = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
    let len = Errno::result(answer)?.unsigned_abs();
    let descriptors = if message.msg_controllen == 0 { Vec::new() } else { take_descriptors(&message) };
    let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    let at_limit = message.msg_flags & libc::MSG_CTRUNC != 0 && descriptors.len() <= MAX_DESCRIPTORS;
    Ok(Received { len, truncated, at_limit, descriptors })
}

/// Owns all descriptors that came.
#[cold]
#[allow(clippy::unnecessary_cast, reason = "the C libraries differ in these types")]
fn take_descriptors(message: &libc::msghdr) -> Vec<Passed> {
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
                let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
                descriptors.push(Passed(ManuallyDrop::new(descriptor)));
            }
        }
        // SAFETY: as above; the result is null or within the buffer.
        next = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
    descriptors
}
