//! A list in an arena: objects that lead to each other.

use super::{ArenaError, Heap, Offset, error::corrupt};
use zerocopy::IntoBytes;

crate::layout! {
    /// A list of byte strings in an [`Arena`](crate::sync::Arena), of any number and lengths: part
    /// of the root, or of an object.
    ///
    /// It is a value: who changes it stores it where it was, in the same transaction; for one in
    /// the root, that is done when the transaction ends.
    ///
    /// Each item is an object: where the next one is, and its bytes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct List {
        first: Offset<[u8]>,
        last: Offset<[u8]>,
        len: u64,
    }
}

/// Bytes of an item before its own.
const NEXT_BYTES: usize = 8;

impl List {
    /// How many items there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item at the end.
    ///
    /// # Errors
    ///
    /// [`ArenaError::Full`]: the list is what it was; [`ArenaError::TooManyChanges`],
    /// [`LockError::Corrupt`](crate::sync::LockError::Corrupt),
    /// [`LockError::Forked`](crate::sync::LockError::Forked).
    pub fn push_back(&mut self, heap: &mut Heap<'_>, item: &[u8]) -> Result<(), ArenaError> {
        let at = heap.allocate_parts(&[&0_u64.to_ne_bytes(), item])?;
        if self.last.is_none() {
            self.first = Offset::from_bits(at);
        } else {
            split(heap, self.last)?;
            heap.write(self.last.to_bits(), 0, &at.to_ne_bytes())?;
        }
        self.last = Offset::from_bits(at);
        self.len = self.len.wrapping_add(1);
        Ok(())
    }

    /// Adds an item at the beginning.
    ///
    /// # Errors
    ///
    /// As [`push_back`](Self::push_back).
    pub fn push_front(&mut self, heap: &mut Heap<'_>, item: &[u8]) -> Result<(), ArenaError> {
        let at = Offset::from_bits(heap.allocate_parts(&[self.first.as_bytes(), item])?);
        if self.last.is_none() {
            self.last = at;
        }
        self.first = at;
        self.len = self.len.wrapping_add(1);
        Ok(())
    }

    /// Takes the first item; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`push_back`](Self::push_back), but for [`ArenaError::Full`].
    pub fn pop_front(&mut self, heap: &mut Heap<'_>) -> Result<Option<Vec<u8>>, ArenaError> {
        if self.first.is_none() {
            return Ok(None);
        }
        let (next, item) = split(heap, self.first)?;
        let item = item.to_vec();
        heap.free(self.first)?;
        self.first = next;
        if next.is_none() {
            self.last = Offset::NONE;
        }
        self.len = self.len.wrapping_sub(1);
        Ok(Some(item))
    }

    /// Takes the last item; `None` if there is none. Items lead to the next one only, so this walks
    /// the whole list.
    ///
    /// # Errors
    ///
    /// As [`pop_front`](Self::pop_front).
    pub fn pop_back(&mut self, heap: &mut Heap<'_>) -> Result<Option<Vec<u8>>, ArenaError> {
        let places = self.places(heap)?;
        let Some((&last, others)) = places.split_last() else { return Ok(None) };
        let item = split(heap, last)?.1.to_vec();
        let before = others.last().copied();
        match before {
            Some(before) => heap.write(before.to_bits(), 0, &0_u64.to_ne_bytes())?,
            None => self.first = Offset::NONE,
        }
        heap.free(last)?;
        self.last = before.unwrap_or_default();
        self.len = self.len.wrapping_sub(1);
        Ok(Some(item))
    }

    /// Takes out all items.
    ///
    /// To free an object changes up to ten words when the transaction is committed, which is refused
    /// beyond [`Arena::MAX_CHANGES`](crate::sync::Arena::MAX_CHANGES): a list of more than a hundred
    /// items is emptied in several transactions, by [`pop_front`](Self::pop_front).
    ///
    /// # Errors
    ///
    /// [`LockError::Corrupt`](crate::sync::LockError::Corrupt),
    /// [`LockError::Forked`](crate::sync::LockError::Forked); [`ArenaError::TooManyChanges`] when the
    /// transaction ends.
    pub fn clear(&mut self, heap: &mut Heap<'_>) -> Result<(), ArenaError> {
        self.places(heap)?.into_iter().try_for_each(|at| heap.free(at))?;
        *self = Self::default();
        Ok(())
    }

    /// The first item; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`LockError::Corrupt`](crate::sync::LockError::Corrupt),
    /// [`LockError::Forked`](crate::sync::LockError::Forked).
    pub fn front<'h>(&self, heap: &'h Heap<'_>) -> Result<Option<&'h [u8]>, ArenaError> {
        self.iter(heap).next().transpose()
    }

    /// Where the items are.
    fn places(&self, heap: &Heap<'_>) -> Result<Vec<Offset<[u8]>>, ArenaError> {
        let (mut places, mut next) = (Vec::new(), self.first);
        while !next.is_none() {
            if places.len() as u64 == heap.most_objects() {
                return corrupt("a list has no end".into());
            }
            places.push(next);
            next = split(heap, next)?.0;
        }
        Ok(places)
    }

    /// The items, from the first one on. After an error there are no more.
    pub fn iter<'h>(&self, heap: &'h Heap<'_>) -> impl Iterator<Item = Result<&'h [u8], ArenaError>> + 'h {
        let (mut next, mut left) = (self.first, heap.most_objects());
        std::iter::from_fn(move || {
            if next.is_none() {
                return None;
            }
            let found = match left {
                0 => corrupt("a list has no end".into()),
                _ => split(heap, next),
            };
            left = left.saturating_sub(1);
            let (after, item) = match found {
                Ok((after, item)) => (after, Ok(item)),
                Err(error) => (Offset::NONE, Err(error)),
            };
            next = after;
            Some(item)
        })
    }
}

/// Where the next item is, and this one's bytes.
fn split<'h>(heap: &'h Heap<'_>, at: Offset<[u8]>) -> Result<(Offset<[u8]>, &'h [u8]), ArenaError> {
    match heap.bytes_at(at.to_bits())?.split_first_chunk::<NEXT_BYTES>() {
        Some((next, item)) => Ok((Offset::from_bits(u64::from_ne_bytes(*next)), item)),
        None => corrupt(format!("no item of a list is at {at:?}")),
    }
}
