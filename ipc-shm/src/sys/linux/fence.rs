//! The asymmetric fence: `membarrier(2)`, `MEMBARRIER_CMD_GLOBAL_EXPEDITED`.
//!
//! Whoever is about to sleep stores a flag, then loads the ring; whoever sends stores to
//! the ring, then loads the flag. Both need a full fence between the two, and the sender
//! would pay for it at every message. Instead the sleeper asks the kernel to run a full
//! fence on every processor that runs a *registered* process, between its own store and
//! load; the sender gets by with a compiler fence.

use super::{fork, once};
use nix::{errno::Errno, libc};
use std::sync::atomic::{AtomicU64, Ordering};

/// Registers this process for the fences of others, once; later calls cost one load.
/// False if the system doesn't offer it (an old kernel, a sandbox).
pub(crate) fn register() -> bool {
    const UNKNOWN: u64 = 0;
    const YES: u64 = 1;
    const NO: u64 = 2;
    // A forked child asks anew: two bits of answer beside the generation that it holds for.
    static ANSWER: AtomicU64 = AtomicU64::new(UNKNOWN);
    let generation = u64::from(fork::generation()) << 2;
    let known = ANSWER.load(Ordering::Relaxed);
    if known & !3 == generation && known & 3 != UNKNOWN {
        return known & 3 == YES;
    }
    let registered = membarrier(libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
    ANSWER.store(generation | if registered { YES } else { NO }, Ordering::Relaxed);
    registered
}

/// Runs a full fence on every processor that runs a registered process, this one included.
/// False if the system refused; nothing is ordered then.
pub(crate) fn everywhere() -> bool {
    membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED)
}

fn membarrier(command: libc::c_int) -> bool {
    let done = once("membarrier", || {
        // SAFETY: membarrier takes no pointers; an unknown command is an error, nothing else.
        Errno::result(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) })
    });
    done.is_ok()
}
