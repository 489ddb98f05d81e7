//! Which standard streams were closed when we were started.
//!
//! Rust's runtime opens `/dev/null` in place of one that is closed, before `main`. Written to that,
//! messages would count as printed, and an input that isn't there would count as an empty one. So
//! we look before the runtime does: what an ELF file lists in `.init_array` is called before
//! `main` (System V ABI, "Initialization and Termination Functions"). Where there are no such
//! files, nothing is known.
//!
//! And what else we inherit that isn't to be left as it is: signals of which the kernel makes
//! something before anybody is asked, `signal(7)`.

// A section is named, and the C library is asked what its safe wrappers don't: they take
// descriptors that are known to be open. std knows no call for signals, and nix's is unsafe as a handler
// may be given to it: none is here.
#![allow(unsafe_code)]

use crate::exit::{Exit, Failure};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::{
    io,
    os::fd::RawFd,
    sync::atomic::{AtomicU8, Ordering},
};

/// Bit 0: standard input was closed, bit 1: standard output, bit 2: standard error.
static CLOSED: AtomicU8 = AtomicU8::new(0);

#[cfg(target_os = "linux")]
mod before_main {
    use super::{CLOSED, Ordering};
    use nix::libc;

    // SAFETY: the section holds addresses of functions of this type, and all that this one relies
    // on is there before any of them is called: system calls, `errno` and a static.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;

    extern "C" fn look() {
        for stream in libc::STDIN_FILENO..=libc::STDERR_FILENO {
            // SAFETY: it takes no pointer, and any number for a descriptor.
            if unsafe { libc::fcntl(stream, libc::F_GETFD) } == -1 {
                // Relaxed: there is no other thread yet.
                CLOSED.fetch_or(1 << stream, Ordering::Relaxed);
            }
        }
    }
}

/// The standard streams that were closed when we were started.
pub(crate) fn closed() -> impl Iterator<Item = RawFd> {
    (0..=2).filter(|&stream| is_closed(stream))
}

fn is_closed(stream: RawFd) -> bool {
    CLOSED.load(Ordering::Relaxed) >> stream & 1 == 1
}

/// Fails if standard input was closed when we were started.
pub(crate) fn require_input() -> Result<(), Failure> {
    require(0, "standard input is closed: redirect it, from /dev/null if there is nothing to read")
}

/// Fails if standard output was closed when we were started.
pub(crate) fn require_output() -> Result<(), Failure> {
    require(1, "standard output is closed: redirect it, to /dev/null if nothing is to be kept")
}

fn require(stream: RawFd, or_else: &str) -> Result<(), Failure> {
    match is_closed(stream) {
        true => Err(Failure::bare(Exit::Failure, or_else)),
        false => Ok(()),
    }
}

/// Has children stay until they are waited for. Where SIGCHLD is ignored, as we may have inherited
/// it, they are gone when they end, and how they ended is lost (`waitpid(2)`, "Notes"). Our children
/// don't ignore it then either: `posix_spawn(3)` can't have them do so, and to ignore it while one is
/// started would be long enough to lose another one.
pub(crate) fn keep_ended_children() -> io::Result<()> {
    // SAFETY: no handler is set, and nobody else in this program sets one.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Has a file that may not grow (`ulimit -f`) be an error of write(2), as a full disk is, where
/// SIGXFSZ would end us with what we hold.
pub(crate) fn survive_file_size_limit() -> io::Result<()> {
    // SAFETY: as above.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
    Ok(())
}
