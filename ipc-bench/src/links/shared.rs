//! Memory of two processes, the fixed-slot ring and the futex words on it: all unsafe code
//! of the rig but that of the bare system calls.
//!
//! The ring is Lamport's single-producer single-consumer queue with the peer's index cached
//! on each side, so that a line moves only when the cached one has run out (Giacomoni et
//! al., *FastForward*, 2008; Torquati, *Single-Producer/Single-Consumer Queues on Shared
//! Cache Multi-Core Systems*, 2010). It exists to be beaten: no variable lengths, no
//! recovery, no checks, no sleeping.
//!
//! Both processes run this very program on a memory file that nobody else can name, so the
//! peer follows the protocol or is dead.

use memmap2::{MmapOptions, MmapRaw};
use nix::{
    libc,
    sys::memfd::{MFdFlags, memfd_create},
};
use std::{
    fs::File,
    hint::black_box,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    ptr::{self, copy_nonoverlapping},
    slice,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// What keeps two words from sharing a line: two lines, since processors fetch in pairs.
pub(crate) const LINE_BYTES: usize = 128;

/// Makes anonymous memory that child processes inherit by the descriptor's number.
pub(crate) fn create(len_bytes: usize) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create(c"ipc-bench", MFdFlags::empty())?);
    file.set_len(len_bytes as u64)?;
    Ok(file.into())
}

/// Shared memory, mapped until the process ends: measuring processes live for one block.
#[derive(Debug)]
pub(crate) struct Region {
    map: MmapRaw,
}

impl Region {
    /// Maps what [`create`] made, every page of it present.
    pub(crate) fn map(inherited: RawFd) -> io::Result<&'static Self> {
        let file = File::options().read(true).write(true).open(format!("/proc/self/fd/{inherited}"))?;
        let map = MmapOptions::new().populate().map_raw(file.as_raw_fd())?;
        Ok(Box::leak(Box::new(Self { map })))
    }

    /// `count` words from `offset_bytes` on.
    pub(crate) fn words(&'static self, offset_bytes: usize, count: usize) -> &'static [AtomicU64] {
        assert!(offset_bytes % 8 == 0, "words are aligned");
        assert!(offset_bytes + count * 8 <= self.map.len(), "words are inside the region");
        // SAFETY: the second assertion keeps the offset inside the mapping.
        let first = unsafe { self.map.as_mut_ptr().add(offset_bytes) };
        // SAFETY: aligned (mappings are, and the offset is), inside the mapping, which stays
        // until the process ends, and used as atomics only, by the peer as well.
        unsafe { slice::from_raw_parts(first.cast(), count) }
    }
}

/// A file mapped for reading and writing until it is dropped, and nothing else done: what a
/// channel in shared memory can't do without.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: MmapRaw,
}

impl MappedFile {
    /// Maps the first `len_bytes` of `file`, at least a word of them.
    pub(crate) fn new(file: &File, len_bytes: usize) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(len_bytes.max(8)).map_raw(file)? })
    }

    /// Its first word.
    pub(crate) fn first_word(&self) -> &AtomicU64 {
        // SAFETY: mappings are aligned, this one is at least a word long and stays as long as
        // `self`; the word is used as an atomic only, by whoever else maps the file as well.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast()) }
    }
}

/// A word that processes sleep on: see futex(2). Not the private kind, since they are two.
#[derive(Debug)]
pub(crate) struct FutexWord(&'static AtomicU32);

impl FutexWord {
    /// The one at `offset_bytes`, zero at first.
    pub(crate) fn at(region: &'static Region, offset_bytes: usize) -> Self {
        let word = region.words(offset_bytes, 1)[0].as_ptr();
        // SAFETY: half of a word that `words` has checked, which stays until the process ends;
        // all of this program, the peer too, uses it as these 32 bits only.
        Self(unsafe { AtomicU32::from_ptr(word.cast()) })
    }

    /// Stores `value` and wakes whoever sleeps here.
    #[inline]
    pub(crate) fn set_and_wake(&self, value: u32) {
        // Release: pairs with the Acquire in `sleep_until`.
        self.0.store(value, Ordering::Release);
        // SAFETY: FUTEX_WAKE uses the address of a live, aligned word, and nothing else.
        unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }

    /// Sleeps until `value` is here.
    #[inline]
    pub(crate) fn sleep_until(&self, value: u32) {
        loop {
            // Acquire: pairs with the Release in `set_and_wake`.
            let seen = self.0.load(Ordering::Acquire);
            if seen == value {
                return;
            }
            let for_ever = ptr::null::<libc::timespec>();
            // SAFETY: FUTEX_WAIT compares a live, aligned word with `seen`, whatever the peer
            // stores meanwhile, and takes no time-out. It may return for any reason: the loop.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT, seen, for_ever) };
        }
    }
}

/// Where things are in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingLayout {
    slots: usize,
    slot_bytes: usize,
}

