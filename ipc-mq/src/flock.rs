//! Locks on files that go with their process, `flock(2)`.

use crate::wait::uninterrupted;
use nix::{errno::Errno, libc};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A descriptor with an exclusive lock. It is given back by a call of its own: a child process
/// that was forked meanwhile has the descriptor too.
#[derive(Debug)]
pub(crate) struct Locked<D: AsFd = OwnedFd>(D);

impl<D: AsFd> Locked<D> {
    /// Waits until nobody else has the lock.
    pub(crate) fn wait(descriptor: D) -> Result<Self, Errno> {
        flock(&descriptor, libc::LOCK_EX)?;
        Ok(Self(descriptor))
    }

    /// `EWOULDBLOCK` if somebody else has the lock.
    pub(crate) fn at_once(descriptor: D) -> Result<Self, Errno> {
        flock(&descriptor, libc::LOCK_EX | libc::LOCK_NB)?;
        Ok(Self(descriptor))
    }
}

impl<D: AsFd> AsFd for Locked<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<D: AsFd> Drop for Locked<D> {
    fn drop(&mut self) {
        // Where it fails, the lock goes when the descriptor is closed.
        let _ = flock(&self.0, libc::LOCK_UN);
    }
}

fn flock(descriptor: &impl AsFd, operation: libc::c_int) -> Result<(), Errno> {
    uninterrupted(|| {
        // SAFETY: integers only.
        Errno::result(unsafe { libc::flock(descriptor.as_fd().as_raw_fd(), operation) }).map(drop)
    })
}
