//! A value in a segment's own pages.
//!
//! What makes it sound to refer to it is the lock around it: who has it is the only one, of
//! all processes that keep to the rules, that refers to the value. A process that doesn't,
//! and stores there all the same, is not among those that a named segment is for (see the
//! crate's documentation); whatever bytes it leaves are a value, because of [`Plain`].

use super::{Plain, handle::Handle};
use crate::ring::memory::Words;
use std::{marker::PhantomData, ptr::NonNull};

/// Values one after the other in a segment, to be read.
///
/// # Safety
///
/// They are within the mapping and aligned, the caller keeps it, and has a lock that keeps
/// everybody from writing there as long as the reference lives.
pub(super) unsafe fn slice<T: Plain>(words: &Words, offset: usize, count: usize) -> &[T] {
    let at = words.bytes(offset, count * size_of::<T>()).cast::<T>();
    debug_assert!(at.is_aligned(), "as the caller has seen to");
    // SAFETY: mapped and aligned, since the caller has checked that; any bytes are values, and
    // by the caller's lock no conforming peer process writes meanwhile.
    unsafe { std::slice::from_raw_parts(at.as_ptr(), count) }
}

/// Where a value is.
#[derive(Debug)]
pub(super) struct Value<T> {
    at: NonNull<T>,
    /// As if it were owned: whoever may have the value in another thread may use this.
    value: PhantomData<T>,
}

// SAFETY: only a pointer; what can be done with it is unsafe, and `T` may go anywhere.
unsafe impl<T: Plain> Send for Value<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Value<T> {}

impl<T: Plain> Value<T> {
    /// The value of this segment, which was checked to have this layout.
    pub(super) fn of(handle: &Handle) -> Self {
        Self::at(&handle.words, handle.place.data)
    }

    fn at(words: &Words, offset: usize) -> Self {
        let at = words.bytes(offset, size_of::<T>()).cast::<T>();
        assert!(at.is_aligned(), "data areas begin with a page, and larger alignments are refused");
        Self { at, value: PhantomData }
    }

    /// The value, to be read.
    ///
    /// # Safety
    ///
    /// The caller keeps the mapping, and has a lock that keeps everybody from writing as long
    /// as the reference lives.
    #[inline]
    pub(super) unsafe fn get(&self) -> &T {
        // SAFETY: mapped, aligned and of this length as checked in `at`, any bytes are a `T`,
        // and by the caller's lock no conforming peer process writes meanwhile.
        unsafe { self.at.as_ref() }
    }

    /// The value, to be changed.
    ///
    /// # Safety
    ///
    /// The caller keeps the mapping, and has a lock that keeps everybody else away as long as
    /// the reference lives, and lends it out once at a time.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the lock is what makes it exclusive")]
    pub(super) unsafe fn get_mut(&self) -> &mut T {
        // SAFETY: as in `get`, and no conforming peer process reads meanwhile.
        unsafe { &mut *self.at.as_ptr() }
    }
}
