//! Threads by number, what each one reads, and what happens when one ends.

use super::handle;
use std::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

thread_local! {
    static NUMBER: Cell<u32> = const { Cell::new(0) };
    static LAST_WORDS: LastWords =
        const { LastWords { reads: RefCell::new(Vec::new()) } };
}

/// The most threads that a process has at once: what Linux has numbers for.
const MOST: u32 = 1 << 22;

/// Which numbers threads have that have still to say their last words: a bit for each, from 1 on.
/// No lock, which a forked child could inherit; what its parent's other threads had stays taken.
static TAKEN: [AtomicU64; MOST as usize / 64] = [const { AtomicU64::new(0) }; MOST as usize / 64];

/// The number that was tried last.
static LAST: AtomicU32 = AtomicU32::new(0);

/// A number's bit, and the word that has it.
fn bit_of(number: u32) -> (&'static AtomicU64, u64) {
    let index = number - 1;
    (&TAKEN[index as usize / 64], 1 << (index % 64))
}

/// Takes a number that nobody has. Whoever locks when its last words are said has one beyond,
/// which come round again: nobody would hear when it is free.
fn take(is_late: bool) -> u32 {
    static LAST_LATE: AtomicU32 = AtomicU32::new(0);
    let next = |_| {
        let number = LAST.fetch_add(1, Ordering::Relaxed) % MOST + 1;
        let (taken, bit) = bit_of(number);
        // Acquire: pairs with the Release in `give_back`.
        let order = Ordering::Acquire;
        (taken.fetch_or(bit, order) & bit == 0).then_some(number)
    };
    let free = if is_late { None } else { (0..MOST).find_map(next) };
    free.unwrap_or_else(|| MOST + 1 + LAST_LATE.fetch_add(1, Ordering::Relaxed) % (u32::MAX - MOST))
}

/// Another thread may have this number.
fn give_back(number: u32) {
    if number <= MOST {
        let (taken, bit) = bit_of(number);
        // Release: pairs with the Acquire in `take`.
        let order = Ordering::Release;
        taken.fetch_and(!bit, order);
    }
}

/// The number of this thread: no other one of this process has it that lives, and none is 0. It
/// has another one when its last words are said.
#[inline]
pub(super) fn number() -> u32 {
    match NUMBER.get() {
        0 => enlist(),
        number => number,
    }
}

#[cold]
fn enlist() -> u32 {
    // Whoever locks in the destructor of another thread-local may come too late for this.
    let is_late = LAST_WORDS.try_with(|_| ()).is_err();
    let number = take(is_late);
    NUMBER.set(number);
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
        let number = NUMBER.replace(0);
        handle::thread_ends(number, &self.reads.take());
        // Last: from here on, another one may have it.
        give_back(number);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{self, LockError, State};
    use std::{env, fs, process, thread};

    #[test]
    fn a_number_that_comes_round_again_is_not_given_while_its_thread_lives() {
        let directory = env::temp_dir().join(format!("ipc-shm-numbers-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let state = State::at(&directory).transient();
        let mutex = state.create::<sync::Mutex<u64>>("x", || 0).unwrap();
        let guard = mutex.lock().unwrap();
        let mine = number();
        thread::scope(|scope| {
            for last in [mine - 1, u32::MAX] {
                LAST.store(last, Ordering::Relaxed);
                scope
                    .spawn(|| assert!(matches!(mutex.try_lock(), Err(LockError::WouldBlock))))
                    .join()
                    .unwrap();
            }
            scope.spawn(|| assert!(matches!(mutex.try_lock(), Err(LockError::WouldBlock)))).join().unwrap();
        });
        drop(guard);
        drop(mutex.lock().unwrap());
        drop(mutex);
        fs::remove_dir(&directory).unwrap();
    }
}
