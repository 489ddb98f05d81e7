//! Shared memory as the rings see it: 64-bit words by their byte offset in the segment.

use crate::{
    hooks,
    sys::{
        cpu,
        map::{Access, Mapping},
    },
};
use ipc_core::OsError;
use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{self, AtomicU32, AtomicU64, Ordering},
    },
};

/// The words of a segment.
pub(crate) trait Memory {
    /// Loads the word at `offset`.
    fn load(&self, offset: usize, order: Ordering) -> u64;
    /// Stores to the word at `offset`.
    fn store(&self, offset: usize, value: u64, order: Ordering);
    /// Stores `new` to the word at `offset` if it holds `current`: what it held, or what it
    /// holds instead. The load of a failure is an Acquire.
    fn compare_exchange(&self, offset: usize, current: u64, new: u64, order: Ordering) -> Result<u64, u64>;
    /// Adds to the word at `offset`, wrapping; what it held before.
    fn fetch_add(&self, offset: usize, value: u64, order: Ordering) -> u64;

    /// Looks at the word at `offset` by the way, in no particular order: nothing is made of it
    /// but whether it is time to load it.
    #[inline]
    fn peek(&self, offset: usize) -> u64 {
        self.load(offset, Ordering::Relaxed)
    }

    /// Stores zero to the words in the `len` bytes from `offset` on, to which nobody else stores:
    /// one after the other in no particular order, and of them all what `order` says of a store.
    #[cfg_attr(any(test, feature = "crash-points"), track_caller)]
    fn clear(&self, offset: usize, len: usize, order: Ordering) {
        for word in (offset..offset + len).step_by(size_of::<u64>()) {
            self.store(word, 0, order);
        }
    }

    /// Says that the words around `offset` will be stored to before long, so that their line
    /// is fetched for it meanwhile. Nothing comes of it but time saved.
    #[inline]
    fn expect_store(&self, _offset: usize) {}

    /// The same, for who will only read there.
    #[inline]
    fn expect_load(&self, _offset: usize) {}

    /// A fence among accesses to any words.
    #[inline]
    fn fence(&self, order: Ordering) {
        atomic::fence(order);
    }

    /// A fence that follows a compare-and-swap or an addition.
    #[inline]
    #[cfg_attr(any(test, feature = "crash-points"), track_caller)]
    fn fence_after_swap(&self, order: Ordering) {
        self.fence(order);
    }
}

impl<M: Memory> Memory for &M {
    #[inline]
    #[cfg_attr(any(test, feature = "crash-points"), track_caller)]
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        (**self).load(offset, order)
    }

    #[inline]
    #[cfg_attr(any(test, feature = "crash-points"), track_caller)]
    fn store(&self, offset: usize, value: u64, order: Ordering) {
        (**self).store(offset, value, order);
    }

    #[inline]
    #[cfg_attr(any(test, feature = "crash-points"), track_caller)]
    fn compare_exchange(&self, offset: usize, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        (**self).compare_exchange(offset, current, new, order)
    }

    #[inline]
    #[cfg_attr(any(test, feature = "crash-points"), track_caller)]
    fn fetch_add(&self, offset: usize, value: u64, order: Ordering) -> u64 {
        (**self).fetch_add(offset, value, order)
    }
}

/// Messages up to this length are copied word by word.
const SHORT_BYTES: usize = 64;

/// Copies a message into its place, of the same length, which begins at a multiple of 8.
///
/// A short one takes a few stores in line, none of them across two lines of the cache: such a
/// store waits until this processor has both of them at once, while whoever waits for the
/// message looks at the first one all the time. And a call to `memcpy` costs as much as all
/// the rest of a small message.
#[inline]
pub(crate) fn copy_message(to: &mut [u8], from: &[u8]) {
    if from.len() > SHORT_BYTES {
        return ipc_core::copy_message(to, from);
    }
    debug_assert!(to.as_ptr().cast::<u64>().is_aligned(), "a payload begins at a multiple of 8");
    if let (Some(to), Ok(word)) = (to.first_chunk_mut(), from.try_into()) {
        return *to = u64::from_ne_bytes(word).to_ne_bytes();
    }
    let (mut to, mut from) = (to.chunks_exact_mut(8), from.chunks_exact(8));
    for (to, from) in to.by_ref().zip(from.by_ref()) {
        let word = u64::from_ne_bytes(from.try_into().expect("chunks of 8"));
        // SAFETY: a word of a slice that is ours alone, at a multiple of 8. Volatile, so that
        // the stores are made as they stand here and not in pairs.
        unsafe { to.as_mut_ptr().cast::<u64>().write_volatile(word) };
    }
    for (to, from) in to.into_remainder().iter_mut().zip(from.remainder()) {
        *to = *from;
    }
}

/// The words of a mapped segment, without a check at each access: an offset is a constant
/// of the layout or a place in the ring, and both were checked against the mapping's length
/// when the segment was opened (`Header::parse`, `Mapping::new`).
#[derive(Clone, Debug)]
pub(crate) struct Words {
    base: NonNull<u8>,
    /// Keeps the memory mapped.
    mapping: Arc<Mapping>,
}

// SAFETY: `base` points into `mapping`, which may go to another thread, and what is there
// is reached as described at `Mapping`.
unsafe impl Send for Words {}
// SAFETY: as above; they are the same words in whatever thread.
unsafe impl Sync for Words {}

impl Words {
    /// The words of this mapping.
    pub(crate) fn new(mapping: &Arc<Mapping>) -> Self {
        Self { base: mapping.bytes(0, mapping.len_bytes()), mapping: Arc::clone(mapping) }
    }

