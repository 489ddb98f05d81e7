//! Shared memory as the rings see it: 64-bit words by their byte offset in the segment.

use crate::sys::map::Mapping;
use std::sync::{Arc, atomic::Ordering};

/// The words of a segment.
pub(crate) trait Memory {
    /// Loads the word at `offset`.
    fn load(&self, offset: usize, order: Ordering) -> u64;
    /// Stores to the word at `offset`.
    fn store(&self, offset: usize, value: u64, order: Ordering);
}

impl Memory for Arc<Mapping> {
    #[inline]
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        self.word(offset).load(order)
    }

    #[inline]
    fn store(&self, offset: usize, value: u64, order: Ordering) {
        self.word(offset).store(value, order);
    }
}
