//! Where a receiver keeps the messages that it holds: one stretch of memory, each message
//! right behind the one before, so that a batch of short ones takes little. The kernel
//! wants room for the longest possible message at each receive; it gets the tail.
//!
//! What a message has besides its bytes (a priority, a type, descriptors) is its tag. A
//! transport whose messages arrive behind something else of a fixed length has room for that
//! too, the prefix.

use std::{collections::VecDeque, ops::Range};

/// A batch takes no more messages than this at a time: while it does, senders who wait may send
/// more, for ever.
const BATCH_MESSAGES: usize = 1024;
/// Nor does it take another one when it has so many bytes.
pub(crate) const BATCH_BYTES: usize = 4 << 20;

/// What is held at most when a batch is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    messages: usize,
    bytes: usize,
}

/// Messages held, oldest first.
#[derive(Debug)]
pub(crate) struct Store<T> {
    bytes: Vec<u8>,
    messages: VecDeque<Held<T>>,
    prefix_len: usize,
    max_message_len: usize,
}

#[derive(Debug)]
struct Held<T> {
    range: Range<usize>,
    tag: T,
}

impl<T> Store<T> {
    /// Room for one message of any length; it grows when more are held.
    pub(crate) fn new(max_message_len: usize) -> Self {
        Self::with_prefix(0, max_message_len)
    }

    /// The same for messages behind a prefix.
    pub(crate) fn with_prefix(prefix_len: usize, max_message_len: usize) -> Self {
        let bytes = vec![0; prefix_len + max_message_len];
        Self { bytes, messages: VecDeque::with_capacity(1), prefix_len, max_message_len }
    }

    /// From now on there is to be room for messages of this length.
    pub(crate) fn allow(&mut self, max_message_len: usize) {
        self.max_message_len = max_message_len;
    }

    pub(crate) fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().map(|message| &self.bytes[message.range.clone()])
    }

    pub(crate) fn first(&self) -> &[u8] {
        &self.bytes[self.messages[0].range.clone()]
    }

    pub(crate) fn first_tag(&self) -> &T {
        &self.messages[0].tag
    }

    pub(crate) fn last_tag(&self) -> Option<&T> {
        self.messages.back().map(|message| &message.tag)
    }

    pub(crate) fn first_tag_mut(&mut self) -> &mut T {
        &mut self.messages[0].tag
    }

    pub(crate) fn iter_tagged(&self) -> impl Iterator<Item = (&[u8], &T)> {
        self.messages.iter().map(|message| (&self.bytes[message.range.clone()], &message.tag))
    }

    /// Where the next message goes: room for the prefix and the longest one.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let room = self.prefix_len + self.max_message_len;
        if self.bytes.len() - self.end() < room {
            self.make_room(room);
        }
        let end = self.end();
        &mut self.bytes[end..end + room]
    }

    /// Counts the prefix and the `len` bytes that were written to [`space`](Self::space).
    pub(crate) fn push(&mut self, len: usize, tag: T) {
        let start = self.end() + self.prefix_len;
        assert!(len <= self.max_message_len, "the kernel wrote more than it was given room for");
        self.messages.push_back(Held { range: start..start + len, tag });
    }

    /// Forgets the first `count` messages, or all.
    pub(crate) fn release(&mut self, count: usize) {
        for _ in 0..count.min(self.messages.len()) {
            self.messages.pop_front();
        }
    }

    /// The bound of a batch that begins now: of `max_messages` in all, and of `depth` new ones.
    pub(crate) fn bound(&self, max_messages: usize, depth: usize) -> Bound {
        let new = depth.min(BATCH_MESSAGES);
        Bound { messages: max_messages.min(self.len() + new), bytes: self.stretch() + BATCH_BYTES }
    }

    pub(crate) fn is_below(&self, bound: Bound) -> bool {
        self.len() < bound.messages && self.stretch() < bound.bytes
    }

    /// How much memory is taken up by what is held.
    fn stretch(&self) -> usize {
        self.end() - self.start()
    }

    fn start(&self) -> usize {
        self.messages.front().map_or(0, |message| message.range.start)
    }

    fn end(&self) -> usize {
        self.messages.back().map_or(0, |message| message.range.end)
    }

    /// Moves the messages to the front where that frees at least as much as it moves, so
    /// that moving stays cheap; grows to twice the size where it isn't enough.
    #[cold]
    fn make_room(&mut self, room: usize) {
        let (start, end) = (self.start(), self.end());
        if end - start <= start {
            self.bytes.copy_within(start..end, 0);
            for message in &mut self.messages {
                message.range = message.range.start - start..message.range.end - start;
            }
        }
        let needed = self.end() + room;
        if self.bytes.len() < needed {
            self.bytes.resize(needed.max(self.bytes.len() * 2), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BATCH_BYTES, BATCH_MESSAGES, Store};

    fn put(store: &mut Store<()>, message: &[u8]) {
        store.space()[..message.len()].copy_from_slice(message);
        store.push(message.len(), ());
    }

    #[test]
    fn messages_stay_whole_and_in_order_whatever_is_released_in_between() {
        let mut store = Store::new(5);
        let mut expected = std::collections::VecDeque::new();
        for round in 0..1000_usize {
            let message = format!("{round}").into_bytes()[..].to_vec();
            put(&mut store, &message[..message.len().min(5)]);
            expected.push_back(message);
            let released = (round * 7) % 3;
            store.release(released);
            expected.drain(..released.min(expected.len()));
            assert!(store.iter().eq(expected.iter().map(Vec::as_slice)), "round {round}");
        }
    }

    #[test]
    fn memory_stays_bounded_by_what_is_held() {
        let mut store = Store::new(8);
        for _ in 0..4 {
            put(&mut store, b"held");
        }
        for _ in 0..100_000 {
            put(&mut store, b"more");
            store.release(1);
        }
        assert!(store.bytes.len() <= 128, "{}", store.bytes.len());
    }

    #[test]
    fn a_batch_is_bounded_by_what_it_adds() {
        let mut store = Store::new(BATCH_BYTES);
        put(&mut store, b"held");
        let adds = |store: &mut Store<()>, max_messages, depth, message: &[u8]| {
            let (before, bound) = (store.len(), store.bound(max_messages, depth));
            while store.is_below(bound) {
                put(store, message);
            }
            let added = store.len() - before;
            store.release(added);
            added
        };
        assert_eq!(adds(&mut store, 5, usize::MAX, b"short"), 4);
        assert_eq!(adds(&mut store, usize::MAX, 7, b"short"), 7);
        assert_eq!(adds(&mut store, usize::MAX, usize::MAX, b"short"), BATCH_MESSAGES);
        assert_eq!(adds(&mut store, usize::MAX, usize::MAX, &vec![0; BATCH_BYTES / 3 + 1]), 3);
        assert_eq!(adds(&mut store, 0, usize::MAX, b"short"), 0);
    }

    #[test]
    fn releasing_more_than_there_are_releases_all() {
        let mut store = Store::new(8);
        put(&mut store, b"one");
        store.release(9);
        assert!(store.is_empty());
    }

    #[test]
    fn empty_messages_are_messages() {
        let mut store = Store::new(8);
        put(&mut store, b"");
        put(&mut store, b"");
        assert_eq!(store.len(), 2);
        assert_eq!(store.first(), b"");
    }
}
