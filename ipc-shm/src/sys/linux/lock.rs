//! Locks on single bytes of a file, owned by an open file description: `fcntl(2)`,
//! `F_OFD_SETLK` and `F_OFD_GETLK`.
//!
//! Such a lock goes exactly when the last reference to its description is gone. A mapping
//! is such a reference, so a lock whose descriptor was closed lives as long as the mapping:
//! until the process has ended and can no longer store. That is what certifies a death.

use super::{attempt, call};
use ipc_core::OsError;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};
use std::os::fd::AsFd;

/// How a byte is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With others that do the same.
    Shared,
    /// Alone.
    Exclusive,
}

/// Locks `byte` for the description behind `file` without waiting; an existing lock of the
/// same description changes its mode. False if another description stands in the way.
pub(crate) fn try_lock(file: impl AsFd, byte: u64, mode: Mode) -> Result<bool, OsError> {
    let request = request(byte, mode);
    match attempt("fcntl(F_OFD_SETLK)", || fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&request))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(OsError::new("fcntl(F_OFD_SETLK)", errno)),
    }
}

/// Gives `byte` up for the description behind `file`. Closing the file does so only if no
/// other process has the description: one that is just about to be spawned has, for the
/// time until its `exec`.
pub(crate) fn unlock(file: impl AsFd, byte: u64) -> Result<(), OsError> {
    let request = libc::flock { l_type: libc::F_UNLCK as libc::c_short, ..request(byte, Mode::Shared) };
    call("fcntl(F_OFD_SETLK)", || fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&request))).map(drop)
}

/// Whether a description other than that behind `file` has `byte` locked, in either mode.
pub(crate) fn is_locked(file: impl AsFd, byte: u64) -> Result<bool, OsError> {
    let mut answer = request(byte, Mode::Exclusive);
    call("fcntl(F_OFD_GETLK)", || fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut answer)))?;
    Ok(answer.l_type != libc::F_UNLCK as libc::c_short)
}

fn request(byte: u64, mode: Mode) -> libc::flock {
    let l_type = match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    };
    libc::flock {
        l_type: l_type as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}
