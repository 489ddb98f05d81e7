//! References that mean the same in every process.

use crate::sync::Layout;
use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Where in an [`Arena`](crate::sync::Arena) a `T` is, or a slice of them: a number, which can be
/// shared itself. The default leads nowhere.
///
/// It is checked whenever it is used, so one that is wrong is an error, or leads to another
/// object of the same length; it never leads out of the arena.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Offset<T: ?Sized> {
    at: u64,
    of: PhantomData<fn() -> T>,
}

impl<T: ?Sized> Offset<T> {
    /// Leads nowhere.
    pub const NONE: Self = Self::from_bits(0);

    /// The offset with this number.
    pub const fn from_bits(bits: u64) -> Self {
        Self { at: bits, of: PhantomData }
    }

    /// Its number.
    pub const fn to_bits(self) -> u64 {
        self.at
    }

    /// Whether it leads nowhere.
    pub const fn is_none(self) -> bool {
        self.at == 0
    }
}

impl<T: ?Sized> Clone for Offset<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Offset<T> {}

impl<T: ?Sized> Default for Offset<T> {
    fn default() -> Self {
        Self::NONE
    }
}

impl<T: ?Sized> PartialEq for Offset<T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<T: ?Sized> Eq for Offset<T> {}

impl<T: ?Sized> Hash for Offset<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.at.hash(state);
    }
}

/// By their numbers.
impl<T: ?Sized> Ord for Offset<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl<T: ?Sized> PartialOrd for Offset<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: ?Sized> fmt::Debug for Offset<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offset({})", self.at)
    }
}

/// What it leads to is part of the layout, but not what that leads to: it may be itself.
impl<T: Layout + ?Sized> Layout for Offset<T> {
    fn describe(text: &mut String) {
        let is_within_another = text.matches('<').count() > text.matches('>').count();
        if is_within_another {
            text.push_str("offset");
        } else {
            text.push_str("offset<");
            T::describe(text);
            text.push('>');
        }
    }
}
