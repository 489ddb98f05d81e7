//! Sockets that lead to somebody else, and how they end; `shutdown(2)`, `close(2)`.
//!
//! To close a socket is to close, in that call, the descriptors in its queue: those that a peer
//! has sent and nobody received. They may stand for anything, also for what holds up who closes
//! it. So a socket is shut down first: that is what its peer is told, at once, and nothing comes
//! into the queue any more. Where it is empty the socket is closed here; where it isn't, on a
//! thread apart.

use super::sys;
use crate::at_fork::{self, Private};
use ipc_core::close_apart;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, Shutdown, recvmsg, setsockopt, shutdown, sockopt::PassCred},
};
use std::{
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// A socket that is, or was, connected.
#[derive(Debug)]
pub(crate) struct Line(ManuallyDrop<Private<OwnedFd>>);

impl Line {
    pub(crate) fn new(socket: Private<OwnedFd>) -> Self {
        Self(ManuallyDrop::new(socket))
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // SAFETY: taken once, since this is its end.
        let socket = unsafe { ManuallyDrop::take(&mut self.0) };
        end(socket, is_empty);
    }
}

/// A socket at which others connect.
#[derive(Debug)]
pub(crate) struct Door(ManuallyDrop<Private<OwnedFd>>);

impl Door {
    pub(crate) fn new(socket: Private<OwnedFd>) -> Self {
        Self(ManuallyDrop::new(socket))
    }

    /// One who waits there, without waiting for one.
    pub(crate) fn accept(&self) -> Result<Line, Errno> {
        accept(&self.0)
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // SAFETY: taken once, since this is its end.
        let socket = unsafe { ManuallyDrop::take(&mut self.0) };
        end(socket, nobody_waits);
    }
}

fn accept(socket: &Private<OwnedFd>) -> Result<Line, Errno> {
    at_fork::private(|| sys::accept(socket.as_fd()), OwnedFd::as_raw_fd).map(Line::new)
}

/// Closes it, whatever is in its queue.
fn end(socket: Private<OwnedFd>, is_empty: impl FnOnce(&Private<OwnedFd>) -> bool) {
    // A child would shut down its parent's.
    if !socket.is_ours() {
        return;
    }
    if shutdown(socket.as_raw_fd(), Shutdown::Both).is_ok() && is_empty(&socket) {
        drop(socket);
    } else if let Some(socket) = socket.publish() {
        // A child that is forked before it is closed has a copy. That keeps no connection open, but
        // what is in the queue, until the child ends or executes a program.
        close_apart(socket);
    }
}

/// Whether a socket that is shut down has nothing in its queue.
fn is_empty(socket: &Private<OwnedFd>) -> bool {
    // From now on something comes with each packet, for which there is no room below: by that the
    // end is told from a packet without bytes, behind which there may be others.
    if setsockopt(socket, PassCred, &true).is_err() {
        return false;
    }
    let look =
        || recvmsg::<()>(socket.as_raw_fd(), &mut [], None, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    // What befell the connection is told once, before that.
    let answer = look().or_else(|_| look());
    answer.is_ok_and(|found| !found.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC))
}

/// Whether nobody waits at a socket that is shut down any more. Who did is told, one by one.
fn nobody_waits(socket: &Private<OwnedFd>) -> bool {
    loop {
        match accept(socket) {
            Ok(line) => drop(line),
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            // Nobody does; or nobody ever listened there.
            Err(errno) => return matches!(errno, Errno::EAGAIN | Errno::EINVAL),
        }
    }
}
