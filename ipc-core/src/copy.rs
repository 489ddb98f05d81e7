//! Copies of messages, at the same speed wherever they begin.
//!
//! For some KiB and more, `memcpy` of the GNU C library leaves the work to the processor's
//! own string move. On AMD's Zen processors that falls back to single bytes where the
//! destination begins up to 15 bytes further on in its page than the source in its own: it
//! takes each load for one of what was just stored, because it compares but the place in the
//! page. That is a factor of 16, measured at 64 KiB (18.7 µs instead of 1.2), and not a rare
//! case: the first message of a ring begins 8 bytes behind a page's beginning, where a camera
//! frame begins exactly. Short pieces are copied by vector loads and stores, which it doesn't
//! happen to.

/// Where only the place in the page is compared.
const PAGE_BYTES: usize = 4096;

/// How close behind the source's place in the page the destination's has to be, with what a
/// processor may move at a time.
const CLOSE_BYTES: usize = 64;

/// From here on, a `memcpy` may be a string move; shorter ones are left as they are.
const LONG_BYTES: usize = 2048;

/// What is copied at a time instead.
const PIECE_BYTES: usize = 512;

/// As [`copy_from_slice`](slice::copy_from_slice), which panics if the lengths differ, but not
/// slower where both begin at nearly the same place in their pages. For transports and programs
/// that copy messages themselves.
#[inline]
pub fn copy_message(to: &mut [u8], from: &[u8]) {
    if !is_slow(to.as_ptr(), from) {
        return to.copy_from_slice(from);
    }
    assert_eq!(to.len(), from.len(), "a message is copied to a place of its length");
    pieces(from).zip(to.chunks_mut(PIECE_BYTES)).for_each(|(from, to)| to.copy_from_slice(from));
}

/// Replaces what `buffer` holds by the message, as [`copy_message`] copies it.
#[inline]
pub(crate) fn replace_by_message(buffer: &mut Vec<u8>, message: &[u8]) {
    buffer.clear();
    buffer.reserve(message.len());
    if !is_slow(buffer.as_ptr(), message) {
        return buffer.extend_from_slice(message);
    }
    pieces(message).for_each(|piece| buffer.extend_from_slice(piece));
}

#[inline]
fn is_slow(to: *const u8, from: &[u8]) -> bool {
    let ahead = to.addr().wrapping_sub(from.as_ptr().addr()) % PAGE_BYTES;
    from.len() >= LONG_BYTES && ahead != 0 && ahead < CLOSE_BYTES
}

/// Not inlined: a compiler that sees the whole loop makes one `memcpy` of it again.
#[inline(never)]
fn pieces(message: &[u8]) -> std::slice::Chunks<'_, u8> {
    message.chunks(PIECE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where slices begin in their pages: apart, at the same place, and close together.
    const PLACES: [(usize, usize); 7] = [(0, 2000), (0, 0), (0, 1), (0, 8), (16, 24), (4090, 5), (8, 0)];
    const LENGTHS: [usize; 6] = [0, 1, LONG_BYTES - 1, LONG_BYTES, 3 * PAGE_BYTES, 65_537];

    /// `len` bytes that begin at this place in their page.
    fn at(place: usize, memory: &mut Vec<u8>, len: usize) -> &mut [u8] {
        memory.resize(len + 2 * PAGE_BYTES, 0xee);
        let begin = (place.wrapping_sub(memory.as_ptr().addr())) % PAGE_BYTES;
        &mut memory[begin..begin + len]
    }

    fn written(message: &mut [u8]) -> &[u8] {
        message.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 + at / 251) as u8);
        message
    }

    #[test]
    fn a_copy_is_whole_and_nothing_else_is_written_wherever_it_begins() {
        for (source, destination) in PLACES {
            for len in LENGTHS {
                let (mut from, mut to) = (Vec::new(), Vec::new());
                let from = written(at(source, &mut from, len));
                let around = at(destination, &mut to, len + 2);
                copy_message(&mut around[1..=len], from);
                assert_eq!((around[0], around[len + 1]), (0xee, 0xee), "{source} {destination} {len}");
                assert!(around[1..=len] == *from, "from {source} to {destination}, {len} bytes");
            }
        }
    }

    #[test]
    fn a_buffer_holds_the_message_and_nothing_of_the_last_one() {
        let mut buffer = vec![1; 100_000];
        for ahead in 0..2 * CLOSE_BYTES {
            for len in LENGTHS {
                let mut memory = Vec::new();
                let place = buffer.as_ptr().addr().wrapping_sub(ahead) % PAGE_BYTES;
                let message = written(at(place, &mut memory, len));
                replace_by_message(&mut buffer, message);
                assert!(buffer == message, "{ahead} bytes ahead, {len} bytes");
            }
        }
    }

    #[test]
    fn long_copies_to_closely_behind_are_made_in_pieces() {
        let mut memory = Vec::new();
        let from = &*at(16, &mut memory, LONG_BYTES);
        let ahead = |bytes: usize| is_slow(from.as_ptr().wrapping_add(bytes), from);
        assert!(ahead(1) && ahead(15) && ahead(PAGE_BYTES + 8));
        assert!(!ahead(0) && !ahead(CLOSE_BYTES) && !ahead(PAGE_BYTES - 8));
        assert!(!is_slow(from.as_ptr().wrapping_add(8), &from[1..]), "that is short");
    }

    #[test]
    #[should_panic(expected = "a place of its length")]
    fn a_copy_to_a_shorter_place_is_refused() {
        let mut memory = Vec::new();
        let from = at(0, &mut memory, LONG_BYTES).to_vec();
        let mut space = Vec::new();
        let to = at((from.as_ptr().addr() + 8) % PAGE_BYTES, &mut space, LONG_BYTES - 1);
        copy_message(to, &from);
    }
}
