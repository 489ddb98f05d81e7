//! A map in an arena: a crit-bit tree (Bernstein, "Crit-bit trees", 2004; Morrison, "PATRICIA",
//! 1968).
//!
//! A branch says at which bit the keys beneath it differ first, and has a child for each of its
//! values; a leaf is a key and its value. So a change is at most two objects and one link, whatever
//! the map's size, and the order is that of the keys. Bits are counted nine to a byte: the first
//! says that there is a byte. Positions grow on every way down, so no way goes round in circles,
//! whatever is found there.

use super::{ArenaError, Heap, Offset, error::corrupt};
use zerocopy::{FromBytes, Immutable, IntoBytes};

crate::layout! {
    /// A map from byte strings to byte strings in an [`Arena`](crate::sync::Arena), in the order of
    /// the keys: part of the root, or of an object.
    ///
    /// It is a value: who changes it stores it where it was, in the same transaction; for one in
    /// the root, that is done when the transaction ends.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
    pub struct Map {
        root: Link,
        len: u64,
    }
}

crate::layout! {
    /// Where a leaf or, with the lowest bit set, a branch is; 0 if there is none.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
    struct Link {
        bits: u64,
    }
}

crate::layout! {
    #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
    struct Branch {
        position: u64,
        children: [Link; 2],
    }
}

/// Bytes of a leaf before its key: how many that has.
const LEN_BYTES: usize = 8;

/// What a link leads to.
enum Node<'h> {
    Nothing,
    Leaf { key: &'h [u8], value: &'h [u8] },
    Branch(Offset<Branch>, Branch),
}

/// Where a link is.
#[derive(Clone, Copy)]
enum Slot {
    Root,
    Child(Offset<Branch>, usize),
}

impl Map {
    /// How many keys there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a key, if it has one.
    ///
    /// # Errors
    ///
    /// [`LockError::Corrupt`](crate::sync::LockError::Corrupt),
    /// [`LockError::Forked`](crate::sync::LockError::Forked).
    pub fn get<'h>(&self, heap: &'h Heap<'_>, key: &[u8]) -> Result<Option<&'h [u8]>, ArenaError> {
        let (_, link) = self.descend(heap, key, u64::MAX)?;
        match link.node(heap)? {
            Node::Leaf { key: found, value } if found == key => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// Gives a key a value; true if it had one before.
    ///
    /// # Errors
    ///
    /// [`ArenaError::Full`]: the map is what it was, and the transaction can go on;
    /// [`ArenaError::TooManyChanges`]; and as [`get`](Self::get).
    pub fn insert(&mut self, heap: &mut Heap<'_>, key: &[u8], value: &[u8]) -> Result<bool, ArenaError> {
        let (path, link) = self.descend(heap, key, u64::MAX)?;
        let position = match link.node(heap)? {
            Node::Leaf { key: found, .. } => first_difference(found, key),
            _ => None,
        };
        let leaf = Link::to_leaf(heap, key, value)?;
        let Some(position) = position else {
            let had_one = link != Link::default();
            self.set(heap, path.slot(), leaf)?;
            if had_one {
                heap.free(link.offset())?;
            } else {
                self.len = self.len.wrapping_add(1);
            }
            return Ok(had_one);
        };
        let (path, beneath) = self.descend(heap, key, position)?;
        let mut children = [beneath; 2];
        children[bit(key, position)] = leaf;
        let branch = match heap.allocate(&Branch { position, children }) {
            Ok(branch) => branch,
            Err(full) => {
                // What nothing leads to would be there for ever.
                heap.free(leaf.offset())?;
                return Err(full);
            }
        };
        self.set(heap, path.slot(), Link::to_branch(branch))?;
        self.len = self.len.wrapping_add(1);
        Ok(false)
    }

    /// Takes a key out; true if it was there.
    ///
    /// # Errors
    ///
    /// [`ArenaError::TooManyChanges`]; and as [`get`](Self::get).
    pub fn remove(&mut self, heap: &mut Heap<'_>, key: &[u8]) -> Result<bool, ArenaError> {
        let (path, link) = self.descend(heap, key, u64::MAX)?;
        if !matches!(link.node(heap)?, Node::Leaf { key: found, .. } if found == key) {
            return Ok(false);
        }
        // The branch above has one child left, which takes its place.
        match path.last {
            None => self.set(heap, Slot::Root, Link::default())?,
            Some((branch, child)) => {
                let sibling = heap.get(branch)?.children[1 - child];
                self.set(heap, path.above, sibling)?;
                heap.free(branch)?;
            }
        }
        heap.free(link.offset())?;
        self.len = self.len.wrapping_sub(1);
        Ok(true)
    }

    /// The keys and their values, in the keys' order. After an error there are no more.
    pub fn iter<'h>(
        &self,
        heap: &'h Heap<'_>,
    ) -> impl Iterator<Item = Result<(&'h [u8], &'h [u8]), ArenaError>> + 'h {
        let (mut waiting, mut left) = (vec![(self.root, 0)], heap.most_objects());
        std::iter::from_fn(move || {
            while let Some((link, least)) = waiting.pop() {
                let node = match left {
                    0 => corrupt("a map has more than there can be".into()),
                    _ => link.node(heap),
                };
                left = left.saturating_sub(1);
                match node {
                    Ok(Node::Nothing) => {}
                    Ok(Node::Leaf { key, value }) => return Some(Ok((key, value))),
                    Ok(Node::Branch(_, Branch { position, children })) if position >= least => {
                        waiting.extend(children.into_iter().rev().map(|child| (child, position + 1)));
                    }
                    Ok(Node::Branch(at, _)) => {
                        waiting.clear();
                        return Some(corrupt(format!("the branch at {at:?} is in disorder")));
                    }
                    Err(error) => {
                        waiting.clear();
                        return Some(Err(error));
                    }
                }
            }
            None
        })
    }

