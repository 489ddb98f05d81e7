//! Locks on files that go with their process, `flock(2)`.

use crate::wait::uninterrupted;
use nix::{errno::Errno, libc};
use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

/// Nobody of ours has such a lock for longer than a few calls; but who can read a file can lock it
/// for as long as it pleases, and who has it may be stopped.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to sleep between two tries.
const PAUSE: Duration = Duration::from_millis(1);

/// A descriptor with an exclusive lock. It is given back by a call of its own: a child process
/// that was forked meanwhile has the descriptor too.
#[derive(Debug)]
pub(crate) struct Locked<D: AsFd = OwnedFd>(D);

impl<D: AsFd> Locked<D> {
    /// Waits until nobody else has the lock; `EWOULDBLOCK` if that takes longer than it can.
    pub(crate) fn wait(descriptor: D) -> Result<Self, Errno> {
        let start = Instant::now();
        loop {
            match flock(&descriptor, libc::LOCK_EX | libc::LOCK_NB) {
                Ok(()) => return Ok(Self(descriptor)),
                Err(Errno::EWOULDBLOCK) if start.elapsed() < PATIENCE => thread::sleep(PAUSE),
                Err(errno) => return Err(errno),
            }
        }
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

/// A process that has a lock on the file of this number, as far as the kernel tells. For people to
/// read.
pub(crate) fn holder(inode: u64) -> Option<u32> {
    holder_in(&fs::read_to_string("/proc/locks").ok()?, inode)
}

/// Lines like `1: FLOCK  ADVISORY  WRITE 1234 00:19:5678 0 EOF`. The device is that of the file
/// system beneath, which isn't always the one of the file's status.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        // Who waits stands behind an arrow.
        (fields.next()? == "FLOCK").then_some(())?;
        let (pid, file) = (fields.nth(2)?, fields.next()?);
        (file.rsplit(':').next()?.parse() == Ok(inode)).then_some(())?;
        pid.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::holder_in;

    #[test]
    fn the_holder_is_who_has_the_lock_and_not_who_waits_for_it() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:19:77 0 EOF\n\
                     2: FLOCK  ADVISORY  READ  12 00:19:78 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 13 00:19:77 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 14 00:19:77 0 EOF\n";
        assert_eq!(holder_in(locks, 77), Some(14));
        assert_eq!(holder_in(locks, 78), Some(12));
        assert_eq!(holder_in(locks, 79), None);
        assert_eq!(holder_in("nonsense\n5: FLOCK", 77), None);
    }
}
