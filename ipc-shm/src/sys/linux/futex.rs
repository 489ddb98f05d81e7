//! Sleeping on a word of shared memory: `futex(2)`, `FUTEX_WAIT` and `FUTEX_WAKE`, without
//! the private flag, since the sleepers are in different processes.

use super::once;
use nix::{errno::Errno, libc};
use std::{ptr, sync::atomic::AtomicU32, time::Duration};

/// Sleeps while `word` holds `expected`, for at most `timeout`. It may return early for any
/// reason (a wake-up, a signal, another value): the caller checks what it waits for.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos() as _,
    };
    // A signal ends the sleep like anything else.
    let _ = once("futex(FUTEX_WAIT)", || {
        // SAFETY: `word` is a live, aligned u32 and `timeout` a valid timespec for the whole
        // call; FUTEX_WAIT only compares the word, whatever a peer process stores meanwhile.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                expected,
                ptr::from_ref(&timeout),
                ptr::null::<u32>(),
                0u32,
            )
        })
    });
}

/// Wakes all who sleep on `word`, in every process.
pub(crate) fn wake_all(word: &AtomicU32) {
    // It can't fail on a word that is mapped.
    let _ = once("futex(FUTEX_WAKE)", || {
        // SAFETY: `word` is live and aligned; FUTEX_WAKE uses its address only.
        Errno::result(unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) })
    });
}
