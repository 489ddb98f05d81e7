//! What a program would use instead: a `pthread` mutex that processes share and whose owner
//! may die (`pthread_mutexattr_setrobust(3)`).

use crate::trouble::Fallible;
use memmap2::MmapRaw;
use nix::{errno::Errno, libc};
use std::{
    fs::OpenOptions,
    mem::MaybeUninit,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// The mutex and a number, in a file.
pub(crate) struct RobustMutex {
    page: MmapRaw,
}

/// Where in the page: a word that says how far it is made, the number, the mutex.
const STATE: usize = 0;
const NUMBER: usize = 64;
const MUTEX: usize = 128;
const PAGE_BYTES: u64 = 4096;

const MAKING: u64 = 1;
const MADE: u64 = 2;

impl RobustMutex {
    /// Opens the one in this directory; whoever comes first makes it.
    pub(crate) fn open(directory: &Path) -> Fallible<Self> {
        let path = directory.join("pthread");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(PAGE_BYTES)?;
        let mutex = Self { page: MmapRaw::map_raw(&file)? };
        let state = mutex.word(STATE);
        match state.compare_exchange(0, MAKING, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                mutex.make()?;
                // Release: pairs with the Acquire below.
                state.store(MADE, Ordering::Release);
            }
            Err(_) => {
                while state.load(Ordering::Acquire) != MADE {
                    std::thread::yield_now();
                }
            }
        }
        Ok(mutex)
    }

    fn make(&self) -> Fallible<()> {
        let mut attributes = MaybeUninit::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: it initialises what it is given, which is ours.
        check(unsafe { libc::pthread_mutexattr_init(attributes) })?;
        // SAFETY: initialised above.
        check(unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) })?;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) })?;
        // SAFETY: mapped, aligned, and nobody uses it before it is made.
        Ok(check(unsafe { libc::pthread_mutex_init(self.mutex(), attributes) })?)
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: within the page.
        let word = unsafe { self.page.as_mut_ptr().add(offset) };
        // SAFETY: mapped as long as `self`, aligned; the other process uses atomics too.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    fn mutex(&self) -> *mut libc::pthread_mutex_t {
        // SAFETY: within the page.
        unsafe { self.page.as_mut_ptr().add(MUTEX) }.cast()
    }

    /// Takes it, adds one to the number, and gives it back.
    #[inline]
    pub(crate) fn add(&self) -> Result<(), Errno> {
        // SAFETY: made, and mapped as long as `self`.
        check(unsafe { libc::pthread_mutex_lock(self.mutex()) })?;
        let number = self.word(NUMBER);
        number.store(number.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // SAFETY: locked above, by this thread.
        check(unsafe { libc::pthread_mutex_unlock(self.mutex()) })
    }
}

#[inline]
fn check(answer: libc::c_int) -> Result<(), Errno> {
    if answer == 0 { Ok(()) } else { Err(Errno::from_raw(answer)) }
}
