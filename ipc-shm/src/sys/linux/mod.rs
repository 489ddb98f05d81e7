//! Linux: open-file-description locks, futexes, `membarrier`, `O_TMPFILE`.

pub(crate) mod disk;
pub(crate) mod fence;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod ident;
pub(crate) mod lock;
pub(crate) mod map;

use ipc_core::OsError;
use nix::errno::Errno;

/// Turns a failed call of `nix` into the error that names it.
pub(crate) fn named<T>(call: &'static str, result: nix::Result<T>) -> Result<T, OsError> {
    result.map_err(|errno| OsError::new(call, errno))
}

/// Repeats a call that a signal interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            answer => return answer,
        }
    }
}
