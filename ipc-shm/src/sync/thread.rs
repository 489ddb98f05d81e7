//! Threads by number, what each one reads, and what happens when one ends.

use super::handle;
use crate::sys::fork::Window;
use parking_lot::Mutex;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

thread_local! {
    static NUMBER: Cell<u32> = const { Cell::new(0) };
    static LAST_WORDS: LastWords =
        const { LastWords { reads: RefCell::new(Vec::new()) } };
}

/// Numbers are given to this one. Those beyond are for threads that lock when their last words
/// are said: nobody would hear when they are free again, so they go round.
const MOST: u32 = u32::MAX / 2;

/// Only used within a fork window: no child inherits it locked.
static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { last: 0, last_late: 0, living: BTreeSet::new() });

struct Numbers {
    last: u32,
    last_late: u32,
    /// The numbers of threads that have still to say their last words.
    living: BTreeSet<u32>,
}

impl Numbers {
    fn with<R>(act: impl FnOnce(&mut Self) -> R) -> R {
        let _window = Window::open();
        act(&mut NUMBERS.lock())
    }

    fn take(&mut self) -> u32 {
        loop {
            self.last = self.last % MOST + 1;
            if self.living.insert(self.last) {
                return self.last;
            }
        }
    }

    fn take_late(&mut self) -> u32 {
        self.last_late = self.last_late % MOST + 1;
        MOST + self.last_late
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
    let will_say = LAST_WORDS.try_with(|_| ()).is_ok();
    let number = Numbers::with(if will_say { Numbers::take } else { Numbers::take_late });
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
        Numbers::with(|numbers| numbers.living.remove(&number));
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
            for last in [mine - 1, MOST] {
                Numbers::with(|numbers| numbers.last = last);
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
