//! What is asked of the processor itself.

/// Fetches the line of `address` for storing to it, if the processor can: see the AMD64
/// manual, volume 3, `PREFETCHW`. It is a hint, which changes nothing and never faults,
/// whatever the address is.
#[inline]
pub(crate) fn prefetch_for_store(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads no memory that the program could see, of any address; where it
    // isn't known it does nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Fetches the line of `address` for reading, if the processor can. A hint as well.
#[inline]
pub(crate) fn prefetch_for_load(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
