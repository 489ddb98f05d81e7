//! What a transaction has of an arena.

use super::{ArenaError, ArenaStats, Offset, error::corrupt};
use crate::{
    ring::{
        arena::{self, ALIGNMENT_BYTES, Place, Session},
        memory::Words,
    },
    sync::{
        LockError, Plain,
        handle::{Handle, How},
        value,
    },
};
use ipc_core::Wait;
use std::marker::PhantomData;
use zerocopy::IntoBytes;

/// An [`Arena`](crate::sync::Arena)'s objects, as long as a transaction has them to itself.
///
/// References to objects end before anything is changed. An offset of one that is freed leads
/// nowhere at once; its room is given to others after the transaction.
///
/// It can't go to another thread, since the segment knows which one has it:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<ipc_shm::sync::Heap<'static>>();
/// ```
#[derive(Debug)]
pub struct Heap<'a> {
    session: Session<&'a Words>,
    /// Last: what isn't committed is undone with it.
    held: Held<'a>,
}

impl<'a> Heap<'a> {
    pub(super) fn new(held: Held<'a>, session: Session<&'a Words>) -> Self {
        Self { session, held }
    }

    /// Allocates a value.
    ///
    /// # Errors
    ///
    /// [`ArenaError::Full`], [`ArenaError::TooManyChanges`]; [`LockError::Corrupt`],
    /// [`LockError::Forked`].
    pub fn allocate<T: Plain>(&mut self, value: &T) -> Result<Offset<T>, ArenaError> {
        const { assert_fit::<T>() };
        Ok(Offset::from_bits(self.allocate_parts(&[value.as_bytes()])?))
    }

    /// Allocates a slice: bytes, text, a table.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate).
    pub fn allocate_slice<T: Plain>(&mut self, values: &[T]) -> Result<Offset<[T]>, ArenaError> {
        const { assert_fit::<T>() };
        Ok(Offset::from_bits(self.allocate_parts(&[values.as_bytes()])?))
    }

    /// Allocates an object of these bytes one after the other; each but the last has a multiple of 8.
    pub(super) fn allocate_parts(&mut self, parts: &[&[u8]]) -> Result<u64, ArenaError> {
        let session = self.session()?;
        let at = session.allocate(parts.iter().map(|part| part.len() as u64).sum())?;
        let mut skip = 0;
        for part in parts {
            session.write(at, skip, part)?;
            skip += part.len() as u64;
        }
        Ok(at)
    }

    /// A value.
    ///
    /// # Errors
    ///
    /// [`LockError::Corrupt`] if the offset doesn't lead to one; [`LockError::Forked`].
    pub fn get<T: Plain>(&self, at: Offset<T>) -> Result<&T, ArenaError> {
        match self.values_at(at.to_bits())? {
            [value] => Ok(value),
            other => corrupt(format!("{} values are at {at:?}, not one", other.len())),
        }
    }