    /// Goes down a key's way, to a leaf or to where bit `until` would be decided.
    fn descend(&self, heap: &Heap<'_>, key: &[u8], until: u64) -> Result<(Path, Link), ArenaError> {
        let (mut path, mut link, mut least) = (Path { above: Slot::Root, last: None }, self.root, 0);
        loop {
            let Node::Branch(at, branch) = link.node(heap)? else { return Ok((path, link)) };
            if branch.position < least {
                return corrupt(format!("the branch at {at:?} is in disorder"));
            }
            if branch.position >= until {
                return Ok((path, link));
            }
            let child = bit(key, branch.position);
            path = Path { above: path.slot(), last: Some((at, child)) };
            link = branch.children[child];
            least = branch.position + 1;
        }
    }

    fn set(&mut self, heap: &mut Heap<'_>, slot: Slot, link: Link) -> Result<(), ArenaError> {
        match slot {
            Slot::Root => self.root = link,
            Slot::Child(at, child) => {
                let mut branch = *heap.get(at)?;
                branch.children[child] = link;
                heap.set(at, &branch)?;
            }
        }
        Ok(())
    }
}

/// How a link was come to.
struct Path {
    /// Where the link to the last branch is.
    above: Slot,
    last: Option<(Offset<Branch>, usize)>,
}

impl Path {
    fn slot(&self) -> Slot {
        self.last.map_or(Slot::Root, |(at, child)| Slot::Child(at, child))
    }
}

impl Link {
    fn to_leaf(heap: &mut Heap<'_>, key: &[u8], value: &[u8]) -> Result<Self, ArenaError> {
        let both = [key, value].concat();
        Ok(Self { bits: heap.allocate_parts(&[&(key.len() as u64).to_ne_bytes(), &both])? })
    }

    fn to_branch(at: Offset<Branch>) -> Self {
        Self { bits: at.to_bits() | 1 }
    }

    fn offset(self) -> Offset<[u8]> {
        Offset::from_bits(self.bits & !1)
    }

    fn node<'h>(self, heap: &'h Heap<'_>) -> Result<Node<'h>, ArenaError> {
        if self.bits == 0 {
            return Ok(Node::Nothing);
        }
        if self.bits & 1 == 1 {
            let at = Offset::<Branch>::from_bits(self.bits & !1);
            return match *heap.get(at)? {
                Branch { position: u64::MAX, .. } => corrupt(format!("the branch at {at:?} is in disorder")),
                branch => Ok(Node::Branch(at, branch)),
            };
        }
        let bytes = heap.bytes_at(self.bits)?.split_first_chunk::<LEN_BYTES>();
        let leaf = bytes
            .and_then(|(len, both)| both.split_at_checked(usize::try_from(u64::from_ne_bytes(*len)).ok()?));
        match leaf {
            Some((key, value)) => Ok(Node::Leaf { key, value }),
            None => corrupt(format!("no entry of a map is at {:?}", self.offset())),
        }
    }
}

/// A bit of a key.
fn bit(key: &[u8], position: u64) -> usize {
    let byte = usize::try_from(position / 9).ok().and_then(|at| key.get(at));
    match (byte, position % 9) {
        (None, _) => 0,
        (Some(_), 0) => 1,
        (Some(byte), which) => usize::from(byte >> (8 - which) & 1),
    }
}

/// The first bit in which two keys differ.
fn first_difference(one: &[u8], other: &[u8]) -> Option<u64> {
    let at = (0..one.len().max(other.len())).find(|&at| one.get(at) != other.get(at))?;
    let within = match (one.get(at), other.get(at)) {
        (Some(one), Some(other)) => 1 + (one ^ other).leading_zeros(),
        _ => 0,
    };
    Some(9 * at as u64 + u64::from(within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_first_where_their_order_is_decided() {
        let keys: [&[u8]; 6] = [b"", b"\0", b"\0\0", b"a", b"ab", b"b"];
        for (number, one) in keys.iter().enumerate() {
            for other in &keys[number + 1..] {
                let position = first_difference(one, other).unwrap();
                assert_eq!((bit(one, position), bit(other, position)), (0, 1), "{one:?}, {other:?}");
                assert!((0..position).all(|before| bit(one, before) == bit(other, before)));
            }
            assert_eq!(first_difference(one, one), None);
        }
    }
}
