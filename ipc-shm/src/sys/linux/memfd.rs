//! Memory without a name, sealed: `memfd_create(2)`, `fcntl(2)` with `F_ADD_SEALS`.
//!
//! The maker maps it for writing and then seals it, so that its own mapping is the last one
//! that can ever write: nobody shrinks it (no access to it is a SIGBUS), grows it, writes to
//! it by a descriptor or a new mapping, punches a hole, or adds a seal. That holds for the file,
//! through whatever descriptor, also one that was opened anew beneath `/proc`.

use super::{attempt, call, limit};
use ipc_core::OsError;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::fstat,
        statfs::{TMPFS_MAGIC, fstatfs},
    },
};
use std::{fs::File, os::fd::AsFd};

/// Nobody writes to it any more, but those who can already.
const FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(nix::libc::F_SEAL_FUTURE_WRITE);
/// Nobody can run it: without that, a system may refuse to make it (`vm.memfd_noexec`).
const NOT_A_PROGRAM: MFdFlags = MFdFlags::from_bits_retain(nix::libc::MFD_NOEXEC_SEAL);
/// All that a receiver needs to rely on.
const SEALS: SealFlag =
    SealFlag::F_SEAL_SEAL.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(FUTURE_WRITE);

/// Makes one of this length, all of whose pages are there.
pub(crate) fn make(len_bytes: u64) -> Result<File, OsError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let create = |flags| attempt("memfd_create", || memfd_create(c"ipc-sealed", flags));
    let file = match create(flags | NOT_A_PROGRAM) {
        // Before Linux 6.3.
        Err(Errno::EINVAL) => create(flags),
        answer => answer,
    };
    let file = File::from(file.map_err(|errno| limit::explained(OsError::new("memfd_create", errno)))?);
    super::file::allocate(&file, len_bytes)?;
    Ok(file)
}

/// Seals it. Mappings that are there stay as they are.
pub(crate) fn seal(file: &File) -> Result<(), OsError> {
    call("fcntl(F_ADD_SEALS)", || fcntl(file, FcntlArg::F_ADD_SEALS(SEALS))).map(drop)
}

/// Why a descriptor isn't what it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    NotMemory,
    /// These seals are missing.
    Unsealed(SealFlag),
    Len(u64),
    /// Only so many of its bytes have memory behind them.
    Holes(u64),
}

impl Flaw {
    /// In words, for a file that is to be `len_bytes` long.
    pub(crate) fn describe(self, len_bytes: u64) -> String {
        match self {
            Self::NotMemory => "is no memfd".into(),
            Self::Unsealed(missing) => {
                let names = [
                    (SealFlag::F_SEAL_SHRINK, "can be shrunk"),
                    (SealFlag::F_SEAL_GROW, "can be grown"),
                    (SealFlag::F_SEAL_SEAL, "can be sealed further"),
                    (FUTURE_WRITE, "can be written to by others"),
                ];
                let missing: Vec<_> = names.iter().filter(|(seal, _)| missing.intersects(*seal)).collect();
                let missing: Vec<_> = missing.into_iter().map(|(_, name)| *name).collect();
                missing.join(", ")
            }
            Self::Len(found) => format!("has {found} bytes, not {len_bytes}"),
            Self::Holes(found) => format!("has memory for {found} of its {len_bytes} bytes only"),
        }
    }
}

/// Looks whether what a peer gave is memory of this length that nobody but its maker can
/// change, and that can't go away. No call here can be held up by whoever made the descriptor:
/// what it stands for is found out first.
pub(crate) fn check(file: &File, len_bytes: u64) -> Result<Result<(), Flaw>, OsError> {
    // Of all file systems, only those of memory know seals.
    let seals = match attempt("fcntl(F_GET_SEALS)", || fcntl(file, FcntlArg::F_GET_SEALS)) {
        Ok(seals) => SealFlag::from_bits_retain(seals),
        Err(Errno::EINVAL | Errno::EBADF) => return Ok(Err(Flaw::NotMemory)),
        Err(errno) => return Err(OsError::new("fcntl(F_GET_SEALS)", errno)),
    };
    // Huge pages have another one, and may run out at an access.
    if call("fstatfs", || fstatfs(file))?.filesystem_type() != TMPFS_MAGIC {
        return Ok(Err(Flaw::NotMemory));
    }
    if !seals.contains(SEALS) {
        return Ok(Err(Flaw::Unsealed(SEALS.difference(seals))));
    }
    let stat = call("fstat", || fstat(file.as_fd()))?;
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if found != len_bytes {
        return Ok(Err(Flaw::Len(found)));
    }
    // Pages beyond the end count as well: who maps it asks for each of its own.
    let in_memory = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    if in_memory < len_bytes {
        return Ok(Err(Flaw::Holes(in_memory)));
    }
    Ok(Ok(()))
}
