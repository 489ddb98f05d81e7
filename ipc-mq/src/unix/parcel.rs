//! A message in a `memfd` (`memfd_create(2)`): written by its sender alone, then sealed, so
//! that the receiver can read it in place without trusting anybody.

use super::sys::{self, Pages};
use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::{SFlag, fstat},
    },
    unistd::ftruncate,
};
use std::{
    fs::File,
    io::Write,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// A message that is being written.
#[derive(Debug)]
pub(crate) struct Draft {
    memfd: OwnedFd,
    pages: Pages,
}

/// A message that is sealed and can be sent.
#[derive(Debug)]
pub(crate) struct Sealed(OwnedFd);

impl Draft {
    pub(crate) fn new(len: NonZeroUsize) -> Result<Self, Errno> {
        let memfd = create()?;
        ftruncate(&memfd, i64::try_from(len.get()).map_err(|_| Errno::EFBIG)?)?;
        let pages = Pages::writable(&memfd, len)?;
        Ok(Self { memfd, pages })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.pages.bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages.bytes_mut()
    }

    /// The message's first `len` bytes, sealed.
    pub(crate) fn seal(self, len: usize) -> Result<Sealed, Errno> {
        let Self { memfd, pages } = self;
        // A writable mapping would forbid the seal.
        drop(pages);
        ftruncate(&memfd, i64::try_from(len).map_err(|_| Errno::EFBIG)?)?;
        sys::seal(memfd.as_fd())?;
        Ok(Sealed(memfd))
    }
}

impl Sealed {
    /// A copy of `message`.
    pub(crate) fn copy_of(message: &[u8]) -> Result<Self, Errno> {
        let mut file = File::from(create()?);
        file.write_all(message).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        sys::seal(file.as_fd())?;
        Ok(Self(file.into()))
    }

    /// A draft with the same content, for a message that could not be sent after all.
    pub(crate) fn reopen(&self, len: NonZeroUsize) -> Result<Draft, Errno> {
        let mut draft = Draft::new(len)?;
        draft.bytes_mut().copy_from_slice(Pages::sealed(&self.0, len)?.bytes());
        Ok(draft)
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
