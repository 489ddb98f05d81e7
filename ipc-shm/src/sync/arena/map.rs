//! A map in an arena: a crit-bit tree (Bernstein, "Crit-bit trees", 2004; Morrison, "PATRICIA",
//! 1968).
//!
//! A branch says at which bit the keys beneath it differ first, and has a child for each of its
//! values; a leaf is a key and its value. So a change is at most two objects and one link, whatever
//! the map's size, and the order is that of the keys. Bits are counted nine to a byte: the first
//! says that there is a byte. Positions grow on every way down, so no way goes round in circles,
//! whatever is found there.

use super::{ArenaError, Heap, Offset, error::corrupt};
use std::ops::{Bound, RangeBounds};

crate::layout! {
    /// A map from byte strings to byte strings in an [`Arena`](crate::sync::Arena), in the order of
    /// the keys: part of the root, or of an object.
    ///
    /// It is a value: who changes it stores it where it was, in the same transaction; for one in
    /// the root, that is done when the transaction ends.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Map {
        root: Link,
        len: u64,
    }
}

crate::layout! {
    /// Where a leaf or, with the lowest bit set, a branch is; 0 if there is none.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Link {
        bits: u64,
    }
}

crate::layout! {
    #[derive(Clone, Copy, Debug)]
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

    /// Whether a key has a value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains_key(&self, heap: &Heap<'_>, key: &[u8]) -> Result<bool, ArenaError> {
        self.get(heap, key).map(|value| value.is_some())
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

    /// Takes out all keys.
    ///
    /// To free an object changes up to ten words when the transaction is committed, and each key has
    /// two of them, which is refused beyond
    /// [`Arena::MAX_CHANGES`](crate::sync::Arena::MAX_CHANGES): a map of more than fifty keys is
    /// emptied in several transactions, by [`remove`](Self::remove).
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); [`ArenaError::TooManyChanges`] when the transaction ends.
    pub fn clear(&mut self, heap: &mut Heap<'_>) -> Result<(), ArenaError> {
        let mut links = Vec::new();
        let mut walk = Walk::new(heap, vec![(self.root, 0)]);
        while let Some((link, node)) = walk.next()? {
            if !matches!(node, Node::Nothing) {
                links.push(link);
            }
        }
        links.into_iter().try_for_each(|link| heap.free(link.offset()))?;
        *self = Self::default();
        Ok(())
    }

    /// The keys and their values, in the keys' order. After an error there are no more.
    pub fn iter<'h>(&self, heap: &'h Heap<'_>) -> impl Iterator<Item = Entry<'h>> + 'h {
        entries(Walk::new(heap, vec![(self.root, 0)]))
    }

    /// Those keys and their values, in the keys' order. After an error there are no more. What comes
    /// before them isn't walked.
    ///
    /// ```
    /// # use ipc_shm::sync::{Arena, Map, State, arena::Contents};
    /// # let directory = std::env::temp_dir().join(format!("ipc-shm-range-{}", std::process::id()));
    /// # std::fs::create_dir_all(&directory)?;
    /// # let made = || Contents { capacity_bytes: 1 << 16, root: Map::default() };
    /// # let arena = State::at(&directory).transient().create::<Arena<Map>>("x", made)?;
    /// arena.with(|map, heap| {
    ///     for key in ["ada", "bob", "eve"] {
    ///         map.insert(heap, key.as_bytes(), b"")?;
    ///     }
    ///     let found = map.range(heap, &b"b"[..]..&b"e"[..]).collect::<Result<Vec<_>, _>>()?;
    ///     assert_eq!(found, [(&b"bob"[..], &b""[..])]);
    ///     Ok(())
    /// })?;
    /// # drop(arena);
    /// # std::fs::remove_dir(&directory)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn range<'h>(
        &self,
        heap: &'h Heap<'_>,
        keys: impl RangeBounds<&'h [u8]>,
    ) -> impl Iterator<Item = Entry<'h>> + 'h {
        let (from, to) = (keys.start_bound().cloned(), keys.end_bound().cloned());
        let (first, error) = match from {
            Bound::Unbounded => (vec![(self.root, 0)], None),
            Bound::Included(key) | Bound::Excluded(key) => match self.not_before(heap, key) {
                Ok(links) => (links, None),
                Err(error) => (Vec::new(), Some(error)),
            },
        };
        let is_skipped = move |key: &[u8]| matches!(from, Bound::Excluded(from) if from == key);
        let is_within = move |key: &[u8]| match to {
            Bound::Unbounded => true,
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
        };
        let found = entries(Walk::new(heap, first))
            .skip_while(move |entry| entry.as_ref().is_ok_and(|(key, _)| is_skipped(key)))
            .take_while(move |entry| entry.as_ref().map_or(true, |(key, _)| is_within(key)));
        error.map(Err).into_iter().chain(found)
    }

    /// The links to all keys that don't come before this one, the first ones last, and from which
    /// bit on those beneath differ.
    fn not_before(&self, heap: &Heap<'_>, key: &[u8]) -> Result<Vec<(Link, u64)>, ArenaError> {
        let (_, nearest) = self.descend(heap, key, u64::MAX)?;
        let position = match nearest.node(heap)? {
            Node::Leaf { key: found, .. } => first_difference(found, key),
            _ => return Ok(Vec::new()),
        };
        // All beneath it are alike up to there, and differ from the key in the same way.
        let until = position.unwrap_or(u64::MAX);
        let (mut links, mut link, mut least) = (Vec::new(), self.root, 0);
        while let Node::Branch(at, branch) = link.node(heap)? {
            if branch.position < least {
                return corrupt(format!("the branch at {at:?} is in disorder"));
            }
            if branch.position >= until {
                break;
            }
            let child = bit(key, branch.position);
            least = branch.position + 1;
            if child == 0 {
                links.push((branch.children[1], least));
            }
            link = branch.children[child];
        }
        if position.is_none_or(|position| bit(key, position) == 0) {
            links.push((link, least));
        }
        Ok(links)
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

/// A key and its value, or why there are no more.
type Entry<'h> = Result<(&'h [u8], &'h [u8]), ArenaError>;

/// What hangs on some links, from the last one on.
struct Walk<'h, 'a> {
    heap: &'h Heap<'a>,
    /// Links, and which bit those beneath may differ in first.
    waiting: Vec<(Link, u64)>,
    left: u64,
}

impl<'h, 'a> Walk<'h, 'a> {
    fn new(heap: &'h Heap<'a>, waiting: Vec<(Link, u64)>) -> Self {
        Self { heap, waiting, left: heap.most_objects() }
    }

    /// The next one, and what it leads to.
    fn next(&mut self) -> Result<Option<(Link, Node<'h>)>, ArenaError> {
        let Some((link, least)) = self.waiting.pop() else { return Ok(None) };
        if self.left == 0 {
            return corrupt("a map has more than there can be".into());
        }
        self.left -= 1;
        let node = link.node(self.heap)?;
        if let Node::Branch(at, Branch { position, children }) = &node {
            if *position < least {
                return corrupt(format!("the branch at {at:?} is in disorder"));
            }
            self.waiting.extend(children.iter().rev().map(|child| (*child, position + 1)));
        }
        Ok(Some((link, node)))
    }
}

/// The leaves of a walk.
fn entries<'h>(mut walk: Walk<'h, '_>) -> impl Iterator<Item = Entry<'h>> {
    std::iter::from_fn(move || {
        loop {
            match walk.next() {
                Ok(Some((_, Node::Leaf { key, value }))) => return Some(Ok((key, value))),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    walk.waiting.clear();
                    return Some(Err(error));
                }
            }
        }
    })
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
            // Copied, then checked: others may change it at any time.
            let branch = *heap.get(at)?;
            return match branch.position {
                u64::MAX => corrupt(format!("the branch at {at:?} is in disorder")),
                _ => Ok(Node::Branch(at, branch)),
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
