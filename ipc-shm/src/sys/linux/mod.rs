//! Linux: open-file-description locks, futexes, `membarrier`, `O_TMPFILE`, `inotify`.

pub(crate) mod disk;
pub(crate) mod fence;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod ident;
pub(crate) mod limit;
pub(crate) mod lock;
pub(crate) mod map;
pub(crate) mod memfd;
pub(crate) mod notice;
pub(crate) mod socket;

use crate::hooks;
use ipc_core::OsError;
use nix::errno::Errno;
use std::io;

/// Makes a system call. Every one of this crate is made in here, so that tests can end the
/// process on either side of it, or have it fail. None of the three is for calls that
/// neither change anything nor can fail.
#[inline]
#[cfg_attr(feature = "crash-points", track_caller)]
fn once<T>(name: &'static str, make: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
    if let Some(errno) = hooks::before(name) {
        return Err(Errno::from_raw(errno));
    }
    let answer = make();
    hooks::after(name);
    answer
}

/// Makes a system call, again if a signal interrupted it; for those who tell errors apart.
#[cfg_attr(feature = "crash-points", track_caller)]
fn attempt<T>(name: &'static str, mut make: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match once(name, &mut make) {
            Err(Errno::EINTR) => {}
            answer => return answer,
        }
    }
}

/// Makes a system call, again if a signal interrupted it; an error names it.
#[cfg_attr(feature = "crash-points", track_caller)]
fn call<T>(name: &'static str, make: impl FnMut() -> nix::Result<T>) -> Result<T, OsError> {
    attempt(name, make).map_err(|errno| OsError::new(name, errno))
}

/// The answer of a call that the standard library made.
fn errno<T>(answer: io::Result<T>) -> nix::Result<T> {
    answer.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}