    /// A slice.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_slice<T: Plain>(&self, at: Offset<[T]>) -> Result<&[T], ArenaError> {
        self.values_at(at.to_bits())
    }

    /// An object's bytes.
    pub(super) fn bytes_at(&self, at: u64) -> Result<&[u8], ArenaError> {
        self.values_at(at)
    }

    fn values_at<T: Plain>(&self, at: u64) -> Result<&[T], ArenaError> {
        const { assert_fit::<T>() };
        self.held.check()?;
        let (offset, len) = self.session.find(at)?;
        let (count, rest) = (len as usize / size_of::<T>(), len as usize % size_of::<T>());
        if rest != 0 {
            return corrupt(format!("{len} bytes are at offset {at}, not values of {}", size_of::<T>()));
        }
        // SAFETY: within the mapping, as `find` has checked, and aligned as all objects are. The
        // lock keeps every conforming peer process from writing as long as `self` lives, and we
        // do it by `&mut self` only.
        Ok(unsafe { value::slice(&self.held.handle.words, offset, count) })
    }

    /// Changes a value.
    ///
    /// # Errors
    ///
    /// [`ArenaError::TooManyChanges`]; and as [`get`](Self::get).
    pub fn set<T: Plain>(&mut self, at: Offset<T>, value: &T) -> Result<(), ArenaError> {
        self.get(at)?;
        self.write(at.to_bits(), 0, value.as_bytes())
    }

    /// Changes values of a slice, from its `first` one on.
    ///
    /// # Errors
    ///
    /// [`LockError::Corrupt`] if the slice hasn't so many; and as [`set`](Self::set).
    pub fn set_slice<T: Plain>(
        &mut self,
        at: Offset<[T]>,
        first: usize,
        values: &[T],
    ) -> Result<(), ArenaError> {
        let old = self.get_slice(at)?;
        if first.checked_add(values.len()).is_none_or(|end| end > old.len()) {
            return corrupt(format!("{at:?} has {} values", old.len()));
        }
        let begin = first * size_of::<T>();
        // Whole words, the first one with what is before it.
        let skip = begin / 8 * 8;
        let mut bytes = old.as_bytes()[skip..begin].to_vec();
        bytes.extend(values.as_bytes());
        self.write(at.to_bits(), skip as u64, &bytes)
    }

    /// Changes bytes of an object, from its byte `skip` on, a multiple of 8.
    pub(super) fn write(&mut self, at: u64, skip: u64, bytes: &[u8]) -> Result<(), ArenaError> {
        Ok(self.session()?.write(at, skip, bytes)?)
    }

    /// Frees an object, not what it leads to. It is gone at once, and others can have its room
    /// after this transaction.
    ///
    /// # Errors
    ///
    /// [`LockError::Corrupt`] if the offset leads nowhere; [`LockError::Forked`].
    pub fn free<T: ?Sized>(&mut self, at: Offset<T>) -> Result<(), ArenaError> {
        Ok(self.session()?.free(at.to_bits())?)
    }

    /// How much there is of what.
    ///
    /// # Errors
    ///
    /// [`LockError::Corrupt`], [`LockError::Forked`].
    pub fn stats(&self) -> Result<ArenaStats, ArenaError> {
        self.held.check()?;
        let arena::Figures { capacity_bytes, used_bytes, objects, largest_bytes } = self.session.figures()?;
        Ok(ArenaStats { capacity_bytes, used_bytes, objects, largest_bytes })
    }

    /// More objects than there can be: whoever meets more has gone round in circles.
    pub(super) fn most_objects(&self) -> u64 {
        self.session.place().most_objects()
    }

    pub(super) fn root<R: Plain>(&self) -> Result<R, ArenaError> {
        self.held.check()?;
        let mut words = vec![0_u64; size_of::<R>().div_ceil(8)];
        self.held.handle.words.copy_out(self.session.place().root(), &mut words);
        match R::read_from_prefix(words.as_bytes()) {
            Ok((root, _)) => Ok(root),
            Err(_) => corrupt("it is too small for its root".into()),
        }
    }

    pub(super) fn commit(&mut self, root: &[u8]) -> Result<(), ArenaError> {
        let session = self.session()?;
        session.set_root(root)?;
        Ok(session.commit()?)
    }

    fn session(&mut self) -> Result<&mut Session<&'a Words>, ArenaError> {
        self.held.check()?;
        Ok(&mut self.session)
    }
}

const fn assert_fit<T>() {
    assert!(size_of::<T>() > 0, "nothing need be allocated");
    assert!(align_of::<T>() as u64 <= ALIGNMENT_BYTES, "objects are aligned to at most 16 bytes");
}

/// The lock of an arena, had. When it is given back, what isn't committed is undone.
#[derive(Debug)]
pub(super) struct Held<'a> {
    handle: &'a Handle,
    place: Place,
    unsendable: PhantomData<*const ()>,
}

impl<'a> Held<'a> {
    pub(super) fn take(
        handle: &'a Handle,
        how: How,
        wait: Wait<'_>,
        place: Place,
    ) -> Result<Self, LockError> {
        // What a dead one left is undone by the next transaction: nobody has to repair it.
        handle.lock(How { repairs: true, ..how }, wait)?;
        Ok(Self { handle, place, unsendable: PhantomData })
    }

    fn check(&self) -> Result<(), LockError> {
        if self.handle.is_ours() { Ok(()) } else { Err(LockError::Forked) }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.handle.is_ours() {
            // If it is found damaged, so does the next one, and says so.
            let _ = arena::undo(&self.handle.words, &self.place);
            self.handle.give_back();
        }
    }
}
