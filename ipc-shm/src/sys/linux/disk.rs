//! What survives the machine: `fstatfs(2)`, `fsync(2)`.

use super::call;
use ipc_core::OsError;
use nix::{
    sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs},
    unistd::fsync,
};
use std::fs::File;

/// Whether the file lives in memory only, and is gone when the machine goes down.
pub(crate) fn is_in_memory(file: &File) -> Result<bool, OsError> {
    let kind = call("fstatfs", || fstatfs(file))?.filesystem_type();
    Ok(kind == TMPFS_MAGIC || kind == HUGETLBFS_MAGIC || kind.0 == RAMFS_MAGIC)
}

/// `ramfs`, of `linux/magic.h`.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Returns when all that was stored to the file, through whatever mapping, is on the disk.
pub(crate) fn sync(file: &File) -> Result<(), OsError> {
    call("fsync", || fsync(file))
}
