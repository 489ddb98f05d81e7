//! What nobody else has: `getrandom(2)`.

use crate::wait::uninterrupted;
use nix::{errno::Errno, libc};
use std::mem::{self, MaybeUninit};

/// Sixty-four random bits.
pub(crate) fn bits() -> Result<u64, Errno> {
    let mut bits = MaybeUninit::<u64>::uninit();
    uninterrupted(|| {
        // SAFETY: there is room for eight bytes, which the call writes all at once.
        Errno::result(unsafe { libc::getrandom(bits.as_mut_ptr().cast(), mem::size_of::<u64>(), 0) })
    })?;
    // SAFETY: requests of up to 256 bytes are never answered in part.
    Ok(unsafe { bits.assume_init() })
}
