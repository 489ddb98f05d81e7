//! Threads by number, what each one reads, and what happens when one ends.

use super::handle;
use std::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicU32, Ordering},
};

thread_local! {
    static NUMBER: Cell<u32> = const { Cell::new(0) };
    static LAST_WORDS: LastWords =
        const { LastWords { reads: RefCell::new(Vec::new()) } };
}

/// The number of this thread: no other one of this process has it, and none is 0.
#[inline]
pub(super) fn number() -> u32 {
    match NUMBER.get() {
        0 => enlist(),
        number => number,
    }
}

#[cold]
fn enlist() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = loop {
        match NEXT.fetch_add(1, Ordering::Relaxed) {
            0 => {}
            number => break number,
        }
    };
    NUMBER.set(number);
    // Whoever locks in the destructor of another thread-local may come too late for this.
    let _ = LAST_WORDS.try_with(|_| ());
    number
}

/// What is to be said when a thread ends and has something still, by a guard that was forgotten
/// or that is in another thread-local.
struct LastWords {
    /// The handles that this thread reads by, once for each time. Here, since thread-locals of
    /// their own would be gone before.
    reads: RefCell<Vec<u64>>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        // In a forked child, what the thread has of its parent's handles is none of its business:
        // only those that are its own are looked at.
        handle::thread_ends(NUMBER.get(), &self.reads.take());
    }
}

/// This thread reads by that handle. False if its last words are said.
pub(super) fn begin_read(key: u64) -> bool {
    number();
    LAST_WORDS.try_with(|words| words.reads.borrow_mut().push(key)).is_ok()
}

/// It does so once less. False if its last words are said.
pub(super) fn end_read(key: u64) -> bool {
    let ended = LAST_WORDS.try_with(|words| {
        let mut reads = words.reads.borrow_mut();
        if let Some(at) = reads.iter().rposition(|&read| read == key) {
            reads.swap_remove(at);
        }
    });
    ended.is_ok()
}

/// Whether this thread reads by one of these handles.
pub(super) fn reads_any(mut is_one: impl FnMut(u64) -> bool) -> bool {
    LAST_WORDS.try_with(|words| words.reads.borrow().iter().any(|&key| is_one(key))).unwrap_or(false)
}