impl RingLayout {
    /// `slots` (a power of two) for messages of `message_bytes` each: 8 bytes a slot, or
    /// whole lines of 64 above that.
    pub(crate) fn new(slots: usize, message_bytes: usize) -> Self {
        assert!(slots.is_power_of_two(), "slots are a power of two");
        let slot_bytes = if message_bytes <= 8 { 8 } else { message_bytes.next_multiple_of(64) };
        Self { slots, slot_bytes }
    }

    /// What a ring takes: a line for each index, then the slots.
    pub(crate) fn len_bytes(self) -> usize {
        2 * LINE_BYTES + (self.slots * self.slot_bytes).next_multiple_of(LINE_BYTES)
    }
}

/// What both ends of a ring know.
#[derive(Debug)]
struct Ring {
    /// How many messages were sent, ever.
    sent: &'static AtomicU64,
    /// How many messages were received, ever.
    received: &'static AtomicU64,
    words: &'static [AtomicU64],
    slots: u64,
    slot_words: usize,
}

impl Ring {
    fn at(region: &'static Region, offset_bytes: usize, layout: RingLayout) -> Self {
        let RingLayout { slots, slot_bytes } = layout;
        Self {
            sent: &region.words(offset_bytes, 1)[0],
            received: &region.words(offset_bytes + LINE_BYTES, 1)[0],
            words: region.words(offset_bytes + 2 * LINE_BYTES, slots * slot_bytes / 8),
            slots: slots as u64,
            slot_words: slot_bytes / 8,
        }
    }

    /// The words of a position's slot.
    #[inline]
    fn slot(&self, position: u64) -> &'static [AtomicU64] {
        let first = (position & (self.slots - 1)) as usize * self.slot_words;
        &self.words[first..first + self.slot_words]
    }
}

/// The sending end. There must be one in all processes together.
#[derive(Debug)]
pub(crate) struct RingSender {
    ring: Ring,
    position: u64,
    received_cached: u64,
}

impl RingSender {
    /// The sending end of the ring at `offset_bytes`, which is all zeros as yet.
    pub(crate) fn at(region: &'static Region, offset_bytes: usize, layout: RingLayout) -> Self {
        Self { ring: Ring::at(region, offset_bytes, layout), position: 0, received_cached: 0 }
    }

    /// Copies `message` into the next slot; spins while there is none.
    #[inline]
    pub(crate) fn send(&mut self, message: &[u8]) {
        while self.position - self.received_cached == self.ring.slots {
            // Acquire: pairs with the Release in `RingReceiver::receive`; its copy is done.
            self.received_cached = self.ring.received.load(Ordering::Acquire);
        }
        let slot = self.ring.slot(self.position);
        if let (Ok(word), [shared]) = (<[u8; 8]>::try_from(message), slot) {
            shared.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        } else {
            assert!(message.len() <= size_of_val(slot), "a message of a slot's size");
            // SAFETY: the assertion; the receiver is done with this slot (the loop above) and
            // doesn't look at it before the store below.
            unsafe { copy_nonoverlapping(message.as_ptr(), bytes_of(slot), message.len()) };
        }
        self.position += 1;
        // Release: pairs with the Acquire in `RingReceiver::receive`.
        self.ring.sent.store(self.position, Ordering::Release);
    }
}

/// The receiving end. There must be one in all processes together.
#[derive(Debug)]
pub(crate) struct RingReceiver {
    ring: Ring,
    position: u64,
    sent_cached: u64,
}

impl RingReceiver {
    /// The receiving end of the ring at `offset_bytes`, which is all zeros as yet.
    pub(crate) fn at(region: &'static Region, offset_bytes: usize, layout: RingLayout) -> Self {
        Self { ring: Ring::at(region, offset_bytes, layout), position: 0, sent_cached: 0 }
    }

