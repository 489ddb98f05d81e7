//! What survives the machine: `fstatfs(2)`, `fsync(2)`; `msync(2)` is with the mappings.

use super::{call, fork};
use ipc_core::OsError;
use nix::{
    sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs},
    unistd::fsync,
};
use std::os::fd::AsFd;

/// Whether the file lives in memory only, and is gone when the machine goes down.
pub(crate) fn is_in_memory(file: impl AsFd) -> Result<bool, OsError> {
    let kind = call("fstatfs", || fstatfs(file.as_fd()))?.filesystem_type();
    Ok(kind == TMPFS_MAGIC || kind == HUGETLBFS_MAGIC || kind.0 == RAMFS_MAGIC)
}

/// `ramfs`, of `linux/magic.h`.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Returns when all that was stored to the file, through whatever mapping, is on the disk; of a
/// directory, its names. That may take seconds.
pub(crate) fn sync(file: impl AsFd) -> Result<(), OsError> {
    fork::assert_no_window();
    call("fsync", || fsync(file.as_fd()))
}
