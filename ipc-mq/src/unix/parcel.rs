//! A message in a `memfd` (`memfd_create(2)`): written by its sender alone, then sealed, so
//! that the receiver can read it in place without trusting anybody.

use super::memory::{self, Pages};
use crate::limit;
use ipc_core::OsError;
use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::{SFlag, fstat},
        statfs::{HUGETLBFS_MAGIC, fstatfs},
    },
};
use std::{
    fs::File,
    io::Write,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// A message that is sealed and can be sent.
#[derive(Debug)]
pub(crate) struct Sealed(OwnedFd);

impl Sealed {
    /// A copy of `message`, by `write`: it fills new pages without clearing them first, which is
    /// faster than to map and fault them in. Long ones go into huge pages where there are any.
    pub(crate) fn copy_of(message: &[u8]) -> Result<Self, OsError> {
        let mut file = File::from(create().map_err(|errno| limit::explained("memfd_create", errno))?);
        memory::ask_for_huge_pages(file.as_fd(), message.len())?;
        file.write_all(message).map_err(|error| OsError::new("write", error))?;
        memory::seal(file.as_fd()).map_err(|errno| OsError::new("fcntl", errno))?;
        Ok(Self(file.into()))
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Maps what a peer sent as a message of this length, if it is one. A want of memory is no fault
/// of the peer's, and an error; so is what this process may not do.
pub(crate) fn open(descriptor: &impl AsFd, len: NonZeroUsize) -> Result<Option<Pages>, OsError> {
    let or_none = |call, errno| match errno {
        Errno::ENOMEM | Errno::EAGAIN | Errno::EPERM => Err(OsError::new(call, errno)),
        _ => Ok(None),
    };
    // The seals first: a size that can't change any more is worth looking at.
    match memory::seals(descriptor.as_fd()) {
        Ok(seals) if seals & memory::SEALED == memory::SEALED => {}
        Ok(_) => return Ok(None),
        Err(errno) => return or_none("fcntl", errno),
    }
    let status = match fstat(descriptor) {
        Ok(status) => status,
        Err(errno) => return or_none("fstat", errno),
    };
    let regular = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    if !regular || u64::try_from(status.st_size) != Ok(len.get() as u64) {
        return Ok(None);
    }
    match Pages::sealed(descriptor, len) {
        Ok(pages) => Ok(Some(pages)),
        // Of huge pages the system has few, or none.
        Err(_) if fstatfs(descriptor).is_ok_and(|found| found.filesystem_type() == HUGETLBFS_MAGIC) => {
            Ok(None)
        }
        Err(errno) => or_none("mmap", errno),
    }
}

/// Nobody can run it: without that, a system may refuse to make it (`vm.memfd_noexec`), or warn.
const NOT_A_PROGRAM: MFdFlags = MFdFlags::from_bits_retain(nix::libc::MFD_NOEXEC_SEAL);

fn create() -> Result<OwnedFd, Errno> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(c"ipc-message", flags | NOT_A_PROGRAM) {
        // Before Linux 6.3.
        Err(Errno::EINVAL) => memfd_create(c"ipc-message", flags),
        answer => answer,
    }
}