    /// Whether they are there: a forked child has nothing at their place, or by now something else.
    pub(crate) fn are_ours(&self) -> bool {
        self.mapping.is_ours()
    }

    /// Changes what may be done to all of the memory, by whoever of this process.
    pub(crate) fn protect(&self, access: Access) -> Result<(), OsError> {
        self.mapping.protect(access)
    }

    /// Copies `to.len()` words of a payload from `offset` on, each loaded once: what they hold
    /// may change meanwhile, what was copied doesn't.
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, to: &mut [u64]) {
        debug_assert!(offset + size_of_val(to) <= self.mapping.len_bytes(), "a range beyond the mapping");
        for (index, word) in to.iter_mut().enumerate() {
            *word = self.word(offset + index * size_of::<u64>()).load(Ordering::Relaxed);
        }
    }

    /// The address of `len` bytes at `offset`.
    #[inline]
    pub(crate) fn bytes(&self, offset: usize, len: usize) -> NonNull<u8> {
        debug_assert!(offset + len <= self.mapping.len_bytes(), "a range beyond the mapping");
        // SAFETY: within the mapping, which `self` keeps: see the type.
        unsafe { self.base.add(offset) }
    }

    /// The 32-bit word at `offset`, for futexes.
    #[inline]
    pub(crate) fn half_word(&self, offset: usize) -> HalfWord<'_> {
        debug_assert!(offset % 4 == 0, "an unaligned word");
        let word = self.bytes(offset, 4).cast::<AtomicU32>();
        // SAFETY: mapped as long as `self` lives, aligned since the base is a page's start
        // and `offset` a constant of the layout. Peers access it by atomic operations too.
        HalfWord(unsafe { word.as_ref() })
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset % 8 == 0, "an unaligned word");
        let word = self.bytes(offset, 8).cast::<AtomicU64>();
        // SAFETY: mapped as long as `self` lives; aligned, since the base is a page's start
        // and places in the ring are multiples of 8. Peers access it by atomic operations
        // too, except where the algorithm gave a payload to one side.
        unsafe { word.as_ref() }
    }
}

/// A 32-bit word of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HalfWord<'a>(&'a AtomicU32);

impl<'a> HalfWord<'a> {
    /// The word itself, to sleep on.
    pub(crate) fn get(self) -> &'a AtomicU32 {
        self.0
    }

    #[inline]
    #[cfg_attr(feature = "crash-points", track_caller)]
    pub(crate) fn load(self, order: Ordering) -> u32 {
        hooks::access("load", || self.0.load(order))
    }

    #[inline]
    #[cfg_attr(feature = "crash-points", track_caller)]
    pub(crate) fn store(self, value: u32, order: Ordering) {
        hooks::access("store", || self.0.store(value, order));
    }

    #[cfg_attr(feature = "crash-points", track_caller)]
    pub(crate) fn fetch_or(self, bits: u32, order: Ordering) -> u32 {
        hooks::access("fetch_or", || self.0.fetch_or(bits, order))
    }

    /// Puts what `change` makes of the word in its place, and returns what it was.
    #[cfg_attr(feature = "crash-points", track_caller)]
    pub(crate) fn fetch_update(self, order: Ordering, change: impl Fn(u32) -> u32) -> u32 {
        let made = || self.0.fetch_update(order, Ordering::Relaxed, |word| Some(change(word)));
        hooks::access("fetch_update", || made().unwrap_or_else(|word| word))
    }
}

impl Memory for Words {
    // Without the points of tests: there may be any number of looks.
    #[inline]
    fn peek(&self, offset: usize) -> u64 {
        let order = Ordering::Relaxed;
        self.word(offset).load(order)
    }

    #[cfg_attr(feature = "crash-points", track_caller)]
    fn clear(&self, offset: usize, len: usize, order: Ordering) {
        let bytes = self.bytes(offset, len);
        // What orders each of the stores that follow it.
        atomic::fence(order);
        // SAFETY: within the mapping, and this side's alone to write to, as a payload's place is.
        hooks::access("clear", || unsafe { bytes.write_bytes(0, len) });
    }

    #[inline]
    fn expect_store(&self, offset: usize) {
        cpu::prefetch_for_store(self.base.as_ptr().wrapping_add(offset));
    }

    #[inline]
    fn expect_load(&self, offset: usize) {
        cpu::prefetch_for_load(self.base.as_ptr().wrapping_add(offset));
    }

    #[inline]
    #[cfg_attr(feature = "crash-points", track_caller)]
    fn load(&self, offset: usize, order: Ordering) -> u64 {
        hooks::access("load", || self.word(offset).load(order))
    }

    #[inline]
    #[cfg_attr(feature = "crash-points", track_caller)]
    fn store(&self, offset: usize, value: u64, order: Ordering) {
        hooks::access("store", || self.word(offset).store(value, order));
    }

    #[inline]
    #[cfg_attr(feature = "crash-points", track_caller)]
    fn compare_exchange(&self, offset: usize, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        hooks::access("compare_exchange", || {
            self.word(offset).compare_exchange(current, new, order, Ordering::Acquire)
        })
    }

    #[inline]
    #[cfg_attr(feature = "crash-points", track_caller)]
    fn fetch_add(&self, offset: usize, value: u64, order: Ordering) -> u64 {
        hooks::access("fetch_add", || self.word(offset).fetch_add(value, order))
    }

    /// On x86-64 such an instruction is a full fence itself (Intel, "Software developer's
    /// manual", 3A 9.2.3.9), so that only the compiler has to be held, as in `crossbeam-epoch`.
    #[inline]
    fn fence_after_swap(&self, order: Ordering) {
        if cfg!(target_arch = "x86_64") {
            atomic::compiler_fence(order);
        } else {
            atomic::fence(order);
        }
    }
}
