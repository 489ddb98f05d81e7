//! The seam to the operating system: every system call and every `cfg(target_os)` of this
//! crate is beneath this module, so that another system is another folder beside
//! `linux`, not a branch in code that exists.
//!
//! What is behind the seam:
//!
//! - [`map`]: the mapping of a segment, its data twice in a row, guard pages around it;
//! - [`file`]: directories and files, made unnamed and published whole;
//! - [`disk`]: what survives the machine;
//! - [`lock`]: byte locks that go exactly when their process is gone;
//! - [`futex`]: sleeping on a word of shared memory;
//! - [`memfd`]: memory without a name, sealed against what a peer must not do to it;
//! - [`socket`]: where peers who don't trust each other meet;
//! - [`notice`]: a descriptor that becomes readable when a file is touched;
//! - [`fence`]: the fence that the sleeper pays for;
//! - [`fork`]: what a forked child must not do with its parent's endpoints;
//! - [`limit`]: the words for reaching a limit;
//! - [`ident`]: who and where we are.
//!
//! [`cpu`] asks the processor, whatever the system is.

pub(crate) mod cpu;

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub(crate) use linux::{disk, fence, file, fork, futex, ident, limit, lock, map, memfd, notice, socket};

#[cfg(not(target_os = "linux"))]
compile_error!(
    "ipc-shm has no port to this system yet: add one beside ipc-shm/src/sys/linux (what it must \
     offer is listed in ipc-shm/src/sys/mod.rs)"
);