    /// Copies the next message out; spins while there is none. Its length is that of
    /// `message`: in this ring all are alike.
    #[inline]
    pub(crate) fn receive(&mut self, message: &mut [u8]) {
        let slot = self.ring.slot(self.position);
        while self.position == self.sent_cached {
            // Acquire: pairs with the Release in `RingSender::send`; the message is there.
            self.sent_cached = self.ring.sent.load(Ordering::Acquire);
            if let [word] = slot {
                // Fetches its line while the index's is on its way: the round trip of 8
                // bytes goes from 1.35 to 1.2 times the floor.
                black_box(word.load(Ordering::Relaxed));
            }
        }
        if let (Ok(word), [shared]) = (<&mut [u8; 8]>::try_from(&mut *message), slot) {
            *word = shared.load(Ordering::Relaxed).to_ne_bytes();
        } else {
            assert!(message.len() <= size_of_val(slot), "a message of a slot's size");
            // SAFETY: the assertion; the sender is done with this slot (the loop above) and
            // doesn't come back to it before the store below.
            unsafe { copy_nonoverlapping(bytes_of(slot), message.as_mut_ptr(), message.len()) };
        }
        self.position += 1;
        // Release: pairs with the Acquire in `RingSender::send`.
        self.ring.received.store(self.position, Ordering::Release);
    }
}

/// A slot as bytes, for messages of other lengths than a word's.
fn bytes_of(slot: &'static [AtomicU64]) -> *mut u8 {
    slot.as_ptr().cast_mut().cast()
}

#[cfg(test)]
mod tests {
    use super::{FutexWord, MappedFile, Region, RingLayout, RingReceiver, RingSender, create};
    use rstest::rstest;
    use std::{fs::File, os::fd::AsRawFd, sync::atomic::Ordering, thread};

    #[rstest]
    #[case::word(8, 2 * 128 + 1024 * 8)]
    #[case::shorter_than_a_word(1, 2 * 128 + 1024 * 8)]
    #[case::above_a_word_whole_lines(9, 2 * 128 + 1024 * 64)]
    #[case::two_lines(65, 2 * 128 + 1024 * 128)]
    fn slots_are_a_word_or_whole_lines(#[case] message_bytes: usize, #[case] len_bytes: usize) {
        assert_eq!(RingLayout::new(1024, message_bytes).len_bytes(), len_bytes);
    }

    #[rstest]
    #[case::empty(0)]
    #[case::word(8)]
    #[case::odd(100)]
    fn messages_arrive_whole_and_in_order_over_many_laps(#[case] message_bytes: usize) {
        let layout = RingLayout::new(4, message_bytes);
        let memory = create(layout.len_bytes()).unwrap();
        let [near, far] = [(); 2].map(|()| Region::map(memory.as_raw_fd()).unwrap());
        // The ends hold pointers and so stay in their threads, as they do in processes.
        let sending = thread::spawn(move || {
            let mut tx = RingSender::at(near, 0, layout);
            (0..200u8).for_each(|n| tx.send(&vec![n; message_bytes]));
        });
        let mut rx = RingReceiver::at(far, 0, layout);
        for n in 0..200u8 {
            let mut message = vec![0; message_bytes];
            rx.receive(&mut message);
            assert_eq!(message, vec![n; message_bytes]);
        }
        sending.join().unwrap();
    }

    #[test]
    fn sleepers_on_a_word_see_every_value_that_waits_for_an_answer() {
        let memory = create(256).unwrap();
        let [near, far] = [(); 2].map(|()| Region::map(memory.as_raw_fd()).unwrap());
        let answering = thread::spawn(move || {
            let (there, back) = (FutexWord::at(far, 0), FutexWord::at(far, 128));
            for value in 1..=500 {
                there.sleep_until(value);
                back.set_and_wake(value);
            }
        });
        let (there, back) = (FutexWord::at(near, 0), FutexWord::at(near, 128));
        for value in 1..=500 {
            there.set_and_wake(value);
            back.sleep_until(value);
        }
        answering.join().unwrap();
    }

    #[test]
    fn two_mappings_of_a_file_are_the_same_memory() {
        let file = File::from(create(4096).unwrap());
        let [one, other] = [(); 2].map(|()| MappedFile::new(&file, 4096).unwrap());
        one.first_word().store(7, Ordering::Relaxed);
        assert_eq!(other.first_word().load(Ordering::Relaxed), 7);
    }
}
