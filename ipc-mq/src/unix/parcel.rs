//! A message in a `memfd` (`memfd_create(2)`): written by its sender alone, then sealed, so
//! that the receiver can read it in place without trusting anybody.

use super::sys::{self, Pages};
use ipc_core::OsError;
use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::{SFlag, fstat},
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
    /// faster than to map and fault them in.
    pub(crate) fn copy_of(message: &[u8]) -> Result<Self, OsError> {
        let mut file = File::from(create().map_err(|errno| OsError::new("memfd_create", errno))?);
        file.write_all(message).map_err(|error| OsError::new("write", error))?;
        sys::seal(file.as_fd()).map_err(|errno| OsError::new("fcntl", errno))?;
        Ok(Self(file.into()))
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Maps what a peer sent as a message of this length, if it is one.
pub(crate) fn open(descriptor: &OwnedFd, len: NonZeroUsize) -> Result<Pages, Errno> {
    // The seals first: a size that can't change any more is worth looking at.
    if sys::seals(descriptor.as_fd())? & sys::SEALED != sys::SEALED {
        return Err(Errno::EPERM);
    }
    let status = fstat(descriptor)?;
    let regular = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    if !regular || u64::try_from(status.st_size) != Ok(len.get() as u64) {
        return Err(Errno::EINVAL);
    }
    Pages::sealed(descriptor, len)
}

fn create() -> Result<OwnedFd, Errno> {
    memfd_create(c"ipc-message", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
}
